// A square matrix by itself, a vector holding neighbouring entries of a row: products, transposes, ways in and out.
//
// Complex matrices are two planes, real and imaginary parts, and their products four real ones. A sum runs over k in
// ascending order, as those of Lanes.

#pragma once

#include "complex.hpp"
#include "kernel.hpp"
#include "transpose.hpp"

namespace eigengrad::EIGENGRAD_ISA {

#if defined(__AVX512F__)
constexpr int dense_rows = 8;
#else
constexpr int dense_rows = 4;
#endif

// One plane, padded with zeros to whole vectors and blocks of rows.
template <class V>
struct Plane {
    using T = typename V::scalar;
    T* data;
    int n, padded;
    long ld;  // no power of two, which would let the rows of a column fall on one cache set

    static constexpr int pad(int n) {
        constexpr int to = V::lanes > dense_rows ? V::lanes : dense_rows;
        return (n + to - 1) / to * to;
    }
    static constexpr long stride(int n) { return pad(n) + (V::lanes < 8 ? 8 : V::lanes); }
    static constexpr long size(int n) { return pad(n) * stride(n); }
    static Plane take(T*& memory, int n) {
        Plane result{memory, n, pad(n), stride(n)};
        memory += size(n);
        return result;
    }

    EIGENGRAD_INLINE T* row(int i) const { return data + i * ld; }
    EIGENGRAD_INLINE V at(int i, int j) const { return V::load(row(i) + j); }
    EIGENGRAD_INLINE void set(int i, int j, V x) const { x.store(row(i) + j); }
};

template <int R, int C, bool minus, class V, class T = typename V::scalar>
EIGENGRAD_INLINE void dense_block(const T* a, long ld, const T* b, long b_ld, int n, T* out, bool add) {
    V sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = add ? V::load(out + r * ld + c * V::lanes) : V(T(0));
    for (int k = 0; k < n; ++k, b += b_ld) {
        V x[C];
        for (int c = 0; c < C; ++c) x[c] = V::load(b + c * V::lanes);
        for (int r = 0; r < R; ++r) {
            V y(a[r * ld + k]);
            for (int c = 0; c < C; ++c) sum[r][c] = minus ? fnma(y, x[c], sum[r][c]) : fma(y, x[c], sum[r][c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c].store(out + r * ld + c * V::lanes);
}

// Rows `from` to `to` of C columns from j on. Not inlined, as the products in passes.hpp.
template <int C, bool minus, class V>
EIGENGRAD_NOINLINE void dense_columns(Plane<V> out, Plane<V> a, Plane<V> b, int from, int to, int j, bool add) {
    constexpr int depth = 256;  // of b, what the second-level cache keeps in any case; where it is more, closely packed
    V strip[depth * C];
    for (int k = 0; k < out.n; k += depth, add = true) {
        const int left = out.n - k, count = left < depth ? left : depth;
        const bool packed = out.n > depth;
        for (int r = 0; packed && r < count; ++r)
            for (int c = 0; c < C; ++c) strip[r * C + c] = b.at(k + r, j + c * V::lanes);
        const auto* rows = packed ? reinterpret_cast<const typename V::scalar*>(strip) : b.row(0) + j;
        for (int i = from; i < to; i += dense_rows)
            dense_block<dense_rows, C, minus, V>(a.row(i) + k, out.ld, rows, packed ? C * V::lanes : out.ld, count,
                                                 out.row(i) + j, add);
    }
}

// out = a b, or out += or -= a b; if `lower`, at least its lower triangle.
template <bool minus, class V>
void dense_product(Plane<V> out, Plane<V> a, Plane<V> b, bool lower, bool add, Workspace with) {
    const int vectors = out.padded / V::lanes, strips = (vectors + 2) / 3;
    // A task is a strip; of few strips, a part of one.
    const int parts = with.threads > 1 ? (4 * with.threads + strips - 1) / strips : 1;
    const int height = (out.padded / dense_rows + parts - 1) / parts * dense_rows;
    with.each(long(strips) * parts, [&](long task) {
        const int strip = int(task / parts), top = int(task % parts) * height;
        const int first = vectors * strip / strips, count = vectors * (strip + 1) / strips - first, j = first * V::lanes;
        const int diagonal = lower ? j / dense_rows * dense_rows : 0, from = top > diagonal ? top : diagonal;
        const int to = top + height < out.padded ? top + height : out.padded;
        if (count == 3) dense_columns<3, minus>(out, a, b, from, to, j, add);
        else if (count == 2) dense_columns<2, minus>(out, a, b, from, to, j, add);
        else dense_columns<1, minus>(out, a, b, from, to, j, add);
    });
}

// The tile at (i, j) to (j, i).
template <bool minus, class V>
EIGENGRAD_INLINE void transpose_tile(Plane<V> from, int i, int j, Plane<V> to) {
    V x[V::lanes];
    for (int w = 0; w < V::lanes; ++w) x[w] = minus ? -from.at(i + w, j) : from.at(i + w, j);
    transpose(x);
    for (int w = 0; w < V::lanes; ++w) to.set(j + w, i, x[w]);
}

// Eigenvalues and the like of one matrix, padded with ones.
template <class V>
struct DenseNumbers {
    using vector = V;
    using T = typename V::scalar;
    T* data;
    int n;

    EIGENGRAD_INLINE V row(int i) const { return V(data[i]); }
    EIGENGRAD_INLINE V column(int j) const { return V::load(data + j); }
    EIGENGRAD_INLINE void set(int i, V x) const { data[i] = x.v[0]; }
    EIGENGRAD_INLINE void set_column(int j, V x) const { x.store(data + j); }

    // Calls what(k) for the vectors that cover them.
    template <class What>
    EIGENGRAD_INLINE void each(What what) const {
        for (int k = 0; k < n; k += V::lanes) what(k);
    }
    void load(const T* from) const { __builtin_memcpy(data, from, n * sizeof(T)); }
    void store(T* to) const { __builtin_memcpy(to, data, n * sizeof(T)); }
};

// A real matrix (P = 1) or a complex one (P = 2).
template <class V, int P>
struct Dense {
    using vector = V;
    using T = typename V::scalar;
    using E = Entry<V, P>;
    using Real = Dense<V, 1>;
    using Numbers = DenseNumbers<V>;
    static constexpr bool one_by_one = false;  // each() comes to a vector of entries of a row at a time
    static constexpr bool adjoint_is_view = false, weighs_in_place = false;

    Plane<V> plane[P];
    int n;

    static constexpr long size(int n) { return P * Plane<V>::size(n); }
    static constexpr long numbers(int n) { return Plane<V>::pad(n); }
    static Dense take(T*& memory, int n, int) {
        Dense result;
        result.n = n;
        for (Plane<V>& p : result.plane) p = Plane<V>::take(memory, n);
        return result;
    }
    static Numbers take_numbers(T*& memory, int n, int) {
        Numbers result{memory, n};
        for (long k = 0; k < numbers(n); ++k) *memory++ = 1;
        return result;
    }

    EIGENGRAD_INLINE E at(int i, int j) const {
        if constexpr (P == 1) return plane[0].at(i, j);
        else return {plane[0].at(i, j), plane[1].at(i, j)};
    }
    EIGENGRAD_INLINE void set(int i, int j, E x) const {
        for (int q = 0; q < P; ++q) plane[q].set(i, j, EIGENGRAD_ISA::plane(x, q));
    }
    // One entry in every lane.
    EIGENGRAD_INLINE E entry(int i, int j) const {
        if constexpr (P == 1) return V(plane[0].row(i)[j]);
        else return {V(plane[0].row(i)[j]), V(plane[1].row(i)[j])};
    }
    EIGENGRAD_INLINE void set_entry(int i, int j, E x) const {
        for (int q = 0; q < P; ++q) plane[q].row(i)[j] = EIGENGRAD_ISA::plane(x, q).v[0];
    }

    // Calls what(j) for the vectors that cover a row, what(i, j) for those that cover the matrix or its lower triangle.
    template <class What>
    EIGENGRAD_INLINE void each_of_row(What what) const {
        for (int j = 0; j < n; j += V::lanes) what(j);
    }
    template <class What>
    EIGENGRAD_INLINE void each(bool lower, What what) const {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < (lower ? i + 1 : n); j += V::lanes) what(i, j);
    }
    template <class What>
    EIGENGRAD_INLINE void each_row(What what) const {
        for (int i = 0; i < n; ++i) what(i);
    }
    // Calls what() once.
    template <class What>
    EIGENGRAD_INLINE void once(What what) const { what(); }
    // The largest of what(i, j) in the lower triangle.
    template <class What>
    EIGENGRAD_INLINE V largest(What what) const {
        V most(T(0));
        each(true, [&](int i, int j) { most = max(what(i, j), most); });
        return most;
    }

    // From rows of n numbers, complex ones interleaved.
    void load(const T* from, bool conjugate = false) const {
        const int padded = plane[0].padded;
        for (int i = 0; i < padded; ++i) {
            const int used = i < n ? n : 0;
            const T* row = from + long(i) * n * P;
            if constexpr (P == 1) {
                if (used) __builtin_memcpy(plane[0].row(i), row, n * sizeof(T));
            } else {
                T *re = plane[0].row(i), *im = plane[1].row(i), sign = conjugate ? -1 : 1;
                for (int j = 0; j < used; ++j) re[j] = row[2 * j], im[j] = sign * row[2 * j + 1];
            }
            for (const Plane<V>& p : plane)
                for (int j = used; j < padded; ++j) p.row(i)[j] = 0;
        }
    }

    void store(T* to, bool conjugate = false) const {
        for (int i = 0; i < n; ++i, to += n * P)
            if constexpr (P == 1) {
                __builtin_memcpy(to, plane[0].row(i), n * sizeof(T));
            } else {
                const T *re = plane[0].row(i), *im = plane[1].row(i), sign = conjugate ? -1 : 1;
                for (int j = 0; j < n; ++j) to[2 * j] = re[j], to[2 * j + 1] = sign * im[j];
            }
    }

    void load_transposed(const T* from, Dense other) const {
        other.load(from);
        other.template transpose_into<false>(*this);
    }
    void store_hermitian(T* to) const {
        mirror();
        store(to);
    }

    void set_adjoint(Dense other) const { other.template transpose_into<true>(*this); }

    template <bool conjugate>
    void transpose_into(Dense to) const {
        for (int i = 0; i < plane[0].padded; i += V::lanes)
            for (int j = 0; j < plane[0].padded; j += V::lanes) {
                transpose_tile<false>(plane[0], i, j, to.plane[0]);
                if constexpr (P == 2) transpose_tile<conjugate>(plane[1], i, j, to.plane[1]);
            }
    }

    // Hermitian, by its lower triangle; of the diagonal the real part.
    void mirror() const {
        for (int i = 0; i < plane[0].padded; i += V::lanes) {
            for (int j = 0; j < i; j += V::lanes) {
                transpose_tile<false>(plane[0], i, j, plane[0]);
                if constexpr (P == 2) transpose_tile<true>(plane[1], i, j, plane[1]);
            }
            for (int w = 0; w < V::lanes; ++w) {
                for (int x = 0; x < w; ++x) {
                    plane[0].row(i + x)[i + w] = plane[0].row(i + w)[i + x];
                    if constexpr (P == 2) plane[1].row(i + x)[i + w] = -plane[1].row(i + w)[i + x];
                }
                if constexpr (P == 2) plane[1].row(i + w)[i + w] = 0;
            }
        }
    }

    // this = a b; if `lower`, at least its lower triangle.
    void set_product(Dense a, Dense b, bool lower, Workspace with) const {
        dense_product<false>(plane[0], a.plane[0], b.plane[0], lower, false, with);
        if constexpr (P == 2) {
            dense_product<true>(plane[0], a.plane[1], b.plane[1], lower, true, with);
            dense_product<false>(plane[1], a.plane[0], b.plane[1], lower, false, with);
            dense_product<false>(plane[1], a.plane[1], b.plane[0], lower, true, with);
        }
    }

    // The Hermitian part, with `other` as memory.
    void symmetrise(Dense other) const {
        const V half = V(T(0.5));
        transpose_into<true>(other);
        each(false, [&](int i, int j) { set(i, j, half * (at(i, j) + other.at(i, j))); });
    }
    // The Hermitian part of w o this; if this is `hermitian`, of which the lower triangle counts, and so is w, all of it.
    void weigh(Real w, bool hermitian, Dense other) const {
        each(hermitian, [&](int i, int j) { set(i, j, w.at(i, j) * at(i, j)); });
        if (hermitian) mirror();
        else symmetrise(other);
    }
    void add_to_diagonal(const T* x) const {
        for (int k = 0; k < n; ++k) plane[0].row(k)[k] += x[k];
    }
};

}  // namespace eigengrad::EIGENGRAD_ISA
