// Threads of our own, that sleep between batches: where torch has none that we could use.
//
// Starting a thread costs as much as decomposing a thousand 3 x 3 matrices, so threads are kept. A process that has
// forked, as a data loader does, has none of them: it is given a pool of its own. Two callers at a time do not share:
// the second works alone.

#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "job.hpp"

namespace eigengrad {

class Pool {
public:
    // Works on the job with up to `threads` threads, the caller's among them.
    static void run(Job& job, int threads) {
        Pool& pool = current();
        std::unique_lock<std::mutex> alone(pool.caller_, std::defer_lock);
        if (alone.try_lock())
            pool.share(job, threads - 1);
        else
            job.work();
    }

private:
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

    void share(Job& job, int helpers) {
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
