// Two vectors side by side, to be used as one.
//
// Code templated on the vector runs two groups of matrices at once with it, which hides the latency of square roots and
// divisions.

#pragma once

#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <class V>
struct PairMask {
    typename V::mask lo, hi;
};

template <class V>
struct Pair {
    using scalar = typename V::scalar;
    using integer = typename V::integer;
    using mask = PairMask<V>;
    using part = V;
    static constexpr int lanes = 2 * V::lanes, parts = 2;

    V lo, hi;

    EIGENGRAD_INLINE Pair() = default;
    EIGENGRAD_INLINE Pair(V a, V b) : lo(a), hi(b) {}
    EIGENGRAD_INLINE Pair(scalar x) : lo(x), hi(x) {}

    static EIGENGRAD_INLINE Pair load(const scalar* p) { return {V::load(p), V::load(p + V::lanes)}; }
    EIGENGRAD_INLINE void store(scalar* p) const { lo.store(p), hi.store(p + V::lanes); }

    friend EIGENGRAD_INLINE Pair operator+(Pair a, Pair b) { return {a.lo + b.lo, a.hi + b.hi}; }
    friend EIGENGRAD_INLINE Pair operator-(Pair a, Pair b) { return {a.lo - b.lo, a.hi - b.hi}; }
    friend EIGENGRAD_INLINE Pair operator*(Pair a, Pair b) { return {a.lo * b.lo, a.hi * b.hi}; }
    friend EIGENGRAD_INLINE Pair operator/(Pair a, Pair b) { return {a.lo / b.lo, a.hi / b.hi}; }
    friend EIGENGRAD_INLINE Pair operator-(Pair a) { return {-a.lo, -a.hi}; }
    friend EIGENGRAD_INLINE mask operator>(Pair a, Pair b) { return {a.lo > b.lo, a.hi > b.hi}; }
    friend EIGENGRAD_INLINE mask operator<=(Pair a, Pair b) { return {a.lo <= b.lo, a.hi <= b.hi}; }
    friend EIGENGRAD_INLINE mask operator==(Pair a, Pair b) { return {a.lo == b.lo, a.hi == b.hi}; }
    friend EIGENGRAD_INLINE Pair fma(Pair a, Pair b, Pair c) { return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)}; }
    friend EIGENGRAD_INLINE Pair fnma(Pair a, Pair b, Pair c) {
        return {fnma(a.lo, b.lo, c.lo), fnma(a.hi, b.hi, c.hi)};
    }
    friend EIGENGRAD_INLINE Pair sqrt(Pair a) { return {sqrt(a.lo), sqrt(a.hi)}; }
    friend EIGENGRAD_INLINE Pair abs(Pair a) { return {abs(a.lo), abs(a.hi)}; }
    friend EIGENGRAD_INLINE Pair copysign(Pair a, Pair b) { return {copysign(a.lo, b.lo), copysign(a.hi, b.hi)}; }
    friend EIGENGRAD_INLINE Pair max(Pair a, Pair b) { return {max(a.lo, b.lo), max(a.hi, b.hi)}; }
    friend EIGENGRAD_INLINE Pair select(mask m, Pair a, Pair b) {
        return {select(m.lo, a.lo, b.lo), select(m.hi, a.hi, b.hi)};
    }
};

template <class V>
EIGENGRAD_INLINE bool any(PairMask<V> m) { return any(m.lo | m.hi); }
template <class V>
EIGENGRAD_INLINE PairMask<V> without(PairMask<V> a, PairMask<V> b) { return {without(a.lo, b.lo), without(a.hi, b.hi)}; }
template <class V>
EIGENGRAD_INLINE PairMask<V> operator&(PairMask<V> a, PairMask<V> b) { return {a.lo & b.lo, a.hi & b.hi}; }
template <class V>
EIGENGRAD_INLINE PairMask<V> operator|(PairMask<V> a, PairMask<V> b) { return {a.lo | b.lo, a.hi | b.hi}; }

template <class V>
EIGENGRAD_INLINE void power_of_two(Pair<V> a, Pair<V>& down, Pair<V>& up) {
    power_of_two(a.lo, down.lo, up.lo);
    power_of_two(a.hi, down.hi, up.hi);
}

// Part `index` of a vector: itself, or one half of a pair.
template <class T, int W>
EIGENGRAD_INLINE Vec<T, W>& part(Vec<T, W>& x, int) { return x; }
template <class V>
EIGENGRAD_INLINE V& part(Pair<V>& x, int index) { return index ? x.hi : x.lo; }

}  // namespace eigengrad::EIGENGRAD_ISA
