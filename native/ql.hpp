// Eigenvalues of a tridiagonal matrix, and its eigenvectors applied to Q, by the implicit QL method, one matrix per lane:
// LAPACK's steqr.
//
// Every lane is at its own place: its active block [first, last] has its own ends, and masks keep each lane's sweep
// within it. All lanes walk the same indices downwards, so that memory is read in step; a lane outside its block takes
// the identity for a rotation. Where a block splits is found in the same walk that changes it.
//
// Source: Bowdler, Martin, Reinsch, Wilkinson, *The QR and QL Algorithms for Symmetric Matrices*, Numer. Math. 11, 1968
// (EISPACK's tql2); Wilkinson's shift.

#pragma once

#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// The active block of every lane, gathered while walking k downwards over final d and e.
template <class V>
struct Blocks {
    using T = typename V::scalar;
    V first, last;               // the rows at its two ends; first = n where the lane is done
    V at_first, after_first, coupling, at_last;  // d[first], d[first + 1], e[first], d[last]
    V end, at_end;               // the lowest row so far that no coupling ties to the one above it

    EIGENGRAD_INLINE void begin(int n, V at) {
        first = last = V(T(n)), end = V(T(n - 1)), at_end = at;
        at_first = after_first = coupling = at_last = V(T(1));
    }

    // Row k, whose couplings and neighbours are final. Returns its coupling, cleared where it is negligible.
    EIGENGRAD_INLINE V update(int k, V dk, V above, V ek) {
        V size = abs(ek);
        V bar = max(V(Limits<T>::epsilon) * (abs(dk) + abs(above)), V(Limits<T>::negligible));
        auto coupled = size > bar;
        first = select(coupled, V(T(k)), first);
        last = select(coupled, end, last);
        at_last = select(coupled, at_end, at_last);
        at_first = select(coupled, dk, at_first);
        after_first = select(coupled, above, after_first);
        coupling = select(coupled, ek, coupling);
        end = select(coupled, end, V(T(k)));
        at_end = select(coupled, at_end, dk);
        return select(coupled, ek, V(T(0)));
    }
};

// d (n) and e (n - 1) become eigenvalues, in no order, and zeros. Each rotation of columns k and k + 1,
// (x, y) -> (c x - s y, s x + c y), goes to rotate(k, c, s), and the end of each sweep to finish(lowest, highest): its
// rotations were those of k in [lowest, highest).
// Returns the lanes that are not done after 30 n sweeps.
template <class V, class Rotate, class Finish>
EIGENGRAD_INLINE typename V::mask implicit_ql(V* __restrict d, V* __restrict e, int n, Rotate&& rotate, Finish&& finish) {
    using T = typename V::scalar;
    Blocks<V> blocks;
    blocks.begin(n, d[n - 1]);
    for (int k = n - 2; k >= 0; --k) e[k] = blocks.update(k, d[k], d[k + 1], e[k]);
    int lowest = 0;
    const V none = V(T(n));
    auto pending = none > blocks.first;
    for (int sweep = 0; sweep < 30 * n; ++sweep) {
        if (!any(pending)) break;
        while (!any(abs(e[lowest]) > V(T(0)))) ++lowest;

        V first = blocks.first, last = blocks.last;
        V slope = (blocks.after_first - blocks.at_first) / (blocks.coupling + blocks.coupling);
        V length = sqrt(fma(slope, slope, V(T(1))));
        V g = blocks.at_last - blocks.at_first + blocks.coupling / (slope + copysign(length, slope));
        V start = g, c = V(T(1)), s = V(T(1)), p = V(T(0));
        V above = d[n - 1], dk1 = above;
        int highest = lowest;
        for (int k = n - 2; k >= lowest; --k) {
            V at = V(T(k)), dk = d[k], ek = e[k];
            auto starting = last == V(T(k + 1));
            auto active = (first <= at) & (last > at);
            auto ending = (first == at) & active;
            g = select(starting, start, g), p = select(starting, V(T(0)), p);
            c = select(starting, V(T(1)), c), s = select(starting, V(T(1)), s);
            V f = s * ek, b = c * ek;
            V r2 = fma(f, f, g * g);
            auto turning = active & (r2 > V(Limits<T>::square));
            V r = sqrt(select(turning, r2, V(T(1))));
            c = select(turning, g / r, V(T(1)));
            s = select(turning, f / r, V(T(0)));
            // Rounding of r stretches every vector the rotation meets. Half of c^2 + s^2 - 1 takes that back.
            V stretch = V(T(-0.5)) * fma(s, s, fma(c, c, V(T(-1))));
            c = fma(c, stretch, c), s = fma(s, stretch, s);
            rotate(k, c, s);
            // Row k + 1 is final now: its entry, and its coupling to k + 2.
            V shifted = dk1 - p;
            V r1 = fma(dk - shifted, s, (c + c) * b);
            p = s * r1;
            V done = select(active, shifted + p, dk1);
            d[k + 1] = done;
            if (k + 1 == n - 1) {
                blocks.begin(n, done);
            } else {
                V coupling = select(without(active, starting), select(turning, r, V(T(0))), e[k + 1]);
                e[k + 1] = blocks.update(k + 1, done, above, coupling);
            }
            above = done;
            g = fma(c, r1, -b);
            dk1 = select(ending, dk - p, dk);
            e[k] = select(ending, g, ek);
            if (any(active) && highest == lowest) highest = k + 1;
        }
        d[lowest] = dk1;
        e[lowest] = blocks.update(lowest, dk1, above, e[lowest]);
        // Rows below `lowest` are done in every lane.
        finish(lowest, highest);
        pending = none > blocks.first;
    }
    return pending;
}

}  // namespace eigengrad::EIGENGRAD_ISA
