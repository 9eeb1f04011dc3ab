// Eigenvectors and eigenvalues without their errors of first order. With R = I - V^H V and S = V^H A V,
//
//     l_i = s_ii / (1 - r_ii),    V <- V (I + R/2 + K),    k_ij = f_ij / (l_j - l_i),    F = S + (l_i + l_j)/2 R:
//
// V comes to be orthonormal, and turns by K to where V^H A V is diagonal. Eigenvectors whose eigenvalues are too close
// for that turn by a rotation each, where F is no mere rounding error.
//
// Source: Ogita and Aishima, "Iterative refinement for symmetric eigenvalue decomposition", 2018, and its second part,
// "clustered eigenvalues", 2019; the rotations are Jacobi's (Golub, Van Loan, section 8.5).

#pragma once

#include "dense.hpp"
#include "kernel.hpp"
#include "long.hpp"
#include "refine.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Rows i and j of x: x_i <- c x_i - s e x_j,  x_j <- s x_i + c e x_j.
template <class V, int P, class T = typename V::scalar>
EIGENGRAD_INLINE void rotate_rows(Dense<V, P> x, int i, int j, T c, T s, const T (&e)[2]) {
    for (int k = 0; k < x.plane[0].n; k += V::lanes) {
        V a[P], b[P], turned[P];
        for (int q = 0; q < P; ++q) a[q] = x.plane[q].at(i, k), b[q] = x.plane[q].at(j, k);
        turned[0] = V(e[0]) * b[0];
        if constexpr (P == 2) {
            turned[0] = fnma(V(e[1]), b[1], turned[0]);
            turned[1] = fma(V(e[1]), b[0], V(e[0]) * b[1]);
        }
        for (int q = 0; q < P; ++q) {
            x.plane[q].set(i, k, fnma(V(s), turned[q], V(c) * a[q]));
            x.plane[q].set(j, k, fma(V(s), a[q], V(c) * turned[q]));
        }
    }
}

// Rows and columns i and j of diag(values) + f, of no diagonal, such that its entry between them vanishes; V^H with it.
template <class V, int P, class T = typename V::scalar>
void rotate_pair(Dense<V, P> f, Dense<V, P> vh, T* values, int i, int j, T size) {
    const T e[2] = {f.plane[0].row(i)[j] / size, P == 2 ? f.plane[P - 1].row(i)[j] / size : T(0)};
    const T half = (values[j] - values[i]) / (2 * size), wide = __builtin_hypot(half, T(1));
    const T t = half < 0 ? 1 / (half - wide) : 1 / (half + wide), c = 1 / __builtin_hypot(t, T(1));
    values[i] -= t * size, values[j] += t * size;
    rotate_rows(f, i, j, c, c * t, e);
    rotate_rows(vh, i, j, c, c * t, e);
    for (int q = 0; q < P; ++q) {
        T *fi = f.plane[q].row(i), *fj = f.plane[q].row(j);
        fi[i] = fi[j] = fj[i] = fj[j] = 0;
        for (int k = 0; k < f.plane[q].n; ++k) {
            f.plane[q].row(k)[i] = q ? -fi[k] : fi[k];
            f.plane[q].row(k)[j] = q ? -fj[k] : fj[k];
        }
    }
}

// One refinement at work: V, V^H, A that becomes S and F, I - R that becomes the change of V^H, a product, and vectors.
template <class V, int P, class T = typename V::scalar>
struct Refinement {
    Dense<V, P> v, vh, f, change, product;
    T *values, *left;

    Refinement(T* next, int n) {
        Dense<V, P>* const matrices[] = {&v, &vh, &f, &change, &product};
        T** const vectors[] = {&values, &left};
        for (Dense<V, P>* x : matrices) *x = Dense<V, P>::take(next, n);
        for (T** x : vectors) *x = next, next += Plane<V>::pad(n);
    }

    // To the first order. F keeps what K leaves of it; returns the largest number in that.
    T step(const T* matrix, Workspace memory) const {
        const int n = f.plane[0].n, padded = f.plane[0].padded;
        f.load(matrix);
        f.mirror();
        product.set_product(f, v, false, memory);
        f.set_product(vh, product, true, memory);
        f.mirror();
        change.set_product(vh, v, true, memory);
        change.mirror();
        for (int i = 0; i < padded; ++i) {
            T &s = f.plane[0].row(i)[i], &square = change.plane[0].row(i)[i];
            values[i] = i < n ? s / square : 0;
            square -= 1;
            s = values[i] * square;  // so that F has no diagonal
            left[i] = 0;
        }
        f.plane[0].each(false, [&](int i, int j) { turn(i, j); });
        product.set_product(change, vh, false, memory);
        for (int q = 0; q < P; ++q)
            vh.plane[q].each(false, [&](int i, int j) {
                vh.plane[q].set(i, j, vh.plane[q].at(i, j) + product.plane[q].at(i, j));
            });
        T most = 0;
        for (int i = 0; i < n; ++i) most = left[i] > most ? left[i] : most;
        return most;
    }

    // To K^H + R/2 and what K leaves of F, in row i from column j on.
    EIGENGRAD_INLINE void turn(int i, int j) const {
        const V x(values[i]), y = V::load(values + j), mean = V(T(0.5)) * (x + y), gap = x - y;
        V f_ij[P], size(T(0));
        for (int q = 0; q < P; ++q) {
            f_ij[q] = fnma(mean, change.plane[q].at(i, j), f.plane[q].at(i, j));
            size = max(abs(f_ij[q]), size);
        }
        const auto apart = V(widest_angle<T>) * abs(gap) > size;
        for (int q = 0; q < P; ++q) {
            const V k = select(apart, f_ij[q] / gap, V(T(0)));
            change.plane[q].set(i, j, fnma(V(T(0.5)), change.plane[q].at(i, j), k));
            f.plane[q].set(i, j, select(apart, V(T(0)), f_ij[q]));
        }
        max(select(apart, V(T(0)), size), V::load(left + j)).store(left + j);
    }

    T tolerance() const {
        T largest = 0;
        for (int i = 0; i < f.plane[0].n; ++i) {
            const T size = values[i] < 0 ? -values[i] : values[i];
            largest = size > largest ? size : largest;
        }
        return negligible_entry<T> * largest;
    }

    // Sweeps over what F keeps, which is next to nothing beside the gaps of other clusters: two or three suffice. Returns
    // the number of rotations.
    long rotate_clusters(T smallest) const {
        long rotations = 0, before = -1;
        for (int sweep = 0; rotations > before && sweep < 6; ++sweep) {
            before = rotations;
            for (int j = 1; j < f.plane[0].n; ++j)
                for (int i = 0; i < j; ++i) {
                    const T size = __builtin_hypot(f.plane[0].row(i)[j], P == 2 ? f.plane[P - 1].row(i)[j] : T(0));
                    if (!(size > smallest)) continue;
                    rotate_pair(f, vh, values, i, j, size);
                    ++rotations;
                }
        }
        return rotations;
    }
};

// V in rows, in place; of A the lower triangle.
template <class V, int P, class T = typename V::scalar>
void refine_long(const T* matrix, T* rows, T* values, int n, Workspace memory) {
    const Refinement<V, P> at(reserve_long<V, P>(5, n, memory, 2), n);
    load_eigenvectors(rows, at.v, at.vh);
    const T left = at.step(matrix, memory), smallest = at.tolerance();
    // Hardly ever, or a few: clusters, but neither ties nor eigenvalues at random.
    if (left > smallest && at.rotate_clusters(smallest) > n / 2) {
        at.vh.template transpose_into<true>(at.v);
        at.step(matrix, memory);
    }
    at.vh.store(rows, true);
    __builtin_memcpy(values, at.values, n * sizeof(T));
}

}  // namespace eigengrad::EIGENGRAD_ISA
