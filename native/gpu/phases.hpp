// The threads of a block, and what they share.
//
// A kernel is written in phases. Within a phase no thread touches what another one writes; between two phases all threads
// wait for each other. A CPU that runs the threads one after the other, phase by phase and in any order, must therefore
// find the same bits (tests/emulation).

#pragma once

#include "lane.hpp"

#if !defined(__CUDACC__)
namespace eigengrad::emulation {
// Of the thread that runs now.
int thread_index();
int thread_count();
long block_index();
void wait();
}  // namespace eigengrad::emulation
#endif

namespace eigengrad::EIGENGRAD_ISA {

#if defined(__CUDACC__)
EIGENGRAD_INLINE int thread_index() { return threadIdx.x; }
EIGENGRAD_INLINE int thread_count() { return blockDim.x; }
EIGENGRAD_INLINE long block_index() { return blockIdx.x; }
EIGENGRAD_INLINE void wait() { __syncthreads(); }
#else
using emulation::block_index;
using emulation::thread_count;
using emulation::thread_index;
using emulation::wait;
#endif

// Calls what(0) .. what(count - 1), shared out among the threads.
template <class What>
EIGENGRAD_INLINE void each(int count, What what) {
    for (int k = thread_index(); k < count; k += thread_count()) what(k);
}

}  // namespace eigengrad::EIGENGRAD_ISA
