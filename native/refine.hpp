// The refinement of refine_long.hpp, one small real matrix per lane.

#pragma once

#include "gradient.hpp"
#include "kernel.hpp"
#include "simd.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// The largest angle that is taken without its square.
template <class T>
constexpr T widest_angle = sizeof(T) == 4 ? T(0x1p-13) : T(0x1p-28);

// Entries of F that are left alone, of the largest eigenvalue; a little more than their rounding errors.
template <class T>
constexpr T negligible_entry = Limits<T>::epsilon / 4;

template <class T, int W>
void store_vectors(const Vec<T, W>* from, T* to, int count, int n) {
    for (int k = 0; k < n; ++k) {
        T lanes[W];
        from[k].store(lanes);
        for (int lane = 0; lane < count; ++lane) to[long(lane) * n + k] = lanes[lane];
    }
}

// Rows and columns i > j of diag(values) + f, of which the lower triangle counts, such that the entry between them
// vanishes; rows of v with them. Lanes that are not `turning` keep their bits.
template <class V, class M>
EIGENGRAD_INLINE void rotate_pair(View<V> f, View<V> v, V* values, int n, int i, int j, M turning) {
    const V one(1), x = select(turning, f(i, j), one);
    const V half = (values[i] - values[j]) / (x + x), wide = sqrt(fma(half, half, one));
    const V t = select(turning, copysign(one, half) / (abs(half) + wide), V(0)), c = one / sqrt(fma(t, t, one)), s = c * t;
    values[j] = fnma(t, x, values[j]);
    values[i] = fma(t, x, values[i]);
    f(i, j) = select(turning, V(0), f(i, j));
    auto rotate = [&](V& of_j, V& of_i) {
        const V turned = fnma(s, of_i, c * of_j);
        of_i = fma(s, of_j, c * of_i);
        of_j = turned;
    };
    for (int k = 0; k < n; ++k) {
        rotate(v(j, k), v(i, k));
        if (k != i && k != j) rotate(k > j ? f(k, j) : f(j, k), k > i ? f(k, i) : f(i, k));
    }
}

// Sweeps over what F keeps, as in refine_long.hpp; returns the numbers of rotations.
template <class V, class T = typename V::scalar>
V rotate_clusters(View<V> f, View<V> v, V* values, int n) {
    V smallest(T(0)), rotations(T(0));
    for (int k = 0; k < n; ++k) smallest = max(abs(values[k]), smallest);
    smallest = V(negligible_entry<T>) * smallest;
    bool turned = true;
    for (int sweep = 0; turned && sweep < 6; ++sweep) {
        turned = false;
        for (int i = 1; i < n; ++i)
            for (int j = 0; j < i; ++j) {
                const auto turning = abs(f(i, j)) > smallest;
                if (!any(turning)) continue;
                rotate_pair(f, v, values, n, i, j, turning);
                rotations = select(turning, rotations + V(T(1)), rotations);
                turned = true;
            }
    }
    return rotations;
}

// To the first order, where `wanted`. F, the matrices at first, keeps what K leaves of it. Not inlined: GCC 12 cannot expand
// the comparison of two doubles that it would carry along.
template <class V, class M, class T = typename V::scalar>
__attribute__((noinline)) void refine_step(View<V> v, View<V> f, View<V> change, View<V> work, V* values, int n,
                                           M wanted) {
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j) f(j, i) = f(i, j);
    product(work, v, f, n, false);
    product(f, work, v.transposed(), n, true);
    product(change, v, v.transposed(), n, true);
    const V half(T(0.5));
    for (int i = 0; i < n; ++i) {
        values[i] = select(wanted, f(i, i) / change(i, i), values[i]);
        change(i, i) = half * (V(T(1)) - change(i, i));
    }
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j) {
            const V mean = half * (values[i] + values[j]), gap = values[i] - values[j], r = change(i, j);
            const V f_ij = fnma(mean, r, f(i, j));
            const auto apart = V(widest_angle<T>) * abs(gap) > abs(f_ij);
            const V k = select(apart, f_ij / gap, V(T(0)));
            f(i, j) = select(apart, V(T(0)), f_ij);
            change(i, j) = fnma(half, r, k);
            change(j, i) = -fma(half, r, k);
        }
    product(work, change, v, n, false);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < n; ++k) v(i, k) = select(wanted, v(i, k) + work(i, k), v(i, k));
}

// Eigenvectors in rows, in place; of the matrices the lower triangle.
template <class V, class T = typename V::scalar>
void refine(const T* matrices, T* vectors, T* values, int count, int n, Workspace memory) {
    V* next = static_cast<V*>(memory.reserve((4 * n * long(n | 1) + n) * sizeof(V)));
    View<V> v = take(next, n), f = take(next, n), change = take(next, n), product = take(next, n);
    load_matrices(vectors, count, n, v);
    load_matrices(matrices, count, n, f);
    refine_step(v, f, change, product, next, n, V(T(0)) == V(T(0)));
    const auto many = rotate_clusters(f, v, next, n) > V(T(n / 2));
    if (any(many)) {  // whose rounding errors have added up
        load_matrices(matrices, count, n, f);
        refine_step(v, f, change, product, next, n, many);
    }
    store_matrices(v, vectors, count, n);
    store_vectors(next, values, count, n);
}

}  // namespace eigengrad::EIGENGRAD_ISA
