// Passes over the data of whitening: moments, an affine map, and its two passes backward. Each reads the data once. Sums of a
// chunk are written down and added in order by a second kernel, whose blocks have a group each, and do what else there is to
// do with it: the same bits in every run.

#pragma once

#include "statistics.hpp"
#include "gpu/chunk.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// A block, as arithmetic with one group's numbers has it.
struct Block {
    template <class What>
    static EIGENGRAD_INLINE void each(int count, What what) { EIGENGRAD_ISA::each(count, what); }
    static EIGENGRAD_INLINE void wait() { EIGENGRAD_ISA::wait(); }
};

// Part `group` of an array with `size` numbers of each; null where there is none.
template <class T>
EIGENGRAD_INLINE T* of_group(void* array, long group, long size) {
    return array ? static_cast<T*>(array) + group * size : nullptr;
}
template <class T>
EIGENGRAD_INLINE const T* of_group(const void* array, long group, long size) {
    return array ? static_cast<const T*>(array) + group * size : nullptr;
}

constexpr int room(int d) { return (d + 3) / 4 * 4; }

// For each chunk its mean (d), and the scatter about it (d, d). Observations are taken from the mean of the first tile, so
// that no digits are lost to a mean far from zero.
template <class S, class T>
EIGENGRAD_INLINE void moments_of_chunks(const MomentsArguments& all, T* shared) {
    const Chunk chunk(all.size);
    const int d = all.size.channels;
    T *const centre = shared, *const sum = centre + room(d), *const product = sum + room(d), *const tile = product + room(d) * room(d);
    Sums<T> sums(chunk);
    for (long start = chunk.first; start < chunk.last; start += chunk.tile) {
        const bool is_first = start == chunk.first;
        chunk.load<S>(all.data, start, is_first ? static_cast<const T*>(nullptr) : centre, tile);
        wait();
        if (is_first) {
            const int count = chunk.used(start);
            each(d, [&](int k) {
                T total(0);
                for (int t = 0; t < count; ++t) total += tile[k * chunk.tile + t];
                centre[k] = total / T(count);
            });
            wait();
            each(d * count, [&](int k) { tile[k / count * chunk.tile + k % count] -= centre[k / count]; });
            wait();
        }
        sums.add(tile, tile);
        wait();
    }
    sums.collect(tile, product, sum);
    const T count(chunk.last - chunk.first);
    T* const to = static_cast<T*>(all.partial) + block_index() * (d * d + d);
    each(d * d + d, [&](int k) {
        if (k < d) to[k] = centre[k] + sum[k] / count;
        else to[k] = product[k - d] - sum[(k - d) / d] * (sum[(k - d) % d] / count);
    });
}

// Of each group, those of its chunks as one, and what is made of them.
template <class T>
EIGENGRAD_INLINE void moments_of_groups(const MomentsArguments& all, T* shared) {
    const int d = all.size.channels, chunks = all.size.chunks;
    const long group = block_index(), observations = all.size.images * all.size.columns;
    const T* const partial = static_cast<const T*>(all.partial) + group * chunks * (d * d + d);
    const auto count = [&](long chunk) { return T(observations * (chunk + 1) / chunks - observations * chunk / chunks); };
    T *const mean = of_group<T>(all.mean, group, d), *const covariance = of_group<T>(all.covariance, group, d * d);
    each(d, [&](int k) {  // from that of the first chunk
        T moved(0);
        for (int c = 1; c < chunks; ++c) moved += (partial[c * (d * d + d) + k] - partial[k]) * count(c);
        shared[k] = mean[k] = partial[k] + moved / T(observations);
    });
    wait();
    each(d * d, [&](int k) {
        const int i = k / d, j = k % d;
        T total(0);
        for (int c = 0; c < chunks; ++c) {
            const T* const own = partial + c * (d * d + d);
            total += own[d + k] + count(c) * (own[i] - shared[i]) * (own[j] - shared[j]);
        }
        covariance[k] = total / T(observations);
    });
    wait();
    const Conditioning<T> by(observations, all.shrinkage, all.eps, all.relative_eps);
    condition<Block>(by, covariance, d, mean, of_group<T>(all.shrunk, group, d * d), of_group<T>(all.conditioned, group, d * d),
                     static_cast<bool*>(all.finite) + group, shared);
}

// y = matrix (x - centre) + offset for a chunk, or y += the same; from shared memory, which holds the three and two tiles.
template <class S, class T>
EIGENGRAD_INLINE void map_chunk(const Chunk& chunk, const PassArray& data, const PassArray& y, T* shared, bool add) {
    const int d = chunk.of.channels;
    T *const matrix = shared, *const centre = matrix + room(d) * room(d), *const offset = centre + room(d);
    T *const from = offset + room(d), *const to = from + tile_numbers;
    for (long start = chunk.first; start < chunk.last; start += chunk.tile) {
        chunk.load<S>(data, start, centre, from);
        wait();
        multiply(chunk, matrix, false, from, offset, to);
        wait();
        chunk.each(y, start, chunk.used(start), [&](int channel, int t, long at) {
            S& one = static_cast<S*>(y.data)[at];
            const T x = to[channel * chunk.tile + t];
            narrow(add ? x + widened(one) : x, one);
        });
    }
}

// gx += S (x - mean) + shift, from the cotangents of moments and of what is made of them.
template <class S, class T>
EIGENGRAD_INLINE void moments_backward_of_chunks(const MomentsBackwardArguments& all, T* shared) {
    const Chunk chunk(all.size);
    const int d = all.size.channels;
    T *const centre = shared + room(d) * room(d), *const shift = centre + room(d), *const memory = shift + room(d);
    const Conditioning<T> by(all.size.images * all.size.columns, all.shrinkage, 0, all.relative_eps);
    const T *const mean = of_group<T>(all.mean, chunk.group, d), *const g_mean = of_group<T>(all.g_mean, chunk.group, d);
    each(d, [&](int k) {
        centre[k] = finite_or_zero(mean[k]);
        shift[k] = g_mean ? g_mean[k] / by.observations : T(0);
    });
    pull_back_conditioning<Block>(by, of_group<T>(all.covariance, chunk.group, d * d), d,
                                  of_group<T>(all.g_covariance, chunk.group, d * d),
                                  of_group<T>(all.g_conditioned, chunk.group, d * d), shared, memory);
    map_chunk<S>(chunk, all.data, all.gx, shared, true);
}

// The rows of a matrix of the group, times the scale, in shared memory.
template <class T>
EIGENGRAD_INLINE void load_rows(const void* matrix, const void* scale, const Chunk& chunk, T* to) {
    const int d = chunk.of.channels;
    const T *const from = of_group<T>(matrix, chunk.group, d * d), *const factor = of_group<T>(scale, chunk.group, d);
    each(d * d, [&](int k) { to[k] = factor ? factor[k / d] * from[k] : from[k]; });
}

// y = scale (matrix (x - centre)) + offset.
template <class S, class T>
EIGENGRAD_INLINE void affine_of_chunks(const AffineArguments& all, T* shared) {
    const Chunk chunk(all.size);
    const int d = all.size.channels;
    T *const centre = shared + room(d) * room(d), *const offset = centre + room(d);
    const T* const given = of_group<T>(all.offset, chunk.group, d);
    load_rows(all.matrix, all.scale, chunk, shared);
    each(d, [&](int k) {
        centre[k] = of_group<T>(all.centre, chunk.group, d)[k];
        offset[k] = given ? given[k] : T(0);
    });
    wait();
    map_chunk<S>(chunk, all.data, all.y, shared, false);
}

// gx = (scale matrix)^T g, if wanted, and of each chunk the sums of g (x - centre)^T (d, d) and of g (d).
template <class S, class T>
EIGENGRAD_INLINE void affine_backward_of_chunks(const AffineBackwardArguments& all, T* shared) {
    const Chunk chunk(all.size);
    const int d = all.size.channels;
    T *const matrix = shared, *const centre = matrix + room(d) * room(d);
    T *const x = centre + room(d), *const g = x + tile_numbers, *const to = g + tile_numbers;
    load_rows(all.matrix, all.scale, chunk, matrix);
    each(d, [&](int k) { centre[k] = of_group<T>(all.centre, chunk.group, d)[k]; });
    wait();
    Sums<T> sums(chunk);
    for (long start = chunk.first; start < chunk.last; start += chunk.tile) {
        chunk.load<S>(all.data, start, centre, x);
        chunk.load<S>(all.g, start, static_cast<const T*>(nullptr), g);
        wait();
        sums.add(g, x);
        if (all.gx.data) {
            multiply(chunk, matrix, true, g, static_cast<const T*>(nullptr), to);
            wait();
            chunk.each(all.gx, start, chunk.used(start), [&](int channel, int t, long at) {
                narrow(to[channel * chunk.tile + t], static_cast<S*>(all.gx.data)[at]);
            });
        }
        wait();
    }
    T* const partial = static_cast<T*>(all.partial) + block_index() * (d * d + d);
    sums.collect(g, partial + d, partial);
}

// Of each group the sums of its chunks, and the cotangents that are made of them.
template <class T>
EIGENGRAD_INLINE void affine_backward_of_groups(const AffineBackwardArguments& all, T* shared) {
    const int d = all.size.channels, chunks = all.size.chunks, size = d * d + d;
    const long group = block_index();
    const T* const partial = static_cast<const T*>(all.partial) + group * chunks * size;
    each(size, [&](int k) {
        T total(0);
        for (int c = 0; c < chunks; ++c) total += partial[c * size + k];
        shared[k] = total;
        if (k < d) of_group<T>(all.g_offset, group, d)[k] = total;
    });
    wait();
    pull_back_affine<Block>(shared + d, shared, of_group<T>(all.matrix, group, d * d), of_group<T>(all.scale, group, d), d,
                            of_group<T>(all.g_matrix, group, d * d), of_group<T>(all.g_centre, group, d),
                            of_group<T>(all.g_scale, group, d));
}

// Running estimates of each group, those that may move, and the number of batches.
template <class T>
EIGENGRAD_INLINE void update_of_groups(const UpdateArguments& all, T* shared) {
    const bool* const valid = static_cast<const bool*>(all.valid);
    const long group = block_index();
    const int d = all.channels;
    T *const bad = shared, *const good = shared + 1;  // whether there is one
    each(1, [&](int) { *bad = T(0), *good = T(!valid); });
    wait();
    if (valid) each(int(all.flags), [&](int k) { *(valid[k] ? good : bad) = T(1); });
    wait();
    const bool whole = *bad == T(0), may = !valid || (all.together ? whole : valid[all.first + group]);
    const T momentum = all.before ? T(1 / double(*static_cast<const long*>(all.before) + 1)) : T(all.momentum);
    if (may)
        move_estimates<Block>(of_group<T>(all.running_mean, group, d), of_group<T>(all.running_covariance, group, d * all.row),
                              all.row, of_group<T>(all.mean, group, d), of_group<T>(all.covariance, group, d * d), d, momentum);
    if (all.count && group == 0)
        each(1, [&](int) { *static_cast<long*>(all.count) += all.together ? whole : *good != T(0); });
}

}  // namespace eigengrad::EIGENGRAD_ISA
