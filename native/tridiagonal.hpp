// A = Q T Q^T with T tridiagonal, by Householder reflections, one matrix per lane.
//
// The order is that of EISPACK's tred2: row i, from the last to the first, is reflected onto its subdiagonal entry, the
// reflectors stay in the rows they have emptied, and Q grows in place from the leading block. Both phases are fused so
// that each number is loaded and stored once per reflection: the rank-2 update of one reflection is applied while the
// product with the next is taken, and likewise for Q. Blocks of rows share what is loaded of the vectors.

#pragma once

#include "simd.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Rows per block: as many as the registers hold.
template <class V>
constexpr int block_rows() {
#if defined(__AVX512F__) || defined(__aarch64__)
    return V::parts == 1 ? 4 : 2;
#else
    return V::parts == 1 ? 2 : 1;
#endif
}

// Rows j .. j+R-1 of the lower triangle: a -= q u'^T + u' q^T for the reflection before, and p += a v for this one.
template <int R, class V>
EIGENGRAD_INLINE void update_rows(V* __restrict a, int ld, int j, const V* __restrict u, const V* __restrict q,
                                  const V* __restrict v, V* __restrict p) {
    V uj[R], qj[R], vj[R], sum[R];
    for (int r = 0; r < R; ++r) uj[r] = u[j + r], qj[r] = q[j + r], vj[r] = v[j + r], sum[r] = V(0);
    V* row = a + long(j) * ld;
    for (int k = 0; k < j; ++k) {
        V uk = u[k], qk = q[k], vk = v[k], pk = p[k];
        for (int r = 0; r < R; ++r) {
            V x = fnma(uj[r], qk, fnma(qj[r], uk, row[r * ld + k]));
            row[r * ld + k] = x;
            sum[r] = fma(x, vk, sum[r]);
            pk = fma(x, vj[r], pk);
        }
        p[k] = pk;
    }
    for (int r = 0; r < R; ++r)
        for (int s = 0; s <= r; ++s) {
            V x = fnma(uj[r], qj[s], fnma(qj[r], uj[s], row[r * ld + j + s]));
            row[r * ld + j + s] = x;
            sum[r] = fma(x, vj[s], sum[r]);
            if (s < r) sum[s] = fma(x, vj[r], sum[s]);
        }
    for (int r = 0; r < R; ++r) p[j + r] = sum[r];
}

// Rows k .. k+R-1 of Q's leading block: Q -= w g^T for this reflection, next += Q^T u' for the one after.
template <int R, class V>
EIGENGRAD_INLINE void reflect_rows(V* __restrict a, int ld, int size, int k, const V* __restrict reflector, V scale,
                                   const V* __restrict following, const V* __restrict g, V* __restrict next) {
    V w[R], u[R];
    for (int r = 0; r < R; ++r) w[r] = scale * reflector[k + r], u[r] = following[k + r];
    V* row = a + long(k) * ld;
    for (int j = 0; j < size; ++j) {
        V gj = g[j], sum = next[j];
        for (int r = 0; r < R; ++r) {
            V x = fnma(w[r], gj, row[r * ld + j]);
            row[r * ld + j] = x;
            sum = fma(u[r], x, sum);
        }
        next[j] = sum;
    }
}

// The lower triangle of a (n rows, ld apart) becomes Q (n, n); d (n) and e (n - 1; e[k] couples k and k + 1) are T.
// work holds 5 n vectors. Entries at most 2 in magnitude: smaller than sqrt(Limits::square) counts as zero.
template <class V>
void tridiagonalise(V* __restrict a, int n, int ld, V* __restrict d, V* __restrict e, V* __restrict work) {
    using T = typename V::scalar;
    constexpr int R = block_rows<V>();
    V *scale = work, *q = work + n, *p = work + 2 * n, *zero = work + 3 * n;
    for (int k = 0; k < n; ++k) q[k] = zero[k] = V(0);
    const V* u = zero;  // the reflector before, whose update is still to be applied
    for (int i = n - 1; i > 0; --i) {
        V* x = a + long(i) * ld;
        V ui = u[i], qi = q[i], squares = V(0);
        for (int k = 0; k <= i; ++k) x[k] = fnma(ui, q[k], fnma(qi, u[k], x[k]));
        for (int k = 0; k < i - 1; ++k) squares = fma(x[k], x[k], squares);
        d[i] = x[i];
        V alpha = x[i - 1];
        auto reflected = squares > V(Limits<T>::square);
        V length2 = fma(alpha, alpha, squares), length = sqrt(length2);
        V half = fma(abs(alpha), length, length2);  // |x + sign(alpha) length|^2 / 2
        V inverse = select(reflected, V(1) / select(reflected, half, V(1)), V(0));
        scale[i] = inverse;
        e[i - 1] = select(reflected, -copysign(length, alpha), alpha);
        x[i - 1] = alpha + copysign(length, alpha);

        int j = 0;
        for (; j < i % R; ++j) update_rows<1>(a, ld, j, u, q, x, p);
        for (; j < i; j += R) update_rows<R>(a, ld, j, u, q, x, p);

        V product = V(0);
        for (int k = 0; k < i; ++k) p[k] = inverse * p[k], product = fma(p[k], x[k], product);
        product = V(T(0.5)) * inverse * product;
        for (int k = 0; k < i; ++k) q[k] = fnma(product, x[k], p[k]);
        u = x;
    }
    d[0] = a[0];

    V *g = q, *next = p;
    a[0] = V(1);
    if (n == 1) return;
    a[1] = a[ld] = V(0), a[ld + 1] = V(1);  // row 1 has nothing to reflect
    if (n == 2) return;
    g[0] = a[2 * ld], g[1] = a[2 * ld + 1];
    for (int i = 2; i < n; ++i) {
        V* reflector = a + long(i) * ld;
        const V* following = i + 1 < n ? reflector + ld : zero;
        for (int k = 0; k < i; ++k) next[k] = V(0);
        int k = 0;
        for (; k < i % R; ++k) reflect_rows<1>(a, ld, i, k, reflector, scale[i], following, g, next);
        for (; k < i; k += R) reflect_rows<R>(a, ld, i, k, reflector, scale[i], following, g, next);
        for (int k = 0; k < i; ++k) reflector[k] = a[long(k) * ld + i] = V(0);
        next[i] = following[i];
        reflector[i] = V(1);
        V* other = g;
        g = next, next = other;
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
