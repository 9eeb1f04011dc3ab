// The lane of a GPU's thread: one number, of the matrix that is the thread's. Included by lane.hpp.
//
// Every operation is rounded as IEEE 754 has it, so that a CPU, which compiles this too, finds the bits that a GPU does.

#pragma once

namespace eigengrad::EIGENGRAD_ISA {

template <class T, int W>
struct Mask {
    bool bits;

    friend EIGENGRAD_INLINE Mask operator&(Mask a, Mask b) { return {a.bits && b.bits}; }
    friend EIGENGRAD_INLINE Mask operator|(Mask a, Mask b) { return {a.bits || b.bits}; }
    friend EIGENGRAD_INLINE Mask without(Mask a, Mask b) { return {a.bits && !b.bits}; }
};

template <class T, int W>
struct Vec {
    static_assert(W == 1, "a thread has one matrix");
    using scalar = T;
    using integer = typename Bits<T>::type;
    using mask = Mask<T, 1>;
    using part = Vec;
    static constexpr int lanes = 1, parts = 1;
    using native = T;
    using native_integer = integer;

    T v;

    Vec() = default;
    EIGENGRAD_INLINE Vec(T x) : v(x) {}

    static EIGENGRAD_INLINE Vec load(const T* p) { return *p; }
    EIGENGRAD_INLINE void store(T* p) const { *p = v; }

    friend EIGENGRAD_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
    friend EIGENGRAD_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
    friend EIGENGRAD_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
    friend EIGENGRAD_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
    friend EIGENGRAD_INLINE Vec operator-(Vec a) { return -a.v; }
    friend EIGENGRAD_INLINE mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
    friend EIGENGRAD_INLINE mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
    friend EIGENGRAD_INLINE mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
};

template <class T>
EIGENGRAD_INLINE Vec<T, 1> select(Mask<T, 1> m, Vec<T, 1> a, Vec<T, 1> b) { return m.bits ? a : b; }
template <class T>
EIGENGRAD_INLINE bool any(Mask<T, 1> m) { return m.bits; }

template <class T>
EIGENGRAD_INLINE typename Bits<T>::type bits_of(Vec<T, 1> a) {
    typename Bits<T>::type bits;
    copy_bytes(&bits, &a.v, sizeof bits);
    return bits;
}
template <class V>
EIGENGRAD_INLINE V from_bits(typename V::integer bits) {
    V a;
    copy_bytes(&a.v, &bits, sizeof bits);
    return a;
}

#define EIGENGRAD_ROUNDED(T, multiply_add, root)                                                   \
    EIGENGRAD_INLINE Vec<T, 1> fma(Vec<T, 1> a, Vec<T, 1> b, Vec<T, 1> c) { return multiply_add; } \
    EIGENGRAD_INLINE Vec<T, 1> sqrt(Vec<T, 1> a) { return root(a.v); }
#if defined(__CUDACC__)
EIGENGRAD_ROUNDED(float, __fmaf_rn(a.v, b.v, c.v), __fsqrt_rn)
EIGENGRAD_ROUNDED(double, __fma_rn(a.v, b.v, c.v), __dsqrt_rn)
#elif defined(__FMA__) || defined(__aarch64__)
EIGENGRAD_ROUNDED(float, __builtin_fmaf(a.v, b.v, c.v), __builtin_sqrtf)
EIGENGRAD_ROUNDED(double, __builtin_fma(a.v, b.v, c.v), __builtin_sqrt)
#else
EIGENGRAD_ROUNDED(float, (a.v * b.v) + c.v, __builtin_sqrtf)
EIGENGRAD_ROUNDED(double, (a.v * b.v) + c.v, __builtin_sqrt)
#endif
template <class T>
EIGENGRAD_INLINE Vec<T, 1> fnma(Vec<T, 1> a, Vec<T, 1> b, Vec<T, 1> c) { return fma(-a, b, c); }

template <class T>
constexpr auto sign_bit = typename Bits<T>::type(1) << (8 * sizeof(T) - 1);
template <class T>
EIGENGRAD_INLINE Vec<T, 1> abs(Vec<T, 1> a) { return from_bits<Vec<T, 1>>(bits_of(a) & ~sign_bit<T>); }
template <class T>
EIGENGRAD_INLINE Vec<T, 1> copysign(Vec<T, 1> a, Vec<T, 1> b) {
    return from_bits<Vec<T, 1>>((bits_of(a) & ~sign_bit<T>) | (bits_of(b) & sign_bit<T>));
}

}  // namespace eigengrad::EIGENGRAD_ISA
