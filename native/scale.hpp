// Matrices brought to a scale of 1, and back, by powers of two.

#pragma once

#include "pair.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Powers of two that bring the largest entry of each matrix into [1, 2), and back, so that squares neither overflow nor
// vanish; and the lanes without NaN or infinity.
template <class V>
struct Scale {
    using T = typename V::scalar;
    V largest = V(T(0)), poison = V(T(0)), down, up;
    typename V::mask good;

    EIGENGRAD_INLINE void see(V x) { largest = max(abs(x), largest), poison = fma(x, V(T(0)), poison); }
    EIGENGRAD_INLINE void decide() {
        power_of_two(largest, down, up);
        good = poison == V(T(0));
    }
    EIGENGRAD_INLINE V scaled(V x) const { return select(good, x * down, V(T(0))); }
    EIGENGRAD_INLINE V unscaled(V x) const { return select(good, x * up, V(T(__builtin_nan("")))); }
    // Adding zero turns -0 into 0, which idle rotations may or may not have done before.
    EIGENGRAD_INLINE V vector(V x) const { return select(good, x + V(T(0)), V(T(__builtin_nan("")))); }
};

template <class V>
EIGENGRAD_INLINE void scale_triangle(V* a, int n, long ld, Scale<V>& scale) {
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) scale.see(a[i * ld + j]);
    scale.decide();
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) a[i * ld + j] = scale.scaled(a[i * ld + j]);
}

}  // namespace eigengrad::EIGENGRAD_ISA
