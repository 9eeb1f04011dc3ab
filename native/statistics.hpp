// What lies between the passes over a group's data: small arithmetic with d numbers and matrices (d, d).
//
// Before its root is taken, a covariance C is shrunk toward its diagonal by s, and its spectrum gets a floor:
//
//     C' = C + s (diag(C) - C),   A = (1 - r) C' + (r t + eps) I,   t = tr(C) / d;
//
// s is given, or the one of least expected error (eigengrad/conditioning.py).
//
// A team has each(count, what), which shares out what(0) .. what(count - 1), and wait(): a block of a GPU's threads, or a
// thread alone. Sums are in one order, so that both find the same bits.

#pragma once

namespace eigengrad {

struct Alone {
    template <class What>
    static void each(int count, What what) {
        for (int k = 0; k < count; ++k) what(k);
    }
    static void wait() {}
};

template <class T, class Term>
inline T sum_of(int count, Term term) {
    T partial[4] = {T(0), T(0), T(0), T(0)};
    int k = 0;
    for (; k + 4 <= count; k += 4)
        for (int q = 0; q < 4; ++q) partial[q] += term(k + q);
    for (; k < count; ++k) partial[0] += term(k);
    return (partial[0] + partial[1]) + (partial[2] + partial[3]);
}

template <class T>
inline T finite_or_zero(T x) { return x - x == T(0) ? x : T(0); }

template <class T>
struct Conditioning {
    T observations, shrinkage, eps, relative_eps;  // a negative shrinkage is to be found

    Conditioning(long observations, double shrinkage, double eps, double relative_eps)
        : observations(T(observations)), shrinkage(T(shrinkage)), eps(T(eps)), relative_eps(T(relative_eps)),
          rest(T(1 - relative_eps)) {}

    T rest;  // 1 - r
};

// Of a covariance. `spoilt` is 0, or NaN if it is not finite; off and cross, the sums of c_ij^2 and of c_ii c_jj over i != j,
// are in units of the mean variance, so that no fourth power leaves the range.
template <class T>
struct Spread {
    T spoilt, trace, unit, off, cross, share;
    bool found;  // a share that depends on C
};

// Numbers of memory that the team has for what follows.
constexpr int statistics_memory(int d) { return 3 * d; }

template <class Team, class T>
Spread<T> spread_of(const Conditioning<T>& by, const T* C, int d, T* memory) {
    T *const variances = memory, *const sums = memory + d, *const others = sums + d;
    Team::each(d, [&](int i) {
        variances[i] = C[i * d + i];
        sums[i] = sum_of<T>(d, [&](int j) { return C[j * d + i] - C[j * d + i]; });
    });
    Team::wait();
    Spread<T> of;
    of.spoilt = sum_of<T>(d, [&](int i) { return sums[i]; });
    of.trace = sum_of<T>(d, [&](int i) { return variances[i]; });
    const T mean = of.trace / T(d);
    of.unit = mean > T(0) ? mean : T(1);
    of.off = of.cross = T(0), of.share = by.shrinkage, of.found = false;
    if (by.shrinkage >= T(0)) return of;
    Team::wait();
    Team::each(d, [&](int i) {
        sums[i] = sum_of<T>(d, [&](int j) {
            const T x = C[j * d + i] / of.unit;
            return i == j ? T(0) : x * x;
        });
        others[i] = sum_of<T>(d, [&](int j) { return i == j ? T(0) : variances[j] / of.unit; });
    });
    Team::wait();
    of.off = sum_of<T>(d, [&](int i) { return sums[i]; });
    of.cross = sum_of<T>(d, [&](int i) { return variances[i] / of.unit * others[i]; });
    const T wrong = (of.off + of.cross) / (by.observations + T(1));
    of.found = wrong < of.off;
    of.share = of.found ? wrong / of.off : T(1);
    return of;
}

// Of C: what shrinkage makes of it, and A; of one that is not finite, the identity, and NaN for its mean.
template <class Team, class T>
void condition(const Conditioning<T>& by, const T* C, int d, T* mean, T* shrunk, T* conditioned, bool* finite, T* memory) {
    const Spread<T> of = spread_of<Team>(by, C, d, memory);
    const bool is_finite = of.spoilt == T(0);
    const T floor = by.relative_eps * (of.trace / T(d)) + by.eps;
    Team::each(d * d, [&](int k) {
        const bool diagonal = k / d == k % d;
        const T x = diagonal ? C[k] : C[k] - of.share * C[k];
        shrunk[k] = x;
        conditioned[k] = is_finite ? by.rest * x + (diagonal ? floor : T(0)) : T(diagonal);
    });
    Team::each(d, [&](int k) { mean[k] += of.spoilt; });
    Team::each(1, [&](int) { *finite = is_finite; });
}

// (g + g^T) / m for the cotangent g of C, from that of C itself and that of A; either may be null.
template <class Team, class T>
void pull_back_conditioning(const Conditioning<T>& by, const T* C, int d, const T* of_C, const T* of_A, T* result, T* memory) {
    T *const sums = memory + d, *const others = sums + d;
    Spread<T> of = {};
    T of_mean(0), by_off(0), by_own(0);
    if (of_A) {
        of = spread_of<Team>(by, C, d, memory);
        of_mean = by.relative_eps / T(d) * sum_of<T>(d, [&](int i) { return of_A[i * d + i]; });
        if (of.found) {
            Team::wait();
            Team::each(d, [&](int i) {
                sums[i] = sum_of<T>(d, [&](int j) { return i == j ? T(0) : of_A[j * d + i] * (C[j * d + i] / of.unit); });
            });
            Team::wait();
            const T of_share = -by.rest * sum_of<T>(d, [&](int i) { return sums[i]; }) / (by.observations + T(1));
            by_off = T(-2) * of_share * (of.cross / of.off) / of.off, by_own = T(2) * of_share / of.off;
        }
    }
    Team::each(d * d, [&](int k) {
        const int i = k / d, j = k % d;
        T x(0);
        if (of_A && i == j) x = T(2) * (by.rest * of_A[k] + of_mean);
        else if (of_A) x = by.rest * ((T(1) - of.share) * (of_A[k] + of_A[j * d + i]));
        if (of.found) x += T(2) * (i == j ? by_own * others[i] : by_off * (C[k] / of.unit));
        if (of_C) x += of_C[k] + of_C[j * d + i];
        result[k] = x / by.observations;
    });
    Team::wait();
}

// Of y = scale (M (x - centre)) + offset, from the sums of g (x - centre)^T and of g: the cotangents of M, centre and scale.
template <class Team, class T>
void pull_back_affine(const T* product, const T* sum, const T* M, const T* scale, int d, T* g_matrix, T* g_centre, T* g_scale) {
    const auto scaled = [&](int i) { return scale ? scale[i] : T(1); };
    Team::each(d * d, [&](int k) { g_matrix[k] = scaled(k / d) * product[k]; });
    Team::each(d, [&](int k) {
        g_scale[k] = sum_of<T>(d, [&](int j) { return M[k * d + j] * product[k * d + j]; });
        g_centre[k] = -sum_of<T>(d, [&](int i) { return scaled(i) * M[i * d + k] * sum[i]; });
    });
}

// One group's running estimates, moved toward a batch's. Rows of a covariance lie `row` apart.
template <class Team, class T>
void move_estimates(T* running_mean, T* running_covariance, long row, const T* mean, const T* covariance, int d, T momentum) {
    const auto move = [&](T& running, T batch) { running += momentum * (batch - running); };
    if (running_mean) Team::each(d, [&](int k) { move(running_mean[k], mean[k]); });
    if (running_covariance)
        Team::each(d * d, [&](int k) { move(running_covariance[k / d * row + k % d], covariance[k]); });
}

}  // namespace eigengrad
