// What a block has of the data of whitening, in any dtype and layout: one group of d channels and a chunk of its observations,
// which it takes in tiles that fit shared memory, in single precision (of doubles, in double).

#pragma once

#include "lane.hpp"
#include "gpu/arguments.hpp"
#include "gpu/phases.hpp"

namespace eigengrad::EIGENGRAD_ISA {

struct Half {
    unsigned short bits;
};
struct BFloat {
    unsigned short bits;
};

EIGENGRAD_INLINE float widened(float x) { return x; }
EIGENGRAD_INLINE double widened(double x) { return x; }
EIGENGRAD_INLINE float widened(BFloat x) { return from_bits<Vec<float, 1>>(int(unsigned(x.bits) << 16)).v; }
EIGENGRAD_INLINE float widened(Half x) {
#if defined(__CUDACC__)
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
    return result;
#else
    _Float16 half;
    copy_bytes(&half, &x, sizeof half);
    return half;
#endif
}

EIGENGRAD_INLINE void narrow(float x, float& to) { to = x; }
EIGENGRAD_INLINE void narrow(double x, double& to) { to = x; }
EIGENGRAD_INLINE void narrow(float x, BFloat& to) {  // to the nearest, of two the even one; NaN stays NaN
    const unsigned bits = unsigned(bits_of(Vec<float, 1>(x)));
    to.bits = x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}
EIGENGRAD_INLINE void narrow(float x, Half& to) {
#if defined(__CUDACC__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    const _Float16 half = x;
    copy_bytes(&to, &half, sizeof half);
#endif
}

constexpr int tile_numbers = 4096;

// What a block has: its group, its observations, and tiles of them.
struct Chunk {
    const PassSize& of;
    long group, first, last;  // observations of all images, one image after the other
    int tile;                 // observations in a tile, a multiple of 4
    int rows;                 // d, rounded up to a multiple of 4

    explicit Chunk(const PassSize& of) : of(of) {
        group = block_index() / of.chunks;
        const long index = block_index() % of.chunks, all = of.images * of.columns;
        first = all * index / of.chunks, last = all * (index + 1) / of.chunks;
        rows = (of.channels + 3) / 4 * 4;
        tile = tile_numbers / rows / 4 * 4;
    }
    int used(long start) const { return last - start < tile ? int(last - start) : tile; }

    // Calls what(channel, observation in the tile, place in the array) for a tile, neighbours in memory to neighbours.
    template <class What>
    EIGENGRAD_INLINE void each(const PassArray& a, long start, int count, What what) const {
        const int d = of.channels;
        const long columns = of.columns;
        EIGENGRAD_ISA::each(d * count, [&](int k) {
            const bool channels_last = a.channel == 1 && a.column != 1;
            const int channel = channels_last ? k % d : k / count, t = channels_last ? k / d : k % count;
            const long image = (start + t) / columns, column = (start + t) % columns;
            what(channel, t, image * a.image + group * a.group + channel * a.channel + column * a.column);
        });
    }
    // A tile (rows, tile), less the centre; zero beyond what there is.
    template <class S, class T>
    EIGENGRAD_INLINE void load(const PassArray& a, long start, const T* centre, T* to) const {
        const int count = used(start), width = tile;
        if (count < tile || of.channels < rows)
            EIGENGRAD_ISA::each(rows * tile, [&](int k) {
                if (k / width >= of.channels || k % width >= count) to[k] = T(0);
            });
        each(a, start, count, [&](int channel, int t, long at) {
            const T x = widened(static_cast<const S*>(a.data)[at]);
            to[channel * width + t] = centre ? x - centre[channel] : x;
        });
    }
};

// to (rows, tile) = matrix (d, d), or its transpose, times from, plus offset.
template <class T>
EIGENGRAD_INLINE void multiply(const Chunk& chunk, const T* matrix, bool transposed, const T* from, const T* offset, T* to) {
    const int d = chunk.of.channels, width = chunk.tile, across = width / 4;
    each(chunk.rows / 4 * across, [&](int unit) {
        const int i = unit / across * 4, t = unit % across * 4;
        T sum[4][4];
        for (int r = 0; r < 4; ++r)
            for (int c = 0; c < 4; ++c) sum[r][c] = offset && i + r < d ? offset[i + r] : T(0);
        for (int k = 0; k < d; ++k) {
            T x[4];
            for (int c = 0; c < 4; ++c) x[c] = from[k * width + t + c];
            for (int r = 0; r < 4; ++r) {
                const int row = i + r < d ? i + r : 0;
                const Vec<T, 1> weight = transposed ? matrix[k * d + row] : matrix[row * d + k];
                for (int c = 0; c < 4; ++c) sum[r][c] = fma(weight, Vec<T, 1>(x[c]), Vec<T, 1>(sum[r][c])).v;
            }
        }
        for (int r = 0; r < 4; ++r)
            for (int c = 0; c < 4; ++c) to[(i + r) * width + t + c] = sum[r][c];
    });
}

// Sums over observations of a product (d, d) of two tiles, and of the first one (d). A thread has 4 x 4 entries of the
// product, in registers, of every so manieth observation.
template <class T>
struct Sums {
    const Chunk& chunk;
    int across, tiles, slices, i, j, slice;
    T products[4][4], numbers[4];

    EIGENGRAD_INLINE explicit Sums(const Chunk& chunk) : chunk(chunk) {
        across = chunk.rows / 4, tiles = across * across;
        slices = thread_count() / tiles;
        slice = thread_index() / tiles, i = thread_index() % tiles / across * 4, j = thread_index() % tiles % across * 4;
        for (int r = 0; r < 4; ++r) {
            numbers[r] = T(0);
            for (int c = 0; c < 4; ++c) products[r][c] = T(0);
        }
    }
    EIGENGRAD_INLINE void add(const T* left, const T* right) {
        if (slice >= slices) return;
        for (int t = slice; t < chunk.tile; t += slices) {
            T x[4], y[4];
            for (int r = 0; r < 4; ++r) x[r] = left[(i + r) * chunk.tile + t], y[r] = right[(j + r) * chunk.tile + t];
            for (int r = 0; r < 4; ++r) {
                numbers[r] += x[r];
                for (int c = 0; c < 4; ++c)
                    products[r][c] = fma(Vec<T, 1>(x[r]), Vec<T, 1>(y[c]), Vec<T, 1>(products[r][c])).v;
            }
        }
    }
    // The slices' sums, added in order, to product (d, d) and sum (d). `memory` has room for a tile and a row of 64.
    EIGENGRAD_INLINE void collect(T* memory, T* product, T* sum) {
        const int d = chunk.of.channels, size = chunk.rows * chunk.rows;
        const int at_once = (tile_numbers + 64) / (size + chunk.rows);  // slices that memory holds, if not all of them
        for (int from = 0; from < slices; from += at_once) {
            wait();
            if (slice >= from && slice < slices && slice < from + at_once) {
                T* const own = memory + (slice - from) * (size + chunk.rows);
                for (int r = 0; r < 4; ++r) {
                    if (j == 0) own[size + i + r] = numbers[r];
                    for (int c = 0; c < 4; ++c) own[(i + r) * chunk.rows + j + c] = products[r][c];
                }
            }
            wait();
            const int here = slices - from < at_once ? slices - from : at_once;
            each(d * d + d, [&](int k) {
                const int entry = k < d * d ? k / d * chunk.rows + k % d : size + k - d * d;
                T& to = k < d * d ? product[k] : sum[k - d * d];
                T total = from ? to : T(0);
                for (int s = 0; s < here; ++s) total += memory[s * (size + chunk.rows) + entry];
                to = total;
            });
        }
        wait();
    }
};

}  // namespace eigengrad::EIGENGRAD_ISA
