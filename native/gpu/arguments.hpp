// What kernels are handed: the batch's first matrix, result or vector in memory, contiguous all of them, eigenvectors in
// rows. eigengrad/gpu/arguments.py has the same structures.

#pragma once

#include "kernel.hpp"

namespace eigengrad {

// f(A) with V and L, or in place of L what a root makes of it; without a result, V and L are all.
template <class T>
struct DecomposeArguments {
    const T* matrices;
    T *result, *values, *vectors;
    long count;
    int n, refined;
    Scalar f;
};

template <class T>
struct RefineArguments {
    const T* matrices;
    T *vectors, *values;
    long count;
    int n;
};

template <class T>
struct RecomposeArguments {
    const T *vectors, *values;
    T* result;
    long count;
    int n;
};

template <class T>
struct DerivativeArguments {
    PullBackArguments<T> of;
    long count;
    int n;
};

// Data (images, groups, channels, columns) of a group's channels, and the distance of neighbours in each dimension.
struct PassArray {
    void* data;
    long image, group, channel, column;
};

// Observations are images times columns; a group's are shared out among `chunks` blocks.
struct PassSize {
    long images, columns;
    int channels, chunks;
};

struct MomentsArguments {
    PassSize size;
    PassArray data;
    void *partial, *mean, *covariance, *shrunk, *conditioned, *finite;
    double shrinkage, eps, relative_eps;
};

struct MomentsBackwardArguments {
    PassSize size;
    PassArray data, gx;
    const void *covariance, *g_covariance, *g_conditioned, *mean, *g_mean;  // cotangents may be null
    double shrinkage, relative_eps;
};

struct AffineArguments {
    PassSize size;
    PassArray data, y;
    const void *matrix, *centre, *scale, *offset;  // the last two may be null
};

struct AffineBackwardArguments {
    PassSize size;
    PassArray data, g, gx;  // gx without data is not wanted
    const void *matrix, *centre, *scale;
    void *partial, *g_matrix, *g_centre, *g_scale, *g_offset;
};

// Flags of all groups, ours from `first` on; rows of the running covariance, `row` apart.
struct UpdateArguments {
    void *running_mean, *running_covariance, *count;
    const void *before, *mean, *covariance, *valid;
    long flags, first, row;
    double momentum;
    int channels, together;
};

}  // namespace eigengrad
