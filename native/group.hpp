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

// The lower triangles of W matrices, rows of `width` numbers, of which `planes` are an entry; to a, rows ld entries
// apart, `step` vectors between neighbours.
template <int planes, class T, int W>
void load_triangle(const Batch<const T>& in, int n, Vec<T, W>* a, long ld, int step) {
    Vec<T, W> x[W];
    const int width = n * planes;
    if (width < W) {
        for_tiles<W>(n * width, [&](long offset) {
            load_tile(in, offset, x);
            int i = offset / width, t = offset % width;
            for (int w = 0; w < W && i < n; ++w) {
                if (t < (i + 1) * planes) a[(i * ld * planes + t) * step] = x[w];
                if (++t == width) t = 0, ++i;
            }
        });
    } else {
        for (int i = 0; i < n; ++i) {
            const int end = (i + 1) * planes;
            for_tiles<W>(width, [&](long offset) {
                if (offset >= end) return;
                load_tile(in, long(i) * width + offset, x);
                for (int w = 0; w < W && offset + w < end; ++w) a[(i * ld * planes + offset + w) * step] = x[w];
            });
        }
    }
}

// Fewer than W numbers.
template <int W, class T>
EIGENGRAD_INLINE void copy_short(T* to, const T* from, int n) {
    if constexpr (W > 2) {
        if (n >= W / 2) {
            T head[W / 2], tail[W / 2];
            copy_bytes(head, from, sizeof head);
            copy_bytes(tail, from + n - W / 2, sizeof tail);
            copy_bytes(to, head, sizeof head);
            copy_bytes(to + n - W / 2, tail, sizeof tail);
            return;
        }
        copy_short<W / 2>(to, from, n);
    } else if (n > 0) {
        *to = *from;
    }
}

// The columns of W matrices q into rows `rank` of the output; scratch for W matrices where a row has fewer than W
// numbers.
template <int planes, class T, int W>
void store_columns(const Batch<T>& out, int n, Vec<T, W>* q, long ld, int step, const T* rank, int rank_step, T* scratch) {
    Vec<T, W> x[W];
    const int width = n * planes;
    auto number = [&](int k, int t) { return q[((t / planes * ld + k) * planes + t % planes) * step]; };
    if (width < W) {
        long size = n * width;
        for_tiles<W>(size, [&](long offset) {
            int k = offset / width, t = offset % width;
            for (int w = 0; w < W; ++w) {
                x[w] = number(k, t);
                if (++t == width) t = 0, k += k + 1 < n;
            }
            transpose(x);
            for (int lane = 0; lane < out.count; ++lane) x[lane].store(scratch + size * lane + offset);
        });
        for (int lane = 0; lane < out.count; ++lane)
            for (int k = 0; k < n; ++k)
                copy_short<W>(out.data + size * lane + width * int(rank[k * rank_step + lane]),
                              scratch + size * lane + width * k, width);
    } else {
        for (int k = 0; k < n; ++k)
            for_tiles<W>(width, [&](long offset) {
                for (int w = 0; w < W; ++w) x[w] = number(k, int(offset) + w);
                transpose(x);
                for (int lane = 0; lane < out.count; ++lane)
                    x[lane].store(out.data + out.size * lane + width * long(rank[k * rank_step + lane]) + offset);
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
template <int planes, class V>
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
        if (to.count > 0) store_columns<planes, T, W>(to, n, q[g], ld, step, places + g * W, V::lanes, scratch);
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
