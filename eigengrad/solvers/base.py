"""What a solver is, and what those written in torch operators share."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.native.reference import check_finite

__all__ = ["Solver", "check", "check_triangle", "hermitian", "lower"]


class Solver(Protocol):
    """What :func:`eigengrad.eigh` asks of a solver."""

    differentiable: ClassVar[bool]
    """Whether autograd can walk the solver's own steps (:class:`eigengrad.Unrolled`)."""

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(*, n)``, ascending, and eigenvectors ``(*, n, n)`` of Hermitian ``A (*, n, n)``."""
        ...


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


def check_triangle(A: Tensor, UPLO: str) -> None:
    """:func:`check`, and :func:`eigengrad.native.reference.check_finite` of the triangle that is read."""
    check(A, UPLO)
    check_finite(A.tril() if UPLO == "L" else A.triu())


def lower(A: Tensor, UPLO: str) -> Tensor:
    """A matrix whose lower triangle is the one that is read."""
    if UPLO == "L":
        return A
    check(A, UPLO)
    return A.mH
