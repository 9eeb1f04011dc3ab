// Eigenvalues once more, from the eigenvectors: v^T A v / v^T v.
//
// The QL sweeps leave an error in each eigenvalue that grows with n, to a multiple of LAPACK's. The quotient's own error
// hardly grows, and an error of the vector enters it squared.

#pragma once

#include "simd.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Columns k .. k+C-1 of q against the lower triangle of a; both have rows ld apart.
template <int C, class V>
EIGENGRAD_INLINE void quotients(const V* __restrict a, const V* __restrict q, int n, long ld, V* __restrict d) {
    using T = typename V::scalar;
    V product[C], square[C];
    for (int c = 0; c < C; ++c) product[c] = square[c] = V(T(0));
    for (int i = 0; i < n; ++i) {
        const V *row = a + i * ld, *qi = q + i * ld;
        V sum[C];
        for (int c = 0; c < C; ++c) sum[c] = V(T(0));
        for (int j = 0; j < i; ++j)
            for (int c = 0; c < C; ++c) sum[c] = fma(row[j], q[j * ld + c], sum[c]);
        for (int c = 0; c < C; ++c) {
            product[c] = fma(fma(row[i], qi[c], sum[c] + sum[c]), qi[c], product[c]);
            square[c] = fma(qi[c], qi[c], square[c]);
        }
    }
    for (int c = 0; c < C; ++c) d[c] = product[c] / square[c];
}

template <class V>
void rayleigh_quotients(const V* a, const V* q, int n, long ld, V* d) {
    int k = 0;
    for (; k + 4 <= n; k += 4) quotients<4>(a, q + k, n, ld, d + k);
    for (; k < n; ++k) quotients<1>(a, q + k, n, ld, d + k);
}

}  // namespace eigengrad::EIGENGRAD_ISA
