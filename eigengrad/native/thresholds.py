"""Where the compiled kernel beats LAPACK, as measured and printed by ``python -m benchmarks.native``."""

import functools
import math

import torch

__all__ = ["FEWEST", "LARGEST_OF_PRODUCTS", "fewest", "smallest_batch", "smallest_batch_of_roots"]

Rows = tuple[tuple[int, float], ...]

NEVER = math.inf  # also where the ratio lay too near to 1 to tell

SMALLEST_BATCH: dict[tuple[str, int], Rows] = {
    ("float32", 1): ((2, 16), (3, 8), (8, 4), (32, 2), (96, 4), (256, 8)),
    ("float32", 2): ((2, 16), (3, 8), (8, 4), (32, 2), (64, 4), (128, 8), (256, 64)),
    ("float64", 1): ((2, 16), (8, 4), (48, 2), (128, 4), (256, 8)),
    ("float64", 2): ((2, 16), (8, 4), (48, 2), (128, 4), (256, 64)),
}
"""By dtype and threads (2 stands for more): pairs of the largest n and the smallest batch, for ascending n;
where runs of the benchmark differed, the larger."""

ROOTS: Rows = ((32, 1), (48, 2), (64, 4), (96, 8))
"""The same for a decomposition with the root made of it in one call."""

LARGEST_OF_PRODUCTS = 2048
"""Products with eigenvectors were measured up to this n, by single matrices and batches, and faster throughout."""


@functools.lru_cache(maxsize=4096)
def smallest_batch(n: int, dtype: torch.dtype, threads: int) -> float:
    """Matrices of size n from which on the kernel was measured to be faster than LAPACK."""
    return _of_size(n, SMALLEST_BATCH.get((str(dtype).removeprefix("torch."), min(threads, 2)), ()))


@functools.lru_cache(maxsize=4096)
def smallest_batch_of_roots(n: int) -> float:
    """The same for roots."""
    return _of_size(n, ROOTS)


def _of_size(n: int, rows: Rows) -> float:
    return next((batch for most, batch in rows if n <= most), NEVER)


FEWEST = min(int(_of_size(n, rows)) * n * n for rows in SMALLEST_BATCH.values() for n in range(2, 129))
"""Numbers in the smallest batch of any size for which :class:`eigengrad.solvers.Auto` has to look twice."""


@functools.lru_cache(maxsize=4096)
def fewest(n: int, dtype: torch.dtype, threads: int) -> int:
    """The same for this size: because of the kernel, or because a thousand may have to go to cuSOLVER in pieces."""
    return int(min(smallest_batch(n, dtype, threads), 1000)) * n * n
