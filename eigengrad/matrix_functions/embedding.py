"""Complex Hermitian matrices as real symmetric ones of twice the size, which the compiled kernel takes.

For Hermitian ``A = R + i J`` the matrix

    E(A) = [[R, -J],
            [J,  R]]

is symmetric, has every eigenvalue of A twice, and ``f(E(A)) = E(f(A))``: a function of A is one of E(A), whichever
eigenvectors are found within the pairs. In batches that pays: for 64 matrices of size 16 (complex64) a root and its
gradient take about half of the time that they do by LAPACK's complex eigenvectors, on one thread and on two. Both maps
are linear.
"""

from typing import Any

import torch
from torch import Tensor

from eigengrad import native, solvers
from eigengrad.autograd import Function, hermitian_part

__all__ = ["embed", "embeds", "extract"]

LARGEST = {torch.complex64: 32, torch.complex128: 24}
FEWEST_MATRICES, FEWEST_NUMBERS = 16, 2000
"""Where it was measured to pay, with one thread and with two, against LAPACK in the same precision."""


def embeds(A: Tensor, solver: str | solvers.Solver) -> bool:
    """Whether a function of ``A (*, n, n)`` had better be computed through E(A)."""
    if not A.is_complex() or native.compiling() or A.numel() < FEWEST_NUMBERS:
        return False
    if not (solver == "auto" or isinstance(solver, solvers.Auto)) or A.dim() < 3:
        return False
    n = A.shape[-1]
    enough = n <= LARGEST[A.dtype] and A.numel() >= FEWEST_MATRICES * n * n
    return enough and A.is_cpu and native.available() and native.eager(A)


def embed(A: Tensor) -> Tensor:
    """E(A), ``(*, 2n, 2n)``, by the lower triangle of ``A (*, n, n)``; of the result, too, only that one counts."""
    return _Embed.call(A)


def extract(S: Tensor) -> Tensor:
    """The complex matrix ``(*, n, n)`` behind ``E (*, 2n, 2n)``: the mean of what its blocks say."""
    return _Extract.call(S)


def _assembled(R: Tensor, J: Tensor) -> Tensor:
    return torch.cat([torch.cat([R, -J], dim=-1), torch.cat([J, R], dim=-1)], dim=-2)


def _parts(E: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over both blocks of R and of J."""
    n = E.shape[-1] // 2
    return E[..., :n, :n] + E[..., n:, n:], E[..., n:, :n] - E[..., :n, n:]


class _Embed(Function):
    @staticmethod
    def forward(A: Tensor) -> Tensor:
        below = A.imag.tril(-1)
        return _assembled(A.real, below - below.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gE: Tensor) -> Tensor:
        return torch.complex(*_parts(gE))

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor) -> Tensor:
        half = hermitian_part(dA)
        return _assembled(half.real, half.imag)


class _Extract(Function):
    @staticmethod
    def forward(S: Tensor) -> Tensor:
        R, J = _parts(S)
        return torch.complex(R, J) * 0.5

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gX: Tensor) -> Tensor:
        half = gX * 0.5
        return _assembled(half.real, half.imag)

    @staticmethod
    def push_forward(ctx: Any, dS: Tensor) -> Tensor:
        return _Extract.forward(dS)
