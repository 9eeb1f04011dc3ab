// The plane rotations of several QL sweeps, applied to Q together.
//
// A sweep rotates columns (k, k + 1) for k from high to low, so a row of Q is walked once, with one number carried along
// in a register. Two sweeps are walked at once, the second one step behind the first: each number of Q is then loaded
// and stored once for eight multiplications. Blocks of rows stay in the first-level cache for all sweeps of a batch.

#pragma once

#include "complex.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <class V>
struct Rotation {
    V c, s;
};

// (x, y) -> (c x - s y, s x + c y)
template <class V, class E>
EIGENGRAD_INLINE void rotate(const Rotation<V>& by, E& x, E& y) {
    E turned = fnma(by.s, y, by.c * x);
    y = fma(by.s, x, by.c * y);
    x = turned;
}

template <int R, class V, class E>
EIGENGRAD_INLINE void sweep_once(E* __restrict rows, long ld, const Rotation<V>* __restrict by, int low, int high) {
    E carried[R];
    for (int r = 0; r < R; ++r) carried[r] = rows[r * ld + high];
    for (int k = high - 1; k >= low; --k) {
        Rotation<V> first = by[k];
        for (int r = 0; r < R; ++r) {
            E x = rows[r * ld + k];
            rotate(first, x, carried[r]);
            rows[r * ld + k + 1] = carried[r];
            carried[r] = x;
        }
    }
    for (int r = 0; r < R; ++r) rows[r * ld + low] = carried[r];
}

template <int R, class V, class E>
EIGENGRAD_INLINE void sweep_twice(E* __restrict rows, long ld, const Rotation<V>* __restrict by,
                                  const Rotation<V>* __restrict then, int low, int high) {
    E carried[R], behind[R];
    for (int r = 0; r < R; ++r) {
        E x = rows[r * ld + high - 1];
        carried[r] = rows[r * ld + high];
        rotate(by[high - 1], x, carried[r]);
        behind[r] = carried[r];
        carried[r] = x;
    }
    for (int k = high - 2; k >= low; --k) {
        Rotation<V> first = by[k], second = then[k + 1];
        for (int r = 0; r < R; ++r) {
            E x = rows[r * ld + k];
            rotate(first, x, carried[r]);
            rotate(second, carried[r], behind[r]);
            rows[r * ld + k + 2] = behind[r];
            behind[r] = carried[r];
            carried[r] = x;
        }
    }
    for (int r = 0; r < R; ++r) {
        rotate(then[low], carried[r], behind[r]);
        rows[r * ld + low + 1] = behind[r];
        rows[r * ld + low] = carried[r];
    }
}

// `count` sweeps recorded `stride` rotations apart, sweep t being that of k in [low[t], high[t]).
template <class V>
struct Sweeps {
    static constexpr int capacity = 8;
    Rotation<V>* rotations;
    long stride;
    int low[capacity], high[capacity], count = 0;

    EIGENGRAD_INLINE Rotation<V>* sweep(int t) const { return rotations + t * stride; }

    template <int R, class E>
    EIGENGRAD_INLINE void apply_to_rows(E* rows, long ld) const {
        int t = 0;
        for (; t + 2 <= count; t += 2) sweep_twice<R>(rows, ld, sweep(t), sweep(t + 1), low[t], high[t]);
        if (t < count) sweep_once<R>(rows, ld, sweep(t), low[t], high[t]);
    }

    void forget() { count = 0; }

    // Rotates the columns of q (n, n; rows ld apart) and forgets the sweeps.
    template <class E>
    void apply(E* q, int n, long ld) {
#if defined(__AVX512F__) || defined(__aarch64__)
        constexpr int R = 4 / planes_of<E>;
#else
        constexpr int R = 2 / planes_of<E>;
#endif
        for (int t = 0; t + 2 <= count; t += 2) {  // sweeps walked together need one range: identities fill the rest
            int lowest = low[t] < low[t + 1] ? low[t] : low[t + 1];
            int highest = high[t] > high[t + 1] ? high[t] : high[t + 1];
            for (int u = t; u < t + 2; ++u) {
                for (int k = lowest; k < low[u]; ++k) sweep(u)[k] = {V(1), V(0)};
                for (int k = high[u]; k < highest; ++k) sweep(u)[k] = {V(1), V(0)};
                low[u] = lowest, high[u] = highest;
            }
        }
        int i = 0;
        for (; i + R <= n; i += R) apply_to_rows<R>(q + i * ld, ld);
        for (; i < n; ++i) apply_to_rows<1>(q + i * ld, ld);
        forget();
    }
};

}  // namespace eigengrad::EIGENGRAD_ISA
