// Matrices side by side, entry (i, j) of each in one vector: products, transposes, ways in and out. The counterpart of
// Dense, with the same operations in the same order, so that a matrix has the same bits in both.

#pragma once

#include "complex.hpp"
#include "kernel.hpp"
#include "transpose.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Eigenvalues and the like, one in each lane of a vector.
template <class V>
struct LaneNumbers {
    using vector = V;
    using T = typename V::scalar;
    V* data;
    int n, count;

    EIGENGRAD_INLINE V row(int i) const { return data[i]; }
    EIGENGRAD_INLINE V column(int j) const { return data[j]; }
    EIGENGRAD_INLINE void set(int i, V x) const { data[i] = x; }
    EIGENGRAD_INLINE void set_column(int j, V x) const { data[j] = x; }

    // Calls what(k) for each number.
    template <class What>
    EIGENGRAD_INLINE void each(What what) const {
        for (int k = 0; k < n; ++k) what(k);
    }

    // Number k of each matrix.
    static EIGENGRAD_INLINE V gather(const T* from, int k, int n, int count) {
        T lanes[V::lanes];
        for (int lane = 0; lane < V::lanes; ++lane) lanes[lane] = from[long(lane < count ? lane : count - 1) * n + k];
        return V::load(lanes);
    }
    void load(const T* from) const {
        for (int k = 0; k < n; ++k) data[k] = gather(from, k, n, count);
    }
    void store(T* to) const {
        for (int k = 0; k < n; ++k) {
            T lanes[V::lanes];
            data[k].store(lanes);
            for (int lane = 0; lane < count; ++lane) to[long(lane) * n + k] = lanes[lane];
        }
    }
};

template <class V, int P>
struct Lanes {
    using vector = V;
    using T = typename V::scalar;
    using E = Entry<V, P>;
    using Real = Lanes<V, 1>;
    using Numbers = LaneNumbers<V>;
    static constexpr bool one_by_one = true;         // each() comes to every entry by itself
    static constexpr bool adjoint_is_view = P == 1;  // of the other's memory
    static constexpr bool weighs_in_place = true;    // without other memory

    E* data;
    long row, column;
    int n, count;

    static constexpr long size(int n) { return long(n) * (n | 1) * P * V::lanes; }
    static constexpr long numbers(int n) { return long(n) * V::lanes; }
    static Lanes take(T*& memory, int n, int count) {
        Lanes result{reinterpret_cast<E*>(memory), n | 1, 1, n, count};
        memory += size(n);
        return result;
    }
    static Numbers take_numbers(T*& memory, int n, int count) {
        Numbers result{reinterpret_cast<V*>(memory), n, count};
        memory += numbers(n);
        return result;
    }

    EIGENGRAD_INLINE E& operator()(int i, int j) const { return data[i * row + j * column]; }
    EIGENGRAD_INLINE E at(int i, int j) const { return (*this)(i, j); }
    EIGENGRAD_INLINE void set(int i, int j, E x) const { (*this)(i, j) = x; }
    EIGENGRAD_INLINE E entry(int i, int j) const { return at(i, j); }
    EIGENGRAD_INLINE void set_entry(int i, int j, E x) const { set(i, j, x); }
    EIGENGRAD_INLINE Lanes transposed() const { return {data, column, row, n, count}; }

    // Calls what(j) for the entries of a row, what(i, j) for those of the matrix or its lower triangle.
    template <class What>
    EIGENGRAD_INLINE void each_of_row(What what) const {
        for (int j = 0; j < n; ++j) what(j);
    }
    template <class What>
    EIGENGRAD_INLINE void each(bool lower, What what) const {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < (lower ? i + 1 : n); ++j) what(i, j);
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

    // Which entry a number of the matrix in memory is of, and which plane of it.
    struct Place {
        int n, i, j, q;
        EIGENGRAD_INLINE Place(long offset, int n) : n(n), i(offset / (n * P)), j(offset / P % n), q(offset % P) {}
        EIGENGRAD_INLINE void next() {
            if (++q < P) return;
            q = 0;
            if (++j == n) j = 0, ++i;
        }
    };

    // Rows of n numbers, complex ones interleaved.
    void load(const T* from, bool conjugate = false) const {
        constexpr int W = V::lanes;
        Batch<const T> in{from, long(n) * n * P, count};
        V x[W];
        for_tiles<W>(in.size, [&](long offset) {
            load_tile(in, offset, x);
            Place at(offset, n);
            for (int w = 0; w < W && at.i < n; ++w, at.next())
                plane((*this)(at.i, at.j), at.q) = P == 2 && conjugate && at.q ? -x[w] : x[w];
        });
    }
    void load_transposed(const T* from, Lanes) const { transposed().load(from); }

    template <class Number>
    EIGENGRAD_INLINE void store_numbers(T* to, Number number) const {
        constexpr int W = V::lanes;
        Batch<T> out{to, long(n) * n * P, count};
        V x[W];
        for_tiles<W>(out.size, [&](long offset) {
            Place at(offset, n);
            for (int w = 0; w < W; ++w, at.next()) x[w] = at.i >= n ? V(T(0)) : number(at.i, at.j, at.q);
            store_tile(out, offset, x);
        });
    }
    void store(T* to, bool conjugate = false) const {
        store_numbers(to, [&](int i, int j, int q) {
            const V x = plane((*this)(i, j), q);
            return P == 2 && conjugate && q ? -x : x;
        });
    }
    // Hermitian matrices, of which the lower triangle is given.
    void store_hermitian(T* to) const {
        store_numbers(to, [&](int i, int j, int q) {
            const V x = i < j ? plane((*this)(j, i), q) : plane((*this)(i, j), q);
            return q == 0 ? x : (i < j ? -x : (i == j ? V(T(0)) : x));
        });
    }

    void set_adjoint(Lanes other) {
        if constexpr (P == 1) *this = other.transposed();
        else each(false, [&](int i, int j) { set(i, j, conj(other.at(j, i))); });
    }
    void mirror() const {
        for (int i = 0; i < n; ++i) {
            set(i, i, E(real(at(i, i))));
            for (int j = 0; j < i; ++j) set(j, i, conj(at(i, j)));
        }
    }
    void symmetrise(Lanes) const {
        const V half = V(T(0.5));
        each(true, [&](int i, int j) {
            const E x = half * (at(i, j) + conj(at(j, i)));
            set(i, j, x), set(j, i, conj(x));
        });
    }
    // The Hermitian part of w o this; if this is `hermitian`, of which the lower triangle counts, and so is w, all of it.
    void weigh(Real w, bool hermitian, Lanes) const {
        const V half = V(T(0.5));
        each(true, [&](int i, int j) {
            E x = w.at(i, j) * at(i, j);
            if (!hermitian) x = half * (x + conj(w.at(j, i) * at(j, i)));
            if (i == j) x = E(real(x));
            set(i, j, x), set(j, i, conj(x));
        });
    }
    void add_to_diagonal(const T* x) const {
        for (int k = 0; k < n; ++k) set(k, k, at(k, k) + E(Numbers::gather(x, k, n, count)));
    }

    // The real planes of a sum before the imaginary ones, as dense_product.
    template <int R, int C>
    EIGENGRAD_INLINE void product_block(Lanes a, Lanes b, int i, int j) const {
        E sum[R][C];
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) sum[r][c] = E(T(0));
        for (int k = 0; k < n; ++k)
            for (int c = 0; c < C; ++c) {
                const E x = b.at(k, j + c);
                for (int r = 0; r < R; ++r) sum[r][c] = fma(real(a.at(i + r, k)), x, sum[r][c]);
            }
        if constexpr (P == 2)
            for (int k = 0; k < n; ++k)
                for (int c = 0; c < C; ++c) {
                    const E x = b.at(k, j + c);
                    for (int r = 0; r < R; ++r) {
                        const V y = a.at(i + r, k).im;
                        sum[r][c] = {fnma(y, x.im, sum[r][c].re), fma(y, x.re, sum[r][c].im)};
                    }
                }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) set(i + r, j + c, sum[r][c]);
    }
    template <int R, int C>
    EIGENGRAD_INLINE void product_rows(Lanes a, Lanes b, int i, int j, int columns) const {
        for (; j + C <= columns; j += C) product_block<R, C>(a, b, i, j);
        if constexpr (C > 1) product_rows<R, C - 1>(a, b, i, j, columns);
    }

    // this = a b; if `lower`, at least its lower triangle.
    EIGENGRAD_OUTLINE void set_product(Lanes a, Lanes b, bool lower, const Workspace&) const {
#if defined(__AVX512F__) || defined(__aarch64__)
        constexpr int C = 4;
#else
        constexpr int C = 4 / P;
#endif
        int i = 0;
        for (; i + 2 <= n; i += 2) product_rows<2, C>(a, b, i, 0, lower ? i + 2 : n);
        if (i < n) product_rows<1, C>(a, b, i, 0, n);
    }
};

}  // namespace eigengrad::EIGENGRAD_ISA
