"""Which backend decomposes a batch, and in which precision: one table, as measured by ``python -m benchmarks.native``.

Two things are asked for. *Eigenvectors*, as :func:`eigengrad.eigh` returns them, are as accurate as LAPACK's. A
*function* of a matrix is as accurate as its decomposition lets it be, and in single precision a solver's error is
several times that of everything that follows: so few small matrices go through double precision, where that is cheap,
and the others are corrected afterwards (Ogita and Aishima, 2018, 2019; ``native/refine.hpp``).

The compiled kernel looks the table up itself, when an operator runs: :func:`table` is what it is given.
"""

from typing import NamedTuple

import torch

__all__ = ["LARGEST", "Plan", "plan", "table"]

LARGEST = 256
"""The largest n that was measured. Beyond, LAPACK decomposes."""

NEVER = 2**63 - 1

Rows = tuple[tuple[int, int], ...]
"""Pairs of the largest n and the smallest batch, for ascending n; where runs differed, the larger."""

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
PURPOSES = ("eigenvectors", "function")
BACKENDS = ("lapack", "kernel")
PRECISIONS = ("as_it_is", "refined", "in_double")

_OF_EIGENVECTORS: dict[tuple[torch.dtype, int], Rows] = {
    (torch.float32, 1): ((16, 1), (48, 2), (96, 4), (256, 8)),
    (torch.float32, 2): ((32, 1), (64, 4), (128, 8), (256, 64)),
    (torch.float64, 1): ((16, 1), (48, 2), (128, 4), (256, 8)),
    (torch.float64, 2): ((32, 1), (48, 2), (128, 4), (256, 64)),
    (torch.complex64, 1): ((8, 1), (24, 2), (64, 4)),
    (torch.complex64, 2): ((8, 1), (32, 2), (64, 4)),
    (torch.complex128, 1): ((8, 1), (64, 2)),
    (torch.complex128, 2): ((8, 1), (64, 2)),
}
_OF_FUNCTIONS: dict[bool, Rows] = {
    False: ((32, 1), (48, 2), (64, 4), (96, 8)),
    True: ((16, 1), (48, 2), (64, 4)),
}
"""Of real and complex matrices, with the function made of the eigenvectors in the same pass, whatever the threads."""

_IN_SINGLE: dict[str, Rows] = {
    "lapack": ((32, NEVER), (LARGEST, 0)),
    "kernel": ((2, 16), (3, 8), (12, 4), (LARGEST, 0)),
}
"""Batches from which on a function in single precision is computed in single precision, and corrected."""


class Plan(NamedTuple):
    """How a batch is decomposed."""

    backend: str
    """``"kernel"`` or ``"lapack"``."""
    precision: str
    """``"as_it_is"``; or, for functions in single precision, ``"refined"`` or ``"in_double"``."""


def plan(purpose: str, n: int, batch: int, dtype: torch.dtype, threads: int, *, kernel: bool = True) -> Plan:
    """How ``batch`` matrices of size n are decomposed on a CPU.

    Args:
        purpose: ``"eigenvectors"`` or ``"function"``.
        n: rows of a matrix.
        batch: number of matrices.
        dtype: theirs.
        threads: as :func:`torch.get_num_threads` has them.
        kernel: whether there is the compiled one.
    """
    backend = "kernel" if kernel and batch >= _smallest_batch(purpose, n, dtype, threads) else "lapack"
    if purpose == "eigenvectors" or dtype in (torch.float64, torch.complex128):
        return Plan(backend, "as_it_is")
    return Plan(backend, "in_double" if batch < _smallest(n, _IN_SINGLE[backend], beyond=0) else "refined")


def table() -> tuple[list[int], list[int]]:
    """Smallest batches of the kernel by purpose, dtype, threads (1 and more) and n from 0 to :data:`LARGEST`, and of
    single precision by backend and n, row by row."""
    sizes = range(LARGEST + 1)
    kernel = [
        _smallest_batch(purpose, n, dtype, threads)
        for purpose in PURPOSES
        for dtype in DTYPES
        for threads in (1, 2)
        for n in sizes
    ]
    return kernel, [_smallest(n, _IN_SINGLE[backend], beyond=0) for backend in BACKENDS for n in sizes]


def _smallest_batch(purpose: str, n: int, dtype: torch.dtype, threads: int) -> int:
    rows = _OF_FUNCTIONS[dtype.is_complex] if purpose == "function" else _OF_EIGENVECTORS[dtype, min(threads, 2)]
    return _smallest(n, rows, beyond=NEVER)


def _smallest(n: int, rows: Rows, *, beyond: int) -> int:
    return next((batch for most, batch in rows if n <= most), beyond)
