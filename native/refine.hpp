// Eigenvectors and eigenvalues without their errors of first order. With R = I - V^H V and S = V^H A V,
//
//     l_i = s_ii / (1 - r_ii),    V <- V (I + R/2 + K),    k_ij = f_ij / (l_j - l_i),    F = S + (l_i + l_j)/2 R:
//
// V comes to be orthonormal, and turns by K to where V^H A V is diagonal. Eigenvectors whose eigenvalues are too close
// for that turn by a rotation each, where F is no mere rounding error.
//
// Source: Ogita and Aishima, "Iterative refinement for symmetric eigenvalue decomposition", 2018, and its second part,
// "clustered eigenvalues", 2019; the rotations are Jacobi's (Golub, Van Loan, section 8.5).

#pragma once

#include "complex.hpp"
#include "gradient.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// The largest angle that is taken without its square.
template <class T>
constexpr T widest_angle = sizeof(T) == 4 ? T(0x1p-13) : T(0x1p-28);

// Entries of F that are left alone, of the largest eigenvalue; a little more than their rounding errors.
template <class T>
constexpr T negligible_entry = Limits<T>::epsilon / 4;

// The modulus, of which the square may overflow.
template <class V>
EIGENGRAD_INLINE V modulus(V x) { return abs(x); }
template <class V>
EIGENGRAD_INLINE V modulus(Complex<V> x) {
    using T = typename V::scalar;
    const V larger = largest_plane(x), divisor = max(larger, V(Limits<T>::smallest));
    const Complex<V> ratio = x / divisor;
    return larger * sqrt(max(dot(ratio, ratio, V(T(0))), V(T(1))));
}

// One refinement at work: V, V^H, A that becomes S and F, I - R that becomes the change of V^H, and a product.
template <class M>
struct Refinement {
    using V = typename M::vector;
    using T = typename M::T;
    using E = typename M::E;
    using Mask = typename V::mask;

    M v, vh, f, change, product;
    typename M::Numbers values;

    // To the first order, where `wanted`. F keeps what K leaves of it. Not inlined: GCC 12 cannot expand the comparison of
    // two doubles that it would carry along.
    EIGENGRAD_NOINLINE void step(const T* matrices, Mask wanted, Workspace with) {
        const V half(T(0.5));
        f.load(matrices);
        f.mirror();
        product.set_product(f, v, false, with);
        f.set_product(vh, product, true, with);
        change.set_product(vh, v, true, with);
        if (!M::one_by_one) f.mirror(), change.mirror();
        f.each_row([&](int i) {
            values.set(i, select(wanted, real(f.entry(i, i)) / real(change.entry(i, i)), values.row(i)));
        });
        f.each(M::one_by_one, [&](int i, int j) { turn(i, j); });
        f.each_row([&](int i) {
            f.set_entry(i, i, E(T(0)));
            change.set_entry(i, i, change.entry(i, i) + E(half));
        });
        product.set_product(change, vh, false, with);
        vh.each(false, [&](int i, int j) { vh.set(i, j, select(wanted, vh.at(i, j) + product.at(i, j), vh.at(i, j))); });
    }

    // To K^H + R/2, less the 1/2 on its diagonal, and what K leaves of F; one by one, of the lower triangle.
    EIGENGRAD_INLINE void turn(int i, int j) const {
        const V half(T(0.5)), x = values.row(i), y = values.column(j), gap = x - y;
        const E r = change.at(i, j), f_ij = fnma(half * (x + y), r, f.at(i, j));
        const auto apart = V(widest_angle<T>) * abs(gap) > largest_plane(f_ij);
        const E k = select(apart, f_ij / gap, E(T(0)));
        if (M::one_by_one) change.set(j, i, E(T(0)) - conj(fma(half, r, k)));
        change.set(i, j, fnma(half, r, k));
        f.set(i, j, select(apart, E(T(0)), f_ij));
    }

    // Rows and columns i and j of diag(values) + F such that its entry between them vanishes; V^H with it. Matrices that
    // are not `turning` keep their bits.
    void rotate_pair(int i, int j, V size, Mask turning) const {
        const V one(T(1)), x = select(turning, size, one), at_i = values.row(i), at_j = values.row(j);
        const E between = f.entry(i, j), e = select(turning, between / x, E(T(1)));
        const V half = (at_j - at_i) / (x + x), wide = sqrt(fma(half, half, one));
        const V t = select(turning, copysign(one, half) / (abs(half) + wide), V(T(0)));
        const V c = one / sqrt(fma(t, t, one)), s = c * t;
        auto rotate = [&](M of, int k) {
            const E a = of.at(i, k), turned = e * of.at(j, k);
            of.set(i, k, fnma(s, turned, c * a));
            of.set(j, k, fma(s, a, c * turned));
        };
        f.each_of_row([&](int k) { rotate(f, k), rotate(vh, k); });
        f.once([&] {
            values.set(i, fnma(t, x, at_i)), values.set(j, fma(t, x, at_j));
            f.set_entry(i, i, E(T(0))), f.set_entry(j, j, E(T(0)));
            f.set_entry(i, j, select(turning, E(T(0)), between));
            f.set_entry(j, i, conj(f.entry(i, j)));
        });
        f.each_row([&](int k) { f.set_entry(k, i, conj(f.entry(i, k))), f.set_entry(k, j, conj(f.entry(j, k))); });
    }

    // Sweeps over what F keeps, which is next to nothing beside the gaps of other clusters: two or three suffice. Returns
    // the numbers of rotations: hardly any, or a few in clusters, neither of ties nor of eigenvalues at random.
    V rotate_clusters() const {
        V smallest(T(0)), rotations(T(0));
        for (int k = 0; k < f.n; ++k) smallest = max(abs(values.row(k)), smallest);
        smallest = V(negligible_entry<T>) * smallest;
        const V most = f.largest([&](int i, int j) { return largest_plane(f.at(i, j)); });
        bool turned = any(V(T(2)) * most > smallest);  // a modulus is less than two of its planes
        if (turned && M::one_by_one) f.mirror();
        for (int sweep = 0; turned && sweep < 6; ++sweep) {
            turned = false;
            for (int j = 1; j < f.n; ++j)
                for (int i = 0; i < j; ++i) {
                    const V size = modulus(f.entry(i, j));
                    const auto turning = size > smallest;
                    if (!any(turning)) continue;
                    rotate_pair(i, j, size, turning);
                    rotations = select(turning, rotations + V(T(1)), rotations);
                    turned = true;
                }
        }
        return rotations;
    }
};

// Eigenvectors in rows, in place; of the matrices the lower triangle.
template <class M, class T = typename M::T>
void refine(const T* matrices, T* vectors, T* values, int count, int n, Workspace with) {
    using V = typename M::vector;
    Memory<M> memory(with, 5, 1, n, count);
    const M vh = memory.matrix();
    vh.load(vectors, true);
    const M v = memory.adjoint(vh), f = memory.matrix(), change = memory.matrix(), product = memory.matrix();
    Refinement<M> at{v, vh, f, change, product, memory.numbers()};
    at.step(matrices, V(T(0)) == V(T(0)), with);
    const auto many = at.rotate_clusters() > V(T(n / 2));
    if (any(many)) {  // whose rounding errors have added up
        at.v.set_adjoint(at.vh);
        at.step(matrices, many, with);
    }
    at.vh.store(vectors, true);
    at.values.store(values);
}

}  // namespace eigengrad::EIGENGRAD_ISA
