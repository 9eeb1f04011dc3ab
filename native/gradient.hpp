// Products with the eigenvectors: V f(L) V^H, and the derivatives that are a Hadamard product in the eigenbasis,
//
//     V herm(K o (V^H G) + diag g) V^H   (eigenvectors),   V (W o (V^H herm(B) V)) V^H   (functions of a matrix);
//
// of matrices M, which are Lanes, one in each lane, or Dense, one by itself.

#pragma once

#include "dense.hpp"
#include "kernel.hpp"
#include "lanes.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// What a thread has for matrices and numbers of them.
template <class M>
struct Memory {
    using T = typename M::T;
    T* next;
    int n, count;

    Memory(const Workspace& with, int matrices, int vectors, int n, int count) : n(n), count(count) {
        const long numbers = matrices * M::size(n) + vectors * M::numbers(n);
        next = static_cast<T*>(with.reserve(numbers * long(sizeof(T))));
    }
    M matrix() { return M::take(next, n, count); }
    typename M::Real real_matrix() { return M::Real::take(next, n, count); }
    typename M::Numbers numbers() { return M::take_numbers(next, n, count); }
};

template <class M, class T = typename M::T>
void recompose(const T* rows, const T* x, T* result, int count, int n, Workspace with) {
    Memory<M> memory(with, 4, 1, n, count);
    M v = memory.matrix(), vh = memory.matrix(), scaled = memory.matrix(), out = memory.matrix();
    const auto values = memory.numbers();
    values.load(x);
    vh.load(rows, true);
    v.set_adjoint(vh);
    scaled.each(false, [&](int k, int j) { scaled.set(k, j, values.row(k) * vh.at(k, j)); });
    out.set_product(v, scaled, true, with);
    out.store_hermitian(result);
}

// Of the derivative of a root: 1/(x + y), or -x^2 y^2/(x + y).
template <class V>
EIGENGRAD_INLINE V root_weight(Weights kind, V x, V y) {
    V weight = V(typename V::scalar(1)) / (x + y);
    return kind == square_root ? weight : -weight * (x * x) * (y * y);
}

// Of a pair of eigenvalues x and y the terms S of a geometric series in b/a, over a, a being y where `y_is_major` and
// else x: in the column of y S of the major or -S of the minor, in that of x the other one. As geometric_series.py.
template <class V, class M>
EIGENGRAD_INLINE void series_weights(V x, V y, M y_is_major, const int* terms, V& of_y, V& of_x) {
    using T = typename V::scalar;
    const V one = V(T(1)), a = select(y_is_major, y, x), b = select(y_is_major, x, y);
    const int most = terms[0] > terms[1] ? terms[0] : terms[1];
    const V inverse = select(V(T(most) * Limits<T>::smallest) > abs(a), V(T(0)), one / a);
    const V ratio = one - (a - b) * inverse;
    V minor = V(T(0)), next = one;
    for (int bit = 1 << 16; bit; bit >>= 1) {
        if (terms[1] < bit) continue;
        if (terms[1] < 2 * bit) {  // the leading one
            minor = one, next = ratio;
            continue;
        }
        minor = minor + minor * next, next = next * next;
        if (terms[1] & bit) minor = minor + next, next = next * ratio;
    }
    const V major = (terms[0] > terms[1] ? minor + next : minor) * inverse;
    minor = -minor * inverse;
    of_y = select(y_is_major, major, minor);
    of_x = select(y_is_major, minor, major);
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

// The weights other than given ones, in the lower triangle at least, from the eigenvalues x.
template <class V, class T = typename V::scalar>
void fill_weights(Lanes<V, 1> w, LaneNumbers<V> x, const PullBackArguments<T>& arguments) {
    if (arguments.of_root()) {
        w.each(true, [&](int i, int j) { w(i, j) = root_weight(arguments.kind, x.row(i), x.row(j)); });
        return;
    }
    for (int j = 0; j < w.n; ++j) {
        for (int i = 0; i < j; ++i) {
            const V xi = x.row(i), xj = x.row(j);
            series_weights(xi, xj, abs(xi) <= abs(xj), arguments.terms, w(i, j), w(j, i));
        }
        w(j, j) = V(T(0));
    }
}

template <class V, class T = typename V::scalar>
void fill_weights(Dense<V, 1> w, DenseNumbers<V> x, const PullBackArguments<T>& arguments) {
    const bool root = arguments.of_root();
    w.each(root, [&](int i, int j) {
        V xi = x.row(i), xj = x.column(j), weight, unused;
        if (root) weight = root_weight(arguments.kind, xi, xj);
        else series_weights(xi, xj, column_is_major(xi, xj, i, j), arguments.terms, weight, unused);
        w.set(i, j, weight);
    });
    if (!root)
        for (int k = 0; k < w.n; ++k) w.set_entry(k, k, V(T(0)));
}

template <class M, class T = typename M::T>
void pull_back(const PullBackArguments<T>& arguments, int count, int n, Workspace with) {
    Memory<M> memory(with, 6, 1, n, count);
    M v = memory.matrix(), vh = memory.matrix(), g = memory.matrix(), p = memory.matrix(), other = memory.matrix();
    const auto w = memory.real_matrix();
    const bool hermitian = arguments.of_function();
    vh.load(arguments.vectors, true);
    v.set_adjoint(vh);
    if (hermitian) {
        g.load(arguments.cotangent, arguments.transposed);  // the adjoint has the same Hermitian part
        g.symmetrise(other);
        other.set_product(g, v, false, with);
        p.set_product(vh, other, true, with);
    } else {
        if (arguments.transposed) g.load_transposed(arguments.cotangent, other);
        else g.load(arguments.cotangent);
        p.set_product(vh, g, false, with);
    }
    if (arguments.weights_are_given()) {
        w.load(arguments.weights);
    } else {
        const auto x = memory.numbers();
        x.load(arguments.weights);
        fill_weights(w, x, arguments);
    }
    p.weigh(w, hermitian, other);
    if (arguments.diagonal) p.add_to_diagonal(arguments.diagonal);
    g.set_product(p, vh, false, with);
    other.set_product(v, g, true, with);
    other.store_hermitian(arguments.result);
}

}  // namespace eigengrad::EIGENGRAD_ISA
