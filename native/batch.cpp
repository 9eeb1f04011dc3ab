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
static int eigh(const T* matrices, T* values, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    long size = long(n) * n;
    return !for_groups(batch, n, 2L * f.width, cost_of_eigh(n), threads, [&](long first, int count, Workspace with) {
        f.eigh(matrices + first * size, values + first * n, vectors + first * size, count, n, with);
    });
}

// Complex matrices (`planes` 2, not 1) have no lanes.
constexpr int largest_in_lanes = 24;

// Whether products are made of many matrices at once, one in each lane, or of one after the other: the same bits.
template <class T>
static bool in_lanes(int planes, long batch, int n) {
    return planes == 1 && n <= largest_in_lanes && 2 * batch >= functions(T())->width;
}

// Whether refinements are, of which a matrix by itself would have other bits.
static bool refined_in_lanes(int planes, int n) { return planes == 1 && n <= largest_in_lanes; }

// V diag(x) V^H of any number of matrices.
template <class T>
static void recompose(const Functions<T>& f, int planes, const T* vectors, const T* x, T* result, int count, int n,
                      Workspace with) {
    const long size = long(n) * n * planes;
    const bool lanes = in_lanes<T>(planes, count, n);
    const int step = lanes ? f.width : 1;
    for (int done = 0; done < count; done += step) {
        const T *v = vectors + done * size, *values = x + long(done) * n;
        T* to = result + done * size;
        if (lanes) f.recompose(v, values, to, count - done < step ? count - done : step, n, with);
        else functions(T())->recompose_long[planes - 1](v, values, to, n, with);
    }
}

// Eigenvectors and eigenvalues without their errors of first order, of any number of matrices.
template <class T>
static void refine(const Functions<T>& f, int planes, const T* matrices, T* vectors, T* values, int count, int n,
                   Workspace with) {
    const long size = long(n) * n * planes;
    const bool lanes = refined_in_lanes(planes, n);
    const int step = lanes ? f.width : 1;
    for (int done = 0; done < count; done += step) {
        const T* a = matrices + done * size;
        T *v = vectors + done * size, *l = values + long(done) * n;
        if (lanes) f.refine(a, v, l, count - done < step ? count - done : step, n, with);
        else functions(T())->refine_long[planes - 1](a, v, l, n, with);
    }
}

template <class T>
static int recompose(int planes, const T* vectors, const T* x, T* result, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, group = in_lanes<T>(planes, batch, n) ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        recompose(f, planes, vectors + first * size, x + first * n, result + first * size, count, n, with);
    });
}

template <class T>
static int refine(int planes, const T* matrices, T* vectors, T* values, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, group = refined_in_lanes(planes, n) ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        refine(f, planes, matrices + first * size, vectors + first * size, values + first * n, count, n, with);
    });
}

// Which eigenvectors a function of matrices takes: its own, those that are given once they are refined, or its own found
// in double precision, in which everything is that lies between input and output.
enum Eigenvectors { own = 0, given = 1, of_double = 2 };

// V diag(f(L)) V^H, with L and V; of roots f(L) instead of L. Own eigenvectors in single precision are refined.
template <class T>
static int matrix_function(Scalar f, Eigenvectors which, int planes, const T* matrices, T* result, T* values, T* vectors,
                           long batch, int n, int threads) {
    const long size = long(n) * n * planes, all = batch * size, some = batch * n;
    if constexpr (sizeof(T) == sizeof(float)) {
        if (which == of_double) {
            const std::unique_ptr<double[]> memory(new (std::nothrow) double[3 * all + some]);
            double *a = memory.get(), *x = a + all, *v = x + all, *l = v + all;
            if (!a) return 1;
            std::copy_n(matrices, all, a);
            const int failed = matrix_function(f, own, planes, a, x, l, v, batch, n, threads);
            std::copy_n(x, all, result);
            std::copy_n(v, all, vectors);
            std::copy_n(l, some, values);
            return failed;
        }
    }
    const std::unique_ptr<T[]> memory(f.is_root() ? nullptr : new (std::nothrow) T[some]);
    if (!f.is_root() && !memory) return 1;
    T* const images = f.is_root() ? values : memory.get();
    const Functions<T>& k = width_for<T>(batch, n, threads);
    const long group = which != given ? 2L * k.width : refined_in_lanes(planes, n) ? k.width : 1;
    const double cost = which != given ? cost_of_eigh(n) : planes * cost_of_products(n);
    return !for_groups(batch, n, group, cost, threads, [&](long first, int count, Workspace with) {
        const T* a = matrices + first * size;
        T *l = values + first * n, *v = vectors + first * size, *x = images + first * n;
        if (which != given) k.eigh(a, l, v, count, n, with);
        if (which == given || sizeof(T) == sizeof(float)) refine(k, planes, a, v, l, count, n, with);
        k.apply(f, l, x, long(count) * n);
        recompose(k, planes, v, x, result + first * size, count, n, with);
    });
}

template <class T>
static int pull_back(int planes, const PullBack<T>& all, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n * planes, weights = all.weights_are_given() ? long(n) * n : n;
    const bool lanes = in_lanes<T>(planes, batch, n);
    const long group = lanes ? f.width : 1;
    return !for_groups(batch, n, group, planes * cost_of_products(n), threads, [&](long first, int count, Workspace with) {
        PullBack<T> job = all;
        job.vectors += first * size, job.cotangent += first * size, job.weights += first * weights;
        job.result += first * size;
        if (job.diagonal) job.diagonal += first * n;
        if (lanes) f.pull_back(job, count, n, with);
        else functions(T())->pull_back_long[planes - 1](job, n, with);
    });
}

}  // namespace eigengrad

// Every function returns 0, or 1 if memory ran out. Arrays are contiguous; n is at least 1. Eigenvectors lie in rows.
// Planes are 2 for complex numbers, which are pairs, and 1 for real ones.
#define EIGENGRAD_INTERFACE(T, suffix)                                                                                 \
    extern "C" __attribute__((visibility("default"))) int eigengrad_eigh_##suffix(                                     \
        const T* matrices, T* values, T* vectors, long batch, int n, int threads) {                                    \
        return eigengrad::eigh(matrices, values, vectors, batch, n, threads);                                          \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_matrix_function_##suffix(                          \
        int kind, double parameter, int which, int planes, const T* matrices, T* result, T* values, T* vectors,        \
        long batch, int n, int threads) {                                                                              \
        return eigengrad::matrix_function<T>({eigengrad::Weights(kind), parameter}, eigengrad::Eigenvectors(which),    \
                                             planes, matrices, result, values, vectors, batch, n, threads);            \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_recompose_##suffix(                                \
        int planes, const T* vectors, const T* x, T* result, long batch, int n, int threads) {                         \
        return eigengrad::recompose(planes, vectors, x, result, batch, n, threads);                                    \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_refine_##suffix(                                   \
        int planes, const T* matrices, T* vectors, T* values, long batch, int n, int threads) {                        \
        return eigengrad::refine(planes, matrices, vectors, values, batch, n, threads);                                \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_pull_back_##suffix(                                \
        int planes, int kind, double exponent, int major_terms, int minor_terms, const T* vectors, const T* cotangent, \
        int transposed, const T* weights, const T* diagonal, T* result, long batch, int n, int threads) {              \
        eigengrad::PullBack<T> all{eigengrad::Weights(kind), vectors, cotangent, transposed != 0, weights,             \
                                   {major_terms, minor_terms}, diagonal, result, exponent};                            \
        return eigengrad::pull_back(planes, all, batch, n, threads);                                                   \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) void eigengrad_apply_##suffix(                                   \
        int kind, double parameter, const T* x, T* result, long count) {                                               \
        eigengrad::functions(T())->apply({eigengrad::Weights(kind), parameter}, x, result, count);                     \
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
