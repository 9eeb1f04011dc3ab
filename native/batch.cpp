// Which width decomposes a group of matrices, and which thread.

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

// Numbers of one matrix.
static long numbers(bool is_complex, int n) { return (is_complex ? 2L : 1L) * n * n; }

// Rough costs of one matrix, in microseconds.
static double cost_of_eigh(bool is_complex, double n) {
    return is_complex ? 0.01 * n + 0.0006 * n * n * n : (n <= 4 ? 0.003 * n * n : 0.0004 * n * n * n);
}
static double cost_of_products(bool is_complex, double n) { return (1 + is_complex) * (0.002 * n + 0.0001 * n * n * n); }

template <class T>
bool eigh(bool is_complex, const T* matrices, T* values, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = numbers(is_complex, n);
    const double cost = cost_of_eigh(is_complex, n);
    return for_groups(batch, n, 2L * f.width, cost, threads, [&](long first, int count, Workspace with) {
        f.eigh[is_complex](matrices + first * size, values + first * n, vectors + first * size, count, n, with);
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
static void for_products(const Functions<T>& f, bool is_complex, bool lanes, int count, Task task) {
    const Products<T>& products = lanes ? f.in_lanes[is_complex] : functions(T())->alone[is_complex];
    const int step = lanes ? f.width : 1;
    for (int done = 0; done < count; done += step) task(products, done, count - done < step ? count - done : step);
}

// V diag(x) V^H of any number of matrices.
template <class T>
static void recompose(const Functions<T>& f, bool is_complex, const T* vectors, const T* x, T* result, int count, int n,
                      Workspace with) {
    const long size = numbers(is_complex, n);
    for_products(f, is_complex, in_lanes<T>(count, n), count, [&](const Products<T>& products, long first, int some) {
        products.recompose(vectors + first * size, x + first * n, result + first * size, some, n, with);
    });
}

// Eigenvectors and eigenvalues without their errors of first order, of any number of matrices. In lanes if they are small,
// how many there are: a matrix by itself would have other bits.
template <class T>
static void refine(const Functions<T>& f, bool is_complex, const T* matrices, T* vectors, T* values, int count, int n,
                   Workspace with) {
    const long size = numbers(is_complex, n);
    for_products(f, is_complex, n <= largest_in_lanes, count, [&](const Products<T>& products, long first, int some) {
        products.refine(matrices + first * size, vectors + first * size, values + first * n, some, n, with);
    });
}

// A function of single precision with all that lies between input and output in double.
static bool in_double(const FunctionArguments<float>& of, long batch, int n, int threads) {
    const long all = batch * numbers(of.is_complex, n), some = batch * n;
    const std::unique_ptr<double[]> memory(new (std::nothrow) double[3 * all + some]);
    double *a = memory.get(), *result = a + all, *vectors = result + all, *values = vectors + all;
    if (!a) return false;
    std::copy_n(of.matrices, all, a);
    const FunctionArguments<double> wide{
        of.f, Precision::as_it_is, of.is_complex, false, a, of.result ? result : nullptr, values, vectors};
    const bool worked = matrix_function(wide, batch, n, threads);
    if (of.result) std::copy_n(result, all, of.result);
    std::copy_n(vectors, all, of.vectors);
    std::copy_n(values, some, of.values);
    return worked;
}

template <class T>
bool matrix_function(const FunctionArguments<T>& of, long batch, int n, int threads) {
    if constexpr (sizeof(T) == sizeof(float))
        if (of.precision == Precision::in_double) return in_double(of, batch, n, threads);
    const bool c = of.is_complex, images_apart = of.result && !of.f.is_root();
    const std::unique_ptr<T[]> memory(images_apart ? new (std::nothrow) T[batch * n] : nullptr);
    if (images_apart && !memory) return false;
    T* const images = images_apart ? memory.get() : of.values;
    const Functions<T>& k = width_for<T>(batch, n, threads);
    const long size = numbers(c, n), group = !of.given ? 2L * k.width : (in_lanes<T>(batch, n) ? k.width : 1);
    const double cost = of.given ? cost_of_products(c, n) : cost_of_eigh(c, n);
    return for_groups(batch, n, group, cost, threads, [&](long first, int count, Workspace with) {
        const T* a = of.matrices + first * size;
        T *l = of.values + first * n, *v = of.vectors + first * size, *x = images + first * n;
        if (!of.given) k.eigh[c](a, l, v, count, n, with);
        if (of.precision == Precision::refined) refine(k, c, a, v, l, count, n, with);
        if (!of.result) return;
        k.apply(of.f, l, x, long(count) * n);
        recompose(k, c, v, x, of.result + first * size, count, n, with);
    });
}

template <class T>
bool recompose(bool is_complex, const T* vectors, const T* x, T* result, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = numbers(is_complex, n), group = in_lanes<T>(batch, n) ? f.width : 1;
    const double cost = cost_of_products(is_complex, n);
    return for_groups(batch, n, group, cost, threads, [&](long first, int count, Workspace with) {
        recompose(f, is_complex, vectors + first * size, x + first * n, result + first * size, count, n, with);
    });
}

template <class T>
bool refine(bool is_complex, const T* matrices, T* vectors, T* values, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = numbers(is_complex, n), group = n <= largest_in_lanes ? f.width : 1;
    const double cost = cost_of_products(is_complex, n);
    return for_groups(batch, n, group, cost, threads, [&](long first, int count, Workspace with) {
        refine(f, is_complex, matrices + first * size, vectors + first * size, values + first * n, count, n, with);
    });
}

template <class T>
bool pull_back(bool is_complex, const PullBackArguments<T>& all, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    const long size = numbers(is_complex, n), weights = all.weights_are_given() ? long(n) * n : n;
    const bool lanes = in_lanes<T>(batch, n);
    const long group = lanes ? f.width : 1;
    const double cost = cost_of_products(is_complex, n);
    return for_groups(batch, n, group, cost, threads, [&](long first, int count, Workspace with) {
        PullBackArguments<T> arguments = all;
        arguments.vectors += first * size, arguments.cotangent += first * size, arguments.weights += first * weights;
        arguments.result += first * size;
        if (arguments.diagonal) arguments.diagonal += first * n;
        (lanes ? f.in_lanes : functions(T())->alone)[is_complex].pull_back(arguments, count, n, with);
    });
}

#define EIGENGRAD_INSTANTIATE(T)                                                \
    template bool eigh(bool, const T*, T*, T*, long, int, int);                 \
    template bool matrix_function(const FunctionArguments<T>&, long, int, int); \
    template bool recompose(bool, const T*, const T*, T*, long, int, int);      \
    template bool refine(bool, const T*, T*, T*, long, int, int);               \
    template bool pull_back(bool, const PullBackArguments<T>&, long, int, int);
EIGENGRAD_INSTANTIATE(float)
EIGENGRAD_INSTANTIATE(double)

}  // namespace eigengrad
