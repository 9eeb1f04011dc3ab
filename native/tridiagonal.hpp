// A = Q T Q^H with T real and tridiagonal, by Householder reflections, one matrix per lane: LAPACK's sytrd and orgtr, or
// hetrd and ungtr of complex matrices.
//
// The order is that of EISPACK's tred2: row i, from the last to the first, is reflected onto its subdiagonal entry, the
// reflectors stay in the rows they have emptied, and Q grows in place from the leading block. Both phases are fused so
// that each number is loaded and stored once per reflection: the rank-2 update of one reflection is applied while the
// product with the next is taken, and likewise for Q. Blocks of rows share what is loaded of the vectors.
//
// The reflectors are Hermitian, I - u u^H / h, and leave couplings that are complex. Their phases go into the diagonal
// matrix that Q grows from, which costs nothing more (as in EISPACK's htridi).

#pragma once

#include "complex.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Rows per block: as many as the registers hold.
template <class E>
constexpr int block_rows() {
    constexpr int vectors = VectorOf<E>::parts * planes_of<E>;
#if defined(__AVX512F__) || defined(__aarch64__)
    return vectors == 1 ? 4 : (vectors == 2 ? 2 : 1);
#else
    return vectors == 1 ? 2 : 1;
#endif
}

// Rows j .. j+R-1 of the lower triangle: A -= q u'^H + u' q^H for the reflection before, and p += A v for this one.
template <int R, class E>
EIGENGRAD_INLINE void update_rows(E* __restrict a, int ld, int j, const E* __restrict u, const E* __restrict q,
                                  const E* __restrict v, E* __restrict p) {
    E uj[R], qj[R], vj[R], sum[R];
    for (int r = 0; r < R; ++r) uj[r] = conj(u[j + r]), qj[r] = conj(q[j + r]), vj[r] = v[j + r], sum[r] = E(0);
    E* row = a + long(j) * ld;
    for (int k = 0; k < j; ++k) {
        E uk = u[k], qk = q[k], vk = v[k], pk = p[k];
        for (int r = 0; r < R; ++r) {
            E x = fnma(uj[r], qk, fnma(qj[r], uk, row[r * ld + k]));
            row[r * ld + k] = x;
            sum[r] = fma(conj(x), vk, sum[r]);
            pk = fma(x, vj[r], pk);
        }
        p[k] = pk;
    }
    for (int r = 0; r < R; ++r)
        for (int s = 0; s <= r; ++s) {
            E x = fnma(uj[r], q[j + s], fnma(qj[r], u[j + s], row[r * ld + j + s]));
            if (s == r) x = E(real(x));
            row[r * ld + j + s] = x;
            sum[r] = fma(conj(x), vj[s], sum[r]);
            if (s < r) sum[s] = fma(x, vj[r], sum[s]);
        }
    for (int r = 0; r < R; ++r) p[j + r] = sum[r];
}

// Rows k .. k+R-1 of Q's leading block: Q -= w g for this reflection, next += u'^H Q for the one after.
template <int R, class E, class V>
EIGENGRAD_INLINE void reflect_rows(E* __restrict a, int ld, int size, int k, const E* __restrict reflector, V scale,
                                   const E* __restrict following, const E* __restrict g, E* __restrict next) {
    E w[R], u[R];
    for (int r = 0; r < R; ++r) w[r] = scale * reflector[k + r], u[r] = conj(following[k + r]);
    E* row = a + long(k) * ld;
    for (int j = 0; j < size; ++j) {
        E gj = g[j], sum = next[j];
        for (int r = 0; r < R; ++r) {
            E x = fnma(w[r], gj, row[r * ld + j]);
            row[r * ld + j] = x;
            sum = fma(u[r], x, sum);
        }
        next[j] = sum;
    }
}

// Numbers of working memory for one reduction, in entries.
constexpr long tridiagonal_work(int n) { return 5L * n; }

// a (n rows, ld apart), of which entry (i, j <= i) is A_ji, becomes Q (n, n); d (n) and e (n - 1; e[k] couples k and
// k + 1) are T. Entries at most 3 in magnitude: smaller than sqrt(Limits::square) counts as zero.
template <class E, class V = VectorOf<E>>
void tridiagonalise(E* __restrict a, int n, int ld, V* __restrict d, V* __restrict e, E* __restrict work) {
    using T = typename V::scalar;
    constexpr int R = block_rows<E>();
    E *q = work, *p = work + n, *zero = work + 2 * n, *phase = work + 3 * n;
    V* scale = reinterpret_cast<V*>(work + 4 * n);
    for (int k = 0; k < n; ++k) q[k] = zero[k] = E(0);
    phase[n - 1] = E(1);
    const E* u = zero;  // the reflector before, whose update is still to be applied
    for (int i = n - 1; i > 0; --i) {
        E* x = a + long(i) * ld;
        E ui = conj(u[i]), qi = conj(q[i]), unit;
        V squares = V(0);
        for (int k = 0; k <= i; ++k) x[k] = fnma(ui, q[k], fnma(qi, u[k], x[k]));
        for (int k = 0; k < i - 1; ++k) squares = dot(x[k], x[k], squares);
        d[i] = real(x[i]);
        V alpha = polar(x[i - 1], unit);
        auto reflected = squares > V(Limits<T>::square);
        V length2 = fma(alpha, alpha, squares), length = sqrt(length2);
        V half = fma(abs(alpha), length, length2);  // |x + sign(alpha) length|^2 / 2
        V inverse = select(reflected, V(1) / select(reflected, half, V(1)), V(0));
        scale[i] = inverse;
        e[i - 1] = select(reflected, -copysign(length, alpha), alpha);
        x[i - 1] = (alpha + copysign(length, alpha)) * unit;
        phase[i - 1] = normalised(unit * phase[i]);

        int j = 0;
        for (; j < i % R; ++j) update_rows<1>(a, ld, j, u, q, x, p);
        for (; j < i; j += R) update_rows<R>(a, ld, j, u, q, x, p);

        V product = V(0);
        for (int k = 0; k < i; ++k) p[k] = inverse * p[k], product = dot(p[k], x[k], product);
        product = V(T(0.5)) * inverse * product;
        for (int k = 0; k < i; ++k) q[k] = fnma(product, x[k], p[k]);
        u = x;
    }
    d[0] = real(a[0]);

    E *g = q, *next = p;
    a[0] = phase[0];
    if (n == 1) return;
    a[1] = a[ld] = E(0), a[ld + 1] = phase[1];  // row 1 has nothing to reflect
    if (n == 2) return;
    for (int k = 0; k < 2; ++k) g[k] = conj(a[2 * ld + k]) * phase[k];
    for (int i = 2; i < n; ++i) {
        E* reflector = a + long(i) * ld;
        const E* following = i + 1 < n ? reflector + ld : zero;
        for (int k = 0; k < i; ++k) next[k] = E(0);
        int k = 0;
        for (; k < i % R; ++k) reflect_rows<1>(a, ld, i, k, reflector, scale[i], following, g, next);
        for (; k < i; k += R) reflect_rows<R>(a, ld, i, k, reflector, scale[i], following, g, next);
        for (int k = 0; k < i; ++k) reflector[k] = a[long(k) * ld + i] = E(0);
        next[i] = conj(following[i]) * phase[i];
        reflector[i] = phase[i];
        E* other = g;
        g = next, next = other;
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
