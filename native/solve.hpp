// One group of matrices from memory to memory: load, scale, decompose, order, store.

#pragma once

#include "group.hpp"
#include "jacobi.hpp"
#include "kernel.hpp"
#include "ql.hpp"
#include "rayleigh.hpp"
#include "rotations.hpp"
#include "scale.hpp"
#include "tridiagonal.hpp"

namespace eigengrad::EIGENGRAD_ISA {

template <int n, class V>
void solve_tiny(Batch<const typename V::scalar> in, Batch<typename V::scalar> values,
                Batch<typename V::scalar> vectors) {
    using T = typename V::scalar;
    using P = typename V::part;
    constexpr int W = P::lanes;
    V a[n][n], d[n], v[n][n];
    for (int g = 0; g < V::parts; ++g) {
        auto from = part_of<V>(in, g);
        if (from.count <= 0) from = in, from.count = 1;  // a stand-in, never stored
        for_tiles<W>(n * n, [&](long offset) {
            P x[W];
            load_tile(from, offset, x);
            for (int w = 0; w < W; ++w) {
                int i = (offset + w) / n, j = (offset + w) % n;
                if (i < n && j <= i) part(a[i][j], g) = x[w];
            }
        });
    }
    Scale<V> scale;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) scale.update(a[i][j]);
    scale.decide();
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) a[i][j] = scale.scaled(a[i][j]);
    jacobi<n>(a, d, v);
    for (int i = 0; i < n; ++i) {
        d[i] = scale.unscaled(d[i]);
        for (int j = 0; j < n; ++j) v[i][j] = scale.vector(v[i][j]);
    }
    T lanes[n * V::lanes];
    for (int k = 0; k < n; ++k) d[k].store(lanes + k * V::lanes);
    for (int lane = 0; lane < values.count; ++lane)
        for (int k = 0; k < n; ++k) values.data[lane * n + k] = lanes[k * V::lanes + lane];
    for (int g = 0; g < V::parts; ++g) {
        auto to = part_of<V>(vectors, g);
        if (to.count <= 0) break;
        for_tiles<W>(n * n, [&](long offset) {
            P x[W];
            for (int w = 0; w < W; ++w) {
                int k = (offset + w) / n, i = (offset + w) % n;
                x[w] = k < n ? part(v[i][k], g) : P(T(0));
            }
            store_tile(to, offset, x);
        });
    }
}

// An odd row length keeps columns from falling on one cache set (4 KB aliasing).
EIGENGRAD_INLINE long leading(int n) { return n | 1; }

// Short real matrices: both halves of a pair in step from beginning to end, rotations applied as they come.
template <class V>
void solve_short(Batch<const typename V::scalar> in, Batch<typename V::scalar> values,
                 Batch<typename V::scalar> vectors, int n, Workspace memory) {
    using T = typename V::scalar;
    using P = typename V::part;
    const long ld = leading(n), size = 2 * n * ld + tridiagonal_work(n);
    V* a = static_cast<V*>(memory.reserve((size + 3 * n) * sizeof(V) + P::lanes * n * n * sizeof(T)));
    V *again = a + n * ld, *work = again + n * ld, *d = a + size, *e = d + n, *rank = e + n;
    for (int g = 0; g < V::parts; ++g) {
        auto from = part_of<V>(in, g);
        if (from.count <= 0) from = in, from.count = 1;
        load_triangle<1>(from, n, reinterpret_cast<P*>(a) + g, ld, V::parts);
    }
    Scale<V> scale;
    scale_triangle(a, n, ld, scale);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) again[i * ld + j] = a[i * ld + j];
    tridiagonalise(a, n, ld, d, e, work);
    auto unconverged = implicit_ql(
        d, e, n,
        [&](int k, V c, V s) {
            V* column = a + k;
            for (int i = 0; i < n; ++i, column += ld) rotate(Rotation<V>{c, s}, column[0], column[1]);
        },
        [](int, int) {});
    rayleigh_quotients(again, a, n, ld, d);
    scale.finite = without(scale.finite, unconverged);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) a[i * ld + j] = scale.vector(a[i * ld + j]);
    P* q[V::parts];
    for (int g = 0; g < V::parts; ++g) q[g] = reinterpret_cast<P*>(a) + g;
    store_group<1, V>(values, vectors, n, d, rank, q, ld, V::parts, scale, reinterpret_cast<T*>(rank + n));
}

// Long matrices and complex ones: each group by itself, but for the recurrence of the QL sweeps, whose latency two groups
// share; the rotations are recorded and applied to Q several sweeps at a time. V is a pair.
template <int planes, class V>
void solve_long(Batch<const typename V::scalar> in, Batch<typename V::scalar> values,
                Batch<typename V::scalar> vectors, int n, Workspace memory) {
    using T = typename V::scalar;
    using P = typename V::part;
    using E = Entry<P, planes>;
    constexpr int W = P::lanes, G = V::parts, capacity = Sweeps<P>::capacity;
    const long ld = leading(n);
    const long entries = (G + 1) * n * ld + tridiagonal_work(n), numbers = (3 * G + 2 + 2L * capacity * G) * n;
    E* next = static_cast<E*>(
        memory.reserve(entries * sizeof(E) + numbers * sizeof(P) + W * n * n * planes * sizeof(T)));
    E *q[G], *again;
    for (int g = 0; g < G; ++g) q[g] = next, next += n * ld;
    again = next, next += n * ld;
    E* work = next;
    V *d = reinterpret_cast<V*>(work + tridiagonal_work(n)), *e = d + n, *rank = e + n;
    P *dg = reinterpret_cast<P*>(rank + n), *eg = dg + n, *rotations = eg + n;
    Sweeps<P> sweeps[G];
    for (int g = 0; g < G; ++g, rotations += 2L * capacity * n)
        sweeps[g].rotations = reinterpret_cast<Rotation<P>*>(rotations), sweeps[g].stride = n;
    Scale<V> scale;
    const int used = in.count > W ? G : 1;
    for (int k = 0; k < n; ++k) d[k] = e[k] = V(T(0));
    scale.up = V(T(1));
    auto load = [&](int g, E* to) {
        load_triangle<planes>(part_of<V>(in, g), n, reinterpret_cast<P*>(to), ld, 1);
        Scale<P> own;
        scale_triangle(to, n, ld, own);
        part(scale.up, g) = own.up, part(scale.nonfinite, g) = own.nonfinite;
    };
    for (int g = 0; g < used; ++g) {
        load(g, q[g]);
        tridiagonalise(q[g], n, int(ld), dg, eg, work);
        for (int k = 0; k < n; ++k) part(d[k], g) = dg[k];
        for (int k = 0; k + 1 < n; ++k) part(e[k], g) = eg[k];
    }
    scale.finite = scale.nonfinite == V(T(0));
    auto flush = [&] {
        for (int g = 0; g < G; ++g) g < used ? sweeps[g].apply(q[g], n, ld) : sweeps[g].forget();
    };
    auto unconverged = implicit_ql(
        d, e, n,
        [&](int k, V c, V s) {
            for (int g = 0; g < G; ++g) sweeps[g].sweep(sweeps[g].count)[k] = {part(c, g), part(s, g)};
        },
        [&](int low, int high) {
            for (int g = 0; g < G; ++g) {
                int t = sweeps[g].count++;
                sweeps[g].low[t] = low, sweeps[g].high[t] = high;
            }
            if (sweeps[0].count == capacity) flush();
        });
    flush();
    for (int g = 0; g < used; ++g) {
        load(g, again);
        rayleigh_quotients(again, q[g], n, ld, dg);
        for (int k = 0; k < n; ++k) part(d[k], g) = dg[k];
    }
    scale.finite = without(scale.finite, unconverged);
    for (int g = 0; g < used; ++g) {
        Scale<P> own;
        own.finite = g ? scale.finite.hi : scale.finite.lo;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) q[g][i * ld + j] = own.vector(q[g][i * ld + j]);
    }
    P* columns[G];
    for (int g = 0; g < G; ++g) columns[g] = reinterpret_cast<P*>(q[g]);
    store_group<planes, V>(values, vectors, n, d, rank, columns, ld, 1, scale, reinterpret_cast<T*>(rotations));
}

template <class V, class T = typename V::scalar>
void solve_short_or_tiny(Batch<const T> in, Batch<T> values, Batch<T> vectors, int n, Workspace memory) {
    switch (n) {
        case 1: return solve_tiny<1, V>(in, values, vectors);
        case 2: return solve_tiny<2, V>(in, values, vectors);
        case 3: return solve_tiny<3, V>(in, values, vectors);
        case 4: return solve_tiny<4, V>(in, values, vectors);
        default: return solve_short<V>(in, values, vectors, n, memory);
    }
}

// Up to twice as many matrices as V has lanes, real or complex. Eigenvectors are stored in rows.
template <int planes, class V, class T = typename V::scalar>
void solve(const T* matrices, T* values, T* vectors, int count, int n, Workspace memory) {
    const long size = long(n) * n * planes;
    Batch<const T> in{matrices, size, count};
    Batch<T> l{values, n, count}, v{vectors, size, count};
    if constexpr (planes == 1) {
        if (n <= 16 && count <= V::lanes) return solve_short_or_tiny<V>(in, l, v, n, memory);
        if (n <= 16) return solve_short_or_tiny<Pair<V>>(in, l, v, n, memory);
    }
    solve_long<planes, Pair<V>>(in, l, v, n, memory);
}

}  // namespace eigengrad::EIGENGRAD_ISA
