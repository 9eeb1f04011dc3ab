// From matrices one after the other in memory to matrices side by side in lanes, and back.
//
// W numbers of each of W matrices are W registers; log2(W) rounds of two-register shuffles transpose them. A matrix is
// read in tiles of W consecutive numbers; the last tile is moved back so that it ends with the matrix, and what it
// repeats is written twice. Only matrices of fewer than W numbers have no such tile.

#pragma once

#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
    using type = Indices<I...>;
};

// Blocks of S lanes: low blocks of a beside low blocks of b, or the high ones.
template <int S, int W>
constexpr int shuffled(int lane, bool high) {
    bool from_b = lane & S;
    return (from_b ? W : 0) + (lane & ~S) + (high ? S : 0);
}

template <int S, bool high, class T, int W, int... I>
EIGENGRAD_INLINE Vec<T, W> exchange(Vec<T, W> a, Vec<T, W> b, Indices<I...>) {
    return typename Vec<T, W>::native(__builtin_shufflevector(a.v, b.v, shuffled<S, W>(I, high)...));
}

template <int S, class T, int W>
EIGENGRAD_INLINE void transpose_from(Vec<T, W>* x) {
    using All = typename Count<W>::type;
    for (int i = 0; i < W; ++i)
        if (!(i & S)) {
            Vec<T, W> a = x[i], b = x[i + S];
            x[i] = exchange<S, false>(a, b, All{});
            x[i + S] = exchange<S, true>(a, b, All{});
        }
    if constexpr (S > 1) transpose_from<S / 2>(x);
}

// x[i] lane j becomes x[j] lane i.
template <class T, int W>
EIGENGRAD_INLINE void transpose(Vec<T, W>* x) {
    if constexpr (W > 1) transpose_from<W / 2>(x);
}

// Where W matrices of `size` numbers lie: those from `count` on are stand-ins, read from the last and never written.
template <class T>
struct Batch {
    T* data;
    long size;
    int count;

    EIGENGRAD_INLINE T* matrix(int lane) const { return data + size * (lane < count ? lane : count - 1); }
};

// Numbers offset .. offset+W-1 of each matrix; beyond the matrix (size < W) the lanes hold anything.
template <class T, int W>
EIGENGRAD_INLINE void load_tile(const Batch<const T>& in, long offset, Vec<T, W>* x) {
    const T* end = in.data + in.size * in.count;
    for (int lane = 0; lane < W; ++lane) {
        const T* from = in.matrix(lane) + offset;
        if (from + W <= end) {
            x[lane] = Vec<T, W>::load(from);
        } else {
            T padded[W] = {};
            copy_bytes(padded, from, (end - from) * sizeof(T));
            x[lane] = Vec<T, W>::load(padded);
        }
    }
    transpose(x);
}

// The reverse. Where size < W a store runs into the next matrix, which is written after it.
template <class T, int W>
EIGENGRAD_INLINE void store_tile(const Batch<T>& out, long offset, Vec<T, W>* x) {
    transpose(x);
    T* end = out.data + out.size * out.count;
    for (int lane = 0; lane < out.count; ++lane) {
        T* to = out.data + out.size * lane + offset;
        if (to + W <= end) {
            x[lane].store(to);
        } else {
            T padded[W];
            x[lane].store(padded);
            copy_bytes(to, padded, (end - to) * sizeof(T));
        }
    }
}

// Calls tile(offset) so that tiles of W numbers cover 0 .. size-1 (or one tile, if size < W).
template <int W, class Tile>
EIGENGRAD_INLINE void for_tiles(long size, Tile&& tile) {
    long offset = 0;
    for (; offset + W <= size; offset += W) tile(offset);
    if (offset < size) tile(size < W ? 0 : size - W);
}

}  // namespace eigengrad::EIGENGRAD_ISA
