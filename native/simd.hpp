// Lanes of a CPU: a vector of W numbers, one for each of W matrices. Included by lane.hpp.
//
// Vec wraps a GCC/Clang vector, so arithmetic is the compiler's and the same source serves SSE2, AVX2, AVX-512 and
// NEON. Only what vector extensions cannot say is spelt out per instruction set: fused multiply-add, square root and
// masks. Contraction is off in the build: a multiply-add is fused where the source says so and nowhere else, hence a
// matrix has the same bits in every lane, in every width, and beside any neighbour.

#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace eigengrad::EIGENGRAD_ISA {

template <class T, int W>
struct Native {
    typedef T type __attribute__((vector_size(W * sizeof(T))));
};

// Which lanes: a mask register, or all bits of a lane or none, which is what vector extensions compare to. (In AVX-512 too
// these would do, but cost up to 1.3 times in matrices of doubles.)
template <class T, int W>
struct Mask {
#if defined(__AVX512VL__)
    unsigned bits;
#else
    typename Native<typename Bits<T>::type, W>::type bits;
#endif

    friend EIGENGRAD_INLINE Mask operator&(Mask a, Mask b) { return {a.bits & b.bits}; }
    friend EIGENGRAD_INLINE Mask operator|(Mask a, Mask b) { return {a.bits | b.bits}; }
    friend EIGENGRAD_INLINE Mask without(Mask a, Mask b) { return {a.bits & ~b.bits}; }
};

template <class T, int W>
struct Vec {
    using scalar = T;
    using integer = typename Bits<T>::type;
    using mask = Mask<T, W>;
    using part = Vec;
    static constexpr int lanes = W, parts = 1;
    using native = typename Native<T, W>::type;
    using native_integer = typename Native<integer, W>::type;

    native v;

    EIGENGRAD_INLINE Vec() = default;
    EIGENGRAD_INLINE Vec(native x) : v(x) {}
    EIGENGRAD_INLINE Vec(T x) : v(x - native{}) {}

    static EIGENGRAD_INLINE Vec load(const T* p) {
        native x;
        __builtin_memcpy(&x, p, sizeof x);
        return x;
    }
    EIGENGRAD_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }

    friend EIGENGRAD_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
    friend EIGENGRAD_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
    friend EIGENGRAD_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
    friend EIGENGRAD_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
    friend EIGENGRAD_INLINE Vec operator-(Vec a) { return -a.v; }
#if !defined(__AVX512VL__)
    friend EIGENGRAD_INLINE mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
    friend EIGENGRAD_INLINE mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
    friend EIGENGRAD_INLINE mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
#endif
};

// a * b + c and c - a * b, rounded once where the instruction set can, and the square root: here what vector extensions
// can say, and below a row for each register that can more.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> fma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return a * b + c; }
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> fnma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return c - a * b; }
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> sqrt(Vec<T, W> a) {
    for (int lane = 0; lane < W; ++lane) a.v[lane] = sizeof(T) == 4 ? __builtin_sqrtf(a.v[lane]) : __builtin_sqrt(a.v[lane]);
    return a;
}

#define EIGENGRAD_FUSED(T, W, multiply_add, multiply_subtract)                                     \
    EIGENGRAD_INLINE Vec<T, W> fma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return multiply_add; } \
    EIGENGRAD_INLINE Vec<T, W> fnma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return multiply_subtract; }
#define EIGENGRAD_ROOT(T, W, root) \
    EIGENGRAD_INLINE Vec<T, W> sqrt(Vec<T, W> a) { return root(a.v); }
#if defined(__FMA__)
#define EIGENGRAD_REGISTER(T, W, prefix, suffix)                                                           \
    EIGENGRAD_FUSED(T, W, prefix##_fmadd_##suffix(a.v, b.v, c.v), prefix##_fnmadd_##suffix(a.v, b.v, c.v)) \
    EIGENGRAD_ROOT(T, W, prefix##_sqrt_##suffix)
#else
#define EIGENGRAD_REGISTER(T, W, prefix, suffix) EIGENGRAD_ROOT(T, W, prefix##_sqrt_##suffix)
#endif
#if defined(__AVX512F__)
EIGENGRAD_REGISTER(float, 16, _mm512, ps)
EIGENGRAD_REGISTER(double, 8, _mm512, pd)
#endif
#if defined(__AVX__)
EIGENGRAD_REGISTER(float, 8, _mm256, ps)
EIGENGRAD_REGISTER(double, 4, _mm256, pd)
#endif
#if defined(__SSE2__)
EIGENGRAD_REGISTER(float, 4, _mm, ps)
EIGENGRAD_REGISTER(double, 2, _mm, pd)
#elif defined(__aarch64__)
EIGENGRAD_FUSED(float, 4, vfmaq_f32(c.v, a.v, b.v), vfmsq_f32(c.v, a.v, b.v))
EIGENGRAD_FUSED(double, 2, vfmaq_f64(c.v, a.v, b.v), vfmsq_f64(c.v, a.v, b.v))
EIGENGRAD_ROOT(float, 4, vsqrtq_f32)
EIGENGRAD_ROOT(double, 2, vsqrtq_f64)
#endif

// The bits of every number as an integer, and back.
template <class T, int W>
EIGENGRAD_INLINE typename Vec<T, W>::native_integer bits_of(Vec<T, W> a) { return (typename Vec<T, W>::native_integer)a.v; }
template <class V>
EIGENGRAD_INLINE V from_bits(typename V::native_integer bits) { return (typename V::native)bits; }

template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> abs(Vec<T, W> a) {
    using I = typename Vec<T, W>::native_integer;
    constexpr auto sign = typename Vec<T, W>::integer(1) << (8 * sizeof(T) - 1);
    return (typename Vec<T, W>::native)((I)a.v & ~sign);
}

// The magnitude of a with the sign of b.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> copysign(Vec<T, W> a, Vec<T, W> b) {
    using I = typename Vec<T, W>::native_integer;
    constexpr auto sign = typename Vec<T, W>::integer(1) << (8 * sizeof(T) - 1);
    return (typename Vec<T, W>::native)(((I)a.v & ~sign) | ((I)b.v & sign));
}

#if defined(__AVX512VL__)

template <int predicate, class T, int W>
EIGENGRAD_INLINE Mask<T, W> compare(Vec<T, W> a, Vec<T, W> b) {
    if constexpr (sizeof(T) == 4) {
        if constexpr (W == 16) return {_mm512_cmp_ps_mask(a.v, b.v, predicate)};
        if constexpr (W == 8) return {_mm256_cmp_ps_mask(a.v, b.v, predicate)};
        if constexpr (W == 4) return {_mm_cmp_ps_mask(a.v, b.v, predicate)};
    } else {
        if constexpr (W == 8) return {_mm512_cmp_pd_mask(a.v, b.v, predicate)};
        if constexpr (W == 4) return {_mm256_cmp_pd_mask(a.v, b.v, predicate)};
        if constexpr (W == 2) return {_mm_cmp_pd_mask(a.v, b.v, predicate)};
    }
}
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator>(Vec<T, W> a, Vec<T, W> b) { return compare<_CMP_GT_OQ>(a, b); }
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator<=(Vec<T, W> a, Vec<T, W> b) { return compare<_CMP_LE_OQ>(a, b); }
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator==(Vec<T, W> a, Vec<T, W> b) { return compare<_CMP_EQ_OQ>(a, b); }

template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> select(Mask<T, W> m, Vec<T, W> a, Vec<T, W> b) {
    if constexpr (sizeof(T) == 4) {
        if constexpr (W == 16) return _mm512_mask_blend_ps(__mmask16(m.bits), b.v, a.v);
        if constexpr (W == 8) return _mm256_mask_blend_ps(__mmask8(m.bits), b.v, a.v);
        if constexpr (W == 4) return _mm_mask_blend_ps(__mmask8(m.bits), b.v, a.v);
    } else {
        if constexpr (W == 8) return _mm512_mask_blend_pd(__mmask8(m.bits), b.v, a.v);
        if constexpr (W == 4) return _mm256_mask_blend_pd(__mmask8(m.bits), b.v, a.v);
        if constexpr (W == 2) return _mm_mask_blend_pd(__mmask8(m.bits), b.v, a.v);
    }
}
template <class T, int W>
EIGENGRAD_INLINE bool any(Mask<T, W> m) { return m.bits != 0; }

#else

template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> select(Mask<T, W> m, Vec<T, W> a, Vec<T, W> b) { return m.bits ? a.v : b.v; }

template <class T, int W>
EIGENGRAD_INLINE bool any(Mask<T, W> m) {
#if defined(__AVX__)
    if constexpr (W * sizeof(T) == 32) return !_mm256_testz_si256((__m256i)m.bits, (__m256i)m.bits);
#endif
#if defined(__SSE2__)
    if constexpr (W * sizeof(T) == 16) return _mm_movemask_epi8((__m128i)m.bits) != 0;
#else
    typename Bits<T>::type sum = 0;
    for (int lane = 0; lane < W; ++lane) sum |= m.bits[lane];
    return sum != 0;
#endif
}

#endif

}  // namespace eigengrad::EIGENGRAD_ISA
