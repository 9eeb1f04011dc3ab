// Complex numbers of vectors, and what lets one source serve real matrices as well: E stands for V or for Complex<V>.

#pragma once

#include "pair.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <class V>
struct Complex {
    using scalar = typename V::scalar;

    V re, im;

    EIGENGRAD_INLINE Complex() = default;
    EIGENGRAD_INLINE Complex(V x, V y) : re(x), im(y) {}
    EIGENGRAD_INLINE explicit Complex(V x) : re(x), im(V(scalar(0))) {}
    EIGENGRAD_INLINE explicit Complex(scalar x) : re(x), im(scalar(0)) {}

    friend EIGENGRAD_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
    friend EIGENGRAD_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
    friend EIGENGRAD_INLINE Complex operator*(V a, Complex b) { return {a * b.re, a * b.im}; }
    friend EIGENGRAD_INLINE Complex operator*(Complex a, Complex b) {
        return {fnma(a.im, b.im, a.re * b.re), fma(a.im, b.re, a.re * b.im)};
    }
    friend EIGENGRAD_INLINE Complex operator/(Complex a, V b) { return {a.re / b, a.im / b}; }
    friend EIGENGRAD_INLINE Complex fma(V a, Complex b, Complex c) { return {fma(a, b.re, c.re), fma(a, b.im, c.im)}; }
    friend EIGENGRAD_INLINE Complex fnma(V a, Complex b, Complex c) {
        return {fnma(a, b.re, c.re), fnma(a, b.im, c.im)};
    }
    friend EIGENGRAD_INLINE Complex fma(Complex a, Complex b, Complex c) {
        return {fnma(a.im, b.im, fma(a.re, b.re, c.re)), fma(a.im, b.re, fma(a.re, b.im, c.im))};
    }
    friend EIGENGRAD_INLINE Complex fnma(Complex a, Complex b, Complex c) {
        return {fma(a.im, b.im, fnma(a.re, b.re, c.re)), fnma(a.im, b.re, fnma(a.re, b.im, c.im))};
    }
    template <class M>
    friend EIGENGRAD_INLINE Complex select(M m, Complex a, Complex b) {
        return {select(m, a.re, b.re), select(m, a.im, b.im)};
    }
};

// How many real numbers an entry is, and of which vectors; and the entry of so many.
template <class E>
struct EntryTraits {
    using vector = E;
    static constexpr int planes = 1;
};
template <class V>
struct EntryTraits<Complex<V>> {
    using vector = V;
    static constexpr int planes = 2;
};
template <class E>
using VectorOf = typename EntryTraits<E>::vector;
template <class E>
constexpr int planes_of = EntryTraits<E>::planes;

template <class V, int planes>
struct EntryOf {
    using type = V;
};
template <class V>
struct EntryOf<V, 2> {
    using type = Complex<V>;
};
template <class V, int planes>
using Entry = typename EntryOf<V, planes>::type;

template <class V>
EIGENGRAD_INLINE V conj(V x) { return x; }
template <class V>
EIGENGRAD_INLINE Complex<V> conj(Complex<V> x) { return {x.re, -x.im}; }

template <class V>
EIGENGRAD_INLINE V real(V x) { return x; }
template <class V>
EIGENGRAD_INLINE V real(Complex<V> x) { return x.re; }

template <class V>
EIGENGRAD_INLINE V& plane(V& x, int) { return x; }
template <class V>
EIGENGRAD_INLINE V& plane(Complex<V>& x, int index) { return index ? x.im : x.re; }

// The real part of conj(a) b + c.
template <class V>
EIGENGRAD_INLINE V dot(V a, V b, V c) { return fma(a, b, c); }
template <class V>
EIGENGRAD_INLINE V dot(Complex<V> a, Complex<V> b, V c) { return fma(a.im, b.im, fma(a.re, b.re, c)); }

// The larger of a number's planes in magnitude.
template <class V>
EIGENGRAD_INLINE V largest_plane(V x) { return abs(x); }
template <class V>
EIGENGRAD_INLINE V largest_plane(Complex<V> x) { return max(abs(x.re), abs(x.im)); }

// A number of modulus 1 without the rounding errors of its modulus.
template <class V>
EIGENGRAD_INLINE V normalised(V x) { return x; }
template <class V>
EIGENGRAD_INLINE Complex<V> normalised(Complex<V> x) {
    using T = typename V::scalar;
    return fma(V(T(-0.5)) * dot(x, x, V(T(-1))), x, x);
}

// x = m unit for a real m: x itself and 1, or of complex numbers the modulus, where its square keeps its digits, else 0.
template <class V>
EIGENGRAD_INLINE V polar(V x, V& unit) {
    unit = V(typename V::scalar(1));
    return x;
}
template <class V>
EIGENGRAD_INLINE V polar(Complex<V> x, Complex<V>& unit) {
    using T = typename V::scalar;
    const V one(T(1)), square = dot(x, x, V(T(0)));
    const auto large = square > V(Limits<T>::square);
    const V modulus = sqrt(select(large, square, one)), inverse = one / modulus;
    unit = select(large, normalised(inverse * x), Complex<V>(one));
    return select(large, modulus, V(T(0)));
}

}  // namespace eigengrad::EIGENGRAD_ISA
