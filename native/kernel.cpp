// One instruction set's kernel. Compiled once for each, with EIGENGRAD_ISA naming it: every template lives in that
// namespace, so that the linker cannot mix code of different sets. For the same reason nothing here uses std.

#include "kernel.hpp"

#include "dense.hpp"
#include "gradient.hpp"
#include "lanes.hpp"
#include "passes.hpp"
#include "refine.hpp"
#include "solve.hpp"
#include "weights.hpp"

#define EIGENGRAD_TEXT(x) #x
#define EIGENGRAD_NAME(x) EIGENGRAD_TEXT(x)

namespace eigengrad::EIGENGRAD_ISA {

template <class M, class T = typename M::T>
constexpr Products<T> products() { return {recompose<M>, pull_back<M>, refine<M>}; }

template <class T, int W>
constexpr Functions<T> functions() {
    using V = Vec<T, W>;
    return {W,
            {solve<1, V>, solve<2, V>},
            apply<V>,
            {products<Lanes<V, 1>>(), products<Lanes<V, 2>>()},
            {products<Dense<V, 1>>(), products<Dense<V, 2>>()},
            moments<V>,
            affine<V>,
            affine_backward<V>};
}

#if defined(__AVX512VL__)
extern const Kernel kernel = {
    EIGENGRAD_NAME(EIGENGRAD_ISA), {functions<float, 16>(), functions<float, 8>()}, {functions<double, 8>(), functions<double, 4>()}};
#elif defined(__AVX2__)
extern const Kernel kernel = {
    EIGENGRAD_NAME(EIGENGRAD_ISA), {functions<float, 8>(), functions<float, 4>()}, {functions<double, 4>(), functions<double, 2>()}};
#else
extern const Kernel kernel = {EIGENGRAD_NAME(EIGENGRAD_ISA), {functions<float, 4>(), {}}, {functions<double, 2>(), {}}};
#endif

}  // namespace eigengrad::EIGENGRAD_ISA
