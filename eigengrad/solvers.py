"""Forward algorithms: how eigenvalues and eigenvectors are computed, whatever the gradient.

A solver is a frozen value object. Calling it with Hermitian ``A (*, n, n)`` returns ascending eigenvalues ``(*, n)``
and eigenvectors in columns ``(*, n, n)``. :func:`eigengrad.eigh` takes an object, where a solver has settings, or a
name: ``"auto"``, ``"eigh"``, ``"native"``, ``"svd"``, ``"qr"``, ``"power_iteration"``.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from eigengrad import native, qr_algorithm
from eigengrad.arguments import check_square
from eigengrad.native_wins import FEWEST, fewest

__all__ = ["QR", "SVD", "Auto", "Eigh", "Native", "PowerIteration", "Solver", "resolve"]


class Solver(Protocol):
    """What :func:`eigengrad.eigh` asks of a solver."""

    differentiable: ClassVar[bool]
    """Whether autograd can walk the solver's own steps (:class:`eigengrad.Unrolled`)."""

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(*, n)``, ascending, and eigenvectors ``(*, n, n)`` of Hermitian ``A (*, n, n)``."""
        ...


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
    """The compiled kernel for batches of small real matrices on a CPU (see ``native.py``).

    As accurate as LAPACK, on every core, with many matrices at once. A matrix with NaN or infinity gives NaN and
    leaves the others alone, where :class:`Eigh` raises for the whole batch. Any n is taken, but a thread's
    workspace holds up to 48 matrices: what was measured ends at n = 256.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check(A, UPLO)
        if A.dtype not in native.PLANES or A.device.type != "cpu":
            raise ValueError(
                f"solver='native' takes real or complex matrices on a CPU, got {A.dtype} on {A.device.type}; "
                "use solver='eigh', or 'auto', which chooses"
            )
        return native.decompose(A if UPLO == "L" else A.mH, always=True)


@dataclass(frozen=True)
class Auto:
    """:class:`Native` where it was measured to be faster (see ``native_wins.py``), else :class:`Eigh`.

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
                return native.decompose(A if UPLO == "L" else A.mH, always=eager)
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


@dataclass(frozen=True)
class QR:
    """The shifted QR algorithm with deflation on a tridiagonal form (see ``qr_algorithm.py``).

    Written for comparison with the literature's "QR" baseline; :class:`Eigh` is faster.

    Args:
        max_sweeps: sweeps allowed for one eigenvalue before ``torch.linalg.LinAlgError`` is raised. Two or three are
            usual; 30 is LAPACK's allowance.
    """

    differentiable: ClassVar[bool] = False
    max_sweeps: int = 30

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        return qr_algorithm.solve(hermitian(A, UPLO), self.max_sweeps)


@dataclass(frozen=True)
class PowerIteration:
    """Power iteration from random starts with deflation, one eigenvector after the other: the paper's PI baseline.

    For each of the n eigenvectors, ``iterations`` products ``v <- M v / norm(M v)``, then the Rayleigh quotient
    ``v^H M v``, then deflation ``M <- M - M v v^H``. Written in differentiable steps, so that
    :class:`eigengrad.Unrolled` can walk them. It converges as ``abs(b/a)^iterations`` and the error of each vector
    enters all later ones: expect wrong results where magnitudes are close, which is what the paper shows.

    Args:
        iterations: products per eigenvector. The default of 19 is the paper's.
        generator: source of the random starts; torch's global one by default.
    """

    differentiable: ClassVar[bool] = True
    iterations: int = 19
    generator: torch.Generator | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"solvers.PowerIteration: iterations must be at least 1, got {self.iterations}")

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        M = hermitian(A, UPLO)
        n = M.shape[-1]
        if n == 0:
            return M.new_empty(M.shape[:-1], dtype=M.real.dtype), M
        largest = M.detach().abs().amax(dim=(-2, -1), keepdim=True)  # else norms of 1e30 overflow in float32
        scale = torch.where(largest > 0, largest, 1.0)
        M = M / scale
        # No generator is not the same as generator=None to torch.export with symbolic sizes (torch 2.13).
        source: dict[str, Any] = {} if self.generator is None else {"generator": self.generator}
        starts = torch.randn(M.shape, dtype=M.dtype, device=M.device, **source)
        values, vectors = [], []
        for stage in range(n):
            v = _normalise(starts[..., stage : stage + 1])
            for _ in range(self.iterations):
                v = _normalise(M @ v)
            image = M @ v
            values.append((v.mH @ image).real[..., 0])
            vectors.append(v)
            M = M - image @ v.mH
        L, order = (torch.cat(values, dim=-1) * scale[..., 0]).sort(dim=-1)
        V = torch.cat(vectors, dim=-1)
        return L, V.gather(-1, order.unsqueeze(-2).expand(V.shape))


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


def hermitian(A: Tensor, UPLO: str) -> Tensor:
    """The Hermitian matrix whose lower (``"L"``) or upper (``"U"``) triangle is that of ``A``.

    Raises:
        ValueError: if ``A`` is no batch of square matrices, or for another ``UPLO``.
    """
    check(A, UPLO)
    triangle = A.tril(-1) if UPLO == "L" else A.triu(1)
    return triangle + triangle.mH + torch.diag_embed(A.diagonal(dim1=-2, dim2=-1).real)


def check(A: Tensor, UPLO: str) -> None:
    """Raise unless ``A`` is a batch of square matrices and ``UPLO`` is ``"L"`` or ``"U"``."""
    check_square(A)
    if UPLO not in ("L", "U"):
        raise ValueError(f"UPLO must be 'L' or 'U', got {UPLO!r}")


def _normalise(v: Tensor) -> Tensor:
    """``v / norm(v)`` for column vectors ``(*, n, 1)``; a zero vector stays as it is."""
    norm = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    return v / norm.clamp_min(torch.finfo(norm.dtype).tiny)
