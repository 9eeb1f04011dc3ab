// The C interface of decompositions and products: which width, which thread. See eigengrad/native.py and
// native_products.py for its other side.

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>

#include "select.hpp"

namespace eigengrad {

// The narrower vectors where the wider ones would leave lanes empty, or push two groups out of the second-level cache.
template <class T>
static const Functions<T>& width_for(long batch, long n, int threads) {
    constexpr long cache = 512 * 1024;
    const Functions<T>* f = functions(T());
    bool small = batch <= long(threads) * f[0].width, large = 2 * f[0].width * n * n * long(sizeof(T)) > cache;
    return f[f[1].width && (small || large)];
}

// Up to this n, for one matrix, a second thread saves a tenth of a step, and costs as much where other programs keep it
// from a core.
constexpr int largest_alone = 140;

// Calls task(first, count, workspace) for groups of up to `group` matrices, several to a turn. A turn takes about 10 us or
// more: waking a thread costs as much. Fewer matrices than threads, if they are large, are shared by all, one by one.
template <class Task>
static bool for_groups(long batch, int n, long group, double microseconds, int threads, Task task) {
    const bool share = group == 1 && batch < threads && n > largest_alone;
    const Workspace with{Scratch::reserve, share ? threads : 1, Threads::share};
    if (share) threads = 1;
    long groups = (batch + group - 1) / group;
    long per_turn = long(std::ceil(10.0 / (microseconds * group)));
    if (per_turn > 1 && groups / per_turn > 8L * threads) per_turn = groups / (8L * threads);
    long turns = (groups + per_turn - 1) / per_turn;
    return Threads::run(turns, threads, [&](long turn) {
        long last = (turn + 1) * per_turn < groups ? (turn + 1) * per_turn : groups;
        for (long g = turn * per_turn; g < last; ++g) {
            long first = g * group;
            task(first, int(batch - first < group ? batch - first : group), with);
        }
        Scratch::trim();
    });
}

// Rough costs of one matrix, in microseconds.
static double cost_of_eigh(double n) { return n <= 4 ? 0.003 * n * n : 0.0004 * n * n * n; }
static double cost_of_products(double n) { return 0.002 * n + 0.0001 * n * n * n; }

template <class T>
static int eigh(int planes, const T* matrices, T* values, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes;
    return !for_groups(batch, n, 2L * f.width, planes * cost_of_eigh(n), threads, [&](long first, int count, Workspace with) {
        f.eigh[planes - 1](matrices + first * size, values + first * n, vectors + first * size, count, n, with);
    });
}

constexpr int largest_in_lanes = 24;

// Whether products are made of many matrices at once, one in each lane, or of one after the other: the same bits.
template <class T>
static bool in_lanes(long batch, int n) {
    return n <= largest_in_lanes && 2 * batch >= functions(T())->width;
}

// Calls task(products, first, count) for what is taken at once of `count` matrices.
template <class T, class Task>
static void for_products(const Functions<T>& f, int planes, bool lanes, int count, Task task) {
    const Products<T>& products = lanes ? f.in_lanes[planes - 1] : functions(T())->alone[planes - 1];
    const int step = lanes ? f.width : 1;
    for (int done = 0; done < count; done += step) task(products, done, count - done < step ? count - done : step);
}

// V diag(x) V^H of any number of matrices.
template <class T>
static void recompose(const Functions<T>& f, int planes, const T* vectors, const T* x, T* result, int count, int n,
                      Workspace with) {
    const long size = long(n) * n * planes;
    for_products(f, planes, in_lanes<T>(count, n), count, [&](const Products<T>& products, long first, int some) {
        products.recompose(vectors + first * size, x + first * n, result + first * size, some, n, with);
    });
}

// Of eigenvalues, which are at least floor, the square roots or their reciprocals.
template <class T>
static void take_roots(T* x, long count, T floor, int inverse) {
    for (long k = 0; k < count; ++k) {
        T s = std::sqrt(x[k] < floor ? floor : x[k]);
        x[k] = inverse ? 1 / s : s;
    }
}

// Eigenvectors and eigenvalues without their errors of first order, of any number of matrices. In lanes if they are small,
// how many there are: a matrix by itself would have other bits.
template <class T>
static void refine(const Functions<T>& f, int planes, const T* matrices, T* vectors, T* values, int count, int n,
                   Workspace with) {
    const long size = long(n) * n * planes;
    for_products(f, planes, n <= largest_in_lanes, count, [&](const Products<T>& products, long first, int some) {
        products.refine(matrices + first * size, vectors + first * size, values + first * n, some, n, with);
    });
}

template <class T>
static int root(int planes, int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n,
                int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes;
    return !for_groups(batch, n, 2L * f.width, planes * cost_of_eigh(n), threads, [&](long first, int count, Workspace with) {
        T *x = roots + first * n, *v = vectors + first * size;
        f.eigh[planes - 1](matrices + first * size, x, v, count, n, with);
        if (sizeof(T) == sizeof(float)) refine(f, planes, matrices + first * size, v, x, count, n, with);
        take_roots(x, long(count) * n, floor, inverse);
        recompose(f, planes, v, x, result + first * size, count, n, with);
    });
}

// The same with all that lies between in double precision.
static int root_through_double(int planes, int inverse, const float* matrices, float floor, float* result, float* roots,
                               float* vectors, long batch, int n, int threads) {
    const long all = batch * n * n * planes, some = batch * n;
    const std::unique_ptr<double[]> memory(new (std::nothrow) double[3 * all + some]);
    double *a = memory.get(), *x = a + all, *v = x + all, *values = v + all;
    if (!a) return 1;
    std::copy_n(matrices, all, a);
    const int failed = root<double>(planes, inverse, a, floor, x, values, v, batch, n, threads);
    std::copy_n(x, all, result);
    std::copy_n(v, all, vectors);
    std::copy_n(values, some, roots);
    return failed;
}

template <class T>
static int recompose(int planes, const T* vectors, const T* x, T* result, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, group = in_lanes<T>(batch, n) ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        recompose(f, planes, vectors + first * size, x + first * n, result + first * size, count, n, with);
    });
}

template <class T>
static int refine(int planes, const T* matrices, T* vectors, T* values, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, group = n <= largest_in_lanes ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        refine(f, planes, matrices + first * size, vectors + first * size, values + first * n, count, n, with);
    });
}

// The root by eigenvectors that are there, once they are refined.
template <class T>
static int refined_root(int planes, int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch,
                        int n, int threads) {
    const Functions<T>& f = *functions(T());
    const long size = long(n) * n * planes;
    return !for_groups(batch, n, 1, planes * cost_of_products(n), threads, [&](long k, int, Workspace with) {
        T *x = roots + k * n, *v = vectors + k * size;
        refine(f, planes, matrices + k * size, v, x, 1, n, with);
        take_roots(x, n, floor, inverse);
        f.alone[planes - 1].recompose(v, x, result + k * size, 1, n, with);
    });
}

template <class T>
static int pull_back(int planes, const PullBackArguments<T>& all, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, weights = all.weights_are_given() ? long(n) * n : n;
    const bool lanes = in_lanes<T>(batch, n);
    const long group = lanes ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        PullBackArguments<T> arguments = all;
        arguments.vectors += first * size, arguments.cotangent += first * size, arguments.weights += first * weights;
        arguments.result += first * size;
        if (arguments.diagonal) arguments.diagonal += first * n;
        (lanes ? f.in_lanes : functions(T())->alone)[planes - 1].pull_back(arguments, count, n, with);
    });
}

}  // namespace eigengrad

// Every function returns 0, or 1 if memory ran out. Arrays are contiguous; n is at least 1. Eigenvectors lie in rows.
// Planes are 2 for complex numbers, which are pairs, and 1 for real ones.
#define EIGENGRAD_INTERFACE(T, suffix)                                                                                 \
    extern "C" __attribute__((visibility("default"))) int eigengrad_eigh_##suffix(                                     \
        int planes, const T* matrices, T* values, T* vectors, long batch, int n, int threads) {                                    \
        return eigengrad::eigh(planes, matrices, values, vectors, batch, n, threads);                                          \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_root_##suffix(                                     \
        int planes, int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n,       \
        int threads) {                                                                                                 \
        return eigengrad::root(planes, inverse, matrices, floor, result, roots, vectors, batch, n, threads);                   \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_recompose_##suffix(                                \
        int planes, const T* vectors, const T* x, T* result, long batch, int n, int threads) {                         \
        return eigengrad::recompose(planes, vectors, x, result, batch, n, threads);                                    \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_refine_##suffix(                                   \
        int planes, const T* matrices, T* vectors, T* values, long batch, int n, int threads) {                        \
        return eigengrad::refine(planes, matrices, vectors, values, batch, n, threads);                                \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_refined_root_##suffix(                             \
        int planes, int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n,       \
        int threads) {                                                                                                 \
        return eigengrad::refined_root(planes, inverse, matrices, floor, result, roots, vectors, batch, n, threads);   \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_pull_back_##suffix(                                \
        int planes, int kind, int major_terms, int minor_terms, const T* vectors, const T* cotangent, int transposed,  \
        const T* weights, const T* diagonal, T* result, long batch, int n, int threads) {                              \
        eigengrad::PullBackArguments<T> all{eigengrad::Weights(kind), vectors, cotangent, transposed != 0, weights,             \
                                   {major_terms, minor_terms}, diagonal, result};                                      \
        return eigengrad::pull_back(planes, all, batch, n, threads);                                                   \
    }

extern "C" __attribute__((visibility("default"))) int eigengrad_root_through_double_float32(
    int planes, int inverse, const float* matrices, float floor, float* result, float* roots, float* vectors, long batch,
    int n, int threads) {
    return eigengrad::root_through_double(planes, inverse, matrices, floor, result, roots, vectors, batch, n, threads);
}

EIGENGRAD_INTERFACE(float, float32)
EIGENGRAD_INTERFACE(double, float64)

extern "C" __attribute__((visibility("default"))) const char* eigengrad_instructions() { return eigengrad::chosen->name; }

// For tests: 0 the baseline, 1 AVX2, 2 AVX-512. Returns whether this processor and this build have it.
extern "C" __attribute__((visibility("default"))) int eigengrad_choose_instructions(int level) {
    const eigengrad::Kernel* wanted = &eigengrad::baseline::kernel;
#if defined(EIGENGRAD_X86)
    int most = &eigengrad::best() == &eigengrad::avx512::kernel ? 2 : &eigengrad::best() == &eigengrad::avx2::kernel ? 1 : 0;
    if (level < 0 || level > most) return 0;
    if (level) wanted = level == 1 ? &eigengrad::avx2::kernel : &eigengrad::avx512::kernel;
#else
    if (level) return 0;
#endif
    eigengrad::chosen = wanted;
    return 1;
}
