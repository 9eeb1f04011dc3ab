// Products with the eigenvectors, one matrix per lane: V f(L) V^T, and the derivatives that are a Hadamard product in
// the eigenbasis,
//
//     V sym(K o (V^T G) + diag g) V^T   (eigenvectors),   V (W o (V^T sym(B) V)) V^T   (functions of a matrix).

#pragma once

#include "kernel.hpp"
#include "simd.hpp"
#include "transpose.hpp"
#include "weights.hpp"

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

template <class V, class T = typename V::scalar>
void pull_back(const PullBack<T>& job, int count, int n, Workspace memory) {
    V* next = static_cast<V*>(memory.reserve((4 * n * long(n | 1) + 2 * n) * sizeof(V)));
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
    if (job.weights_are_given()) {
        load_matrices(job.weights, count, n, w);
    } else {
        V *x = next, *factor = next + n;
        load_vectors(job.weights, count, n, x);
        for (int k = 0; k < n; ++k) factor[k] = common_factor(job, x[k]);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j)
                pair_weights(job, x[i], x[j], factor[i], factor[j], abs(x[j]) > abs(x[i]), w(i, j), w(j, i));
        for (int k = 0; job.kind == series && k < n; ++k) w(k, k) = V(T(0));
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
