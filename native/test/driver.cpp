// For the sanitizers: every size class, full and partial groups, several threads, extreme and spoilt input, with the
// arrays allocated to the exact number. Prints nothing and returns 0 if all residuals are small.

#include <cmath>
#include <complex>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>

#include "../batch.hpp"
#include "../passes.cpp"  // whose parts are its own
#include "../select.hpp"

using namespace eigengrad;

template <class T>
static std::complex<T> number_at(const T* from, int planes) { return {from[0], planes == 2 ? from[1] : T(0)}; }

template <class T>
static bool derivative(int planes, int kind, const T* v, const T* g, const T* w, const T* d, T* y, long batch, int n) {
    const PullBackArguments<T> arguments{Weights(kind), v, g, kind == 0, w, {5, 4}, d, y, 0.3};
    return pull_back(planes == 2, arguments, batch, n, 2);
}

template <class T>
static bool check(int planes, long batch, int n, int threads, T scale) {
    std::mt19937 generator(n);
    std::normal_distribution<T> normal;
    const long size = long(n) * n * planes;
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto a = array(batch * size), l = array(batch * n), v = array(batch * size), y = array(batch * size);
    for (long b = 0; b < batch; ++b)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j)
                for (int q = 0; q < (i == j ? 1 : planes); ++q) {
                    T *matrix = a.get() + b * size + q, x = scale * normal(generator);
                    matrix[(i * n + j) * planes] = x, matrix[(j * n + i) * planes] = q ? -x : x;
                }
    if (batch > 1) a[size] = std::numeric_limits<T>::quiet_NaN();
    bool right = eigh(planes == 2, a.get(), l.get(), v.get(), batch, n, threads);
    for (long b = 0; b < batch; ++b)
        for (int k = 0; k < n; ++k)
            for (int i = 0; i < n; ++i) {
                const T *row = a.get() + b * size + i * n * planes, *vector = v.get() + b * size + k * n * planes;
                if (b == 1) {
                    right = right && std::isnan(vector[i * planes]) && std::isnan(vector[(i + 1) * planes - 1]);
                    continue;
                }
                std::complex<T> residual = -l[b * n + k] * number_at(vector + i * planes, planes);
                for (int j = 0; j < n; ++j) residual += number_at(row + j * planes, planes) * number_at(vector + j * planes, planes);
                right = right && std::abs(residual) <= 100 * n * std::numeric_limits<T>::epsilon() * scale;
            }
    for (int kind = 2; kind < 8; ++kind)
        for (int how = 0; how < 4 && kind != by_rule; ++how) {
            if (how == 2 && sizeof(T) == 8) continue;
            const Scalar f{Weights(kind), 0.3};
            const FunctionArguments<T> arguments{f, Precision(how % 3), planes == 2, how == 3, a.get(), y.get(), l.get(), v.get()};
            right = right && matrix_function(arguments, batch, n, threads);
        }
    auto w = array(batch * n * n), z = array(batch * size), from = array(batch * size);
    for (int kind = 0; kind < 9; ++kind)
        right = right && derivative(planes, kind, from.get(), z.get(), kind > 1 ? l.get() : w.get(),
                                    kind && kind != projector ? nullptr : l.get(), z.get(), batch, n);
    right = right && recompose(planes == 2, from.get(), l.get(), z.get(), batch, n, 2);
    right = right && refine(planes == 2, z.get(), from.get(), l.get(), batch, n, 2);
    if (!right) std::printf("wrong: n = %d, %d planes, batch %ld, %zu bytes\n", n, planes, batch, sizeof(T));
    return right;
}

// Large products of one matrix, which threads share: of the identity.
template <class T>
static bool check_large(int planes, int n) {
    const long size = long(n) * n * planes;
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto a = array(size), v = array(size), y = array(size), l = array(n);
    for (long i = 0; i < n; ++i) a[(i * n + i) * planes] = v[(i * n + i) * planes] = 1;
    bool right = refine(planes == 2, a.get(), v.get(), l.get(), 1, n, 2);
    right = right && recompose(planes == 2, v.get(), l.get(), y.get(), 1, n, 2);
    right = right && derivative<T>(planes, 1, v.get(), a.get(), a.get(), nullptr, y.get(), 1, n);
    for (long i = 0; i < size; ++i) right = right && v[i] == a[i] && (planes == 2 || y[i] == a[i]);
    if (!right) std::printf("wrong: products, n = %d, %d planes, %zu bytes\n", n, planes, sizeof(T));
    return right;
}

// The passes, by their sums: of the data, of y = 1 (x - 0) and of its cotangent, for T of ones in the first row alone.
template <class T>
static bool check_passes(long images, long groups, int d, long columns) {
    const long size = images * groups * d * columns, image = groups * d * columns;
    const Data all{images, groups, columns, image, image};
    const long chunks = all.chunks(d * long(sizeof(T)));
    auto array = [](long count) { return std::make_unique<T[]>(count); };
    auto x = array(size), y = array(size), gx = array(size), t = array(groups * d * d), c = array(groups * d);
    auto counts = array(chunks), means = array(chunks * groups * d), scatters = array(chunks * groups * d * d);
    for (long i = 0; i < size; ++i) x[i] = T(i % 7) - 3;
    for (long g = 0; g < groups; ++g)
        for (int k = 0; k < d; ++k) t[g * d * d + k] = 1;
    bool right = moments(x.get(), all, d, counts.get(), means.get(), scatters.get(), 2);
    T observations = 0, sum = 0, expected = 0;
    for (long k = 0; k < chunks; ++k) observations += counts[k];
    for (long k = 0; k < chunks; ++k)
        for (long i = 0; i < groups * d; ++i) sum += counts[k] * means[k * groups * d + i];
    for (long i = 0; i < size; ++i) expected += x[i];
    const T tolerance = 1000 * std::numeric_limits<T>::epsilon() * T(size);
    right = right && observations == T(images * columns) && std::fabs(sum - expected) <= tolerance;
    for (int add = 0; add < 2; ++add) right = right && affine(x.get(), all, d, t.get(), c.get(), c.get(), y.get(), add, 2);
    T total = 0;
    for (long i = 0; i < size; ++i) total += y[i];
    right = right && std::fabs(total - 2 * expected) <= tolerance;
    right = right && affine_backward(x.get(), all, d, x.get(), t.get(), c.get(), gx.get(), scatters.get(),
                                     means.get(), 2);
    sum = 0;
    for (long i = 0; i < chunks * groups * d; ++i) sum += means[i];
    right = right && std::fabs(sum - expected) <= tolerance;
    if (!right) std::printf("wrong: passes, %ld x %ld x %d x %ld, %zu bytes\n", images, groups, d, columns, sizeof(T));
    return right;
}

int main() {
    bool right = true;
    for (const char* instructions : {"baseline", "avx2", "avx512"}) {
        if (!choose(instructions)) continue;
        for (int n : {1, 2, 3, 4, 5, 8, 13, 16, 17, 33, 65})
            for (long batch : {1, 3, 16, 40})
                for (int planes : {1, 2}) {
                    if (n > 32 && batch > 3) continue;  // large ones are taken one by one
                    right = check<float>(planes, batch, n, 3, 1.0f) && check<double>(planes, batch, n, 3, 1.0) &&
                            check<float>(planes, batch, n, 1, 1e30f) && check<double>(planes, batch, n, 1, 1e-200) && right;
                }
        for (int n : {150, 300})
            for (int planes : {1, 2}) right = check_large<float>(planes, n) && check_large<double>(planes, n) && right;
        for (int d : {1, 3, 4, 7, 8, 17, 64, 200})
            for (long columns : {1, 9, 32, 49, 1024, 5000})
                right = check_passes<float>(3, 2, d, columns) && check_passes<double>(2, 3, d, columns) && right;
    }
    return right ? 0 : 1;
}
