// Passes over data behind whitening: moments, an affine map, and its two passes backward.
//
// Here a vector holds neighbouring observations of one channel. Data are units, runs of observations of d channels: a
// channel's observations are contiguous, channels lie `row` apart. A unit is cut into panels that fit the first-level
// cache; a panel is copied once, centred and padded with zeros, and all products are made of the copy.

#pragma once

#include "kernel.hpp"
#include "lane.hpp"
#include "transpose.hpp"

namespace eigengrad::EIGENGRAD_ISA {

#if defined(__AVX512F__)
constexpr int affine_rows = 8, gram_rows = 4;
#else
constexpr int affine_rows = 4, gram_rows = 2;
#endif
constexpr int gram_columns = 4, affine_vectors = 2;

// Observations in a panel: two panels of d channels take about 64 KiB.
template <class T>
inline int panel_columns(int d) {
    int columns = int(32768 / sizeof(T)) / d / 64 * 64;
    return columns < 128 ? 128 : (columns > 1024 ? 1024 : columns);
}

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// panel (rows, P) = x - centre, zero from `columns` on and in rows from d on.
template <class V, class T = typename V::scalar>
inline void pack(const T* x, long row, const T* centre, int d, int rows, int columns, int P, T* panel) {
    for (int k = 0; k < rows; ++k, panel += P) {
        int m = 0;
        if (k < d) {
            const T* from = x + k * row;
            T c = centre ? centre[k] : T(0);
            for (; m + V::lanes <= columns; m += V::lanes) (V::load(from + m) - V(c)).store(panel + m);
            for (; m < columns; ++m) panel[m] = from[m] - c;
        }
        for (; m < P; ++m) panel[m] = 0;
    }
}

template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE T sum_of_lanes(V v) {
    T lanes[V::lanes], total = 0;
    v.store(lanes);
    for (T lane : lanes) total += lane;
    return total;
}

// Lane i of the result is the sum of the lanes of x[i], for as many vectors as lanes: half of a transpose.
template <class T, int W, int S = W / 2>
EIGENGRAD_INLINE Vec<T, W> sums_of_lanes(Vec<T, W>* x) {
    using All = typename Count<W>::type;
    for (int i = 0; i < S; ++i) x[i] = exchange<S, false>(x[i], x[i + S], All{}) + exchange<S, true>(x[i], x[i + S], All{});
    if constexpr (S > 1)
        return sums_of_lanes<T, W, S / 2>(x);
    else
        return x[0];
}

constexpr int gram_tile = gram_rows * gram_columns;
constexpr long gram_size(int d) { return long(round_up(d, gram_rows)) * round_up(d, gram_columns); }

// tiles += a b^T for panels a and b, in tiles of gram_rows x gram_columns; with `symmetric`, only the lower ones. Not
// inlined, as `apply` below: GCC 12 would keep the sums, which fill the registers, in memory (measured at half the speed).
template <class V, class T = typename V::scalar>
EIGENGRAD_NOINLINE void add_gram(const T* a, const T* b, int d, int P, int used, bool symmetric, T* tiles) {
    for (int i = 0; i < d; i += gram_rows)
        for (int j = 0; j < (symmetric ? i + gram_rows : d); j += gram_columns, tiles += gram_tile) {
            V sum[gram_rows][gram_columns];
            for (auto& row : sum)
                for (V& s : row) s = V(T(0));
            for (int m = 0; m < used; m += V::lanes) {
                V right[gram_columns];
                for (int q = 0; q < gram_columns; ++q) right[q] = V::load(b + long(j + q) * P + m);
                for (int p = 0; p < gram_rows; ++p) {
                    V left = V::load(a + long(i + p) * P + m);
                    for (int q = 0; q < gram_columns; ++q) sum[p][q] = fma(left, right[q], sum[p][q]);
                }
            }
            static_assert(gram_tile % V::lanes == 0);
            for (int t = 0; t < gram_tile; t += V::lanes)
                (V::load(tiles + t) + sums_of_lanes(&sum[0][0] + t)).store(tiles + t);
        }
}

// What add_gram has summed, as a matrix (d, d).
template <class T>
inline void collect_gram(const T* tiles, int d, bool symmetric, T* result) {
    for (int i = 0; i < d; i += gram_rows)
        for (int j = 0; j < (symmetric ? i + gram_rows : d); j += gram_columns, tiles += gram_tile)
            for (int p = 0; p < gram_rows && i + p < d; ++p)
                for (int q = 0; q < gram_columns && j + q < d; ++q) {
                    result[(i + p) * d + j + q] = tiles[p * gram_columns + q];
                    if (symmetric) result[(j + q) * d + i + p] = tiles[p * gram_columns + q];
                }
}

// Rows of `matrix` (d, d), or of its transpose, in blocks: packed[block][k][row in block], zero beyond d.
template <class T>
inline void pack_matrix(const T* matrix, bool transposed, int d, T* packed) {
    for (int i = 0; i < d; i += affine_rows)
        for (int k = 0; k < d; ++k)
            for (int p = 0; p < affine_rows; ++p)
                *packed++ = i + p < d ? (transposed ? matrix[k * d + i + p] : matrix[(i + p) * d + k]) : T(0);
}

// y (d rows, `row` apart) = matrix panel + offset, or y += the same.
template <class V, class T = typename V::scalar>
EIGENGRAD_NOINLINE void apply(const T* packed, const T* panel, const T* offset, int d, int columns, int P, T* y, long row, bool add) {
    constexpr int width = affine_vectors * V::lanes;
    for (int m = 0; m < columns; m += width)
        for (int i = 0; i < d; i += affine_rows) {
            V sum[affine_rows][affine_vectors];
            for (int p = 0; p < affine_rows; ++p)
                for (V& s : sum[p]) s = V(offset && i + p < d ? offset[i + p] : T(0));
            const T* weights = packed + long(i) * d;
            for (int k = 0; k < d; ++k, weights += affine_rows) {
                V x[affine_vectors];
                for (int q = 0; q < affine_vectors; ++q) x[q] = V::load(panel + long(k) * P + m + q * V::lanes);
                for (int p = 0; p < affine_rows; ++p)
                    for (int q = 0; q < affine_vectors; ++q) sum[p][q] = fma(V(weights[p]), x[q], sum[p][q]);
            }
            for (int p = 0; p < affine_rows && i + p < d; ++p) {
                T* to = y + (i + p) * row + m;
                if (m + width <= columns) {
                    for (int q = 0; q < affine_vectors; ++q, to += V::lanes)
                        (add ? sum[p][q] + V::load(to) : sum[p][q]).store(to);
                } else {
                    T rest[width];
                    for (int q = 0; q < affine_vectors; ++q) sum[p][q].store(rest + q * V::lanes);
                    for (int r = 0; m + r < columns; ++r) to[r] = add ? to[r] + rest[r] : rest[r];
                }
            }
        }
}

// Calls what(first, columns, used) for each panel of a unit; `used` columns of its copy hold data or zeros.
template <class V, class What>
inline void for_panels(int columns, int P, What what) {
    for (int m = 0; m < columns; m += P) {
        int here = columns - m < P ? columns - m : P;
        what(m, here, round_up(here, affine_vectors * V::lanes));
    }
}

// Mean (d) and scatter about it (d, d) of `count` units, `unit` apart. Read twice: the second time from cache.
template <class V, class T = typename V::scalar>
void moments(const Units<T>& x, int d, T* mean, T* scatter, Workspace workspace) {
    int P = panel_columns<T>(d), rows = round_up(d, gram_columns);
    T* panel = static_cast<T*>(workspace.reserve((long(rows) * P + gram_size(d)) * long(sizeof(T))));
    T* tiles = panel + long(rows) * P;
    long observations = 0;
    for (int k = 0; k < d; ++k) mean[k] = 0;
    for (long t = 0; t < gram_size(d); ++t) tiles[t] = 0;
    x.each([&](const T* data, int columns, long) {
        observations += columns;
        for (int k = 0; k < d; ++k) {
            const T* from = data + k * x.row;
            V sum[4] = {V(T(0)), V(T(0)), V(T(0)), V(T(0))};
            T rest = 0;
            int m = 0;
            for (; m + 4 * V::lanes <= columns; m += 4 * V::lanes)
                for (int q = 0; q < 4; ++q) sum[q] = sum[q] + V::load(from + m + q * V::lanes);
            for (; m < columns; ++m) rest += from[m];
            mean[k] += sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
        }
    });
    for (int k = 0; k < d; ++k) mean[k] /= T(observations);
    x.each([&](const T* data, int columns, long) {
        for_panels<V>(columns, P, [&](int m, int here, int used) {
            pack<V>(data + m, x.row, mean, d, rows, here, P, panel);
            add_gram<V>(panel, panel, d, P, used, true, tiles);
        });
    });
    collect_gram(tiles, d, true, scatter);
}

// y = matrix (x - centre) + offset, or y += the same.
template <class V, class T = typename V::scalar>
void affine(const Units<T>& x, int d, const T* matrix, const T* centre, const T* offset, T* y, bool add, Workspace workspace) {
    int P = panel_columns<T>(d), rows = round_up(d, affine_rows);
    T* panel = static_cast<T*>(workspace.reserve((long(d) * P + long(rows) * d) * long(sizeof(T))));
    T* packed = panel + long(d) * P;
    pack_matrix(matrix, false, d, packed);
    x.each([&](const T* data, int columns, long at) {
        for_panels<V>(columns, P, [&](int m, int here, int) {
            pack<V>(data + m, x.row, centre, d, d, here, P, panel);
            apply<V>(packed, panel, offset, d, here, P, y + at + m, x.row, add);
        });
    });
}

// From the cotangent g of y = matrix (x - centre) + offset: gx = matrix^T g, and over these units the sums of
// g (x - centre)^T (d, d) and of g (d). gx may be null.
template <class V, class T = typename V::scalar>
void affine_backward(const Units<T>& x, const T* g, int d, const T* matrix, const T* centre, T* gx, T* g_matrix,
                     T* g_offset, Workspace workspace) {
    int P = panel_columns<T>(d), rows = round_up(round_up(d, gram_columns), affine_rows);
    long panel_size = long(rows) * P;
    T* left = static_cast<T*>(
        workspace.reserve((2 * panel_size + long(rows) * d + gram_size(d)) * long(sizeof(T))));
    T *right = left + panel_size, *packed = right + panel_size, *tiles = packed + long(rows) * d;
    pack_matrix(matrix, true, d, packed);
    for (int k = 0; k < d; ++k) g_offset[k] = 0;
    for (long t = 0; t < gram_size(d); ++t) tiles[t] = 0;
    x.each([&](const T* data, int columns, long at) {
        for_panels<V>(columns, P, [&](int m, int here, int used) {
            pack<V>(g + at + m, x.row, static_cast<const T*>(nullptr), d, rows, here, P, left);
            pack<V>(data + m, x.row, centre, d, rows, here, P, right);
            add_gram<V>(left, right, d, P, used, false, tiles);
            for (int k = 0; k < d; ++k) {
                V sum = V(T(0));
                for (int q = 0; q < used; q += V::lanes) sum = sum + V::load(left + long(k) * P + q);
                g_offset[k] += sum_of_lanes(sum);
            }
            if (gx) apply<V>(packed, left, static_cast<const T*>(nullptr), d, here, P, gx + at + m, x.row, false);
        });
    });
    collect_gram(tiles, d, false, g_matrix);
}

}  // namespace eigengrad::EIGENGRAD_ISA
