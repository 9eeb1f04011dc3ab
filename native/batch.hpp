// Decompositions and products of batches, which threads share. Arrays are contiguous, n and batch at least 1. Eigenvectors
// lie in rows; complex numbers are pairs. Every function returns false if memory ran out.

#pragma once

#include "kernel.hpp"
#include "plan.hpp"

namespace eigengrad {

// Ascending eigenvalues (batch, n) and eigenvectors of Hermitian matrices, by the lower triangle. A matrix that is not finite
// gives NaN.
template <class T>
bool eigh(bool is_complex, const T* matrices, T* values, T* vectors, long batch, int n, int threads);

// V diag(f(L)) V^H, with V and L, or in place of L what a root makes of it.
template <class T>
struct FunctionArguments {
    Scalar f;
    Precision precision;
    bool is_complex, given;  // whether V and L are there, but for the precision
    const T* matrices;
    T *result, *values, *vectors;  // without a result, V and L are all
};
template <class T>
bool matrix_function(const FunctionArguments<T>& arguments, long batch, int n, int threads);

// V diag(x) V^H.
template <class T>
bool recompose(bool is_complex, const T* vectors, const T* x, T* result, long batch, int n, int threads);

// Eigenvectors, in place, and eigenvalues without their errors of first order.
template <class T>
bool refine(bool is_complex, const T* matrices, T* vectors, T* values, long batch, int n, int threads);

// A derivative; the pointers are those of the first matrix.
template <class T>
bool pull_back(bool is_complex, const PullBackArguments<T>& all, long batch, int n, int threads);

}  // namespace eigengrad
