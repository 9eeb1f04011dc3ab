// What the operators share: checks, and the way from a dtype to a type.

#pragma once

#include <new>

#include "torch.hpp"

namespace eigengrad {

inline void need(bool condition, const char* what) {
    if (!condition) throw std::runtime_error(std::string("eigengrad: ") + what);
}
inline void finish(bool worked) {
    if (!worked) throw std::bad_alloc();
}

// Calls work(T()) for the real type T of a dtype.
template <class Work>
void with_real_type(std::int32_t dtype, Work work) {
    need(torch::is_known(dtype), "matrices must be of float32, float64, complex64 or complex128");
    if (torch::real(dtype) == torch::float32) work(float());
    else work(double());
}

void moments_operator(torch::Value* stack, torch::Value, torch::Value);
void moments_backward_operator(torch::Value* stack, torch::Value, torch::Value);
void affine_operator(torch::Value* stack, torch::Value, torch::Value);
void affine_backward_operator(torch::Value* stack, torch::Value, torch::Value);
void update_operator(torch::Value* stack, torch::Value, torch::Value);

}  // namespace eigengrad
