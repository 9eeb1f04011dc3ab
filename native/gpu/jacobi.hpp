// Eigendecomposition of one matrix by a block of threads: Jacobi rotations of disjoint pairs, n / 2 at a time.
//
// The pairs of a round are those with p + q = r modulo n, an order that is equivalent to the cyclic one; rotations also
// sort. Both matter at ties: in the order of a tournament, or without sorting, convergence is slow there.
//
// Source: Golub, Van Loan, *Matrix Computations*, 4th edition, section 8.5; Luk and Park, "On parallel Jacobi orderings",
// SIAM J. Sci. Stat. Comput. 10, 1989.

#pragma once

#include "scale.hpp"
#include "gpu/phases.hpp"

namespace eigengrad::EIGENGRAD_ISA {

constexpr int most_sweeps = 30;

// Entries that count as zero. Each rotation takes twice the square of one that does not from the sum of squares off the
// diagonal, so that a cluster whose gaps are rounding errors comes to an end, too, and is not turned for nothing.
template <class T>
constexpr T zero_entry = Limits<T>::epsilon / 8;

// Numbers of shared memory.
constexpr int jacobi_memory(int n) { return 2 * n * (n | 1) + 4 * (n / 2 + 1) + 2 * n + 1; }

// Pair k of n / 2 + 1 in round r: two indices, or one twice that has no partner, or -1 where there is none.
struct IndexPair {
    int p, q;

    EIGENGRAD_INLINE IndexPair(int k, int r, int n) {
        const int below = (r + 1) / 2;  // so many have the sum r, the others r + n
        p = k < below ? k : r + 1 + k - below;
        q = k < below ? r - k : r + n - p;
        if (p < q) return;
        const bool upper = (r + n) % 2 == 0 && p == (r + n) / 2, lower = r % 2 == 0 && !upper;
        p = q = upper ? (r + n) / 2 : (lower ? r / 2 : -1);
        if (lower && (r + n) % 2 == 0 && k != n / 2) p = q = -1;  // both sums have a half: one slot for each
    }
};

// Ascending eigenvalues, and eigenvectors in rows, of the lower triangle in `in`; NaN if it is not finite, or not done
// after `most_sweeps`.
template <class T>
EIGENGRAD_INLINE void jacobi_by_block(const T* in, T* values, T* vectors, int n, T* memory) {
    using V = Vec<T, 1>;
    const int ld = n | 1, pairs = n / 2 + 1;
    T *a = memory, *v = a + n * ld, *c = v + n * ld, *s = c + pairs, *d = s + pairs, *bad = d + n;
    int *first = reinterpret_cast<int*>(bad + n), *second = first + pairs, *pending = second + pairs;
    const auto at = [&](int i, int j) -> T& { return i > j ? a[i * ld + j] : a[j * ld + i]; };
    each(n * n, [&](int k) {
        const int i = k / n, j = k % n;
        if (j <= i) a[i * ld + j] = in[k];
        v[i * ld + j] = T(i == j);
    });
    wait();
    each(n, [&](int i) {
        Scale<V> row;
        for (int j = 0; j <= i; ++j) row.update(V(a[i * ld + j]));
        d[i] = row.largest.v, bad[i] = row.nonfinite.v;
    });
    wait();
    Scale<V> scale;
    for (int i = 0; i < n; ++i) scale.largest = max(V(d[i]), scale.largest), scale.nonfinite = scale.nonfinite + V(bad[i]);
    scale.decide();
    each(n * n, [&](int k) {
        const int i = k / n, j = k % n;
        if (j <= i) a[i * ld + j] = scale.scaled(V(a[i * ld + j])).v;
    });
    bool done = false;
    for (int sweep = 0; sweep <= most_sweeps; ++sweep) {
        each(1, [&](int) { *pending = 0; });
        wait();
        each(n, [&](int i) {
            for (int j = 0; j < i; ++j)
                if (any(abs(V(a[i * ld + j])) > V(zero_entry<T>))) *pending = 1;
        });
        wait();
        done = !*pending;
        if (done || sweep == most_sweeps) break;
        for (int round = 0; round < n; ++round) {
            each(pairs, [&](int k) {
                const IndexPair pair(k, round, n);
                const int p = pair.p, q = pair.q;
                first[k] = p, second[k] = q, c[k] = T(1), s[k] = T(0);
                if (p == q) return;
                const V x = a[q * ld + p], twice = x + x, gap = V(a[q * ld + q]) - V(a[p * ld + p]), one(T(1)), zero(T(0));
                const V wide = abs(gap) + sqrt(fma(gap, gap, twice * twice)), sign = copysign(one, gap);
                const auto turning = abs(x) > V(zero_entry<T>);
                const V length = select(turning, sqrt(fma(wide, wide, twice * twice)), one);
                V cosine = select(turning, wide / length, one), sine = select(turning, sign * twice / length, zero);
                // One Newton step to c^2 + s^2 = 1: rounding would stretch vectors, the more the more rotations they meet.
                const V excess = fnma(sine, sine, fnma(cosine, cosine, one)) * V(T(0.5));
                cosine = fma(cosine, excess, cosine), sine = fma(sine, excess, sine);
                const V change = sign * select(turning, twice * x / select(turning, wide, one), zero);
                const V at_p = V(a[p * ld + p]) - change, at_q = V(a[q * ld + q]) + change;
                const bool turned = any(at_p > at_q);  // a quarter further, so that they ascend
                a[p * ld + p] = turned ? at_q.v : at_p.v, a[q * ld + q] = turned ? at_p.v : at_q.v;
                a[q * ld + p] = select(turning, zero, turned ? -x : x).v;
                c[k] = turned ? sine.v : cosine.v, s[k] = turned ? -cosine.v : sine.v;
            });
            wait();
            const int blocks = pairs * (pairs - 1) / 2;
            each(blocks + n * pairs, [&](int k) {
                if (k < blocks) {  // where two pairs i > j meet, rotated from both sides
                    const int fold = k / pairs, rest = k % pairs;  // row 1 of the triangle and the last one are of `pairs`
                    const bool upper = rest <= fold;
                    const int i = upper ? fold + 1 : pairs - 1 - fold, j = upper ? rest : rest - fold - 1;
                    const int p = first[i], q = second[i], r = first[j], t = second[j];
                    if (p < 0 || r < 0) return;
                    const V ci = c[i], si = s[i], cj = c[j], sj = s[j];
                    const V pr = at(p, r), pt = at(p, t), qr = at(q, r), qt = at(q, t);
                    const V pr1 = fnma(sj, pt, cj * pr), pt1 = fma(sj, pr, cj * pt);
                    const V qr1 = fnma(sj, qt, cj * qr), qt1 = fma(sj, qr, cj * qt);
                    at(p, r) = fnma(si, qr1, ci * pr1).v;
                    if (t != r) at(p, t) = fnma(si, qt1, ci * pt1).v;
                    if (p != q) at(q, r) = fma(si, pr1, ci * qr1).v;
                    if (p != q && t != r) at(q, t) = fma(si, pt1, ci * qt1).v;
                } else {
                    const int row = (k - blocks) / pairs, j = (k - blocks) % pairs, p = first[j], q = second[j];
                    if (p == q) return;
                    const V x = v[row * ld + p], y = v[row * ld + q], cj = c[j], sj = s[j];
                    v[row * ld + p] = fnma(sj, y, cj * x).v, v[row * ld + q] = fma(sj, x, cj * y).v;
                }
            });
            wait();
        }
    }
    if (!done) scale.finite = without(scale.finite, scale.finite);
    each(n, [&](int k) {
        const T own = a[k * ld + k];
        int rank = 0;
        for (int j = 0; j < n; ++j) rank += a[j * ld + j] < own || (a[j * ld + j] == own && j < k);
        values[rank] = scale.unscaled(V(own)).v;
        d[k] = T(rank);
    });
    wait();
    each(n * n, [&](int k) {
        const int column = k / n, row = k % n;
        vectors[int(d[column]) * n + row] = scale.vector(V(v[row * ld + column])).v;
    });
    wait();
}

}  // namespace eigengrad::EIGENGRAD_ISA
