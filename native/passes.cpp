// The passes over data, as operators: how they are cut into chunks, and how what the chunks say becomes one result, which
// does not depend on the number of threads.

#include <algorithm>
#include <memory>

#include "operators.hpp"
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
        return unit > 0 && unit < bytes ? bytes / unit : 1;
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
static bool moments(const T* data, const Data& all, int d, T* counts, T* means, T* scatters, int threads) {
    return for_chunks(all, data, d, threads, [&](const Units<T>& x, long chunk, long group, long) {
        long at = chunk * all.groups + group, observations = 0;
        functions(T())->moments(x, d, means + at * d, scatters + at * d * d, scratch);
        x.each([&](const T*, int columns, long) { observations += columns; });
        if (group == 0) counts[chunk] = T(observations);
    });
}

template <class T>
static bool affine(const T* data, const Data& all, int d, const T* matrix, const T* centre, const T* offset, T* y, int add,
                   int threads) {
    return for_chunks(all, data, d, threads, [&](const Units<T>& x, long, long group, long at) {
        functions(T())->affine(x, d, matrix + group * d * d, centre + group * d, offset + group * d, y + at, add, scratch);
    });
}

template <class T>
static bool affine_backward(const T* data, const Data& all, int d, const T* g, const T* matrix, const T* centre, T* gx,
                            T* g_matrices, T* g_offsets, int threads) {
    return for_chunks(all, data, d, threads, [&](const Units<T>& x, long chunk, long group, long at) {
        long result = chunk * all.groups + group;
        functions(T())->affine_backward(x, g + at, d, matrix + group * d * d, centre + group * d, gx ? gx + at : nullptr,
                                        g_matrices + result * d * d, g_offsets + result * d, scratch);
    });
}

using torch::Shape;
using torch::Stack;
using torch::Tensor;

constexpr const char* small_shapes = "the matrix must be (G, d, d), centre and offset (G, d, 1), of the data's dtype";

// Data (B, G, d, M) whose images are contiguous each.
struct Images {
    long images, groups, columns, stride;
    int d;

    explicit Images(const Tensor& data) {
        const std::int64_t* size = data.shape.size;
        images = size[0], groups = size[1], d = int(size[2]), columns = size[3], stride = data.strides()[0];
    }
    // The same data, laid out so: itself, or a copy.
    static Tensor of(Tensor data) {
        need(data.shape.dims == 4 && !torch::is_complex(data.dtype), "data must be real, (B, G, d, M)");
        return data.is_contiguous(false, 1) ? std::move(data) : data.to(data.dtype);
    }
    bool has_column(const Tensor& t, std::int32_t dtype) const { return t.dtype == dtype && t.shape == Shape{groups, d, 1}; }
    bool has_matrix(const Tensor& t, std::int32_t dtype) const { return t.dtype == dtype && t.shape == Shape{groups, d, d}; }
    Data with(const Images& other) const { return {images, groups, columns, stride, other.stride}; }
};

// mean (G, d) and scatter (G, d, d) about it, from those of the chunks, each about its own mean.
// Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
template <class T>
static void merge_moments(long chunks, long groups, int d, const T* counts, const T* means, const T* scatters, T* mean,
                          T* scatter) {
    const long rows = groups * d, size = rows * d;
    T total = 0;
    for (long c = 0; c < chunks; ++c) total += counts[c];
    std::fill_n(mean, rows, T(0));
    std::fill_n(scatter, size, T(0));
    for (long c = 0; c < chunks; ++c)
        for (long i = 0; i < rows; ++i) mean[i] += means[c * rows + i] * (counts[c] / total);
    std::unique_ptr<T[]> away(new T[d]);
    for (long c = 0; c < chunks; ++c)
        for (long g = 0; g < groups; ++g) {
            const T *own = means + c * rows + g * d, *from = scatters + c * size + g * d * d;
            T* to = scatter + g * d * d;
            for (int i = 0; i < d; ++i) away[i] = own[i] - mean[g * d + i];
            for (int i = 0; i < d; ++i) {
                const T weight = counts[c] * away[i];
                for (int j = 0; j < d; ++j) to[i * d + j] += from[i * d + j] + weight * away[j];
            }
        }
}

template <class T>
static void sum_chunks(long chunks, long size, const T* parts, T* total) {
    std::fill_n(total, size, T(0));
    for (long c = 0; c < chunks; ++c)
        for (long i = 0; i < size; ++i) total[i] += parts[c * size + i];
}

template <class T>
static T* numbers(const Tensor& tensor) { return static_cast<T*>(tensor.data()); }

void moments_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor data = Images::of(stack.tensor());
    const Images x(data);
    Tensor scatter = Tensor::empty({x.groups, x.d, x.d}, data.dtype);
    Tensor mean = Tensor::empty({x.groups, x.d, 1}, data.dtype);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Data all = x.with(x);
        const long chunks = all.chunks(x.d * long(sizeof(T))), rows = chunks * x.groups * x.d;
        std::unique_ptr<T[]> memory(new T[chunks + rows + rows * x.d]);
        T *counts = memory.get(), *means = counts + chunks, *scatters = means + rows;
        finish(moments(numbers<const T>(data), all, x.d, counts, means, scatters, torch::threads()));
        merge_moments(chunks, x.groups, x.d, counts, means, scatters, numbers<T>(mean), numbers<T>(scatter));
    });
    stack.results(mean, scatter);
}

void affine_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor y = stack.tensor(), data = Images::of(stack.tensor());
    const Tensor matrix = stack.tensor().contiguous(), centre = stack.tensor().contiguous();
    const Tensor offset = stack.tensor().contiguous();
    const bool add = stack.boolean(), apart = !y.is_contiguous(false, 1);
    const Tensor written = !apart ? y.again() : (add ? y.to(y.dtype) : Tensor::empty(y.shape, y.dtype));
    const Images x(data), to(written);
    need(y.shape == data.shape && y.dtype == data.dtype, "affine: y and data must be of one shape and dtype");
    need(x.has_matrix(matrix, data.dtype) && x.has_column(centre, data.dtype) && x.has_column(offset, data.dtype),
         small_shapes);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        finish(affine(numbers<const T>(data), x.with(to), x.d, numbers<const T>(matrix), numbers<const T>(centre),
                      numbers<const T>(offset), numbers<T>(written), add, torch::threads()));
    });
    if (apart) y.copy(written);
}

void affine_backward_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor gx = stack.optional_tensor(), data = Images::of(stack.tensor());
    Tensor g = Images::of(stack.tensor());
    const Tensor matrix = stack.tensor().contiguous(), centre = stack.tensor().contiguous();
    const bool alike = gx && gx.is_contiguous(false, 1) && gx.strides()[0] == g.strides()[0];
    if (gx && !alike) g = g.to(g.dtype);
    const Tensor written = !gx ? Tensor() : (alike ? gx.again() : Tensor::empty(g.shape, g.dtype));  // laid out as g is
    const Images x(data), cotangent(g);
    need(g.shape == data.shape && g.dtype == data.dtype && (!gx || (gx.shape == data.shape && gx.dtype == data.dtype)),
         "affine_backward: data, g and gx must be of one shape and dtype");
    need(x.has_matrix(matrix, data.dtype) && x.has_column(centre, data.dtype), small_shapes);
    Tensor g_matrix = Tensor::empty(matrix.shape, matrix.dtype), g_offset = Tensor::empty(centre.shape, centre.dtype);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Data all = x.with(cotangent);
        const long chunks = all.chunks(x.d * long(sizeof(T))), rows = x.groups * x.d;
        std::unique_ptr<T[]> memory(new T[chunks * rows * (x.d + 1)]);
        T *matrices = memory.get(), *offsets = matrices + chunks * rows * x.d;
        finish(affine_backward(numbers<const T>(data), all, x.d, numbers<const T>(g), numbers<const T>(matrix),
                               numbers<const T>(centre), gx ? numbers<T>(written) : nullptr, matrices, offsets,
                               torch::threads()));
        sum_chunks(chunks, rows * x.d, matrices, numbers<T>(g_matrix));
        sum_chunks(chunks, rows, offsets, numbers<T>(g_offset));
    });
    if (gx && !alike) gx.copy(written);
    stack.results(g_matrix, g_offset);
}

}  // namespace eigengrad
