// Runs a GPU kernel's source on a CPU: the threads of a block are fibers that take turns at every wait, in an order that is
// shuffled anew each time. What depends on the order, a race, gives other bits with another seed.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace eigengrad::emulation {

struct Fiber {
    ucontext_t context;
    bool done = false;
};

struct Block {
    long index;
    std::vector<Fiber> threads;
    int current;
    ucontext_t scheduler;
    void (*kernel)(const void* arguments, void* shared);
    const void* arguments;
    void* shared;
};

inline Block* block;
inline long phases;  // of all blocks of the last launch

int thread_index() { return block->current; }
int thread_count() { return int(block->threads.size()); }
long block_index() { return block->index; }
void wait() { swapcontext(&block->threads[block->current].context, &block->scheduler); }

inline void run_thread() {
    block->kernel(block->arguments, block->shared);
    block->threads[block->current].done = true;
}

constexpr long stack_size = 256 * 1024;
constexpr std::uint32_t unwritten = 0x7fc0dead;  // a NaN, in shared memory and behind it

// 0, or what is wrong: 1, some threads had ended while others waited; 2, a kernel wrote behind its shared memory.
inline int run(void (*kernel)(const void*, void*), const void* arguments, long blocks, int threads, long shared_bytes,
               unsigned seed) {
    constexpr long guard = 64;
    std::mt19937 random(seed);
    std::vector<std::uint32_t> shared((shared_bytes + 3) / 4 + guard);
    const std::unique_ptr<char[]> stacks(new char[threads * stack_size]);
    std::vector<int> order(threads);
    phases = 0;
    for (long index = 0; index < blocks; ++index) {
        std::fill(shared.begin(), shared.end(), unwritten);
        Block here{index, std::vector<Fiber>(threads), 0, {}, kernel, arguments, shared.data()};
        block = &here;
        for (int t = 0; t < threads; ++t) {
            ucontext_t& context = here.threads[t].context;
            getcontext(&context);
            context.uc_stack.ss_sp = stacks.get() + t * stack_size;
            context.uc_stack.ss_size = stack_size;
            context.uc_link = &here.scheduler;
            makecontext(&context, run_thread, 0);
        }
        for (int running = threads; running; ++phases) {
            std::iota(order.begin(), order.end(), 0);
            if (seed) std::shuffle(order.begin(), order.end(), random);
            for (int t : order) {
                here.current = t;
                swapcontext(&here.scheduler, &here.threads[t].context);
                running -= here.threads[t].done;
            }
            if (running && running < threads) return 1;
        }
        for (std::size_t k = (shared_bytes + 3) / 4; k < shared.size(); ++k)
            if (shared[k] != unwritten) return 2;
    }
    return 0;
}

struct Named {
    const char* name;
    void (*kernel)(const void* arguments, void* shared);
};

template <class Arguments, class T, void (*kernel)(const Arguments&, T*)>
void with_untyped(const void* arguments, void* shared) {
    kernel(*static_cast<const Arguments*>(arguments), static_cast<T*>(shared));
}

}  // namespace eigengrad::emulation
