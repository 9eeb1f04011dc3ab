"""Forward algorithms: how eigenvalues and eigenvectors are computed, whatever the gradient.

A solver is a frozen value object. Calling it with Hermitian ``A (*, n, n)`` returns ascending eigenvalues ``(*, n)``
and eigenvectors in columns ``(*, n, n)``. :func:`eigengrad.eigh` takes an object, where a solver has settings, or a
name: ``"auto"``, ``"eigh"``, ``"native"``, ``"svd"``, ``"qr"``, ``"power_iteration"``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigengrad import native
from eigengrad.native.thresholds import FEWEST, fewest
from eigengrad.solvers.base import Solver, check, hermitian
from eigengrad.solvers.power_iteration import PowerIteration
from eigengrad.solvers.qr import QR

__all__ = ["QR", "SVD", "Auto", "Eigh", "Native", "PowerIteration", "Solver", "resolve"]


@dataclass(frozen=True)
class Eigh:
    """``torch.linalg.eigh``: LAPACK's divide and conquer on CPU, cuSOLVER on CUDA. Bit-identical to torch.

    On CUDA, torch 2.12 and later give cuSOLVER the whole batch at once (``XsyevBatched``), which fails above about
    65,000 matrices; there, batches go in pieces of :data:`PIECE`, but not inside of ``vmap`` or ``torch.compile``.
    Earlier ones decompose matrices of more than 32 rows one by one (pytorch#175585): update torch if you have many.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        if _limited(A) and math.prod(A.shape[:-2]) > PIECE:
            return _piecewise(A, UPLO)
        L, V = torch.linalg.eigh(A, UPLO)
        return L, V


PIECE = 32_768
"""Matrices in one call of cuSOLVER: half of what it takes, since its workspace grows with them."""


def _limited(A: Tensor) -> bool:
    return A.is_cuda and torch.torch_version.__version__ >= "2.12" and native.eager(A)


def _piecewise(A: Tensor, UPLO: str) -> tuple[Tensor, Tensor]:
    pieces = [torch.linalg.eigh(piece, UPLO) for piece in A.flatten(0, -3).split(PIECE)]
    L = torch.cat([values for values, _ in pieces])
    V = torch.cat([vectors.mT for _, vectors in pieces]).mT  # eigenvectors stay contiguous each
    return L.unflatten(0, A.shape[:-2]), V.unflatten(0, A.shape[:-2])


@dataclass(frozen=True)
class Native:
    """The compiled kernel for batches of small real matrices on a CPU (see :mod:`eigengrad.native`).

    As accurate as LAPACK, on every core, with many matrices at once. A matrix with NaN or infinity gives NaN and
    leaves the others alone, where :class:`Eigh` raises for the whole batch. Any n is taken, but a thread's
    workspace holds up to 48 matrices: what was measured ends at n = 256.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check(A, UPLO)
        if A.dtype not in (torch.float32, torch.float64) or A.device.type != "cpu":
            raise ValueError(
                f"solver='native' takes float32 or float64 matrices on a CPU, got {A.dtype} on {A.device.type}; "
                "use solver='eigh', or 'auto', which chooses"
            )
        return native.decompose(A if UPLO == "L" else A.mT, always=True)


@dataclass(frozen=True)
class Auto:
    """:class:`Native` where it was measured to be faster (see ``native/thresholds.py``), else :class:`Eigh`.

    The choice depends on n, the size of the batch, the dtype and the number of threads, never on values. A single
    matrix goes to LAPACK, and so does everything where the kernel was not built, on other devices, and complex input.
    A batch with NaN or infinity in it raises ``torch.linalg.LinAlgError`` from LAPACK, and gives NaN from the kernel.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        # Quickly, for LAPACK decomposes a 2 x 2 matrix in 4 us; a compiler would make the numbers part of its graph.
        if not native.compiling() and not native.transforming():
            numbers = A.numel()
            if numbers < FEWEST or numbers < fewest(A.shape[-1], A.dtype, torch.get_num_threads()):
                return torch.linalg.eigh(A, UPLO)
        if UPLO in ("L", "U"):
            # What hides the size of the batch, a compiler or vmap, is given an operator that chooses when it runs.
            eager = native.eager(A)
            if native.chosen(A) if eager else native.possible(A):
                return native.decompose(A if UPLO == "L" else A.mT, always=eager)
        return Eigh()(A, UPLO)


@dataclass(frozen=True)
class SVD:
    """``torch.linalg.svd`` of a positive semidefinite matrix, the paper's forward pass.

    Singular values equal eigenvalues only where none is negative. For an indefinite matrix use another solver.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        U, S, _ = torch.linalg.svd(hermitian(A, UPLO))
        return S.flip(-1), U.flip(-1)


_BY_NAME: dict[str, Solver] = {
    "auto": Auto(),
    "eigh": Eigh(),
    "native": Native(),
    "svd": SVD(),
    "qr": QR(),
    "power_iteration": PowerIteration(),
}


def resolve(solver: str | Solver) -> Solver:
    """The solver object behind a name; an object is returned as it is.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything that is neither a name nor a solver.
    """
    if isinstance(solver, str):
        if solver not in _BY_NAME:
            raise ValueError(
                f"solver must be one of {', '.join(map(repr, _BY_NAME))} or a solver object, got {solver!r}"
            )
        return _BY_NAME[solver]
    if isinstance(solver, type) or not callable(solver) or not hasattr(solver, "differentiable"):
        raise TypeError(f"solver must be a name or a solver object such as eigengrad.solvers.SVD(), got {solver!r}")
    return solver
