// Which instruction set: the best one of this processor, unless a test has chosen another.

#pragma once

#include "kernel.hpp"
#include "threads.hpp"

namespace eigengrad {

#if defined(EIGENGRAD_X86)
namespace avx512 {
extern const Kernel kernel;
}
namespace avx2 {
extern const Kernel kernel;
}
#endif
namespace baseline {
extern const Kernel kernel;
}

// The kernels that this processor can run, the best one last.
inline const Kernel* const* supported(int& count) {
    static const Kernel* kernels[3] = {&baseline::kernel};
    count = 1;
#if defined(EIGENGRAD_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        kernels[count++] = &avx2::kernel;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
            kernels[count++] = &avx512::kernel;
    }
#endif
    return kernels;
}

inline const Kernel* best() {
    int count;
    const Kernel* const* kernels = supported(count);
    return kernels[count - 1];
}

inline const Kernel* chosen = best();

// By its name. Returns whether it is supported.
inline bool choose(const char* name) {
    int count;
    const Kernel* const* kernels = supported(count);
    for (int k = 0; k < count; ++k)
        if (__builtin_strcmp(kernels[k]->name, name) == 0) return chosen = kernels[k], true;
    return false;
}

inline const Functions<float>* functions(float) { return chosen->single; }
inline const Functions<double>* functions(double) { return chosen->full; }

constexpr Workspace scratch{Scratch::reserve};

}  // namespace eigengrad
