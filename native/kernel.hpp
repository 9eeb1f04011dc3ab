// What one instruction set offers to the batch loop: functions on one group of matrices, by vector width.

#pragma once

namespace eigengrad {

// Memory of one thread, grown and never shrunk; aligned for any vector.
struct Workspace {
    void* (*reserve)(void* owner, long bytes);
    void* owner;
};

// How the weights of a derivative are had; see gradient.hpp.
enum Weights { eigenvectors = 0, given = 1, inverse_square_root = 2 };

// One derivative: arrays of consecutive matrices (n, n) or vectors (n), `count` of them.
template <class T>
struct PullBack {
    Weights kind;
    const T* vectors;   // eigenvectors in rows
    const T* cotangent;
    bool transposed;    // whether the cotangent is stored by columns
    const T* weights;   // (n, n); for the inverse square root (n), its eigenvalues
    const T* diagonal;  // (n), or null
    T* result;
};

template <class T>
struct Functions {
    int width;  // matrices per vector; eigh takes twice as many at once, the others as many
    void (*eigh)(const T* matrices, T* values, T* vectors, int count, int n, Workspace);
    void (*recompose)(const T* vectors, const T* values, T* result, int count, int n, Workspace);
    void (*pull_back)(const PullBack<T>&, int count, int n, Workspace);
};

struct Kernel {
    const char* name;
    Functions<float> single[2];  // the widest vectors first; width 0 where there is no second
    Functions<double> full[2];
};

}  // namespace eigengrad
