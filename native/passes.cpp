// The C interface of the passes over data: how they are cut into chunks. See eigengrad/native/passes.py for its other
// side. Every function returns 0, or 1 if memory ran out.

#include "select.hpp"

namespace eigengrad {

// Data of `groups` groups of d channels in `images` images, each observed `columns` times in an image; a pass is cut into
// chunks of units that stay in the second-level cache, one result a chunk and group.
struct Data {
    long images, groups, columns;
    long image, other_image;  // distance of images in the data, and in the other arrays

    static constexpr long longest = 4096, bytes = 256 * 1024;

    long segments() const { return (columns + longest - 1) / longest; }
    long per_chunk(long channel_bytes) const {
        long unit = (columns < longest ? columns : longest) * channel_bytes;
        return unit < bytes ? bytes / unit : 1;
    }
    long chunks(long channel_bytes) const {
        long each = per_chunk(channel_bytes);
        return (images * segments() + each - 1) / each;
    }
};

// Calls task(units, chunk, group, offset of the group) for every chunk and group.
template <class T, class Task>
static bool for_chunks(const Data& all, const T* data, int d, int threads, Task task) {
    long channel = d * long(sizeof(T)), each = all.per_chunk(channel), chunks = all.chunks(channel);
    return Threads::run(chunks * all.groups, threads, [&](long turn) {
        long chunk = turn / all.groups, group = turn % all.groups, total = all.images * all.segments();
        long last = (chunk + 1) * each < total ? (chunk + 1) * each : total, offset = group * d * all.columns;
        task(Units<T>{data + offset, chunk * each, last, all.segments(), all.columns, Data::longest, all.image,
                      all.other_image, all.columns},
             chunk, group, offset);
    });
}

template <class T>
static int moments(const T* data, const Data& all, int d, T* counts, T* means, T* scatters, int threads) {
    return !for_chunks(all, data, d, threads, [&](const Units<T>& x, long chunk, long group, long) {
        long at = chunk * all.groups + group, observations = 0;
        functions(T())->moments(x, d, means + at * d, scatters + at * d * d, scratch);
        x.each([&](const T*, int columns, long) { observations += columns; });
        if (group == 0) counts[chunk] = T(observations);
    });
}

template <class T>
static int affine(const T* data, const Data& all, int d, const T* matrix, const T* centre, const T* offset, T* y, int add,
                  int threads) {
    return !for_chunks(all, data, d, threads, [&](const Units<T>& x, long, long group, long at) {
        functions(T())->affine(x, d, matrix + group * d * d, centre + group * d, offset + group * d, y + at, add, scratch);
    });
}

template <class T>
static int affine_backward(const T* data, const Data& all, int d, const T* g, const T* matrix, const T* centre, T* gx,
                           T* g_matrices, T* g_offsets, int threads) {
    return !for_chunks(all, data, d, threads, [&](const Units<T>& x, long chunk, long group, long at) {
        long result = chunk * all.groups + group;
        functions(T())->affine_backward(x, g + at, d, matrix + group * d * d, centre + group * d, gx ? gx + at : nullptr,
                                        g_matrices + result * d * d, g_offsets + result * d, scratch);
    });
}

}  // namespace eigengrad

#define EIGENGRAD_PASSES(T, suffix)                                                                                    \
    extern "C" __attribute__((visibility("default"))) int eigengrad_moments_##suffix(                                  \
        const T* data, const long* sizes, int d, T* counts, T* means, T* scatters, int threads) {                      \
        eigengrad::Data all{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};                                         \
        return eigengrad::moments(data, all, d, counts, means, scatters, threads);                                     \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_affine_##suffix(                                   \
        const T* data, const long* sizes, int d, const T* matrix, const T* centre, const T* offset, T* y, int add,     \
        int threads) {                                                                                                 \
        eigengrad::Data all{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};                                         \
        return eigengrad::affine(data, all, d, matrix, centre, offset, y, add, threads);                               \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) int eigengrad_affine_backward_##suffix(                          \
        const T* data, const long* sizes, int d, const T* g, const T* matrix, const T* centre, T* gx, T* g_matrices,   \
        T* g_offsets, int threads) {                                                                                   \
        eigengrad::Data all{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};                                         \
        return eigengrad::affine_backward(data, all, d, g, matrix, centre, gx, g_matrices, g_offsets, threads);        \
    }

EIGENGRAD_PASSES(float, float32)
EIGENGRAD_PASSES(double, float64)

// Chunks that a pass is cut into.
extern "C" __attribute__((visibility("default"))) long eigengrad_chunks(const long* sizes, long channel_bytes) {
    return eigengrad::Data{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}.chunks(channel_bytes);
}
