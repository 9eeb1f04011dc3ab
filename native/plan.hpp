// Which backend decomposes a batch, and in which precision: a lookup in the table of eigengrad/native/thresholds.py, which
// is handed over when the library is loaded.

#pragma once

#include <cstdint>
#include <cstring>

namespace eigengrad {

enum class Purpose { eigenvectors,
                     function };
enum class Backend { lapack,
                     kernel };
enum class Precision { as_it_is,
                       refined,
                       in_double };

struct Plan {
    Backend backend;
    Precision precision;
};

// Batches from which on the kernel is taken, by purpose, dtype (float32, float64, complex64, complex128), threads (one, more)
// and n; and from which on single precision is refined, below which it goes through double, by backend and n.
class Table {
public:
    static constexpr int sizes = 257;  // n up to 256

    static inline std::int64_t kernel[2][4][2][sizes], single[2][sizes];

    template <class Array>
    static int set(Array& to, const std::int64_t* from, int count) {
        if (sizeof(Array) != count * sizeof *from) return 1;
        std::memcpy(to, from, sizeof(Array));
        return 0;
    }

    static Plan plan(Purpose purpose, int dtype, int threads, int n, std::int64_t batch, bool kernel_always) {
        const bool small = n < sizes;
        const bool by_kernel = kernel_always || (small && batch >= kernel[int(purpose)][dtype][threads > 1][n]);
        const Backend backend = by_kernel ? Backend::kernel : Backend::lapack;
        if (purpose == Purpose::eigenvectors || dtype == 1 || dtype == 3) return {backend, Precision::as_it_is};
        const bool in_double = small && batch < single[int(backend)][n];
        return {backend, in_double ? Precision::in_double : Precision::refined};
    }
};

}  // namespace eigengrad
