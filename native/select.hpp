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

inline const Kernel& best() {
#if defined(EIGENGRAD_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return avx512::kernel;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kernel;
#endif
    return baseline::kernel;
}

inline const Kernel* chosen = &best();

inline const Functions<float>* functions(float) { return chosen->single; }
inline const Functions<double>* functions(double) { return chosen->full; }

constexpr Workspace scratch{Scratch::reserve};

}  // namespace eigengrad
