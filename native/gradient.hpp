// Products with the eigenvectors, one matrix per lane: V f(L) V^T, and the derivatives that are a Hadamard product in
// the eigenbasis,
//
//     V sym(K o (V^T G) + diag g) V^T   (eigenvectors),   V (W o (V^T sym(B) V)) V^T   (functions of a matrix).

#pragma once

#include "kernel.hpp"
#include "simd.hpp"
#include "transpose.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// A matrix of vectors: entry (i, j) at data[i * row + j * column].
template <class V>
struct View {
    V* data;
    long row, column;

    EIGENGRAD_INLINE V& operator()(long i, long j) const { return data[i * row + j * column]; }
    EIGENGRAD_INLINE View transposed() const { return {data, column, row}; }
};

template <int R, int C, class V>
EIGENGRAD_INLINE void product_block(View<V> out, View<V> a, View<V> b, int n, int i, int j) {
    V sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = V(typename V::scalar(0));
    for (int k = 0; k < n; ++k)
        for (int c = 0; c < C; ++c) {
            V x = b(k, j + c);
            for (int r = 0; r < R; ++r) sum[r][c] = fma(a(i + r, k), x, sum[r][c]);
        }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out(i + r, j + c) = sum[r][c];
}

template <int R, class V>
EIGENGRAD_INLINE void product_rows(View<V> out, View<V> a, View<V> b, int n, int i, int columns) {
    int j = 0;
    for (; j + 4 <= columns; j += 4) product_block<R, 4>(out, a, b, n, i, j);
    if (columns - j == 3) product_block<R, 3>(out, a, b, n, i, j);
    else if (columns - j == 2) product_block<R, 2>(out, a, b, n, i, j);
    else if (columns - j == 1) product_block<R, 1>(out, a, b, n, i, j);
}

// out = a b, all n x n; if `lower`, at least its lower triangle.
template <class V>
void product(View<V> out, View<V> a, View<V> b, int n, bool lower) {
    int i = 0;
    for (; i + 2 <= n; i += 2) product_rows<2>(out, a, b, n, i, lower ? i + 2 : n);
    if (i < n) product_rows<1>(out, a, b, n, i, n);
}

template <class T, int W>
void load_matrices(const T* from, int count, int n, View<Vec<T, W>> to) {
    Batch<const T> in{from, long(n) * n, count};
    Vec<T, W> x[W];
    for_tiles<W>(n * n, [&](long offset) {
        load_tile(in, offset, x);
        int i = offset / n, j = offset % n;
        for (int w = 0; w < W && i < n; ++w) {
            to(i, j) = x[w];
            if (++j == n) j = 0, ++i;
        }
    });
}

// The matrices of entries entry(i, j) from lanes to memory.
template <class T, int W, class Entry>
EIGENGRAD_INLINE void store_entries(Entry entry, T* to, int count, int n) {
    Batch<T> out{to, long(n) * n, count};
    Vec<T, W> x[W];
    for_tiles<W>(n * n, [&](long offset) {
        int i = offset / n, j = offset % n;
        for (int w = 0; w < W; ++w) {
            x[w] = i >= n ? Vec<T, W>(T(0)) : entry(i, j);
            if (++j == n) j = 0, ++i;
        }
        store_tile(out, offset, x);
    });
}

template <class T, int W>
void store_matrices(View<Vec<T, W>> from, T* to, int count, int n) {
    store_entries<T, W>([&](int i, int j) { return from(i, j); }, to, count, n);
}

// Symmetric matrices of which the lower triangle is given.
template <class T, int W>
void store_symmetric(View<Vec<T, W>> from, T* to, int count, int n) {
    store_entries<T, W>([&](int i, int j) { return i < j ? from(j, i) : from(i, j); }, to, count, n);
}

template <class T, int W>
void load_vectors(const T* from, int count, int n, Vec<T, W>* to) {
    for (int k = 0; k < n; ++k) {
        T lanes[W];
        for (int lane = 0; lane < W; ++lane) lanes[lane] = from[long(lane < count ? lane : count - 1) * n + k];
        to[k] = Vec<T, W>::load(lanes);
    }
}

template <class V>
EIGENGRAD_INLINE View<V> take(V*& memory, int n) {
    const long ld = n | 1;
    View<V> view{memory, ld, 1};
    memory += n * ld;
    return view;
}

template <class V, class T = typename V::scalar>
void recompose(const T* vectors, const T* values, T* result, int count, int n, Workspace memory) {
    V* next = static_cast<V*>(memory.reserve((3 * n * long(n | 1) + n) * sizeof(V)));
    View<V> v = take(next, n), scaled = take(next, n), out = take(next, n);
    load_matrices(vectors, count, n, v);
    load_vectors(values, count, n, next);
    for (int k = 0; k < n; ++k)
        for (int i = 0; i < n; ++i) scaled(k, i) = next[k] * v(k, i);
    product(out, v.transposed(), scaled, n, true);
    store_symmetric(out, result, count, n);
}

// Of the derivative of a root: 1/(x + y), or -x^2 y^2/(x + y).
template <class V>
EIGENGRAD_INLINE V root_weight(Weights kind, V x, V y) {
    V weight = V(typename V::scalar(1)) / (x + y);
    return kind == square_root ? weight : -weight * (x * x) * (y * y);
}

// Of a pair of eigenvalues x and y the terms S of a geometric series in b/a, over a, a being y where `y_is_major` and
// else x: in the column of y S of the major or -S of the minor, in that of x the other one. As eigengrad/gradients/series.py.
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

template <class V, class T = typename V::scalar>
void pull_back(const PullBack<T>& job, int count, int n, Workspace memory) {
    V* next = static_cast<V*>(memory.reserve((4 * n * long(n | 1) + n) * sizeof(V)));
    View<V> v = take(next, n), g = take(next, n), p = take(next, n), w = take(next, n);
    const V half = V(T(0.5));
    load_matrices(job.vectors, count, n, v);
    load_matrices(job.cotangent, count, n, job.transposed ? g.transposed() : g);
    if (!job.of_function()) {
        product(p, v, g, n, false);
    } else {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < i; ++j) g(i, j) = g(j, i) = half * (g(i, j) + g(j, i));
        product(w, g, v.transposed(), n, false);
        product(p, v, w, n, true);
    }
    if (job.weights_are_given()) load_matrices(job.weights, count, n, w);
    else load_vectors(job.weights, count, n, next);
    if (job.of_root()) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) w(i, j) = root_weight(job.kind, next[i], next[j]);
    } else if (job.kind == series) {
        for (int j = 0; j < n; ++j) {
            for (int i = 0; i < j; ++i)
                series_weights(next[i], next[j], abs(next[i]) <= abs(next[j]), job.terms, w(i, j), w(j, i));
            w(j, j) = V(T(0));
        }
    }
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            V x = w(i, j) * p(i, j);
            if (!job.of_function()) x = half * (x + w(j, i) * p(j, i));
            p(i, j) = p(j, i) = x;
        }
    if (job.diagonal) {
        load_vectors(job.diagonal, count, n, next);
        for (int k = 0; k < n; ++k) p(k, k) = p(k, k) + next[k];
    }
    product(g, p, v, n, false);
    product(w, v.transposed(), g, n, true);
    store_symmetric(w, job.result, count, n);
}

}  // namespace eigengrad::EIGENGRAD_ISA
