"""Where the compiled kernel beats LAPACK, as measured and printed by ``python -m benchmarks.native``."""

import math

NEVER = math.inf  # also where the ratio lay too near to 1 to tell

SMALLEST_BATCH: dict[tuple[str, int], tuple[tuple[int, float], ...]] = {
    ("float32", 1): ((2, 16), (3, 8), (8, 4), (32, 2), (96, 4), (256, 8)),
    ("float32", 2): ((2, 16), (3, 8), (8, 4), (32, 2), (64, 4), (128, 8), (256, 64)),
    ("float64", 1): ((2, 16), (8, 4), (48, 2), (128, 4), (256, 8)),
    ("float64", 2): ((2, 16), (8, 4), (48, 2), (128, 4), (256, 64)),
}
"""By dtype and threads (2 stands for more): pairs of the largest n and the smallest batch, for ascending n;
where runs of the benchmark differed, the larger."""

PRODUCTS: tuple[tuple[int, float], ...] = ((32, 1), (48, 2), (96, 8))
"""The same for products with eigenvectors, alone or with a decomposition before them: one call for torch's ten."""
