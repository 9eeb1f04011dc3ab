// For the sanitizers: every size class, full and partial groups, several threads, extreme and spoilt input, with the
// arrays allocated to the exact number. Prints nothing and returns 0 if all residuals are small.

#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>

#define EIGENGRAD_DECLARE(T, suffix)                                                                                   \
    extern "C" int eigengrad_eigh_##suffix(const T*, T*, T*, long, int, int);                                          \
    extern "C" int eigengrad_matrix_function_##suffix(int, double, int, int, const T*, T*, T*, T*, long, int, int);    \
    extern "C" int eigengrad_pull_back_##suffix(int, int, double, int, int, const T*, const T*, int, const T*,         \
                                                const T*, T*, long, int, int);                                         \
    extern "C" int eigengrad_refine_##suffix(int, const T*, T*, T*, long, int, int);                                   \
    extern "C" int eigengrad_recompose_##suffix(int, const T*, const T*, T*, long, int, int);                          \
    extern "C" int eigengrad_moments_##suffix(const T*, const long*, int, T*, T*, T*, int);                            \
    extern "C" int eigengrad_affine_##suffix(const T*, const long*, int, const T*, const T*, const T*, T*, int, int);  \
    extern "C" int eigengrad_affine_backward_##suffix(const T*, const long*, int, const T*, const T*, const T*, T*,    \
                                                      T*, T*, int);                                                    \
    static auto eigh(const T* a, T* l, T* v, long batch, int n, int threads) {                                         \
        return eigengrad_eigh_##suffix(a, l, v, batch, n, threads);                                                    \
    }                                                                                                                  \
    static auto matrix_function(int kind, int which, const T* a, T* x, T* l, T* v, long batch, int n, int threads) {   \
        return eigengrad_matrix_function_##suffix(kind, 0.3, which, 1, a, x, l, v, batch, n, threads);                 \
    }                                                                                                                  \
    static auto pull_back(int planes, int kind, const T* v, const T* g, const T* w, const T* d, T* y, long batch,      \
                          int n) {                                                                                     \
        return eigengrad_pull_back_##suffix(planes, kind, -1.7, 5, 4, v, g, kind == 0, w, d, y, batch, n, 2);                \
    }                                                                                                                  \
    static auto refine(int planes, const T* a, T* v, T* l, long batch, int n) {                                        \
        return eigengrad_refine_##suffix(planes, a, v, l, batch, n, 2);                                                \
    }                                                                                                                  \
    static auto recompose(int planes, const T* v, const T* x, T* y, long batch, int n) {                               \
        return eigengrad_recompose_##suffix(planes, v, x, y, batch, n, 2);                                             \
    }                                                                                                                  \
    static auto moments(const T* x, const long* sizes, int d, T* counts, T* means, T* scatters) {                      \
        return eigengrad_moments_##suffix(x, sizes, d, counts, means, scatters, 2);                                    \
    }                                                                                                                  \
    static auto affine(const T* x, const long* sizes, int d, const T* t, const T* c, T* y, int add) {                  \
        return eigengrad_affine_##suffix(x, sizes, d, t, c, c, y, add, 2);                                             \
    }                                                                                                                  \
    static auto affine_backward(const T* x, const long* sizes, int d, const T* g, const T* t, const T* c, T* gx,       \
                                T* gt, T* go) {                                                                        \
        return eigengrad_affine_backward_##suffix(x, sizes, d, g, t, c, gx, gt, go, 2);                                \
    }

EIGENGRAD_DECLARE(float, float32)
EIGENGRAD_DECLARE(double, float64)
extern "C" int eigengrad_choose_instructions(int);
extern "C" long eigengrad_chunks(const long*, long);

template <class T>
static bool check(long batch, int n, int threads, T scale) {
    std::mt19937 generator(n);
    std::normal_distribution<T> normal;
    const long size = long(n) * n;
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto a = array(batch * size), l = array(batch * n), v = array(batch * size), y = array(batch * size);
    for (long b = 0; b < batch; ++b)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) a[b * size + i * n + j] = a[b * size + j * n + i] = scale * normal(generator);
    if (batch > 1) a[size] = std::numeric_limits<T>::quiet_NaN();
    bool good = !eigh(a.get(), l.get(), v.get(), batch, n, threads);
    for (long b = 0; b < batch; ++b)
        for (int k = 0; k < n; ++k)
            for (int i = 0; i < n; ++i) {
                if (b == 1) {
                    good = good && std::isnan(v[b * size + k * n + i]);
                    continue;
                }
                const T *row = a.get() + b * size + i * n, *vector = v.get() + b * size + k * n;
                T residual = -l[b * n + k] * vector[i];
                for (int j = 0; j < n; ++j) residual += row[j] * vector[j];
                good = good && std::fabs(residual) <= 100 * n * std::numeric_limits<T>::epsilon() * scale;
            }
    auto w = array(batch * size);
    for (int kind = 2; kind < 8; ++kind)
        for (int which = 0; which < 3 && kind != 4; ++which)
            good = good && !matrix_function(kind, which, a.get(), y.get(), l.get(), v.get(), batch, n, threads);
    for (int planes = 1; planes < 3; ++planes) {
        auto z = array(batch * size * planes), from = array(batch * size * planes);
        for (int kind = 0; kind < 8; ++kind)
            good = good && !pull_back(planes, kind, from.get(), z.get(), kind > 1 ? l.get() : w.get(),
                                      kind ? nullptr : l.get(), z.get(), batch, n);
        good = good && !recompose(planes, from.get(), l.get(), z.get(), batch, n);
        good = good && !refine(planes, z.get(), from.get(), l.get(), batch, n);
    }
    if (!good) std::printf("wrong: n = %d, batch %ld, %zu bytes\n", n, batch, sizeof(T));
    return good;
}

// Large products of one matrix, which threads share: of the identity.
template <class T>
static bool check_large(int planes, int n) {
    const long size = long(n) * n * planes;
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto a = array(size), v = array(size), y = array(size), l = array(n);
    for (long i = 0; i < n; ++i) a[(i * n + i) * planes] = v[(i * n + i) * planes] = 1;
    bool good = !refine(planes, a.get(), v.get(), l.get(), 1, n);
    good = good && !recompose(planes, v.get(), l.get(), y.get(), 1, n);
    good = good && !pull_back(planes, 1, v.get(), a.get(), a.get(), nullptr, y.get(), 1, n);
    for (long i = 0; i < size; ++i) good = good && v[i] == a[i] && (planes == 2 || y[i] == a[i]);
    if (!good) std::printf("wrong: products, n = %d, %d planes, %zu bytes\n", n, planes, sizeof(T));
    return good;
}

// The passes, by their sums: of the data, of y = 1 (x - 0) and of its cotangent, for T of ones in the first row alone.
template <class T>
static bool check_passes(long images, long groups, int d, long columns) {
    const long size = images * groups * d * columns, image = groups * d * columns;
    const long sizes[5] = {images, groups, columns, image, image};
    const long chunks = eigengrad_chunks(sizes, d * long(sizeof(T)));
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto x = array(size), y = array(size), gx = array(size), t = array(groups * d * d), c = array(groups * d);
    auto counts = array(chunks), means = array(chunks * groups * d), scatters = array(chunks * groups * d * d);
    for (long i = 0; i < size; ++i) x[i] = T(i % 7) - 3;
    for (long g = 0; g < groups; ++g)
        for (int k = 0; k < d; ++k) t[g * d * d + k] = 1;
    bool good = !moments(x.get(), sizes, d, counts.get(), means.get(), scatters.get());
    T observations = 0, sum = 0, expected = 0;
    for (long k = 0; k < chunks; ++k) observations += counts[k];
    for (long k = 0; k < chunks; ++k)
        for (long i = 0; i < groups * d; ++i) sum += counts[k] * means[k * groups * d + i];
    for (long i = 0; i < size; ++i) expected += x[i];
    const T tolerance = 1000 * std::numeric_limits<T>::epsilon() * T(size);
    good = good && observations == T(images * columns) && std::fabs(sum - expected) <= tolerance;
    for (int add = 0; add < 2; ++add) good = good && !affine(x.get(), sizes, d, t.get(), c.get(), y.get(), add);
    T total = 0;
    for (long i = 0; i < size; ++i) total += y[i];
    good = good && std::fabs(total - 2 * expected) <= tolerance;
    good = good && !affine_backward(x.get(), sizes, d, x.get(), t.get(), c.get(), gx.get(), scatters.get(), means.get());
    sum = 0;
    for (long i = 0; i < chunks * groups * d; ++i) sum += means[i];
    good = good && std::fabs(sum - expected) <= tolerance;
    if (!good) std::printf("wrong: passes, %ld x %ld x %d x %ld, %zu bytes\n", images, groups, d, columns, sizeof(T));
    return good;
}

int main() {
    bool good = true;
    for (int level = 0; level < 3; ++level) {
        if (!eigengrad_choose_instructions(level)) continue;
        for (int n : {1, 2, 3, 4, 5, 8, 13, 16, 17, 33, 65})
            for (long batch : {1, 3, 16, 40})
                good = check<float>(batch, n, 3, 1.0f) && check<double>(batch, n, 3, 1.0) &&
                       check<float>(batch, n, 1, 1e30f) && check<double>(batch, n, 1, 1e-200) && good;
        for (int n : {150, 300})
            for (int planes : {1, 2}) good = check_large<float>(planes, n) && check_large<double>(planes, n) && good;
        for (int d : {1, 3, 4, 7, 8, 17, 64, 200})
            for (long columns : {1, 9, 32, 49, 1024, 5000})
                good = check_passes<float>(3, 2, d, columns) && check_passes<double>(2, 3, d, columns) && good;
    }
    return good ? 0 : 1;
}
