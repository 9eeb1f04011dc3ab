// A matrix in shared memory, a block of threads at work on it: the counterpart of Lanes and Dense, with the same operations
// in the same order, so that a matrix has the same bits in all of them. Every operation is a phase, with a wait behind it.

#pragma once

#include "complex.hpp"
#include "kernel.hpp"
#include "gpu/phases.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Eigenvalues and the like.
template <class Number>
struct SharedNumbers {
    using T = Number;
    using vector = Vec<T, 1>;
    using V = vector;
    T* data;
    int n;

    EIGENGRAD_INLINE V row(int i) const { return data[i]; }
    EIGENGRAD_INLINE V column(int j) const { return data[j]; }
    EIGENGRAD_INLINE void set(int i, V x) const { data[i] = x.v; }
    EIGENGRAD_INLINE void set_column(int j, V x) const { data[j] = x.v; }
    template <class What>
    EIGENGRAD_INLINE void each(What what) const {
        EIGENGRAD_ISA::each(n, what);
        wait();
    }
    EIGENGRAD_INLINE void load(const T* from) const {
        each([&](int k) { data[k] = from[k]; });
    }
    EIGENGRAD_INLINE void store(T* to) const {
        each([&](int k) { to[k] = data[k]; });
    }
};

template <class Number>
struct Shared {
    using T = Number;
    using vector = Vec<T, 1>;
    using V = vector;
    using E = V;
    using Real = Shared;
    using Numbers = SharedNumbers<T>;
    static constexpr bool one_by_one = false, adjoint_is_view = true, weighs_in_place = true;

    T* data;
    int row, column, n;

    // The last n numbers are what largest() works with.
    static constexpr int size(int n) { return n * (n | 1) + n; }
    static constexpr int numbers(int n) { return n; }
    static EIGENGRAD_INLINE Shared take(T*& memory, int n, int) {
        Shared result{memory, n | 1, 1, n};
        memory += size(n);
        return result;
    }
    static EIGENGRAD_INLINE Numbers take_numbers(T*& memory, int n, int) {
        Numbers result{memory, n};
        memory += n;
        return result;
    }

    EIGENGRAD_INLINE T& operator()(int i, int j) const { return data[i * row + j * column]; }
    EIGENGRAD_INLINE V at(int i, int j) const { return (*this)(i, j); }
    EIGENGRAD_INLINE void set(int i, int j, V x) const { (*this)(i, j) = x.v; }
    EIGENGRAD_INLINE V entry(int i, int j) const { return at(i, j); }
    EIGENGRAD_INLINE void set_entry(int i, int j, V x) const { set(i, j, x); }
    EIGENGRAD_INLINE Shared transposed() const { return {data, column, row, n}; }
    EIGENGRAD_INLINE void set_adjoint(Shared other) { *this = other.transposed(); }

    template <class What>
    EIGENGRAD_INLINE void each(bool lower, What what) const {
        EIGENGRAD_ISA::each(n * n, [&](int k) {
            const int i = k / n, j = k % n;
            if (!lower || j <= i) what(i, j);
        });
        wait();
    }
    template <class What>
    EIGENGRAD_INLINE void each_row(What what) const {
        EIGENGRAD_ISA::each(n, what);
        wait();
    }
    // Threads may have read before what this writes.
    template <class What>
    EIGENGRAD_INLINE void each_of_row(What what) const {
        wait();
        EIGENGRAD_ISA::each(n, what);
        wait();
    }
    template <class What>
    EIGENGRAD_INLINE void once(What what) const {
        if (thread_index() == 0) what();
        wait();
    }
    template <class What>
    EIGENGRAD_INLINE V largest(What what) const {
        T* const of_rows = data + size(n) - n;
        each_row([&](int i) {
            V most(T(0));
            for (int j = 0; j <= i; ++j) most = max(what(i, j), most);
            of_rows[i] = most.v;
        });
        V most(T(0));
        for (int i = 0; i < n; ++i) most = max(V(of_rows[i]), most);
        wait();
        return most;
    }

    // Threads may still read what was there before.
    EIGENGRAD_INLINE void load(const T* from, bool = false) const {
        wait();
        each(false, [&](int i, int j) { (*this)(i, j) = from[i * n + j]; });
    }
    EIGENGRAD_INLINE void load_transposed(const T* from, Shared) const { transposed().load(from); }
    EIGENGRAD_INLINE void store(T* to, bool = false) const {
        each(false, [&](int i, int j) { to[i * n + j] = (*this)(i, j); });
    }
    EIGENGRAD_INLINE void store_hermitian(T* to) const {
        each(false, [&](int i, int j) { to[i * n + j] = i < j ? (*this)(j, i) : (*this)(i, j); });
    }
    EIGENGRAD_INLINE void mirror() const {
        each(true, [&](int i, int j) { set(j, i, at(i, j)); });
    }
    EIGENGRAD_INLINE void symmetrise(Shared) const {
        each(true, [&](int i, int j) {
            const V x = V(T(0.5)) * (at(i, j) + at(j, i));
            set(i, j, x), set(j, i, x);
        });
    }
    EIGENGRAD_INLINE void weigh(Shared w, bool hermitian, Shared) const {
        each(true, [&](int i, int j) {
            V x = w.at(i, j) * at(i, j);
            if (!hermitian) x = V(T(0.5)) * (x + w.at(j, i) * at(j, i));
            set(i, j, x), set(j, i, x);
        });
    }
    EIGENGRAD_INLINE void add_to_diagonal(const T* x) const {
        each_row([&](int k) { set(k, k, at(k, k) + V(x[k])); });
    }

    // this = a b; if `lower`, at least its lower triangle. A thread makes two rows by two columns at a time.
    EIGENGRAD_OUTLINE void set_product(Shared a, Shared b, bool lower, Workspace) const {
        const int half = (n + 1) / 2;
        EIGENGRAD_ISA::each(half * half, [&](int unit) {
            const int i = unit / half * 2, j = unit % half * 2;
            if (lower && j > i + 1) return;
            const int below = i + 1 < n ? i + 1 : i, beside = j + 1 < n ? j + 1 : j;
            V sum[2][2] = {{V(T(0)), V(T(0))}, {V(T(0)), V(T(0))}};
            for (int k = 0; k < n; ++k) {
                const V left[2] = {a.at(i, k), a.at(below, k)}, right[2] = {b.at(k, j), b.at(k, beside)};
                for (int r = 0; r < 2; ++r)
                    for (int c = 0; c < 2; ++c) sum[r][c] = fma(left[r], right[c], sum[r][c]);
            }
            set(i, j, sum[0][0]);
            if (beside > j) set(i, beside, sum[0][1]);
            if (below > i) set(below, j, sum[1][0]);
            if (below > i && beside > j) set(below, beside, sum[1][1]);
        });
        wait();
    }
};

}  // namespace eigengrad::EIGENGRAD_ISA
