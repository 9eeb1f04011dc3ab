// Exponentials, logarithms and powers in every lane, to about one unit in the last place over the whole range.
//
// Arguments are reduced by multiples of log 2 in two parts (Cody and Waite), and what is left is a polynomial: the
// interpolant at Chebyshev's nodes, computed with 60 digits, of (e^r - 1 - r)/r^2 for |r| <= log(2)/2, and of
// (2 atanh(s)/s - 2)/s^2 in s^2 for the s = (m - 1)/(m + 1) of an m between sqrt(1/2) and sqrt(2).

#pragma once

#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <class T>
struct Elementary;
template <>
struct Elementary<float> {
    static constexpr float exponential[] = {0x1p-1f, 0x1.555556p-3f, 0x1.5554eap-5f,
                                            0x1.1110ep-7f, 0x1.6d4324p-10f, 0x1.a124f2p-13f};
    static constexpr float logarithm[] = {0x1.55555cp-1f, 0x1.997c2ep-2f, 0x1.2ee656p-2f};
    static constexpr float log_2[] = {0x1.62e4p-1f, 0x1.7f7d1cp-20f};  // few bits in the first part
    static constexpr float twice_log2_e[] = {0x1.715476p+1f, 0x1.4ae0cp-25f};
    static constexpr float underflow = -104, overflow = 89;  // of the exponential
};
template <>
struct Elementary<double> {
    static constexpr double exponential[] = {
        0x1p-1, 0x1.5555555555557p-3, 0x1.5555555555556p-5, 0x1.11111111100dcp-7,
        0x1.6c16c16c162d4p-10, 0x1.a01a01abe7fe1p-13, 0x1.a01a01a6d889cp-16, 0x1.71de0231960ebp-19,
        0x1.27e4db646b17ep-22, 0x1.af4de97ca4194p-26, 0x1.1f730349868cep-29};
    static constexpr double logarithm[] = {0x1.5555555555558p-1, 0x1.99999999952d7p-2, 0x1.2492492df281ap-2,
                                           0x1.c71c62e3f11e6p-3, 0x1.7462b51cb66b1p-3, 0x1.39fe51a7c18f9p-3,
                                           0x1.2b5900de53b32p-3};
    static constexpr double log_2[] = {0x1.62e42fefa4p-1, -0x1.8432a1b0e2634p-43};
    static constexpr double twice_log2_e[] = {0x1.71547652b82fep+1, 0x1.777d0ffda0d24p-55};
    static constexpr double underflow = -746, overflow = 710;
};

template <class V, class T, int N>
EIGENGRAD_INLINE V polynomial(const T (&coefficients)[N], V x) {
    V sum(coefficients[N - 1]);
    for (int k = N - 2; k >= 0; --k) sum = fma(sum, x, V(coefficients[k]));
    return sum;
}

// Added to a number, it leaves the nearest whole number in the last bits.
template <class T>
constexpr T to_whole = T(3 * (typename Bits<T>::type(1) << (Bits<T>::mantissa - 1)));

template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V nearest(V x) { return (x + V(to_whole<T>)) - V(to_whole<T>); }

// 2^n for a whole n, if that is a normal number.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V two_to(V n) {
    return from_bits<V>((bits_of(n + V(to_whole<T>)) + Bits<T>::bias) << Bits<T>::mantissa);
}

// x = 2^k m with m from 1 to 2, for positive x.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE void decompose(V x, V& k, V& m) {
    using I = typename V::native_integer;
    using E = typename V::integer;
    constexpr E one = E(Bits<T>::bias) << Bits<T>::mantissa, fraction = (E(1) << Bits<T>::mantissa) - 1;
    constexpr T whole = T(E(1) << Bits<T>::mantissa), up = 2 * whole;
    constexpr E whole_bits = E(Bits<T>::bias + Bits<T>::mantissa) << Bits<T>::mantissa;
    const auto subnormal = V(Limits<T>::smallest) > x;
    const I bits = bits_of(select(subnormal, V(up) * x, x));
    const V biased = from_bits<V>(bits >> Bits<T>::mantissa | whole_bits);
    k = biased - select(subnormal, V(whole + Bits<T>::bias + Bits<T>::mantissa + 1), V(whole + Bits<T>::bias));
    m = from_bits<V>((bits & fraction) | one);
}

template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V clamp(V x, T least, T most) {
    x = select(V(least) > x, V(least), x);
    return select(x > V(most), V(most), x);
}

// e^x as 2^n (1 + p).
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE void reduce_exponential(V x, V& n, V& p) {
    using C = Elementary<T>;
    x = clamp(x, C::underflow, C::overflow);
    n = nearest(V(C::twice_log2_e[0] / 2) * x);
    const V r = fnma(n, V(C::log_2[1]), fnma(n, V(C::log_2[0]), x));
    p = fma(r * r, polynomial(C::exponential, r), r);
}

// The power of two in two factors, as it may be none itself while the product is a number.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V exp(V x) {
    V n, p;
    reduce_exponential(x, n, p);
    const V half = nearest(V(T(0.5)) * n);
    return (V(T(1)) + p) * two_to(half) * two_to(n - half);
}

template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V expm1(V x) {
    V n, p;
    reduce_exponential(x, n, p);
    const V half = nearest(V(T(0.5)) * n), a = two_to(half);
    return fma(a, p, a - two_to(half - n)) * two_to(n - half);
}

// What s = (m - 1)/(m + 1) lacks of log(m), over s: log(m)/s - 2.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V log_beyond(V s) {
    const V z = s * s;
    return z * polynomial(Elementary<T>::logarithm, z);
}

// Of a function for positive x: `zero` for zero, `infinite` for infinity, and NaN for less and for NaN.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V with_edges(V x, V y, T zero, T infinite) {
    y = select(x > V(T(0)), y, select(x == V(T(0)), V(zero), V(not_a_number<T>())));
    return select(x == V(infinity<T>()), V(infinite), y);
}

// x = 2^k m with m from sqrt(1/2) to sqrt(2), for positive x.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE void decompose_about_one(V x, V& k, V& m) {
    decompose(x, k, m);
    const auto large = m > V(T(0x1.6a09e667f3bcdp+0));
    k = select(large, k + V(T(1)), k);
    m = select(large, V(T(0.5)) * m, m);
}

template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V log(V x) {
    using C = Elementary<T>;
    V k, m;
    decompose_about_one(x, k, m);
    const V f = m - V(T(1)), s = f / (m + V(T(1)));
    const V y = fma(k, V(C::log_2[0]), f - fnma(k, V(C::log_2[1]), s * (f - log_beyond(s))));
    return with_edges(x, y, -infinity<T>(), infinity<T>());
}

// log(x/y) for x >= y > 0, without loss where they are close, and whatever their quotient.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V log_ratio(V x, V y) {
    using C = Elementary<T>;
    const V one(T(1)), half(T(0.5)), root(T(0x1.6a09e667f3bcdp+0));
    V k, m, k_y, m_y;
    decompose(x, k, m);
    decompose(y, k_y, m_y);
    const auto large = m > root * m_y, small = m_y > root * m;
    k = (k - k_y) + select(large, one, select(small, -one, V(T(0))));
    m = select(large, half * m, m), m_y = select(small, half * m_y, m_y);
    const V s = (m - m_y) / (m + m_y);
    const V ratio = fma(k, V(C::log_2[0]), fma(k, V(C::log_2[1]), s * log_beyond(s)) + (s + s));
    return with_edges(y, ratio, infinity<T>(), T(0));
}

// a b = result + low.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V exact_product(V a, V b, V& low) {
    const V product = a * b;
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDACC__)
    low = fma(a, b, -product);
#else
    // Halves whose products are exact (Dekker).
    constexpr auto head = ~((typename V::integer(1) << (Bits<T>::mantissa / 2 + 1)) - 1);
    const V a_head = from_bits<V>(bits_of(a) & head), b_head = from_bits<V>(bits_of(b) & head);
    const V a_tail = a - a_head, b_tail = b - b_head;
    low = a_tail * b_tail - (((product - a_head * b_head) - a_tail * b_head) - a_head * b_tail);
#endif
    return product;
}

// A number and its rounding error: `value` less `minus`.
template <class T>
struct Exponent {
    T high, low;

    EIGENGRAD_INLINE Exponent(double value, double minus = 0) {
        const double sum = value - minus, part = sum - value;
        high = T(sum);
        low = T((sum - high) + ((value - (sum - part)) - (minus + part)));
    }
};

// x^p for positive x, by a logarithm of twice the digits; for |p| up to about 50, beyond with as many times its error.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V power_of(V x, Exponent<T> p) {
    using C = Elementary<T>;
    const V one(T(1)), half(T(0.5)), c(C::twice_log2_e[0]), p_high(p.high);
    V k, m, low, more;
    decompose_about_one(x, k, m);
    const V f = m - one, sum = m + one, s = f / sum;
    const V back = exact_product(s, sum, low);
    const V s_low = (((f - back) - low) - s * (m - (sum - one))) / sum;
    // log2(x) = high + low.
    const V first = exact_product(c, s, low);
    low = low + fma(c, s_low, fma(V(C::twice_log2_e[1]), s, half * c * (s * log_beyond(s))));
    V high = k + first;
    low = low + ((k - high) + first);
    const V log2 = high + low;
    low = low + (high - log2);
    // Its multiple, and 2 to that.
    high = exact_product(p_high, log2, more);
    low = more + fma(p_high, low, V(p.low) * log2);
    const V y = clamp(high, 2 * C::underflow, 2 * C::overflow);
    const V n = nearest(y), r = V(T(0x1.62e42fefa39efp-1)) * ((y - n) + select(y == high, low, V(T(0))));
    const V q = fma(r * r, polynomial(C::exponential, r), r), n_half = nearest(half * n);
    const V result = (one + q) * two_to(n_half) * two_to(n - n_half);
    const T huge = infinity<T>(), at_zero = p.high > 0 ? 0 : (p.high < 0 ? huge : 1);
    return with_edges(x, result, at_zero, p.high > 0 ? huge : (p.high < 0 ? T(0) : T(1)));
}

}  // namespace eigengrad::EIGENGRAD_ISA
