// A pool of threads that sleep between batches.
//
// Starting a thread costs as much as decomposing a thousand 3 x 3 matrices, so threads are kept. A process that has
// forked, as a data loader does, has none of them: it is given a pool of its own. Two callers at a time do not share:
// the second works alone.

#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace eigengrad {

// Scratch memory of the calling thread.
class Scratch {
public:
    ~Scratch() { std::free(memory_); }

    static void* reserve(void*, long bytes) {
        static thread_local Scratch own;
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

private:
    void* memory_ = nullptr;
    long bytes_ = 0;
};

class Pool {
public:
    // Runs task(0) .. task(tasks - 1) on up to `threads` threads, the caller's among them. False if memory ran out.
    static bool run(long tasks, int threads, const std::function<void(long)>& task) {
        Pool& pool = current();
        std::unique_lock<std::mutex> alone(pool.caller_, std::defer_lock);
        if (threads <= 1 || tasks <= 1 || !alone.try_lock()) {
            Job job{&task, tasks};
            job.work();
            return !job.failed;
        }
        return pool.share(tasks, threads - 1, task);
    }

private:
    struct Job {
        const std::function<void(long)>* task;
        long tasks;
        std::atomic<long> next{0};
        std::atomic<bool> failed{false};

        void work() {
            try {
                for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) (*task)(i);
            } catch (...) {
                failed = true;
                next = tasks;
            }
        }
    };

    // Never destroyed: at exit its threads may still be asleep in it.
    static Pool& current() {
        static std::atomic<Pool*> pool{nullptr};
        Pool* known = pool.load(std::memory_order_acquire);
        if (known && known->process_ == getpid()) return *known;
        Pool* fresh = new Pool;
        if (pool.compare_exchange_strong(known, fresh, std::memory_order_acq_rel)) return *fresh;
        delete fresh;
        return *known;
    }

    bool share(long tasks, int helpers, const std::function<void(long)>& task) {
        Job job{&task, tasks};
        {
            std::lock_guard<std::mutex> guard(state_);
            try {
                while (int(threads_.size()) < helpers) threads_.emplace_back([this] { serve(); });
            } catch (...) {  // no more threads to be had: those there are will do
            }
            job_ = &job;
            wanted_ = helpers < int(threads_.size()) ? helpers : int(threads_.size());
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> guard(state_);
        job_ = nullptr;
        wanted_ = 0;
        idle_.wait(guard, [this] { return busy_ == 0; });
        return !job.failed;
    }

    void serve() {
        std::unique_lock<std::mutex> guard(state_);
        for (;;) {
            wake_.wait(guard, [this] { return wanted_ > 0; });
            --wanted_, ++busy_;
            Job* job = job_;
            guard.unlock();
            job->work();
            guard.lock();
            if (--busy_ == 0) idle_.notify_one();
        }
    }

    const pid_t process_ = getpid();
    std::mutex caller_, state_;
    std::condition_variable wake_, idle_;
    std::vector<std::thread> threads_;
    Job* job_ = nullptr;
    int wanted_ = 0, busy_ = 0;
};

}  // namespace eigengrad
