// A group of matrices from memory into lanes, and what was found of it back into memory in ascending order.

#pragma once

#include "pair.hpp"
#include "scale.hpp"
#include "transpose.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Which part of a batch of up to V::lanes matrices is in part `index`; its count is 0 or less if none is.
template <class V, class T>
EIGENGRAD_INLINE Batch<T> part_of(const Batch<T>& all, int index) {
    constexpr int W = V::part::lanes;
    int left = all.count - index * W;
    return {all.data + all.size * W * index, all.size, left < W ? left : W};
}

// The lower triangles of W matrices into a, rows ld apart, `step` vectors between neighbours.
template <class T, int W>
void load_triangle(const Batch<const T>& in, int n, Vec<T, W>* a, long ld, int step) {
    Vec<T, W> x[W];
    if (n < W) {
        for_tiles<W>(n * n, [&](long offset) {
            load_tile(in, offset, x);
            int i = offset / n, j = offset % n;
            for (int w = 0; w < W && i < n; ++w) {
                if (j <= i) a[(i * ld + j) * step] = x[w];
                if (++j == n) j = 0, ++i;
            }
        });
    } else {
        for (int i = 0; i < n; ++i)
            for_tiles<W>(n, [&](long offset) {
                if (offset > i) return;
                load_tile(in, long(i) * n + offset, x);
                for (int w = 0; w < W && offset + w <= i; ++w) a[(i * ld + offset + w) * step] = x[w];
            });
    }
}

// Fewer than W numbers.
template <int W, class T>
EIGENGRAD_INLINE void copy_short(T* to, const T* from, int n) {
    if constexpr (W > 2) {
        if (n >= W / 2) {
            T head[W / 2], tail[W / 2];
            __builtin_memcpy(head, from, sizeof head);
            __builtin_memcpy(tail, from + n - W / 2, sizeof tail);
            __builtin_memcpy(to, head, sizeof head);
            __builtin_memcpy(to + n - W / 2, tail, sizeof tail);
            return;
        }
        copy_short<W / 2>(to, from, n);
    } else if (n > 0) {
        *to = *from;
    }
}

// The columns of W matrices q into rows `rank` of the output.
template <class T, int W>
void store_columns(const Batch<T>& out, int n, Vec<T, W>* q, long ld, int step, const T* rank, int rank_step, T* scratch) {
    Vec<T, W> x[W];
    if (n < W) {
        long size = n * n;
        for_tiles<W>(size, [&](long offset) {
            int k = offset / n, i = offset % n;
            for (int w = 0; w < W; ++w) {
                x[w] = q[(i * ld + k) * step];
                if (++i == n) i = 0, k += k + 1 < n;
            }
            transpose(x);
            for (int lane = 0; lane < out.count; ++lane) x[lane].store(scratch + size * lane + offset);
        });
        for (int lane = 0; lane < out.count; ++lane)
            for (int k = 0; k < n; ++k)
                copy_short<W>(out.data + size * lane + n * int(rank[k * rank_step + lane]), scratch + size * lane + n * k, n);
    } else {
        for (int k = 0; k < n; ++k)
            for_tiles<W>(n, [&](long offset) {
                for (int w = 0; w < W; ++w) x[w] = q[((offset + w) * ld + k) * step];
                transpose(x);
                for (int lane = 0; lane < out.count; ++lane)
                    x[lane].store(out.data + out.size * lane + n * long(rank[k * rank_step + lane]) + offset);
            });
    }
}

// How many eigenvalues precede each: its place in ascending order.
template <class V>
EIGENGRAD_INLINE void ranks(const V* d, int n, V* rank) {
    using T = typename V::scalar;
    for (int k = 0; k < n; ++k) {
        V dk = d[k], below = V(T(0));
        for (int j = 0; j < k; ++j) {
            auto after = d[j] > dk;
            rank[j] = rank[j] + select(after, V(T(1)), V(T(0)));
            below = below + select(after, V(T(0)), V(T(1)));
        }
        rank[k] = below;
    }
}

// Eigenvalues and eigenvectors of decomposed groups, in ascending order.
template <class V>
void store_group(Batch<typename V::scalar> values, Batch<typename V::scalar> vectors, int n, V* d, V* rank,
                 typename V::part* const (&q)[V::parts], long ld, int step, const Scale<V>& scale,
                 typename V::scalar* scratch) {
    using T = typename V::scalar;
    constexpr int W = V::part::lanes;
    ranks(d, n, rank);
    for (int k = 0; k < n; ++k) d[k] = scale.unscaled(d[k]);
    const T *all = reinterpret_cast<const T*>(d), *places = reinterpret_cast<const T*>(rank);
    for (int k = 0; k < n; ++k)
        for (int lane = 0; lane < values.count; ++lane)
            values.data[long(lane) * n + int(places[k * V::lanes + lane])] = all[k * V::lanes + lane];
    for (int g = 0; g < V::parts; ++g) {
        auto to = part_of<V>(vectors, g);
        if (to.count > 0) store_columns<T, W>(to, n, q[g], ld, step, places + g * W, V::lanes, scratch);
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
