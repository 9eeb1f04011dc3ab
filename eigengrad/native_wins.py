"""Where the compiled kernel beats LAPACK, as measured and printed by ``python -m benchmarks.native``."""

import math

NEVER = math.inf  # also where the ratio lay too near to 1 to tell

SMALLEST_BATCH: dict[tuple[str, int], tuple[tuple[int, float], ...]] = {
    ("float32", 1): ((2, 16), (3, 8), (16, 4), (32, 2), (96, 4), (256, NEVER)),
    ("float32", 2): ((2, 16), (3, 8), (16, 4), (32, 2), (64, 4), (128, 8), (256, NEVER)),
    ("float64", 1): ((2, 16), (8, 4), (48, 2), (128, 4), (256, NEVER)),
    ("float64", 2): ((2, 16), (8, 4), (48, 2), (128, 4), (256, NEVER)),
}
"""By dtype and threads (2 stands for more): pairs of the largest n and the smallest batch, for ascending n."""

MOST_ROWS = 96
"""Up to this n the products of the backward pass are faster in the kernel than in torch."""
