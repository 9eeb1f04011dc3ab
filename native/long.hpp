// Products with the eigenvectors of one matrix after the other, for those too long for lanes, and complex ones. Of a real
// matrix, the operations of gradient.hpp entry by entry in the same order, hence the same bits.

#pragma once

#include "dense.hpp"
#include "gradient.hpp"
#include "kernel.hpp"
#include "weights.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Memory for some matrices and vectors behind them.
template <class V, int P, class T = typename V::scalar>
T* reserve_long(int matrices, int n, Workspace memory, int vectors = 1) {
    const long numbers = matrices * Dense<V, P>::size(n) + vectors * Plane<V>::pad(n);
    return static_cast<T*>(memory.reserve(numbers * long(sizeof(T))));
}

// Eigenvectors from rows: V, and V^H.
template <class V, int P, class T = typename V::scalar>
void load_eigenvectors(const T* rows, Dense<V, P> vectors, Dense<V, P> adjoint) {
    adjoint.load(rows, true);
    adjoint.template transpose_into<true>(vectors);
}

template <class V, int P, class T = typename V::scalar>
void recompose_long(const T* rows, const T* x, T* result, int n, Workspace memory) {
    T* next = reserve_long<V, P>(4, n, memory);
    auto take = [&] { return Dense<V, P>::take(next, n); };
    Dense<V, P> v = take(), vh = take(), scaled = take(), out = take();
    load_eigenvectors(rows, v, vh);
    for (int q = 0; q < P; ++q)
        vh.plane[q].each(false, [&](int k, int j) { scaled.plane[q].set(k, j, V(x[k]) * vh.plane[q].at(k, j)); });
    out.set_product(v, scaled, true, memory);
    out.mirror();
    out.store(result);
}

// Whether the eigenvalues y of columns from j on are of larger magnitude than x, that of row i; of two equal ones, the
// later is.
template <class V>
EIGENGRAD_INLINE typename V::mask column_is_major(V x, V y, int i, int j) {
    using T = typename V::scalar;
    T column[V::lanes];
    for (int w = 0; w < V::lanes; ++w) column[w] = T(j + w);
    const auto later = V::load(column) > V(T(i));
    return (abs(y) > abs(x)) | (later & (abs(x) <= abs(y)));
}

template <class V, int P, class T = typename V::scalar>
void pull_back_long(const PullBack<T>& job, int n, Workspace memory) {
    T* next = reserve_long<V, P>(6, n, memory, 2);
    auto take = [&] { return Dense<V, P>::take(next, n); };
    Dense<V, P> v = take(), vh = take(), g = take(), p = take(), other = take();
    const Plane<V> w = take().plane[0];
    const bool hermitian = job.of_function();
    load_eigenvectors(job.vectors, v, vh);
    g.load(job.cotangent, hermitian && job.transposed);  // the adjoint has the same Hermitian part
    if (hermitian) {
        g.symmetrise(other);
        other.set_product(g, v, false, memory);
        p.set_product(vh, other, true, memory);
    } else {
        if (job.transposed) g.template transpose_into<false>(other);
        p.set_product(vh, job.transposed ? other : g, false, memory);
    }
    if (job.weights_are_given()) {
        Dense<V, 1>{{w}}.load(job.weights);
    } else {
        T *x = next, *factor = next + w.padded;
        for (int k = 0; k < w.padded; ++k) x[k] = k < n ? job.weights[k] : T(1);
        for (int k = 0; k < w.padded; k += V::lanes) common_factor(job, V::load(x + k)).store(factor + k);
        w.each(hermitian, [&](int i, int j) {
            const V xi(x[i]), xj = V::load(x + j);
            V weight, unused;
            pair_weights(job, xi, xj, V(factor[i]), V::load(factor + j), column_is_major(xi, xj, i, j), weight, unused);
            w.set(i, j, weight);
        });
        if (!hermitian)
            for (int k = 0; k < n; ++k) w.row(k)[k] = 0;
    }
    for (const Plane<V>& plane : p.plane)
        plane.each(hermitian, [&](int i, int j) { plane.set(i, j, w.at(i, j) * plane.at(i, j)); });
    if (hermitian) p.mirror();
    else p.symmetrise(other);
    if (job.diagonal)
        for (int k = 0; k < n; ++k) p.plane[0].row(k)[k] += job.diagonal[k];
    g.set_product(p, vh, false, memory);
    other.set_product(v, g, true, memory);
    other.mirror();
    other.store(job.result);
}

}  // namespace eigengrad::EIGENGRAD_ISA
