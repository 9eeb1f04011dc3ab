// LAPACK's divide and conquer (syevd, heevd), the one that torch.linalg.eigh calls too, looked up in the torch of the process.

#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <complex>
#include <limits>
#include <numeric>
#include <type_traits>

#include "select.hpp"

namespace eigengrad::lapack {

template <class T>
using Syevd = void (*)(const char* job, const char* uplo, const int* n, T* a, const int* lda, T* w, T* work,
                       const int* work_size, int* iwork, const int* iwork_size, int* info);
template <class T>
using Heevd = void (*)(const char* job, const char* uplo, const int* n, std::complex<T>* a, const int* lda, T* w,
                       std::complex<T>* work, const int* work_size, T* rwork, const int* rwork_size, int* iwork,
                       const int* iwork_size, int* info);

inline Syevd<float> ssyevd_ = nullptr;
inline Syevd<double> dsyevd_ = nullptr;
inline Heevd<float> cheevd_ = nullptr;
inline Heevd<double> zheevd_ = nullptr;

// Whether the shared object `path`, loaded already, or one that it is linked to, has all of them.
inline bool load(const char* path) {
    void* const library = dlopen(path, RTLD_NOLOAD | RTLD_LAZY);
    auto find = [&](auto& function, const char* name) {
        function = library ? reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name)) : nullptr;
        return function != nullptr;
    };
    return find(ssyevd_, "ssyevd_") && find(dsyevd_, "dsyevd_") && find(cheevd_, "cheevd_") && find(zheevd_, "zheevd_");
}

inline Syevd<float> syevd(float) { return ssyevd_; }
inline Syevd<double> syevd(double) { return dsyevd_; }
inline Heevd<float> heevd(float) { return cheevd_; }
inline Heevd<double> heevd(double) { return zheevd_; }

constexpr int most = 32'000;  // n, whose workspace 32-bit integers count

// Room for one n x n matrix in T, its eigenvalues, and what LAPACK asks for: its least, and blocks of 64 columns, which is more
// than its best of any n.
template <class T>
class Room {
public:
    Room(int n, bool is_complex)
        : n_(n), is_complex_(is_complex), work_(is_complex ? (64 + n) * n : 1 + (70 + 2 * n) * n),
          rwork_(is_complex ? 1 + (5 + 2 * n) * n : 0), iwork_(3 + 5 * n) {
        const long numbers = is_complex ? 2 : 1;
        char* memory = static_cast<char*>(
            scratch.reserve((long(n) * n * numbers + n + work_ * numbers + rwork_) * sizeof(T) + iwork_ * sizeof(int)));
        a = reinterpret_cast<T*>(memory);
        w = a + long(n) * n * numbers;
    }

    // Ascending eigenvalues w of the Hermitian matrix in the lower triangle of a, by columns, and eigenvectors in its place.
    // Returns whether it converged.
    bool solve(T* a, T* w) const {
        T* const work = this->w + n_;
        T* const rwork = work + work_ * (is_complex_ ? 2 : 1);
        int* const iwork = reinterpret_cast<int*>(rwork + rwork_);
        int info = 0;
        using C = std::complex<T>;
        if (is_complex_)
            heevd(T())("V", "L", &n_, reinterpret_cast<C*>(a), &n_, w, reinterpret_cast<C*>(work), &work_, rwork,
                       &rwork_, iwork, &iwork_, &info);
        else syevd(T())("V", "L", &n_, a, &n_, w, work, &work_, iwork, &iwork_, &info);
        return info == 0;
    }

    T *a, *w;

private:
    const int n_;
    const bool is_complex_;
    const int work_, rwork_, iwork_;
};

// The lower triangle of a matrix of entries of `planes` numbers, row by row, as LAPACK reads it. Returns whether it is finite.
// Of several rows at a time, so that lines of memory are used whole on both sides.
template <int planes, class From, class T>
bool load_lower(const From* matrix, int n, T* a) {
    constexpr int rows = 16;
    T sums[rows] = {};  // NaN as soon as one number is not finite
    for (int top = 0; top < n; top += rows) {
        const int end = std::min(top + rows, n);
        for (int j = 0; j < end; ++j)
            for (int i = std::max(j, top); i < end; ++i)
                for (int p = 0; p < planes; ++p) {
                    const T x = matrix[(long(i) * n + j) * planes + p];
                    a[(long(j) * n + i) * planes + p] = x;
                    sums[i - top] += x * T(0);
                }
    }
    return std::accumulate(sums, sums + rows, T(0)) == 0;
}

// Ascending eigenvalues (batch, n) and eigenvectors, in rows, computed in T. Of a matrix without either they are NaN; returns
// the index of the first one, or -1.
template <class T, class From>
long eigh(bool is_complex, const From* matrices, From* values, From* vectors, long batch, int n) {
    if (n > most) throw std::runtime_error("eigengrad: matrices of more than 32,000 rows are too large for LAPACK");
    const Room<T> room(n, is_complex);
    const long size = long(n) * n * (is_complex ? 2 : 1);
    long bad = -1;
    for (long b = 0; b < batch; ++b, matrices += size, values += n, vectors += size) {
        T *a = room.a, *w = room.w;
        if constexpr (sizeof(T) == sizeof(From)) a = vectors, w = values;
        const bool finite = is_complex ? load_lower<2>(matrices, n, a) : load_lower<1>(matrices, n, a);
        if (!finite || !room.solve(a, w)) {
            if (bad < 0) bad = b;
            std::fill_n(values, n, std::numeric_limits<From>::quiet_NaN());
            std::fill_n(vectors, size, std::numeric_limits<From>::quiet_NaN());
        } else if constexpr (sizeof(T) != sizeof(From)) {
            std::copy_n(w, n, values);
            std::copy_n(a, size, vectors);
        }
    }
    Scratch::trim();
    return bad;
}

}  // namespace eigengrad::lapack
