// The weights of a derivative in the eigenbasis, made from the eigenvalues: see PullBack::weights.

#pragma once

#include "kernel.hpp"
#include "simd.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// Of the derivative of a root: 1/(x + y), or -x^2 y^2/(x + y).
template <class V>
EIGENGRAD_INLINE V root_weight(Weights kind, V x, V y) {
    V weight = V(typename V::scalar(1)) / (x + y);
    return kind == square_root ? weight : -weight * (x * x) * (y * y);
}

// Of a pair of eigenvalues x and y the terms S of a geometric series in b/a, over a, a being y where `y_is_major` and
// else x: in the column of y S of the major or -S of the minor, in that of x the other one. As geometric_series.py.
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

// The weights of a pair of eigenvalues x and y, in the column of y and in that of x.
template <class V, class M, class T = typename V::scalar>
EIGENGRAD_INLINE void pair_weights(const PullBack<T>& job, V x, V y, M y_is_major, V& of_y, V& of_x) {
    if (job.kind == series) series_weights(x, y, y_is_major, job.terms, of_y, of_x);
    else of_y = of_x = root_weight(job.kind, x, y);
}

// The weight on the diagonal.
template <class V, class T = typename V::scalar>
EIGENGRAD_INLINE V own_weight(const PullBack<T>& job, V x) {
    return job.kind == series ? V(T(0)) : root_weight(job.kind, x, x);
}

}  // namespace eigengrad::EIGENGRAD_ISA
