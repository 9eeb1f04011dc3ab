// The threads that share a batch: torch's own, where it has OpenMP's.
//
// Those spin for a while after each of torch's operators; threads of ours would wait for the cores they keep. The
// library does not link OpenMP: it takes GNU's entry point if torch has brought it into the process. A process that has
// forked has lost OpenMP's threads without OpenMP's knowing, and takes the pool, as does one without OpenMP. So do tasks
// that are too few for all threads: OpenMP would wake every one, or end those not asked for and start them again later.

#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include "job.hpp"
#include "pool.hpp"

namespace eigengrad {

class Threads {
public:
    // Runs task(0) .. task(tasks - 1) on up to `threads` threads, the caller's among them. False if memory ran out.
    static bool run(long tasks, int threads, const std::function<void(long)>& task) {
        Job job{&task, tasks};
        if (threads <= 1 || tasks <= 1)
            job.work();
        else if (parallel_ && tasks >= threads && getpid() == process_)
            parallel_([](void* job) { static_cast<Job*>(job)->work(); }, &job, unsigned(threads), 0);
        else
            Pool::run(job, tasks < threads ? int(tasks) : threads);
        return !job.failed;
    }

    // For a Workspace.
    static void share(long tasks, int threads, void (*task)(void* what, long k), void* what) {
        run(tasks, threads, [=](long k) { task(what, k); });
    }

private:
    using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

    static inline const Parallel parallel_ = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    static inline const pid_t process_ = getpid();
};

}  // namespace eigengrad
