// One value of a matrix in every lane: a vector of W numbers, one for each of W matrices.
//
// Vec wraps a GCC/Clang vector, so arithmetic is the compiler's and the same source serves SSE2, AVX2, AVX-512 and
// NEON. Only what vector extensions cannot say is spelt out per instruction set: fused multiply-add, square root and
// masks. Contraction is off in the build: a multiply-add is fused where the source says so and nowhere else, hence a
// matrix has the same bits in every lane, in every width, and beside any neighbour.

#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace eigengrad::EIGENGRAD_ISA {

#define EIGENGRAD_INLINE inline __attribute__((always_inline))

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using type = int32_t;
    static constexpr int mantissa = 23, bias = 127;
};
template <>
struct Bits<double> {
    using type = int64_t;
    static constexpr int mantissa = 52, bias = 1023;
};

template <class T, int W>
struct Native {
    typedef T type __attribute__((vector_size(W * sizeof(T))));
};

template <class T, int W>
struct Mask {
    using native = typename Native<typename Bits<T>::type, W>::type;
#if defined(__AVX512VL__)
    unsigned bits;  // a mask register
#else
    native bits;
#endif
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
};

// a * b + c, rounded once where the instruction set can.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> fma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) {
#if defined(__FMA__)
    if constexpr (sizeof(T) == 4) {
#if defined(__AVX512F__)
        if constexpr (W == 16) return _mm512_fmadd_ps(a.v, b.v, c.v);
#endif
        if constexpr (W == 8) return _mm256_fmadd_ps(a.v, b.v, c.v);
        if constexpr (W == 4) return _mm_fmadd_ps(a.v, b.v, c.v);
    } else {
#if defined(__AVX512F__)
        if constexpr (W == 8) return _mm512_fmadd_pd(a.v, b.v, c.v);
#endif
        if constexpr (W == 4) return _mm256_fmadd_pd(a.v, b.v, c.v);
        if constexpr (W == 2) return _mm_fmadd_pd(a.v, b.v, c.v);
    }
#elif defined(__aarch64__)
    if constexpr (sizeof(T) == 4) return vfmaq_f32(c.v, a.v, b.v);
    else return vfmaq_f64(c.v, a.v, b.v);
#else
    return a.v * b.v + c.v;
#endif
}

// c - a * b, likewise.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> fnma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) {
#if defined(__FMA__)
    if constexpr (sizeof(T) == 4) {
#if defined(__AVX512F__)
        if constexpr (W == 16) return _mm512_fnmadd_ps(a.v, b.v, c.v);
#endif
        if constexpr (W == 8) return _mm256_fnmadd_ps(a.v, b.v, c.v);
        if constexpr (W == 4) return _mm_fnmadd_ps(a.v, b.v, c.v);
    } else {
#if defined(__AVX512F__)
        if constexpr (W == 8) return _mm512_fnmadd_pd(a.v, b.v, c.v);
#endif
        if constexpr (W == 4) return _mm256_fnmadd_pd(a.v, b.v, c.v);
        if constexpr (W == 2) return _mm_fnmadd_pd(a.v, b.v, c.v);
    }
#elif defined(__aarch64__)
    if constexpr (sizeof(T) == 4) return vfmsq_f32(c.v, a.v, b.v);
    else return vfmsq_f64(c.v, a.v, b.v);
#else
    return c.v - a.v * b.v;
#endif
}

template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> sqrt(Vec<T, W> a) {
#if defined(__SSE2__)
    if constexpr (sizeof(T) == 4) {
#if defined(__AVX512F__)
        if constexpr (W == 16) return _mm512_sqrt_ps(a.v);
#endif
#if defined(__AVX__)
        if constexpr (W == 8) return _mm256_sqrt_ps(a.v);
#endif
        if constexpr (W == 4) return _mm_sqrt_ps(a.v);
    } else {
#if defined(__AVX512F__)
        if constexpr (W == 8) return _mm512_sqrt_pd(a.v);
#endif
#if defined(__AVX__)
        if constexpr (W == 4) return _mm256_sqrt_pd(a.v);
#endif
        if constexpr (W == 2) return _mm_sqrt_pd(a.v);
    }
#elif defined(__aarch64__)
    if constexpr (sizeof(T) == 4) return vsqrtq_f32(a.v);
    else return vsqrtq_f64(a.v);
#else
    for (int lane = 0; lane < W; ++lane) a.v[lane] = sizeof(T) == 4 ? __builtin_sqrtf(a.v[lane]) : __builtin_sqrt(a.v[lane]);
    return a;
#endif
}

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
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> without(Mask<T, W> a, Mask<T, W> b) { return {a.bits & ~b.bits}; }

#else

template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator>(Vec<T, W> a, Vec<T, W> b) { return {a.v > b.v}; }
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator<=(Vec<T, W> a, Vec<T, W> b) { return {a.v <= b.v}; }
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator==(Vec<T, W> a, Vec<T, W> b) { return {a.v == b.v}; }

template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> select(Mask<T, W> m, Vec<T, W> a, Vec<T, W> b) {
#if defined(__AVX__)
    if constexpr (W * sizeof(T) == 32) {
        if constexpr (sizeof(T) == 4) return _mm256_blendv_ps(b.v, a.v, (__m256)m.bits);
        else return _mm256_blendv_pd(b.v, a.v, (__m256d)m.bits);
    }
#endif
    using I = typename Vec<T, W>::native_integer;
    return (typename Vec<T, W>::native)(((I)a.v & (I)m.bits) | ((I)b.v & ~(I)m.bits));
}
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
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> without(Mask<T, W> a, Mask<T, W> b) { return {a.bits & ~b.bits}; }

#endif

template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator&(Mask<T, W> a, Mask<T, W> b) { return {a.bits & b.bits}; }
template <class T, int W>
EIGENGRAD_INLINE Mask<T, W> operator|(Mask<T, W> a, Mask<T, W> b) { return {a.bits | b.bits}; }

// The larger; b where a is NaN.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W> max(Vec<T, W> a, Vec<T, W> b) { return select(a > b, a, b); }

// 2^-k and 2^k for the k with 2^k <= a < 2^(k+1), kept within the normal numbers at both ends.
template <class T, int W>
EIGENGRAD_INLINE void power_of_two(Vec<T, W> a, Vec<T, W>& down, Vec<T, W>& up) {
    using V = Vec<T, W>;
    using I = typename V::native_integer;
    using B = Bits<T>;
    using E = typename V::integer;
    I exponent = (I)a.v >> B::mantissa;
    exponent = exponent < E(1) ? (I{} + E(1)) : exponent;
    exponent = exponent > E(2 * B::bias - 1) ? (I{} + E(2 * B::bias - 1)) : exponent;
    up = (typename V::native)(exponent << B::mantissa);
    down = (typename V::native)((E(2 * B::bias) - exponent) << B::mantissa);
}

// What an algorithm takes for zero in matrices scaled to a largest entry in [1, 2).
template <class T>
struct Limits;
template <>
struct Limits<float> {
    static constexpr float epsilon = 0x1p-23f;      // spacing of numbers at 1
    static constexpr float negligible = 0x1p-46f;   // eps^2: an entry that can be dropped without trace
    static constexpr float square = 0x1p-100f;      // a sum of squares below has lost digits to underflow
    static constexpr float smallest = 0x1p-126f;    // normal number
};
template <>
struct Limits<double> {
    static constexpr double epsilon = 0x1p-52;
    static constexpr double negligible = 0x1p-104;
    static constexpr double square = 0x1p-900;
    static constexpr double smallest = 0x1p-1022;
};

}  // namespace eigengrad::EIGENGRAD_ISA
