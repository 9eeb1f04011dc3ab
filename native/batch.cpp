// The C interface: which instruction set, which width, which thread. See eigengrad/native.py for its other side.

#include <cmath>

#include "kernel.hpp"
#include "threads.hpp"

namespace eigengrad {

#if defined(EIGENGRAD_X86)
namespace avx512 {
extern const Kernel kernel;
}
namespace avx2 {
extern const Kernel kernel;
}
#endif
namespace baseline {
extern const Kernel kernel;
}

static const Kernel& best() {
#if defined(EIGENGRAD_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return avx512::kernel;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kernel;
#endif
    return baseline::kernel;
}

static const Kernel* chosen = &best();

static const Functions<float>* functions(float) { return chosen->single; }
static const Functions<double>* functions(double) { return chosen->full; }

constexpr Workspace scratch{Scratch::reserve, nullptr};

// The narrower vectors where the wider ones would leave lanes empty, or push two groups out of the second-level cache.
template <class T>
static const Functions<T>& width_for(long batch, long n, int threads) {
    constexpr long cache = 512 * 1024;
    const Functions<T>* f = functions(T());
    bool small = batch <= long(threads) * f[0].width, large = 2 * f[0].width * n * n * long(sizeof(T)) > cache;
    return f[f[1].width && (small || large)];
}

// Calls task(first, count) for groups of up to `group` matrices, several to a turn. A turn takes about 10 us or more,
// and there are no more threads than turns: waking one costs as much.
template <class Task>
static bool for_groups(long batch, long group, double microseconds, int threads, Task task) {
    long groups = (batch + group - 1) / group;
    long per_turn = long(std::ceil(10.0 / (microseconds * group)));
    if (per_turn > 1 && groups / per_turn > 8L * threads) per_turn = groups / (8L * threads);
    long turns = (groups + per_turn - 1) / per_turn;
    return Pool::run(turns, threads < turns ? threads : int(turns), [&](long turn) {
        long last = (turn + 1) * per_turn < groups ? (turn + 1) * per_turn : groups;
        for (long g = turn * per_turn; g < last; ++g) {
            long first = g * group;
            task(first, int(batch - first < group ? batch - first : group));
        }
    });
}

// Rough costs of one matrix, in microseconds.
static double cost_of_eigh(double n) { return n <= 4 ? 0.003 * n * n : 0.0004 * n * n * n; }
static double cost_of_products(double n) { return 0.002 * n + 0.0001 * n * n * n; }

template <class T>
static int eigh(const T* matrices, T* values, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    long size = long(n) * n;
    return !for_groups(batch, 2L * f.width, cost_of_eigh(n), threads, [&](long first, int count) {
        f.eigh(matrices + first * size, values + first * n, vectors + first * size, count, n, scratch);
    });
}

// roots: square roots of the eigenvalues (at least floor), or their reciprocals.
template <class T>
static int root(int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    long size = long(n) * n;
    return !for_groups(batch, 2L * f.width, cost_of_eigh(n), threads, [&](long first, int count) {
        T *x = roots + first * n, *v = vectors + first * size;
        f.eigh(matrices + first * size, x, v, count, n, scratch);
        for (long k = 0; k < long(count) * n; ++k) {
            T s = std::sqrt(x[k] < floor ? floor : x[k]);
            x[k] = inverse ? 1 / s : s;
        }
        for (int done = 0; done < count; done += f.width)
            f.recompose(v + done * size, x + done * n, result + (first + done) * size,
                        count - done < f.width ? count - done : f.width, n, scratch);
    });
}

template <class T>
static int pull_back(const PullBack<T>& all, long batch, int n, int threads) {
    const Functions<T>& f = width_for<T>(batch, n, threads);
    long size = long(n) * n, weights = all.kind == inverse_square_root ? n : size;
    return !for_groups(batch, f.width, cost_of_products(n), threads, [&](long first, int count) {
        PullBack<T> job = all;
        job.vectors += first * size, job.cotangent += first * size, job.weights += first * weights;
        job.result += first * size;
        if (job.diagonal) job.diagonal += first * n;
        f.pull_back(job, count, n, scratch);
    });
}

}  // namespace eigengrad

// Every function returns 0, or 1 if memory ran out. Arrays are contiguous; n is at least 1. Eigenvectors lie in rows.
#define EIGENGRAD_INTERFACE(T, suffix)                                                                                 \
    extern "C" __attribute__((visibility("default"))) int eigengrad_eigh_##suffix(                                     \
        const T* matrices, T* values, T* vectors, long batch, int n, int threads) {                                    \
        return eigengrad::eigh(matrices, values, vectors, batch, n, threads);                                          \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_root_##suffix(                                     \
        int inverse, const T* matrices, T floor, T* result, T* roots, T* vectors, long batch, int n, int threads) {    \
        return eigengrad::root(inverse, matrices, floor, result, roots, vectors, batch, n, threads);                   \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_pull_back_##suffix(                                \
        int kind, const T* vectors, const T* cotangent, int transposed, const T* weights, const T* diagonal,           \
        T* result, long batch, int n, int threads) {                                                                   \
        return eigengrad::pull_back(eigengrad::PullBack<T>{eigengrad::Weights(kind), vectors, cotangent,               \
                                                           transposed != 0, weights, diagonal, result},                \
                                    batch, n, threads);                                                                \
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
