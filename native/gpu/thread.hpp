// Matrices up to 8 x 8, one to a thread: the algorithms of the CPU with one lane, and the same bits.
//
// Up to 4 x 4, n is known when a kernel is compiled, and every number stays in a register; beyond, one kernel serves all
// sizes from the thread's own memory. Matrices come and go through shared memory, which lets neighbouring threads read and
// write neighbouring numbers.

#pragma once

#include "gradient.hpp"
#include "lanes.hpp"
#include "refine.hpp"
#include "solve.hpp"
#include "weights.hpp"
#include "gpu/arguments.hpp"
#include "gpu/phases.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// In place of an n that is known when a kernel is compiled.
constexpr int up_to_8 = 0;

// `size` numbers of each matrix of the block, in shared memory. Matrices are an odd distance apart: threads that read the
// same number of their own find it in different banks.
template <class T>
struct Tile {
    T* data;
    int size, stride;

    Tile(T*& shared, int size) : data(shared), size(size), stride(size | 1) { shared += thread_count() * stride; }
    EIGENGRAD_INLINE T* own() const { return data + thread_index() * stride; }

    // From and to memory, where they lie close; of a tile that is used in part, `used` numbers of each.
    EIGENGRAD_INLINE void load(const T* from, int matrices, int used) const {
        each(matrices * used, [&](int k) { data[k / used * stride + k % used] = from[k]; });
    }
    EIGENGRAD_INLINE void load(const T* from, int matrices) const { load(from, matrices, size); }
    EIGENGRAD_INLINE void store(T* to, int matrices) const {
        each(matrices * size, [&](int k) { to[k] = data[k / size * stride + k % size]; });
    }
};

// The block's part of a batch.
struct Part {
    long first;
    int matrices;

    explicit Part(long count) : first(block_index() * thread_count()) {
        matrices = count - first < thread_count() ? int(count - first) : thread_count();
    }
    bool has_own() const { return thread_index() < matrices; }
};

// What the algorithms need of a thread's own memory, in numbers.
constexpr int thread_memory(int n) { return n == up_to_8 ? thread_memory(8) : 6 * n * (n | 1) + 3 * n; }
constexpr int largest(int n) { return n == up_to_8 ? 8 : n; }

template <int fixed, class T>
void decompose_by_thread(const DecomposeArguments<T>& all, T* shared) {
    using V = Vec<T, 1>;
    using M = Lanes<V, 1>;
    const int n = fixed == up_to_8 ? all.n : fixed;
    const Part part(all.count);
    const Tile<T> matrices(shared, n * n), vectors(shared, n * n), values(shared, n);
    matrices.load(all.matrices + part.first * n * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(fixed)], images[largest(fixed)];
        const Workspace with{memory};
        const Batch<const T> in{matrices.own(), n * n, 1};
        const Batch<T> l{values.own(), n, 1}, v{vectors.own(), n * n, 1};
        if constexpr (fixed == up_to_8) solve_short<V>(in, l, v, n, with);
        else solve_tiny<fixed, V>(in, l, v);
        if (all.refined) refine<M>(matrices.own(), vectors.own(), values.own(), 1, n, with);
        if (all.result) {
            apply<V>(all.f, values.own(), images, n);
            if (all.f.is_root())
                for (int k = 0; k < n; ++k) values.own()[k] = images[k];
            recompose<M>(vectors.own(), images, matrices.own(), 1, n, with);
        }
    }
    wait();
    vectors.store(all.vectors + part.first * n * n, part.matrices);
    values.store(all.values + part.first * n, part.matrices);
    if (all.result) matrices.store(all.result + part.first * n * n, part.matrices);
}

template <int fixed, class T>
void refine_by_thread(const RefineArguments<T>& all, T* shared) {
    const int n = fixed == up_to_8 ? all.n : fixed;
    const Part part(all.count);
    const Tile<T> matrices(shared, n * n), vectors(shared, n * n), values(shared, n);
    matrices.load(all.matrices + part.first * n * n, part.matrices);
    vectors.load(all.vectors + part.first * n * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(fixed)];
        refine<Lanes<Vec<T, 1>, 1>>(matrices.own(), vectors.own(), values.own(), 1, n, Workspace{memory});
    }
    wait();
    vectors.store(all.vectors + part.first * n * n, part.matrices);
    values.store(all.values + part.first * n, part.matrices);
}

template <int fixed, class T>
void recompose_by_thread(const RecomposeArguments<T>& all, T* shared) {
    const int n = fixed == up_to_8 ? all.n : fixed;
    const Part part(all.count);
    const Tile<T> vectors(shared, n * n), values(shared, n);
    vectors.load(all.vectors + part.first * n * n, part.matrices);
    values.load(all.values + part.first * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(fixed)];
        recompose<Lanes<Vec<T, 1>, 1>>(vectors.own(), values.own(), vectors.own(), 1, n, Workspace{memory});
    }
    wait();
    vectors.store(all.result + part.first * n * n, part.matrices);
}

template <int fixed, class T>
void pull_back_by_thread(const DerivativeArguments<T>& all, T* shared) {
    const int n = fixed == up_to_8 ? all.n : fixed;
    const Part part(all.count);
    const int weights_of_each = all.of.weights_are_given() ? n * n : n;
    const Tile<T> vectors(shared, n * n), cotangents(shared, n * n), weights(shared, n * n), diagonals(shared, n);
    vectors.load(all.of.vectors + part.first * n * n, part.matrices);
    cotangents.load(all.of.cotangent + part.first * n * n, part.matrices);
    weights.load(all.of.weights + part.first * weights_of_each, part.matrices, weights_of_each);
    if (all.of.diagonal) diagonals.load(all.of.diagonal + part.first * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(fixed)];
        PullBackArguments<T> own = all.of;
        own.vectors = vectors.own(), own.cotangent = cotangents.own(), own.weights = weights.own();
        own.result = vectors.own();
        if (own.diagonal) own.diagonal = diagonals.own();
        pull_back<Lanes<Vec<T, 1>, 1>>(own, 1, n, Workspace{memory});
    }
    wait();
    vectors.store(all.of.result + part.first * n * n, part.matrices);
}

}  // namespace eigengrad::EIGENGRAD_ISA
