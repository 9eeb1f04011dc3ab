// The operators torch.ops.eigengrad.* on a CPU. Their schemas, and what they do elsewhere, are in eigengrad/native/operators.py.

#include "operators.hpp"

#include "batch.hpp"
#include "lapack.hpp"

namespace eigengrad {

using torch::Shape;
using torch::Stack;
using torch::Tensor;

// Matrices (*, n, n) as one batch.
struct Batch {
    Shape leading;
    long count;
    int n;

    explicit Batch(const Tensor& matrices) {
        const Shape& shape = matrices.shape;
        need(shape.dims >= 2 && shape.size[shape.dims - 1] == shape.size[shape.dims - 2], "matrices must be square");
        leading = shape.leading(shape.dims - 2);
        count = leading.numel();
        n = int(shape.size[shape.dims - 1]);
    }
    bool empty() const { return count == 0 || n == 0; }
    Shape values() const { return leading.with(n); }
    Shape matrices() const { return values().with(n); }
};

static int index_of(std::int32_t dtype) {
    return dtype == torch::float32 ? 0 : (dtype == torch::float64 ? 1 : (dtype == torch::complex64 ? 2 : 3));
}

static void raise(long index) {
    throw std::runtime_error("eigengrad: matrix " + std::to_string(index) +
                             " of the batch has no eigendecomposition: it holds NaN or infinity, or the algorithm did not converge");
}

// What is asked of a decomposition, beside the matrices.
struct Request {
    Purpose purpose;
    bool kernel_always, strict;
};

// A function of matrices, eigenvalues (those of a root) and eigenvectors; without `result`, these alone.
static std::pair<Tensor, Tensor> decompose(const Tensor& A, Scalar f, Request request, const Tensor* result) {
    const Batch batch(A);
    std::pair<Tensor, Tensor> basis = {Tensor::empty(batch.values(), torch::real(A.dtype)),
                                       Tensor::empty(batch.matrices(), A.dtype, true)};
    if (batch.empty()) return basis;
    const int threads = torch::threads();
    auto [backend, precision] =
        Table::plan(request.purpose, index_of(A.dtype), threads, batch.n, batch.count, request.kernel_always);
    with_real_type(A.dtype, [&, backend = backend, precision = precision](auto zero) {
        using T = decltype(zero);
        const T* const matrices = static_cast<const T*>(A.data());
        T *const values = static_cast<T*>(basis.first.data()), *const vectors = static_cast<T*>(basis.second.data());
        FunctionArguments<T> arguments{f, precision, torch::is_complex(A.dtype), backend == Backend::lapack,
                                       matrices, result ? static_cast<T*>(result->data()) : nullptr, values, vectors};
        if (arguments.given) {
            const bool in_double = precision == Precision::in_double;
            if (in_double) arguments.precision = Precision::as_it_is;
            const auto eigh = in_double ? lapack::eigh<double, T> : lapack::eigh<T, T>;
            const long bad = eigh(arguments.is_complex, matrices, values, vectors, batch.count, batch.n);
            if (request.strict && bad >= 0) raise(bad);
            if (!result && arguments.precision == Precision::as_it_is) return;
        }
        finish(matrix_function(arguments, batch.count, batch.n, threads));
        if (arguments.given || !request.strict) return;
        const long size = long(batch.n) * batch.n * (arguments.is_complex ? 2 : 1);
        for (long b = 0; b < batch.count; ++b)
            if (!(vectors[b * size] == vectors[b * size])) raise(b);
    });
    return basis;
}

static void eigh_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor A = stack.tensor().contiguous();
    const bool always = stack.boolean(), refined = stack.boolean(), strict = stack.boolean();
    const Request request{refined ? Purpose::function : Purpose::eigenvectors, always, strict};
    auto [L, V] = decompose(A, {}, request, nullptr);
    stack.results(L, V);
}

static void function_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor A = stack.tensor().contiguous();
    const Weights kind = Weights(stack.integer());
    const double parameter = stack.number();
    const bool always = stack.boolean(), strict = stack.boolean();
    Tensor result = Tensor::empty(A.shape, A.dtype);
    auto [L, V] = decompose(A, {kind, parameter}, {Purpose::function, always, strict}, &result);
    stack.results(result, L, V);
}

static void root_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor A = stack.tensor().contiguous();
    const Weights kind = stack.boolean() ? inverse_square_root : square_root;
    const double floor = stack.number();
    const bool always = stack.boolean(), strict = stack.boolean();
    Tensor result = Tensor::empty(A.shape, A.dtype);
    auto [x, V] = decompose(A, {kind, floor}, {Purpose::function, always, strict}, &result);
    stack.results(result, x, V);
}

static void refine_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor A = stack.tensor().contiguous(), V = stack.tensor();
    const Batch batch(A);
    need(V.shape == A.shape && V.dtype == A.dtype, "refine: A and V must be of one shape and dtype");
    Tensor L = Tensor::empty(batch.values(), torch::real(A.dtype)), refined = V.to(V.dtype, true);
    if (!batch.empty())
        with_real_type(A.dtype, [&](auto zero) {
            using T = decltype(zero);
            finish(refine(torch::is_complex(A.dtype), static_cast<const T*>(A.data()), static_cast<T*>(refined.data()),
                          static_cast<T*>(L.data()), batch.count, batch.n, torch::threads()));
        });
    stack.results(L, refined);
}

static void recompose_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor V = stack.tensor().contiguous(true), x = stack.tensor().contiguous();
    const Batch batch(V);
    need(x.shape == batch.values() && x.dtype == torch::real(V.dtype),
         "recompose: x must be real, of V's precision, one number for each vector");
    Tensor result = Tensor::empty(V.shape, V.dtype);
    if (!batch.empty())
        with_real_type(V.dtype, [&](auto zero) {
            using T = decltype(zero);
            finish(recompose(torch::is_complex(V.dtype), static_cast<const T*>(V.data()), static_cast<const T*>(x.data()),
                             static_cast<T*>(result.data()), batch.count, batch.n, torch::threads()));
        });
    stack.results(result);
}

static void pull_back_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    Tensor V = stack.tensor().contiguous(true), G = stack.tensor(), weights = stack.tensor().contiguous();
    Tensor diagonal = stack.optional_tensor();
    const Weights kind = Weights(stack.integer());
    const double parameter = stack.number();
    const int terms[2] = {int(stack.integer()), int(stack.integer())};
    const Batch batch(V);
    const bool by_columns = !G.is_contiguous() && G.is_contiguous(true);
    G = std::move(G).contiguous(by_columns);
    if (diagonal) diagonal = std::move(diagonal).contiguous();
    const bool given = kind == eigenvectors || kind == Weights::function;
    need(G.shape == V.shape && G.dtype == V.dtype, "pull_back: V and G must be of one shape and dtype");
    need(weights.shape == (given ? batch.matrices() : batch.values()) && weights.dtype == torch::real(V.dtype),
         "pull_back: weights must be real, of V's precision and the shape that their kind has");
    need(kind != projector || diagonal, "pull_back: of a projector, diagonal must say which eigenvalues it keeps");
    need(!diagonal || (diagonal.shape == batch.values() && diagonal.dtype == torch::real(V.dtype)),
         "pull_back: diagonal must be real, of V's precision, one number for each vector");
    Tensor result = Tensor::empty(V.shape, V.dtype);
    if (!batch.empty())
        with_real_type(V.dtype, [&](auto zero) {
            using T = decltype(zero);
            const PullBackArguments<T> arguments{kind,
                                                 static_cast<const T*>(V.data()),
                                                 static_cast<const T*>(G.data()),
                                                 by_columns,
                                                 static_cast<const T*>(weights.data()),
                                                 {terms[0], terms[1]},
                                                 diagonal ? static_cast<const T*>(diagonal.data()) : nullptr,
                                                 static_cast<T*>(result.data()),
                                                 parameter};
            finish(pull_back(torch::is_complex(V.dtype), arguments, batch.count, batch.n, torch::threads()));
        });
    stack.results(result);
}

// Registers the CPU implementations, in the torch in the shared object `path`, of operators whose schemas are known to it.
// Returns whether this torch has the interface, and LAPACK for all to see.
static bool start(const char* path) {
    static const std::pair<const char*, torch::Operator> operators[] = {
        {"eigh", eigh_operator},
        {"function", function_operator},
        {"root", root_operator},
        {"refine", refine_operator},
        {"recompose", recompose_operator},
        {"pull_back", pull_back_operator},
        {"moments", moments_operator},
        {"moments_backward", moments_backward_operator},
        {"affine", affine_operator},
        {"affine_backward", affine_backward_operator},
        {"update", update_operator},
    };
    if (!torch::load(path) || !lapack::load(path)) return false;
    torch::Handle library;
    if (torch::aoti_torch_library_init_impl("eigengrad", "CPU", __FILE__, __LINE__, &library)) return false;
    for (const auto& [name, implementation] : operators)
        if (torch::aoti_torch_library_impl(library, name, implementation)) return false;
    return true;
}

}  // namespace eigengrad

#define EIGENGRAD_EXPORT extern "C" __attribute__((visibility("default")))

EIGENGRAD_EXPORT int eigengrad_start(const char* torch) { return eigengrad::start(torch); }

// The two parts of the plan's table. Return 0 if the caller's has the right size.
EIGENGRAD_EXPORT int eigengrad_set_kernel_table(const std::int64_t* from, int count) {
    return eigengrad::Table::set(eigengrad::Table::kernel, from, count);
}
EIGENGRAD_EXPORT int eigengrad_set_single_table(const std::int64_t* from, int count) {
    return eigengrad::Table::set(eigengrad::Table::single, from, count);
}

EIGENGRAD_EXPORT const char* eigengrad_instructions() { return eigengrad::chosen->name; }

// Takes "baseline", "avx2" or "avx512". Returns whether this processor and this build have it.
EIGENGRAD_EXPORT int eigengrad_choose_instructions(const char* name) { return eigengrad::choose(name); }
