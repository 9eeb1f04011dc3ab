// Matrices up to 8 x 8, one to a thread: the algorithms of the CPU with one lane, and the same bits.
//
// n is known when a kernel is compiled, so that up to 4 x 4 every number stays in a register. Matrices come and go through
// shared memory, which lets neighbouring threads read and write neighbouring numbers.

#pragma once

#include "gradient.hpp"
#include "refine.hpp"
#include "solve.hpp"
#include "weights.hpp"
#include "gpu/arguments.hpp"
#include "gpu/phases.hpp"

namespace eigengrad::EIGENGRAD_ISA {

// `size` numbers of each matrix of the block, in shared memory. Matrices are an odd distance apart: threads that read the
// same number of their own find it in different banks.
template <class T, int size>
struct Tile {
    static constexpr int stride = size | 1;
    T* data;

    static Tile take(T*& shared) {
        Tile result{shared};
        shared += thread_count() * stride;
        return result;
    }
    EIGENGRAD_INLINE T* own() const { return data + thread_index() * stride; }

    // From and to memory, where they lie close; of a tile that is used in part, `used` numbers of each.
    void load(const T* from, int matrices, int used = size) const {
        each(matrices * used, [&](int k) { data[k / used * stride + k % used] = from[k]; });
    }
    void store(T* to, int matrices) const {
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
constexpr int thread_memory(int n) { return 6 * n * (n | 1) + 2 * n; }

template <int n, class T>
void decompose_by_thread(const DecomposeArguments<T>& all, T* shared) {
    using V = Vec<T, 1>;
    using M = Lanes<V, 1>;
    const Part part(all.count);
    const auto matrices = Tile<T, n * n>::take(shared), vectors = Tile<T, n * n>::take(shared);
    const auto values = Tile<T, n>::take(shared);
    matrices.load(all.matrices + part.first * n * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(n)], images[n];
        const Workspace with{memory};
        solve<1, V>(matrices.own(), values.own(), vectors.own(), 1, n, with);
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

template <int n, class T>
void refine_by_thread(const RefineArguments<T>& all, T* shared) {
    const Part part(all.count);
    const auto matrices = Tile<T, n * n>::take(shared), vectors = Tile<T, n * n>::take(shared);
    const auto values = Tile<T, n>::take(shared);
    matrices.load(all.matrices + part.first * n * n, part.matrices);
    vectors.load(all.vectors + part.first * n * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(n)];
        refine<Lanes<Vec<T, 1>, 1>>(matrices.own(), vectors.own(), values.own(), 1, n, Workspace{memory});
    }
    wait();
    vectors.store(all.vectors + part.first * n * n, part.matrices);
    values.store(all.values + part.first * n, part.matrices);
}

template <int n, class T>
void recompose_by_thread(const RecomposeArguments<T>& all, T* shared) {
    const Part part(all.count);
    const auto vectors = Tile<T, n * n>::take(shared);
    const auto values = Tile<T, n>::take(shared);
    vectors.load(all.vectors + part.first * n * n, part.matrices);
    values.load(all.values + part.first * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(n)];
        recompose<Lanes<Vec<T, 1>, 1>>(vectors.own(), values.own(), vectors.own(), 1, n, Workspace{memory});
    }
    wait();
    vectors.store(all.result + part.first * n * n, part.matrices);
}

template <int n, class T>
void pull_back_by_thread(const DerivativeArguments<T>& all, T* shared) {
    const Part part(all.count);
    const int weights_of_each = all.of.weights_are_given() ? n * n : n;
    const auto vectors = Tile<T, n * n>::take(shared), cotangents = Tile<T, n * n>::take(shared);
    const auto weights = Tile<T, n * n>::take(shared);
    const auto diagonals = Tile<T, n>::take(shared);
    vectors.load(all.of.vectors + part.first * n * n, part.matrices);
    cotangents.load(all.of.cotangent + part.first * n * n, part.matrices);
    weights.load(all.of.weights + part.first * weights_of_each, part.matrices, weights_of_each);
    if (all.of.diagonal) diagonals.load(all.of.diagonal + part.first * n, part.matrices);
    wait();
    if (part.has_own()) {
        T memory[thread_memory(n)];
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
