// Decompositions and products of a batch: which width, which thread.

#include "batch.hpp"

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

// Of eigenvalues, which are at least floor, the square roots or their reciprocals.
template <class T>
static void take_roots(T* x, long count, T floor, int inverse) {
    for (long k = 0; k < count; ++k) {
        T s = std::sqrt(x[k] < floor ? floor : x[k]);
        x[k] = inverse ? 1 / s : s;
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
static int root(int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = long(n) * n;
    return !for_groups(batch, n, 2L * f.width, cost_of_eigh(n), threads, [&](long first, int count, Workspace with) {
        T *x = roots + first * n, *v = vectors + first * size;
        f.eigh(matrices + first * size, x, v, count, n, with);
        if (sizeof(T) == sizeof(float))
            refine(f, 1, matrices + first * size, v, x, count, n, with);
        take_roots(x, long(count) * n, floor, inverse);
        recompose(f, 1, v, x, result + first * size, count, n, with);
    });
}

// The same with all that lies between in double precision.
static int root_through_double(int inverse, const float* matrices, float floor, float* result, float* roots, float* vectors,
                               long batch, int n, int threads) {
    const long all = batch * n * n, some = batch * n;
    const std::unique_ptr<double[]> memory(new (std::nothrow) double[3 * all + some]);
    double *a = memory.get(), *x = a + all, *v = x + all, *values = v + all;
    if (!a) return 1;
    std::copy_n(matrices, all, a);
    const int failed = root<double>(inverse, a, floor, x, values, v, batch, n, threads);
    std::copy_n(x, all, result);
    std::copy_n(v, all, vectors);
    std::copy_n(values, some, roots);
    return failed;
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
        f.recompose_long[planes - 1](v, x, result + k * size, n, with);
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

// INTERIM
template <class T>
bool eigh(bool, const T* matrices, T* values, T* vectors, long batch, int n, int threads) { return !eigh(matrices, values, vectors, batch, n, threads); }
template <class T>
bool refine(bool c, const T* matrices, T* vectors, T* values, long batch, int n, int threads) { return !refine(c ? 2 : 1, matrices, vectors, values, batch, n, threads); }
template <class T>
bool recompose(bool c, const T* vectors, const T* x, T* result, long batch, int n, int threads) { return !recompose(c ? 2 : 1, vectors, x, result, batch, n, threads); }
template <class T>
bool pull_back(bool c, const PullBack<T>& a, long batch, int n, int threads) { return !pull_back(c ? 2 : 1, a, batch, n, threads); }
template <class T>
bool matrix_function(const FunctionArguments<T>& a, long batch, int n, int threads) {
    const int planes = a.is_complex ? 2 : 1;
    const long size = long(n) * n * planes;
    if constexpr (sizeof(T) == 4)
        if (!a.given && a.precision == Precision::in_double) {
            std::unique_ptr<double[]> memory(new (std::nothrow) double[batch * (3 * size + n)]);
            double *A = memory.get(), *X = A + batch * size, *V = X + batch * size, *L = V + batch * size;
            if (!A) return false;
            std::copy_n(a.matrices, batch * size, A);
            FunctionArguments<double> wide{a.kind, double(a.parameter), Precision::as_it_is, a.is_complex, false, A, a.result ? X : nullptr, L, V};
            if (!matrix_function(wide, batch, n, threads)) return false;
            if (a.result) std::copy_n(X, batch * size, a.result);
            std::copy_n(V, batch * size, a.vectors);
            std::copy_n(L, batch * n, a.values);
            return true;
        }
    const bool find = !a.given;
    if (find && !eigh(a.is_complex, a.matrices, a.values, a.vectors, batch, n, threads)) return false;
    if (a.precision == Precision::refined && !refine(a.is_complex, a.matrices, a.vectors, a.values, batch, n, threads)) return false;
    if (!a.result) return true;
    if (a.kind == square_root || a.kind == inverse_square_root) {
        take_roots(a.values, batch * n, a.parameter, a.kind == inverse_square_root);
        return recompose(a.is_complex, a.vectors, a.values, a.result, batch, n, threads);
    }
    std::unique_ptr<T[]> f(new T[batch * n]);
    for (long k = 0; k < batch * n; ++k)
        f[k] = a.kind == 5 ? std::exp(a.values[k]) : a.kind == 6 ? std::log(a.values[k]) : std::pow(a.values[k], a.parameter);
    return recompose(a.is_complex, a.vectors, f.get(), a.result, batch, n, threads);
}

#define EIGENGRAD_INSTANTIATE(T)                                                                                       \
    template bool eigh(bool, const T*, T*, T*, long, int, int);                                                        \
    template bool matrix_function(const FunctionArguments<T>&, long, int, int);                                       \
    template bool refine(bool, const T*, T*, T*, long, int, int);                                                     \
    template bool recompose(bool, const T*, const T*, T*, long, int, int);                                            \
    template bool pull_back(bool, const PullBack<T>&, long, int, int);
EIGENGRAD_INSTANTIATE(float)
EIGENGRAD_INSTANTIATE(double)

}  // namespace eigengrad
