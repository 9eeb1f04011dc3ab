// Products with the eigenvectors: V f(L) V^H, and the derivatives that are a Hadamard product in the eigenbasis,
//
//     V herm(K o (V^H G) + diag g) V^H   (eigenvectors),   V (W o (V^H herm(B) V)) V^H   (functions of a matrix);
//
// of matrices M, which are Lanes, one in each lane, Dense, one by itself, or on a GPU Shared, one of a block of threads.

#pragma once

#include "kernel.hpp"
#include "weights.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// What a thread has for matrices and numbers of them.
template <class M>
struct Memory {
    using T = typename M::T;
    T* next;
    int n, count;

    Memory(const Workspace& with, int matrices, int vectors, int n, int count) : n(n), count(count) {
        const long numbers = matrices * M::size(n) + vectors * M::numbers(n);
        next = static_cast<T*>(with.reserve(numbers * long(sizeof(T))));
    }
    M matrix() { return M::take(next, n, count); }
    // Its adjoint, in memory of its own or not.
    M adjoint(M of) {
        M result = M::adjoint_is_view ? of : matrix();
        result.set_adjoint(of);
        return result;
    }
    typename M::Real real_matrix() { return M::Real::take(next, n, count); }
    typename M::Numbers numbers() { return M::take_numbers(next, n, count); }
};

template <class M, class T = typename M::T>
void recompose(const T* rows, const T* x, T* result, int count, int n, Workspace with) {
    Memory<M> memory(with, 4, 1, n, count);
    M vh = memory.matrix(), scaled = memory.matrix(), out = memory.matrix();
    const auto values = memory.numbers();
    values.load(x);
    vh.load(rows, true);
    const M v = memory.adjoint(vh);
    scaled.each(false, [&](int k, int j) { scaled.set(k, j, values.row(k) * vh.at(k, j)); });
    out.set_product(v, scaled, true, with);
    out.store_hermitian(result);
}

// Whether the eigenvalues y of columns from j on are of larger magnitude than x, that of row i; of two equal ones, the
// later is.
template <class V>
EIGENGRAD_INLINE typename V::mask column_is_major(V x, V y, int i, int j) {
    using T = typename V::scalar;
    T column[V::lanes];
    for (int w = 0; w < V::lanes; ++w) column[w] = T(j + w);
    const auto later = V::load(column) > V(T(i));
    return (abs(y) > abs(x)) | (later & (abs(x) <= abs(y)));
}

// What a Lorentzian takes from all eigenvalues x of a matrix.
template <class Numbers, class T, class V = typename Numbers::vector>
Lorentzian<V> lorentzian_of(Numbers x, int n, const PullBackArguments<T>& arguments) {
    V largest = V(T(0));
    for (int k = 0; k < n; ++k) {
        const V magnitude = abs(x.row(k));
        largest = select(magnitude > largest, magnitude, largest);
    }
    return Lorentzian<V>(largest, arguments.parameter);
}

template <class V>
EIGENGRAD_INLINE V lift(V x, V threshold) {
    return select(threshold > x, threshold, x);
}

// What fill_weights makes of the eigenvalues: `at`, where the function has its values, and `factor`, what the weights of
// one eigenvalue have in common; of a projector, whether it is kept; of an inverse root, x = at factor, a power of two.
template <class Numbers>
struct Images {
    Numbers at, factor;
};

// The weights other than given ones, in the lower triangle at least, from the eigenvalues x.
template <class Real, class Numbers, class T = typename Real::T>
void fill_weights(Real w, Numbers x, Images<Numbers> of, const PullBackArguments<T>& arguments) {
    using V = typename Real::vector;
    const Numbers at = of.at, factor = of.factor;
    const bool lifted = arguments.is_lifted();
    if (lifted || arguments.kind == projector) factor.load(arguments.diagonal);
    const V threshold = lifted ? factor.row(0) : V(T(0));
    at.each([&](int k) {
        V down = V(T(1)), up;
        if (arguments.kind == inverse_square_root) power_of_two(x.column(k), down, up), factor.set_column(k, up);
        at.set_column(k, lifted ? lift(x.column(k), threshold) : x.column(k) * down);
    });
    if (arguments.kind != projector && arguments.kind != inverse_square_root)
        factor.each([&](int k) { factor.set_column(k, common_factor(arguments, at.column(k))); });
    const Lorentzian<V> of_all = lorentzian_of(x, w.n, arguments), *lorentzian = arguments.is_lorentzian() ? &of_all : nullptr;
    if constexpr (Real::one_by_one) {
        w.each(true, [&](int i, int j) {
            const V xi = at.row(i), xj = at.row(j);
            V in_j, in_i;
            pair_weights(arguments, lorentzian, xi, xj, factor.row(i), factor.row(j), abs(xj) > abs(xi), in_j, in_i);
            if (lifted) in_j = in_i = lifted_weight(in_j, x.row(i), x.row(j), xi, xj, threshold);
            w.set(i, j, in_j), w.set(j, i, in_i);
        });
    } else {
        w.each(arguments.of_function(), [&](int i, int j) {
            const V xi = at.row(i), xj = at.column(j);
            V in_j, in_i;
            pair_weights(arguments, lorentzian, xi, xj, factor.row(i), factor.column(j), column_is_major(xi, xj, i, j), in_j, in_i);
            if (lifted) in_j = lifted_weight(in_j, x.row(i), x.column(j), xi, xj, threshold);
            w.set(i, j, in_j);
        });
    }
    if (!arguments.of_function()) w.each_row([&](int k) { w.set_entry(k, k, V(T(0))); });
}

template <class M, class T = typename M::T>
void pull_back(const PullBackArguments<T>& arguments, int count, int n, Workspace with) {
    Memory<M> memory(with, 6, 3, n, count);
    M vh = memory.matrix(), g = memory.matrix(), p = memory.matrix();
    auto again = memory;
    const M other = memory.matrix();
    const auto w = (M::weighs_in_place ? again : memory).real_matrix();
    const bool hermitian = arguments.of_function();
    vh.load(arguments.vectors, true);
    const M v = memory.adjoint(vh);
    if (hermitian) {
        g.load(arguments.cotangent, arguments.transposed);  // the adjoint has the same Hermitian part
        g.symmetrise(other);
        other.set_product(g, v, false, with);
        p.set_product(vh, other, true, with);
    } else {
        if (arguments.transposed) g.load_transposed(arguments.cotangent, other);
        else g.load(arguments.cotangent);
        p.set_product(vh, g, false, with);
    }
    if (arguments.weights_are_given()) {
        w.load(arguments.weights);
    } else {
        const auto x = memory.numbers();
        x.load(arguments.weights);
        const auto at = memory.numbers(), factor = memory.numbers();
        fill_weights(w, x, {at, factor}, arguments);
        if (arguments.kind == inverse_square_root)
            p.each(true, [&](int i, int j) { p.set(i, j, factor.row(i) * (factor.column(j) * p.at(i, j))); });
    }
    p.weigh(w, hermitian, other);
    if (arguments.diagonal && !hermitian) p.add_to_diagonal(arguments.diagonal);
    g.set_product(p, vh, false, with);
    other.set_product(v, g, true, with);
    other.store_hermitian(arguments.result);
}

}  // namespace eigengrad::EIGENGRAD_ISA
