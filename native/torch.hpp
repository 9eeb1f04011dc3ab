// Torch's stable C interface: the few functions that operators need, looked up in the torch of the process.
//
// The declarations are ours, so nothing of torch is needed to build, and one library serves every torch from 2.11 on.
// A tensor is a handle that its holder gives back; a boxed operator gets its arguments, and leaves its results, on a
// stack of 64-bit values, handles among them, which change hands with it.

#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

namespace eigengrad::torch {

using Handle = void*;
using Value = std::uint64_t;
using Operator = void (*)(Value* stack, Value arguments, Value results);

#define EIGENGRAD_TORCH(X)                                                                                 \
    X(int, aoti_torch_library_init_impl, const char*, const char*, const char*, std::uint32_t, Handle*)    \
    X(int, aoti_torch_library_impl, Handle, const char*, Operator)                                         \
    X(int, aoti_torch_new_tensor_handle, Handle, Handle*)                                                  \
    X(int, aoti_torch_delete_tensor_object, Handle)                                                        \
    X(int, aoti_torch_get_data_ptr, Handle, void**)                                                        \
    X(int, aoti_torch_get_dim, Handle, std::int64_t*)                                                      \
    X(int, aoti_torch_get_sizes, Handle, std::int64_t**)                                                   \
    X(int, aoti_torch_get_strides, Handle, std::int64_t**)                                                 \
    X(int, aoti_torch_get_dtype, Handle, std::int32_t*)                                                    \
    X(int, aoti_torch_empty_strided, std::int64_t, const std::int64_t*, const std::int64_t*, std::int32_t, \
      std::int32_t, std::int32_t, Handle*)                                                                 \
    X(int, aoti_torch_copy_, Handle, Handle, std::int32_t)                                                 \
    X(int, torch_get_num_threads, std::uint32_t*)

#define EIGENGRAD_DECLARE(result, name, ...) inline result (*name)(__VA_ARGS__) = nullptr;
EIGENGRAD_TORCH(EIGENGRAD_DECLARE)
#undef EIGENGRAD_DECLARE

// Whether the torch in the shared object `path`, loaded already, has all of them.
inline bool load(const char* path) {
    void* library = dlopen(path, RTLD_NOLOAD | RTLD_LAZY);
    bool found = library != nullptr;
#define EIGENGRAD_FIND(result, name, ...) \
    found = found && (name = reinterpret_cast<decltype(name)>(dlsym(library, #name))) != nullptr;
    EIGENGRAD_TORCH(EIGENGRAD_FIND)
#undef EIGENGRAD_FIND
    return found;
}

inline void check(int code) {
    if (code) throw std::runtime_error("eigengrad: a call of torch's C interface failed");
}

// c10::ScalarType, whose numbers are part of torch's file formats.
enum Dtype : std::int32_t {
    float32 = 6,
    float64 = 7,
    complex64 = 9,
    complex128 = 10,
    boolean = 11,
};

inline Dtype real(std::int32_t dtype) { return dtype == float32 || dtype == complex64 ? float32 : float64; }
inline bool is_known(std::int32_t dtype) {
    return dtype == float32 || dtype == float64 || dtype == complex64 || dtype == complex128;
}
inline bool is_complex(std::int32_t dtype) { return dtype == complex64 || dtype == complex128; }

constexpr int most_dims = 32;

struct Shape {
    std::int64_t size[most_dims];
    int dims = 0;

    Shape() = default;
    Shape(std::initializer_list<std::int64_t> sizes) {
        for (std::int64_t each : sizes) size[dims++] = each;
    }
    std::int64_t numel() const {
        std::int64_t product = 1;
        for (int k = 0; k < dims; ++k) product *= size[k];
        return product;
    }
    Shape leading(int count) const {
        Shape result = *this;
        result.dims = count;
        return result;
    }
    Shape with(std::int64_t last) const {
        Shape result = *this;
        result.size[result.dims++] = last;
        return result;
    }
    bool operator==(const Shape& other) const {
        return dims == other.dims && std::memcmp(size, other.size, dims * sizeof *size) == 0;
    }
    bool operator!=(const Shape& other) const { return !(*this == other); }
};

// A tensor that is held. Its shape and dtype are read once.
class Tensor {
public:
    Tensor() = default;
    explicit Tensor(Handle handle) : handle_(handle) {
        std::int64_t dims, *sizes;
        check(aoti_torch_get_dim(handle, &dims));
        check(aoti_torch_get_sizes(handle, &sizes));
        check(aoti_torch_get_dtype(handle, &dtype));
        if (dims > most_dims) throw std::runtime_error("eigengrad: a tensor of more than 32 dimensions");
        shape.dims = int(dims);
        std::memcpy(shape.size, sizes, dims * sizeof *sizes);
    }
    Tensor(Tensor&& other) noexcept : shape(other.shape), dtype(other.dtype), handle_(std::exchange(other.handle_, nullptr)) {}
    Tensor& operator=(Tensor&& other) noexcept {
        std::swap(handle_, other.handle_);
        shape = other.shape, dtype = other.dtype;
        return *this;
    }
    ~Tensor() {
        if (handle_) aoti_torch_delete_tensor_object(handle_);
    }

    // Memory of this shape on a CPU; the last two dimensions by columns, if so wished.
    static Tensor empty(const Shape& shape, std::int32_t dtype, bool by_columns = false) {
        std::int64_t strides[most_dims], step = 1;
        for (int k = shape.dims - 1; k >= 0; --k) strides[k] = step, step *= shape.size[k] > 1 ? shape.size[k] : 1;
        if (by_columns && shape.dims >= 2) std::swap(strides[shape.dims - 1], strides[shape.dims - 2]);
        Handle handle;
        check(aoti_torch_empty_strided(shape.dims, shape.size, strides, dtype, 0, -1, &handle));
        return Tensor(handle);
    }

    explicit operator bool() const { return handle_ != nullptr; }
    Handle get() const { return handle_; }
    void* data() const {
        void* pointer;
        check(aoti_torch_get_data_ptr(handle_, &pointer));
        return pointer;
    }

    const std::int64_t* strides() const {
        std::int64_t* result;
        check(aoti_torch_get_strides(handle_, &result));
        return result;
    }

    // Whether it lies in memory row by row, or with the last two dimensions by columns; each part of it that an index of
    // the first `apart` dimensions picks.
    bool is_contiguous(bool by_columns = false, int apart = 0) const {
        const std::int64_t* stride = strides();
        std::int64_t step = 1;
        for (int k = shape.dims - 1; k >= apart; --k) {
            const bool swapped = by_columns && shape.dims >= 2 && k >= shape.dims - 2;
            const int at = swapped ? 2 * shape.dims - 3 - k : k;
            if (shape.size[at] != 1 && stride[at] != step) return false;
            step *= shape.size[at];
        }
        return true;
    }

    // The same numbers, in this order and dtype: itself, or a copy.
    Tensor contiguous(bool by_columns = false) && {
        return is_contiguous(by_columns) ? std::move(*this) : to(dtype, by_columns);
    }
    Tensor to(std::int32_t other, bool by_columns = false) const {
        Tensor result = empty(shape, other, by_columns);
        result.copy(*this);
        return result;
    }
    void copy(const Tensor& from) const { check(aoti_torch_copy_(handle_, from.handle_, 0)); }

    Handle release() { return std::exchange(handle_, nullptr); }

    Tensor again() const {
        Handle result;
        check(aoti_torch_new_tensor_handle(handle_, &result));
        return Tensor(result);
    }

    Shape shape;
    std::int32_t dtype = 0;

private:
    Handle handle_ = nullptr;
};

// The arguments of one call, taken from the stack from left to right, and its results, put there.
class Stack {
public:
    explicit Stack(Value* values) : values_(values) {}

    Tensor tensor() { return Tensor(reinterpret_cast<Handle>(values_[next_++])); }
    Tensor optional_tensor() {
        Value* const box = reinterpret_cast<Value*>(values_[next_++]);
        if (!box) return {};
        const Value value = *box;
        delete box;
        return Tensor(reinterpret_cast<Handle>(value));
    }
    std::int64_t integer() { return std::int64_t(values_[next_++]); }
    bool boolean() { return as<bool>(values_[next_++]); }
    double number() { return as<double>(values_[next_++]); }

    template <class... Tensors>
    void results(Tensors&&... tensors) {
        int k = 0;
        ((values_[k++] = reinterpret_cast<Value>(tensors.release())), ...);
    }

private:
    template <class T>
    static T as(Value value) {
        T result;
        std::memcpy(&result, &value, sizeof result);
        return result;
    }

    Value* values_;
    int next_ = 0;
};

inline int threads() {
    std::uint32_t count;
    check(torch_get_num_threads(&count));
    return int(count);
}

}  // namespace eigengrad::torch
