// Tasks that threads take in turn, and the memory each thread works in.

#pragma once

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

namespace eigengrad {

struct Job {
    const std::function<void(long)>* task;
    long tasks;
    std::atomic<long> next{0};
    std::atomic<bool> failed{false};

    // What each thread does: tasks, until none is left.
    void work() {
        try {
            for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) (*task)(i);
        } catch (...) {
            failed = true;
            next = tasks;
        }
    }
};

// Scratch memory of the calling thread.
class Scratch {
public:
    ~Scratch() { std::free(memory_); }

    static void* reserve(long bytes) {
        if (own.bytes_ < bytes) {
            constexpr long page = 4096;
            std::free(own.memory_);
            own.bytes_ = 0;
            own.memory_ = std::aligned_alloc(page, (bytes + page - 1) / page * page);
            if (!own.memory_) throw std::bad_alloc();
            own.bytes_ = bytes;
        }
        return own.memory_;
    }

    // Gives back what is too much to keep for the next call.
    static void trim() {
        constexpr long most = 64L << 20;
        if (own.bytes_ <= most) return;
        std::free(own.memory_);
        own.memory_ = nullptr;
        own.bytes_ = 0;
    }

private:
    static thread_local Scratch own;

    void* memory_ = nullptr;
    long bytes_ = 0;
};

inline thread_local Scratch Scratch::own;

}  // namespace eigengrad
