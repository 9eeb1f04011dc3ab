// What the algorithms ask of a lane: one value of a matrix in every lane, W numbers for W matrices.
//
// Two implementations: vector registers of a CPU (simd.hpp), and one number, W = 1 (scalar.hpp), which is what a thread of
// a GPU has, and a CPU that emulates one. Either offers, beside arithmetic,
//
//     Vec<T, W>   scalar, integer, mask, native_integer, lanes, parts; load, store
//     Mask<T, W>  of comparisons >, <=, ==; with &, |, without, any
//     fma, fnma, sqrt, abs, copysign, select, bits_of, from_bits
//
// and an algorithm that uses nothing else has the same bits on all of them, wherever fma is rounded once.

#pragma once

namespace eigengrad::EIGENGRAD_ISA {

#if defined(__CUDACC__)
#define EIGENGRAD_INLINE __forceinline__
#define EIGENGRAD_NOINLINE  // every pointer into registers would be one into memory
#if defined(EIGENGRAD_IN_MEMORY)
#define EIGENGRAD_OUTLINE __noinline__  // where numbers lie in memory anyway, NVRTC takes a third of the time
#else
#define EIGENGRAD_OUTLINE
#endif
#else
#define EIGENGRAD_OUTLINE
#define EIGENGRAD_INLINE inline __attribute__((always_inline))
#define EIGENGRAD_NOINLINE __attribute__((noinline))
#endif

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using type = int;
    static constexpr int mantissa = 23, bias = 127;
};
template <>
struct Bits<double> {
    using type = long;  // of 64 bits wherever this is built
    static constexpr int mantissa = 52, bias = 1023;
};

EIGENGRAD_INLINE void copy_bytes(void* to, const void* from, unsigned long count) {
#if defined(__CUDACC__)
    memcpy(to, from, count);
#else
    __builtin_memcpy(to, from, count);
#endif
}

}  // namespace eigengrad::EIGENGRAD_ISA

#if defined(EIGENGRAD_SCALAR)
#include "scalar.hpp"
#else
#include "simd.hpp"
#endif

namespace eigengrad::EIGENGRAD_ISA {

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
    I exponent = bits_of(a) >> B::mantissa;
    exponent = exponent < E(1) ? (I{} + E(1)) : exponent;
    exponent = exponent > E(2 * B::bias - 1) ? (I{} + E(2 * B::bias - 1)) : exponent;
    up = from_bits<V>(exponent << B::mantissa);
    down = from_bits<V>((E(2 * B::bias) - exponent) << B::mantissa);
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

// The numbers whose exponent has all bits set.
template <class T>
EIGENGRAD_INLINE T beyond_numbers(typename Bits<T>::type fraction) {
    const typename Bits<T>::type bits = typename Bits<T>::type(2 * Bits<T>::bias + 1) << Bits<T>::mantissa | fraction;
    T result;
    copy_bytes(&result, &bits, sizeof result);
    return result;
}
template <class T>
EIGENGRAD_INLINE T infinity() { return beyond_numbers<T>(0); }
template <class T>
EIGENGRAD_INLINE T not_a_number() { return beyond_numbers<T>(typename Bits<T>::type(1) << (Bits<T>::mantissa - 1)); }

}  // namespace eigengrad::EIGENGRAD_ISA
