// Eigendecomposition of matrices up to 4 x 4 by cyclic Jacobi rotations, all in registers, one matrix per lane, as
// LAPACK's syevd does not but cuSOLVER's syevj does.
//
// Source: Golub, Van Loan, *Matrix Computations*, 4th edition, section 8.5.

#pragma once

#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Rotates rows p and q so that a[p][q] vanishes; idle where it is negligible.
template <int n, class V>
EIGENGRAD_INLINE void jacobi_rotation(V (&a)[n][n], V (&v)[n][n], int p, int q) {
    using T = typename V::scalar;
    V x = a[q][p], twice = x + x;
    V gap = a[q][q] - a[p][p];
    V root = sqrt(fma(gap, gap, twice * twice));
    V wide = abs(gap) + root;
    auto turning = abs(x) > V(Limits<T>::negligible);
    V length = sqrt(fma(wide, wide, twice * twice));
    length = select(turning, length, V(T(1)));
    V c = select(turning, wide / length, V(T(1)));
    V s = select(turning, copysign(V(T(1)), gap) * twice / length, V(T(0)));
    if constexpr (n == 2) {  // one rotation is all there is, and shows its rounding: one Newton step to c^2 + s^2 = 1
        V excess = fnma(s, s, fnma(c, c, V(T(1)))) * V(T(0.5));
        c = fma(c, excess, c), s = fma(s, excess, s);
    }
    V change = select(turning, twice * x / select(turning, wide, V(T(1))), V(T(0)));
    change = copysign(V(T(1)), gap) * change;  // tan * x: what moves from one diagonal entry to the other
    a[p][p] = a[p][p] - change;
    a[q][q] = a[q][q] + change;
    a[q][p] = V(T(0));
    for (int k = 0; k < n; ++k) {
        if (k == p || k == q) continue;
        V& kp = k > p ? a[k][p] : a[p][k];
        V& kq = k > q ? a[k][q] : a[q][k];
        V up = fnma(s, kq, c * kp), uq = fma(s, kp, c * kq);
        kp = up, kq = uq;
    }
    for (int k = 0; k < n; ++k) {
        V up = fnma(s, v[k][q], c * v[k][p]), uq = fma(s, v[k][p], c * v[k][q]);
        v[k][p] = up, v[k][q] = uq;
    }
}

template <int n, class V>
EIGENGRAD_INLINE void order(V (&d)[n], V (&v)[n][n], int p, int q) {
    auto wrong = d[p] > d[q];
    V low = select(wrong, d[q], d[p]);
    d[q] = select(wrong, d[p], d[q]);
    d[p] = low;
    for (int k = 0; k < n; ++k) {
        V left = select(wrong, v[k][q], v[k][p]);
        v[k][q] = select(wrong, v[k][p], v[k][q]);
        v[k][p] = left;
    }
}

// Ascending eigenvalues d and eigenvectors in the columns of v, from the lower triangle of a, which is lost. Entries at
// most 2 in magnitude.
template <int n, class V>
EIGENGRAD_INLINE void jacobi(V (&a)[n][n], V (&d)[n], V (&v)[n][n]) {
    using T = typename V::scalar;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) v[i][j] = V(T(i == j));
    for (int sweep = 0; sweep < 12; ++sweep) {
        V off = V(T(0));
        for (int q = 1; q < n; ++q)
            for (int p = 0; p < q; ++p) off = max(abs(a[q][p]), off);
        auto pending = off > V(Limits<T>::epsilon / 32);
        if (!any(pending)) break;
        for (int q = 1; q < n; ++q)  // a lane that is done idles: its bits must not depend on its neighbours
            for (int p = 0; p < q; ++p) a[q][p] = select(pending, a[q][p], V(T(0)));
        for (int q = 1; q < n; ++q)
            for (int p = 0; p < q; ++p) jacobi_rotation<n>(a, v, p, q);
    }
    for (int i = 0; i < n; ++i) d[i] = a[i][i];
    for (int last = n - 1; last > 0; --last)
        for (int i = 0; i < last; ++i) order<n>(d, v, i, i + 1);
}

}  // namespace eigengrad::EIGENGRAD_ISA
