// Matrices brought to a scale of 1, and back, by powers of two.

#pragma once

#include "complex.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Powers of two that bring the largest entry of each matrix into [1, 2), and back, so that squares neither overflow nor
// vanish; and the lanes without NaN or infinity.
template <class V>
struct Scale {
    using T = typename V::scalar;
    V largest = V(T(0)), nonfinite = V(T(0)), down, up;
    typename V::mask finite;

    EIGENGRAD_INLINE void update(V x) { largest = max(abs(x), largest), nonfinite = fma(x, V(T(0)), nonfinite); }
    EIGENGRAD_INLINE void update(Complex<V> x) { update(x.re), update(x.im); }
    EIGENGRAD_INLINE void decide() {
        power_of_two(largest, down, up);
        finite = nonfinite == V(T(0));
    }
    EIGENGRAD_INLINE V scaled(V x) const { return select(finite, x * down, V(T(0))); }
    EIGENGRAD_INLINE Complex<V> scaled(Complex<V> x) const { return {scaled(x.re), scaled(x.im)}; }
    EIGENGRAD_INLINE V unscaled(V x) const { return select(finite, x * up, V(not_a_number<T>())); }
    // Adding zero turns -0 into 0, which idle rotations may or may not have done before.
    EIGENGRAD_INLINE V vector(V x) const { return select(finite, x + V(T(0)), V(not_a_number<T>())); }
    EIGENGRAD_INLINE Complex<V> vector(Complex<V> x) const { return {vector(x.re), vector(x.im)}; }
};

// The lower triangle of A as it is read, so that entry (i, j) is A_ij, to that of A^T: a row of it is what a reflector is
// made of, a column of A. Of the diagonal the real part counts.
template <class E, class V>
EIGENGRAD_INLINE void scale_triangle(E* a, int n, long ld, Scale<V>& scale) {
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < i; ++j) scale.update(a[i * ld + j]);
        scale.update(real(a[i * ld + i]));
    }
    scale.decide();
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < i; ++j) a[i * ld + j] = scale.scaled(conj(a[i * ld + j]));
        a[i * ld + i] = E(scale.scaled(real(a[i * ld + i])));
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
