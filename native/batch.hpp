// Decompositions and products of a batch, shared by threads. Arrays are contiguous; n and batch are at least 1; eigenvectors
// lie in rows. Complex numbers are pairs. Every function returns false if memory ran out.

#pragma once

#include "kernel.hpp"
#include "plan.hpp"

namespace eigengrad {

template <class T>
bool eigh(bool is_complex, const T* matrices, T* values, T* vectors, long batch, int n, int threads);

// A function of matrices, the eigenvalues that go with it (those of a root; of the others the matrix's own) and the
// eigenvectors. These are found, or `given` with eigenvalues, and corrected on demand. Without a result they are all.
template <class T>
struct FunctionArguments {
    Weights kind;
    T parameter;  // of a root the floor of the eigenvalues, of a power the exponent
    Precision precision;
    bool is_complex, given;
    const T* matrices;
    T *result, *values, *vectors;
};

template <class T>
bool matrix_function(const FunctionArguments<T>&, long batch, int n, int threads);

// Eigenvectors and eigenvalues without their errors of first order.
template <class T>
bool refine(bool is_complex, const T* matrices, T* vectors, T* values, long batch, int n, int threads);

template <class T>
bool recompose(bool is_complex, const T* vectors, const T* x, T* result, long batch, int n, int threads);

template <class T>
bool pull_back(bool is_complex, const PullBack<T>&, long batch, int n, int threads);

}  // namespace eigengrad
