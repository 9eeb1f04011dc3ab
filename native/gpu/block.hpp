// Matrices of any size that shared memory holds, one to a block of threads. The products are the CPU's, bit for bit; the
// decomposition is Jacobi's.

#pragma once

#include "gradient.hpp"
#include "refine.hpp"
#include "weights.hpp"
#include "gpu/arguments.hpp"
#include "gpu/jacobi.hpp"
#include "gpu/shared.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <class T>
EIGENGRAD_INLINE void decompose_by_block(const DecomposeArguments<T>& all, T* shared) {
    using M = Shared<T>;
    const int n = all.n;
    const long first = block_index();
    const T* const matrix = all.matrices + first * n * n;
    T *const values = all.values + first * n, *const vectors = all.vectors + first * n * n;
    jacobi_by_block(matrix, values, vectors, n, shared);
    if (all.refined) refine<M>(matrix, vectors, values, 1, n, Workspace{shared});
    if (!all.result) return;
    T* const images = shared;
    each(n, [&](int k) { apply<Vec<T, 1>>(all.f, values + k, images + k, 1); });
    wait();
    if (all.f.is_root()) each(n, [&](int k) { values[k] = images[k]; });
    recompose<M>(vectors, images, all.result + first * n * n, 1, n, Workspace{shared + n});
}

template <class T>
EIGENGRAD_INLINE void refine_by_block(const RefineArguments<T>& all, T* shared) {
    const long n = all.n, first = block_index();
    refine<Shared<T>>(all.matrices + first * n * n, all.vectors + first * n * n, all.values + first * n, 1, all.n, Workspace{shared});
}

template <class T>
EIGENGRAD_INLINE void recompose_by_block(const RecomposeArguments<T>& all, T* shared) {
    const long n = all.n, first = block_index();
    recompose<Shared<T>>(all.vectors + first * n * n, all.values + first * n, all.result + first * n * n, 1, all.n, Workspace{shared});
}

template <class T>
EIGENGRAD_INLINE void pull_back_by_block(const DerivativeArguments<T>& all, T* shared) {
    const long n = all.n, first = block_index();
    PullBackArguments<T> own = all.of;
    own.vectors += first * n * n, own.cotangent += first * n * n, own.result += first * n * n;
    own.weights += first * (own.weights_are_given() ? n * n : n);
    if (own.diagonal) own.diagonal += first * n;
    pull_back<Shared<T>>(own, 1, all.n, Workspace{shared});
}

}  // namespace eigengrad::EIGENGRAD_ISA
