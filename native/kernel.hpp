// What one instruction set offers to the batch loop: functions on one group of matrices, by vector width.

#pragma once

namespace eigengrad {

#if defined(EIGENGRAD_SCALAR)

// What a thread of a GPU has to work with.
struct Workspace {
    void* memory;

    void* reserve(long) const { return memory; }
};

#else

// What one thread has to work with: memory, aligned for any vector; and, where one matrix is all there is, threads to
// share its products with.
struct Workspace {
    void* (*reserve)(long bytes);
    int threads = 1;
    void (*share)(long tasks, int threads, void (*task)(void* what, long k), void* what) = nullptr;

    // Calls task(0) .. task(tasks - 1).
    template <class Task>
    void each(long tasks, Task task) const {
        if (threads > 1 && tasks > 1) {
            share(tasks, threads, [](void* what, long k) { (*static_cast<Task*>(what))(k); }, &task);
        } else {
            for (long k = 0; k < tasks; ++k) task(k);
        }
    }
};

#endif

// Which derivative, and where its weights come from: those of eigenvectors are given or made by a rule, a Lorentzian or a
// geometric series; those of a function given or made for one that is known; a projector's are by a rule, or exact without
// width and terms. See weights.hpp.
enum Weights {
    eigenvectors = 0,
    function = 1,
    square_root = 2,
    inverse_square_root = 3,
    by_rule = 4,
    exponential = 5,
    logarithm = 6,
    power = 7,
    projector = 8
};

// A function of eigenvalues, which is a kind from square_root on. Roots take eigenvalues below `parameter` to be that; a
// power has it as the exponent.
struct Scalar {
    Weights kind;
    double parameter;

    bool is_root() const { return kind == square_root || kind == inverse_square_root; }
};

// One derivative: arrays of consecutive matrices (n, n) or vectors (n), `count` of them. Weights and diagonal are real.
template <class T>
struct PullBackArguments {
    Weights kind;
    const T* vectors;   // eigenvectors in rows
    const T* cotangent;
    bool transposed;    // whether the cotangent is stored by columns
    const T* weights;   // (n, n), or (n): of roots the eigenvalues of the root, of others those of the matrix
    int terms[2];       // of a series: for the column's eigenvector where its eigenvalue is the larger, and elsewhere
    const T* diagonal;  // (n), or null; of a projector 1 for the eigenvalues that it keeps, else 0; of
                        // exponential, logarithm and power the threshold that eigenvalues below are lifted to, n times
    T* result;
    double parameter = 0;  // exponent of a power; relative width of a Lorentzian

    bool of_function() const { return kind != eigenvectors && kind != by_rule; }
    bool is_lorentzian() const { return parameter > 0 && (kind == by_rule || kind == projector); }
    bool is_lifted() const { return diagonal && kind >= exponential && kind <= power; }
    bool weights_are_given() const { return kind == eigenvectors || kind == function; }
};

// Some units of one group of channels: `first` to `last` of all, of which each image has `segments`. Inputs and outputs
// of a pass are laid out alike but for the distance of their images.
template <class T>
struct Units {
    const T* data;  // of the group in image 0
    long first, last, segments;
    long columns, segment;     // observations of an image, and of a segment of it (the last one may be shorter)
    long image, other_image;   // distance of images in the data, and in the other arrays
    long row;                  // distance of channels

    // Calls what(data, columns, offset in the other arrays) for each unit.
    template <class What>
    void each(What what) const {
        for (long u = first; u < last; ++u) {
            long b = u / segments, m = u % segments * segment;
            what(data + b * image + m, int(columns - m < segment ? columns - m : segment), b * other_image + m);
        }
    }
};

// Products with eigenvectors of `count` matrices: of one, or of up to as many as there are lanes.
template <class T>
struct Products {
    void (*recompose)(const T* vectors, const T* values, T* result, int count, int n, Workspace);
    void (*pull_back)(const PullBackArguments<T>&, int count, int n, Workspace);
    void (*refine)(const T* matrices, T* vectors, T* values, int count, int n, Workspace);
};

// Of two functions the second is that for complex matrices.
template <class T>
struct Functions {
    int width;  // matrices per vector; eigh takes twice as many at once, the products as many
    void (*eigh[2])(const T* matrices, T* values, T* vectors, int count, int n, Workspace);
    void (*apply)(Scalar, const T* x, T* result, long count);
    Products<T> in_lanes[2], alone[2];
    void (*moments)(const Units<T>&, int d, T* mean, T* scatter, Workspace);
    void (*affine)(const Units<T>&, int d, const T* matrix, const T* centre, const T* offset, T* y, bool add, Workspace);
    void (*affine_backward)(const Units<T>&, const T* g, int d, const T* matrix, const T* centre, T* gx, T* g_matrix,
                            T* g_offset, Workspace);
};

struct Kernel {
    const char* name;
    Functions<float> single[2];  // the widest vectors first; width 0 where there is no second
    Functions<double> full[2];
};

}  // namespace eigengrad
