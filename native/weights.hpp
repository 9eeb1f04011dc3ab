// Functions of eigenvalues, and the weights of a derivative in the eigenbasis made from them. Of a function these are its
// divided differences (f(x) - f(y))/(x - y), and f'(x) where x = y, in forms without cancellation.

#pragma once

#include "elementary.hpp"
#include "kernel.hpp"
#include "lane.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Of the derivative of a square root: 1/(x + y).
template <class V>
EIGENGRAD_INLINE V root_weight(V x, V y) { return V(typename V::scalar(1)) / (x + y); }

// Of that of an inverse root, -X^2 Y^2/(X + Y) over of_x of_y, for X = of_x x, where of_x is a power of two: the share of a
// product that leaves the range is left to the cotangent.
template <class V>
EIGENGRAD_INLINE V inverse_root_weight(V x, V y, V of_x, V of_y) {
    return -(root_weight(x * of_x, y * of_y) * of_x * of_y) * (x * x) * (y * y);
}

// Of a pair of eigenvalues x and y the terms S of a geometric series in b/a, over a, a being y where `y_is_major` and
// else x: in the column of y S of the major or -S of the minor, in that of x the other one. As series_kernel in gradients/series.py.
template <class V, class M>
EIGENGRAD_INLINE void series_weights(V x, V y, M y_is_major, const int* terms, V& of_y, V& of_x) {
    using T = typename V::scalar;
    const V one = V(T(1)), a = select(y_is_major, y, x), b = select(y_is_major, x, y);
    const int most = terms[0] > terms[1] ? terms[0] : terms[1];
    const V inverse = select(V(T(most) * Limits<T>::smallest) > abs(a), V(T(0)), one / a);
    const V ratio = one - (a - b) * inverse;
    V minor = V(T(0)), next = one;
    for (int bit = 1 << 16; bit; bit >>= 1) {
        if (terms[1] < bit) continue;
        if (terms[1] < 2 * bit) {  // the leading one
            minor = one, next = ratio;
            continue;
        }
        minor = minor + minor * next, next = next * next;
        if (terms[1] & bit) minor = minor + next, next = next * ratio;
    }
    const V major = (terms[0] > terms[1] ? minor + next : minor) * inverse;
    minor = -minor * inverse;
    of_y = select(y_is_major, major, minor);
    of_x = select(y_is_major, minor, major);
}

// The divided difference of log, exp or a power; of_x and of_y are what common_factor makes of x and y.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V divided_difference(Weights kind, T exponent, V x, V y, V of_x, V of_y) {
    const auto x_is_high = x > y;
    const V one(T(1)), high = select(x_is_high, x, y), low = select(x_is_high, y, x), distance = high - low;
    const auto tied = distance == V(T(0));
    if (kind == logarithm) return select(tied, one, log_ratio(high, low)) / select(tied, x, distance);
    if (kind == power && exponent == 1) return one;
    // Of the two f(x) the larger, times 1 - exp(-|log f(x) - log f(y)|), over the distance.
    const auto x_is_major = exponent < 0 ? y > x : x_is_high;
    const V major = select(x_is_major, of_x, of_y);
    if (kind == exponential) return major * (select(tied, one, -expm1(-distance)) / select(tied, one, distance));
    const V gap = V(exponent < 0 ? exponent : -exponent) * log_ratio(high, low);
    const V change = expm1(gap) / (distance / select(x_is_major, x, y));
    return major * select(tied, V(exponent), exponent < 0 ? change : -change);
}

// d/(d^2 + w^2) for the gap d of a pair; w is relative to the largest magnitude, and wide enough for a finite bound. As
// lorentzian_kernel in gradients/gaps.py.
template <class V>
struct Lorentzian {
    using T = typename V::scalar;
    V inverse, square;  // of the largest magnitude, and of w

    EIGENGRAD_INLINE Lorentzian(V largest, double width) {
        constexpr double narrowest = 1e-18;
        const V tiny(Limits<T>::smallest), least(T(width > narrowest ? width : narrowest));
        inverse = select(tiny > largest, V(T(0)), V(T(1)) / largest);
        const V bounded = inverse * V(T(0.25)) * tiny, w = select(bounded > least, bounded, least);
        square = w * w;
    }
    EIGENGRAD_INLINE V weight(V x, V y) const {
        const V d = (y - x) * inverse;
        return d / fma(d, d, square) * inverse;
    }
};

// Of a projector, between an eigenvalue that it keeps and one that it does not: 1/(kept - other), or a rule for it.
template <class V, class M>
EIGENGRAD_INLINE V projector_weight(V x, V y, V x_is_kept, V y_is_kept, M y_is_major, const int* terms,
                                    const Lorentzian<V>* lorentzian) {
    const V zero = V(typename V::scalar(0));
    V of_y = lorentzian ? lorentzian->weight(x, y) : V(typename V::scalar(1)) / (y - x), of_x = -of_y;
    if (terms[0]) series_weights(x, y, y_is_major, terms, of_y, of_x);
    return select(y_is_kept > x_is_kept, of_y, select(x_is_kept > y_is_kept, of_x, zero));
}

// What the weights of the pairs of one eigenvalue have in common.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V common_factor(const PullBackArguments<T>& of, V x) {
    return of.kind == exponential ? exp(x) : (of.kind == power ? power_of(x, Exponent<T>(of.parameter, 1)) : x);
}

// The weights of a pair of eigenvalues x and y, in the column of y and in that of x.
template <class V, class M, class T = typename V::scalar>
EIGENGRAD_INLINE void pair_weights(const PullBackArguments<T>& of, const Lorentzian<V>* lorentzian, V x, V y, V of_x,
                                   V of_y, M y_is_major, V& in_y, V& in_x) {
    if (of.kind == by_rule && lorentzian) in_y = lorentzian->weight(x, y), in_x = -in_y;
    else if (of.kind == by_rule) series_weights(x, y, y_is_major, of.terms, in_y, in_x);
    else if (of.kind == projector) in_y = in_x = projector_weight(x, y, of_x, of_y, y_is_major, of.terms, lorentzian);
    else if (of.kind == square_root) in_y = in_x = root_weight(x, y);
    else if (of.kind == inverse_square_root) in_y = in_x = inverse_root_weight(x, y, of_x, of_y);
    else in_y = in_x = divided_difference(of.kind, T(of.parameter), x, y, of_x, of_y);
}

// What becomes of the weight of max(x, threshold) and max(y, threshold) for the function f(max(., threshold)).
template <class V>
EIGENGRAD_INLINE V lifted_weight(V weight, V x, V y, V lifted_x, V lifted_y, V threshold) {
    const V zero = V(typename V::scalar(0)), one = V(typename V::scalar(1));
    const auto tied = x == y;
    const V share = select(tied, select(x > threshold, one, zero), (lifted_x - lifted_y) / select(tied, one, x - y));
    return select(share == zero, zero, share * weight);
}

// f(x) of some numbers.
template <class V, class T = typename V::scalar>
void apply(Scalar f, const T* x, T* result, long count) {
    const V floor(T(f.parameter));
    const Exponent<T> exponent(f.parameter);
    for (long k = 0; k < count; k += V::lanes) {
        const long left = count - k < V::lanes ? count - k : V::lanes;
        T lanes[V::lanes] = {};
        copy_bytes(lanes, x + k, left * sizeof(T));
        V y = V::load(lanes);
        if (f.kind == exponential) y = exp(y);
        else if (f.kind == logarithm) y = log(y);
        else if (f.kind == power) y = power_of(y, exponent);
        else y = sqrt(select(floor > y, floor, y));
        if (f.kind == inverse_square_root) y = V(T(1)) / y;
        y.store(lanes);
        copy_bytes(result + k, lanes, left * sizeof(T));
    }
}

}  // namespace eigengrad::EIGENGRAD_ISA
