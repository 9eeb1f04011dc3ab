// The passes over data, as operators: how they are cut into chunks, and how what the chunks say becomes one result, which
// does not depend on the number of threads.

#include <algorithm>
#include <memory>

#include "operators.hpp"
#include "select.hpp"
#include "statistics.hpp"

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

constexpr const char* small_shapes = "matrices must be (G, d, d), centre, scale and offset (G, d, 1), of the data's dtype";

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
    // Or nothing, where that is an option.
    bool has_column(const Tensor& t, std::int32_t dtype) const { return !t || (t.dtype == dtype && t.shape == Shape{groups, d, 1}); }
    bool has_matrix(const Tensor& t, std::int32_t dtype) const { return !t || (t.dtype == dtype && t.shape == Shape{groups, d, d}); }
    long observations() const { return images * columns; }
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
static T* numbers(const Tensor& tensor) { return tensor ? static_cast<T*>(tensor.data()) : nullptr; }

static Tensor contiguous(Tensor tensor) { return tensor ? std::move(tensor).contiguous() : std::move(tensor); }

// Calls task(group, memory) for every group, with what arithmetic between the passes works with.
template <class T, class Task>
static void for_groups(const Images& x, Task task) {
    finish(Threads::run(x.groups, torch::threads(), [&](long group) {
        task(group, static_cast<T*>(scratch.reserve(statistics_memory(x.d) * long(sizeof(T)))));
    }));
}

void moments_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor data = Images::of(stack.tensor());
    const double shrinkage = stack.number(), eps = stack.number(), relative_eps = stack.number();
    const Images x(data);
    const Shape matrices{x.groups, x.d, x.d};
    Tensor mean = Tensor::empty({x.groups, x.d, 1}, data.dtype), covariance = Tensor::empty(matrices, data.dtype);
    Tensor shrunk = Tensor::empty(matrices, data.dtype), conditioned = Tensor::empty(matrices, data.dtype);
    Tensor finite = Tensor::empty({x.groups}, torch::boolean);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Data all = x.with(x);
        const long chunks = all.chunks(x.d * long(sizeof(T))), rows = chunks * x.groups * x.d, size = x.d * x.d;
        std::unique_ptr<T[]> memory(new T[chunks + rows + rows * x.d]);
        T *counts = memory.get(), *means = counts + chunks, *scatters = means + rows;
        finish(moments(numbers<const T>(data), all, x.d, counts, means, scatters, torch::threads()));
        merge_moments(chunks, x.groups, x.d, counts, means, scatters, numbers<T>(mean), numbers<T>(covariance));
        const Conditioning<T> by(x.observations(), shrinkage, eps, relative_eps);
        for_groups<T>(x, [&](long g, T* memory) {
            T* const C = numbers<T>(covariance) + g * size;
            for (long k = 0; k < size; ++k) C[k] /= by.observations;
            condition<Alone>(by, C, x.d, numbers<T>(mean) + g * x.d, numbers<T>(shrunk) + g * size,
                             numbers<T>(conditioned) + g * size, numbers<bool>(finite) + g, memory);
        });
    });
    stack.results(mean, covariance, shrunk, conditioned, finite);
}

void moments_backward_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor gx = stack.tensor(), data = Images::of(stack.tensor());
    const Tensor mean = stack.tensor().contiguous(), covariance = stack.tensor().contiguous();
    const Tensor g_mean = contiguous(stack.optional_tensor()), g_covariance = contiguous(stack.optional_tensor());
    const Tensor g_conditioned = contiguous(stack.optional_tensor());
    const double shrinkage = stack.number(), relative_eps = stack.number();
    const bool apart = !gx.is_contiguous(false, 1);
    const Tensor written = apart ? gx.to(gx.dtype) : gx.again();
    const Images x(data), to(written);
    need(gx.shape == data.shape && gx.dtype == data.dtype, "moments_backward: gx and data must be of one shape and dtype");
    need(x.has_column(mean, data.dtype) && x.has_matrix(covariance, data.dtype) && x.has_column(g_mean, data.dtype) &&
             x.has_matrix(g_covariance, data.dtype) && x.has_matrix(g_conditioned, data.dtype),
         small_shapes);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const long size = x.d * x.d;
        const Conditioning<T> by(x.observations(), shrinkage, 0, relative_eps);
        std::unique_ptr<T[]> memory(new T[x.groups * (size + 2 * x.d)]);
        T *const matrices = memory.get(), *const centres = matrices + x.groups * size, *const shifts = centres + x.groups * x.d;
        const T *const of_C = numbers<const T>(g_covariance), *const of_A = numbers<const T>(g_conditioned);
        for_groups<T>(x, [&](long g, T* memory) {
            pull_back_conditioning<Alone>(by, numbers<const T>(covariance) + g * size, x.d, of_C ? of_C + g * size : nullptr,
                                          of_A ? of_A + g * size : nullptr, matrices + g * size, memory);
            for (long k = g * x.d; k < (g + 1) * x.d; ++k) {
                centres[k] = finite_or_zero(numbers<const T>(mean)[k]);
                shifts[k] = g_mean ? numbers<const T>(g_mean)[k] / by.observations : T(0);
            }
        });
        finish(affine(numbers<const T>(data), x.with(to), x.d, matrices, centres, shifts, numbers<T>(written), true, torch::threads()));
    });
    if (apart) gx.copy(written);
}

// Rows of `matrix`, times the scale.
template <class T>
static std::unique_ptr<T[]> scaled_rows(const Images& x, const Tensor& matrix, const Tensor& scale) {
    std::unique_ptr<T[]> result(new T[x.groups * x.d * x.d]);
    const T *const from = numbers<const T>(matrix), *const factors = numbers<const T>(scale);
    for (long k = 0; k < x.groups * x.d * x.d; ++k) result[k] = factors ? factors[k / x.d] * from[k] : from[k];
    return result;
}

void affine_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor y = stack.tensor(), data = Images::of(stack.tensor());
    const Tensor matrix = stack.tensor().contiguous(), centre = stack.tensor().contiguous();
    const Tensor scale = contiguous(stack.optional_tensor()), offset = contiguous(stack.optional_tensor());
    const bool apart = !y.is_contiguous(false, 1);
    const Tensor written = apart ? Tensor::empty(y.shape, y.dtype) : y.again();
    const Images x(data), to(written);
    need(y.shape == data.shape && y.dtype == data.dtype, "affine: y and data must be of one shape and dtype");
    need(x.has_matrix(matrix, data.dtype) && x.has_column(centre, data.dtype) && x.has_column(scale, data.dtype) &&
             x.has_column(offset, data.dtype),
         small_shapes);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const std::unique_ptr<T[]> rows = scaled_rows<T>(x, matrix, scale), none(new T[x.groups * x.d]());
        finish(affine(numbers<const T>(data), x.with(to), x.d, rows.get(), numbers<const T>(centre),
                      offset ? numbers<const T>(offset) : none.get(), numbers<T>(written), false, torch::threads()));
    });
    if (apart) y.copy(written);
}

void affine_backward_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor gx = stack.optional_tensor(), data = Images::of(stack.tensor());
    Tensor g = Images::of(stack.tensor());
    const Tensor matrix = stack.tensor().contiguous(), centre = stack.tensor().contiguous();
    const Tensor scale = contiguous(stack.optional_tensor());
    const bool alike = gx && gx.is_contiguous(false, 1) && gx.strides()[0] == g.strides()[0];
    if (gx && !alike) g = g.to(g.dtype);
    const Tensor written = !gx ? Tensor() : (alike ? gx.again() : Tensor::empty(g.shape, g.dtype));  // laid out as g is
    const Images x(data), cotangent(g);
    need(g.shape == data.shape && g.dtype == data.dtype && (!gx || (gx.shape == data.shape && gx.dtype == data.dtype)),
         "affine_backward: data, g and gx must be of one shape and dtype");
    need(x.has_matrix(matrix, data.dtype) && x.has_column(centre, data.dtype) && x.has_column(scale, data.dtype), small_shapes);
    Tensor g_matrix = Tensor::empty(matrix.shape, matrix.dtype), g_centre = Tensor::empty(centre.shape, centre.dtype);
    Tensor g_scale = Tensor::empty(centre.shape, centre.dtype), g_offset = Tensor::empty(centre.shape, centre.dtype);
    with_real_type(data.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Data all = x.with(cotangent);
        const long chunks = all.chunks(x.d * long(sizeof(T))), rows = x.groups * x.d, size = x.d * x.d;
        std::unique_ptr<T[]> memory(new T[(chunks + 1) * rows * x.d + chunks * rows]);
        T *const matrices = memory.get(), *const product = matrices + chunks * rows * x.d, *const offsets = product + rows * x.d;
        finish(affine_backward(numbers<const T>(data), all, x.d, numbers<const T>(g), scaled_rows<T>(x, matrix, scale).get(),
                               numbers<const T>(centre), numbers<T>(written), matrices, offsets, torch::threads()));
        sum_chunks(chunks, rows * x.d, matrices, product);
        sum_chunks(chunks, rows, offsets, numbers<T>(g_offset));
        const T* const factors = numbers<const T>(scale);
        for_groups<T>(x, [&](long g, T*) {
            pull_back_affine<Alone>(product + g * size, numbers<const T>(g_offset) + g * x.d, numbers<const T>(matrix) + g * size,
                                    factors ? factors + g * x.d : nullptr, x.d, numbers<T>(g_matrix) + g * size,
                                    numbers<T>(g_centre) + g * x.d, numbers<T>(g_scale) + g * x.d);
        });
    });
    if (gx && !alike) gx.copy(written);
    stack.results(g_matrix, g_centre, g_scale, g_offset);
}

// Moves estimates (C) and (C, d) of the groups that may, all of them or none if they stay together, and counts the batch.
void update_operator(torch::Value* values, torch::Value, torch::Value) {
    Stack stack(values);
    const Tensor running_mean = stack.optional_tensor(), running_covariance = stack.optional_tensor();
    const Tensor count = stack.optional_tensor(), before = stack.optional_tensor();
    const Tensor mean = stack.tensor().contiguous(), covariance = stack.tensor().contiguous();
    const Tensor valid = contiguous(stack.optional_tensor());
    const long first = stack.integer();
    const double given = stack.number(), momentum = before ? 1 / double(*numbers<std::int64_t>(before) + 1) : given;
    const bool together = stack.boolean();
    const int d = int(covariance.shape.size[covariance.shape.dims - 1]);
    const long groups = covariance.shape.size[0], size = long(d) * d;
    const bool* const flags = numbers<const bool>(valid);
    bool all = true, any = !valid;
    for (long k = 0; valid && k < valid.shape.numel(); ++k) all = all && flags[k], any = any || flags[k];
    need(covariance.shape == Shape{groups, d, d} && mean.shape == Shape{groups, d, 1}, small_shapes);
    need(!running_mean || (running_mean.shape == Shape{groups * d} && running_mean.dtype == mean.dtype && running_mean.is_contiguous()),
         "update: the running mean must be (C,), contiguous, of the mean's dtype");
    need(!running_covariance || (running_covariance.shape == Shape{groups * d, d} && running_covariance.dtype == covariance.dtype &&
                                 running_covariance.strides()[1] == 1),
         "update: the running covariance must be (C, d), by rows, of the covariance's dtype");
    need(!valid || (valid.dtype == torch::boolean && valid.shape.numel() >= first + groups), "update: valid has too few groups");
    need(mean.dtype == covariance.dtype, "update: mean and covariance must be of one dtype");
    with_real_type(mean.dtype, [&](auto zero) {
        using T = decltype(zero);
        const long row = running_covariance ? running_covariance.strides()[0] : 0;
        for (long g = 0; g < groups; ++g)
            if (!valid || (together ? all : flags[first + g]))
                move_estimates<Alone>(running_mean ? numbers<T>(running_mean) + g * d : nullptr,
                                      running_covariance ? numbers<T>(running_covariance) + g * d * row : nullptr, row,
                                      numbers<const T>(mean) + g * d, numbers<const T>(covariance) + g * size, d, T(momentum));
    });
    if (count) *numbers<std::int64_t>(count) += together ? all : any;
}

}  // namespace eigengrad
