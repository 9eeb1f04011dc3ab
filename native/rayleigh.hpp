// Eigenvalues once more, from the eigenvectors: v^H A v / v^H v.
//
// The QL sweeps leave an error in each eigenvalue that grows with n, to a multiple of LAPACK's. The quotient's own error
// hardly grows, and an error of the vector enters it squared.

#pragma once

#include "complex.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Columns k .. k+C-1 of q; entry (i, j <= i) of a is A_ji. Both have rows ld apart.
template <int C, class E, class V>
EIGENGRAD_INLINE void quotients(const E* __restrict a, const E* __restrict q, int n, long ld, V* __restrict d) {
    using T = typename V::scalar;
    V product[C], square[C];
    for (int c = 0; c < C; ++c) product[c] = square[c] = V(T(0));
    for (int i = 0; i < n; ++i) {
        const E *row = a + i * ld, *qi = q + i * ld;
        E sum[C];
        for (int c = 0; c < C; ++c) sum[c] = E(T(0));
        for (int j = 0; j < i; ++j)
            for (int c = 0; c < C; ++c) sum[c] = fma(conj(row[j]), q[j * ld + c], sum[c]);
        for (int c = 0; c < C; ++c) {
            product[c] = dot(fma(real(row[i]), qi[c], sum[c] + sum[c]), qi[c], product[c]);
            square[c] = dot(qi[c], qi[c], square[c]);
        }
    }
    for (int c = 0; c < C; ++c) d[c] = product[c] / square[c];
}

template <class E, class V>
void rayleigh_quotients(const E* a, const E* q, int n, long ld, V* d) {
    int k = 0;
    for (; k + 4 <= n; k += 4) quotients<4>(a, q + k, n, ld, d + k);
    for (; k < n; ++k) quotients<1>(a, q + k, n, ld, d + k);
}

}  // namespace eigengrad::EIGENGRAD_ISA
