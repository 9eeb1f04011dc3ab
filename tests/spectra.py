"""Hermitian matrices with a chosen spectrum, and losses that do not depend on the phases of eigenvectors."""

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)

SPECTRA: dict[str, Callable[[int], Tensor]] = {
    "separated": lambda n: torch.arange(1, n + 1).double() / max(n, 1),
    "tie": lambda n: (torch.arange(n) // 2 + 1).double(),
    "cluster": lambda n: 1 + 1e-9 * torch.arange(n).double(),
    "rank_deficient": lambda n: torch.arange(n).double().sub(n // 2).clamp_min(0),
    "zero": lambda n: torch.zeros(n).double(),
    "indefinite": lambda n: torch.arange(1, n + 1).double() / max(n, 1) * _alternating(n),
    "mirrored": lambda n: (torch.arange(n) // 2 + 1).double() * _alternating(n),
    "wide": lambda n: torch.logspace(-6, 0, n).double(),
}
"""Eigenvalues ``(n,)`` of magnitude about 1, in float64 and in no particular order, by name."""

PSD = ("separated", "tie", "cluster", "rank_deficient", "zero", "wide")
"""The names of those that are positive semidefinite."""


def _alternating(n: int) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(n) % 2).double()


def basis(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A random orthogonal or unitary matrix ``(n, n)``, orthonormal to the precision of ``dtype``."""
    complex_or_real = torch.complex128 if dtype.is_complex else torch.float64
    return torch.linalg.qr(torch.randn(n, n, dtype=complex_or_real, generator=generator))[0].to(dtype)


def hermitian(eigenvalues: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Matrices ``(*, n, n)`` with these ``eigenvalues (*, n)`` up to rounding, in one random basis."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    Q = basis(eigenvalues.shape[-1], wide, generator)
    A = (Q * eigenvalues.unsqueeze(-2).to(wide)) @ Q.mH
    return ((A + A.mH) / 2).to(dtype)


def diagonal(eigenvalues: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices ``(*, n, n)`` whose computed eigenvalues ``(*, n)`` are exact, so that ties are ties to the last bit."""
    return torch.diag_embed(eigenvalues.to(dtype))


def symmetrised(X: Tensor) -> Tensor:
    """The Hermitian part. Finite differences must take it inside, since the matrix functions read one triangle."""
    return (X + X.mH) / 2


def invariant_loss(n: int, dtype: torch.dtype, generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """A real ``loss(L, V)`` that reaches every entry of K and no phase: ``sum_c v_c^H W_c v_c + w_c l_c``."""
    W = torch.randn(n, n, n, dtype=dtype, generator=generator)
    w = torch.randn(n, dtype=dtype.to_real(), generator=generator)

    def loss(L: Tensor, V: Tensor) -> Tensor:
        quadratic = torch.einsum("...ic,cij,...jc->...", V.conj(), W, V)
        return (quadratic.real + (w * L).sum(-1)).sum()

    return loss


def projectors(V: Tensor) -> Tensor:
    """``v_c v_c^H (*, n, n, n)`` for every column: all that is defined about separated eigenvectors."""
    columns = V.mT.unsqueeze(-1)
    return columns @ columns.mH


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Difference in the Frobenius norm, relative to ``expected``; in double, where squares do not overflow."""
    wide = torch.complex128 if expected.is_complex() else torch.float64
    actual, expected = actual.detach().to(wide), expected.detach().to(wide)
    return float((actual - expected).norm() / expected.norm())
