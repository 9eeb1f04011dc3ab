"""Forward algorithms: how eigenvalues and eigenvectors are computed, whatever the gradient.

A solver is a frozen value object. Calling it with Hermitian ``A (*, n, n)`` returns ascending eigenvalues ``(*, n)``
and eigenvectors in columns ``(*, n, n)``. :func:`eigengrad.eigh` takes an object, where a solver has settings, or a
name: ``"auto"``, ``"eigh"``, ``"native"``, ``"svd"``, ``"qr"``, ``"power_iteration"``.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from eigengrad import native
from eigengrad.arguments import Errors, check_errors
from eigengrad.native import operators
from eigengrad.solvers.base import Solver, check, check_triangle, hermitian, lower
from eigengrad.solvers.power_iteration import PowerIteration
from eigengrad.solvers.qr import QR

__all__ = ["QR", "SVD", "Auto", "Eigh", "Fused", "Name", "Native", "PowerIteration", "Solver", "Tolerant", "resolve"]

Name = Literal["auto", "eigh", "native", "svd", "qr", "power_iteration"]
"""Of the solvers below, with their default settings."""


class Fused:
    """A solver that is an operator of :mod:`eigengrad.native`, which a function of a matrix may use within its own."""

    differentiable: ClassVar[bool] = False
    kernel_always: ClassVar[bool]
    """Whether to use the compiled kernel where LAPACK was measured to be faster."""
    errors: Errors
    strict: bool
    """Whether a matrix without an eigendecomposition is an error, and not NaN."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "strict", self.errors == "raise")


@dataclass(frozen=True)
class Auto(Fused):
    """The fastest that is right: :class:`Native` where it was measured to be faster, LAPACK or cuSOLVER elsewhere.

    The choice depends on n, the size of the batch, the dtype and the number of threads (see
    :mod:`eigengrad.native.thresholds`), never on values. A matrix with NaN or infinity in it is a ``RuntimeError`` that
    names it; from the public functions, torch's ``LinAlgError``. With ``errors="nan"`` it gives NaN, and leaves the
    others alone.
    """

    kernel_always: ClassVar[bool] = False
    errors: Errors = "raise"

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        return operators.eigh(lower(A, UPLO), self.kernel_always, False, self.strict)


@dataclass(frozen=True)
class Native(Fused):
    """The compiled kernel for small matrices on a CPU (see :mod:`eigengrad.native`), whatever the batch.

    As accurate as LAPACK, on every core, with many matrices at once. Errors are as of :class:`Auto`. Any n
    is taken, but a thread's workspace holds up to 48 matrices: what was measured ends at n = 256.
    """

    kernel_always: ClassVar[bool] = True
    errors: Errors = "raise"

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        A = lower(A, UPLO)
        if not A.is_cpu:
            raise ValueError(
                f"solver='native' takes matrices on a CPU, got {A.device.type}; use solver='eigh', or 'auto', "
                "which chooses"
            )
        if not native.available():
            raise RuntimeError(
                "solver='native': the kernel is not there (eigengrad.show_config() says why); use 'auto'"
            )
        return operators.eigh(A, self.kernel_always, False, self.strict)


@dataclass(frozen=True)
class Eigh:
    """``torch.linalg.eigh``: LAPACK's divide and conquer on CPU, cuSOLVER on CUDA. Bit-identical to torch.

    On CUDA, torch 2.12 and later give cuSOLVER the whole batch at once (``XsyevBatched``), which fails above about
    65,000 matrices; there, batches go in pieces. Earlier ones decompose matrices of more than 32 rows one by one
    (pytorch#175585): update torch if you have many.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        if A.is_cuda:
            return operators.eigh(lower(A, UPLO), False, False, True)
        check_triangle(A, UPLO)
        L, V = torch.linalg.eigh(A, UPLO)
        return L, V


@dataclass(frozen=True)
class SVD:
    """``torch.linalg.svd`` of a positive semidefinite matrix, the paper's forward pass.

    Singular values equal eigenvalues only where none is negative. For an indefinite matrix use another solver.
    """

    differentiable: ClassVar[bool] = False

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check_triangle(A, UPLO)
        U, S, _ = torch.linalg.svd(hermitian(A, UPLO))
        return S.flip(-1), U.flip(-1)


@dataclass(frozen=True)
class Tolerant:
    """Another solver, with NaN for matrices that are not finite, and no harm to their neighbours."""

    solver: Solver

    @property
    def differentiable(self) -> bool:
        """As of the other."""
        return self.solver.differentiable

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check(A, UPLO)
        finite = (A.tril() if UPLO == "L" else A.triu()).isfinite().all(-1).all(-1)[..., None]
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        L, V = self.solver(torch.where(finite[..., None], A, identity), UPLO)
        return torch.where(finite, L, torch.nan), torch.where(finite[..., None], V, torch.nan)


_BY_NAME: dict[Name, Solver] = {
    "auto": Auto(),
    "eigh": Eigh(),
    "native": Native(),
    "svd": SVD(),
    "qr": QR(),
    "power_iteration": PowerIteration(),
}


def resolve(solver: Name | Solver, errors: Errors = "raise") -> Solver:
    """The solver object behind a name; an object is returned as it is, but for ``errors="nan"``.

    Raises:
        ValueError: for an unknown name, or for other ``errors``.
        TypeError: for anything that is neither a name nor a solver.
    """
    if isinstance(solver, str):
        if solver not in _BY_NAME:
            known = ", ".join(map(repr, _BY_NAME))
            raise ValueError(f"solver must be one of {known} or a solver object, got {solver!r}")
        algorithm = _BY_NAME[solver]
    elif isinstance(solver, type) or not callable(solver) or not hasattr(solver, "differentiable"):
        raise TypeError(f"solver must be a name or a solver object such as eigengrad.solvers.SVD(), got {solver!r}")
    else:
        algorithm = solver
    if errors == "raise":
        return algorithm
    check_errors(errors)
    if isinstance(algorithm, (Auto, Native)):
        return replace(algorithm, errors=errors)
    return cast("Solver", Tolerant(algorithm))
