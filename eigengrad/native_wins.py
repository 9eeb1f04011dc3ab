"""Where the compiled kernel beats LAPACK: written by ``benchmarks/native.py`` from ``results/native.json``."""

SMALLEST_BATCH: dict[tuple[str, int], tuple[tuple[int, float], ...]] = {
    ("float32", 1): ((16, 4), (128, 16)),
    ("float32", 2): ((16, 4), (128, 16)),
    ("float64", 1): ((16, 4), (128, 16)),
    ("float64", 2): ((16, 4), (128, 16)),
}
"""By dtype and threads (2 stands for more): pairs of the largest n and the smallest batch, for ascending n."""

MOST_ROWS = 32
"""Up to this n the products of the backward pass are faster in the kernel than in torch."""
