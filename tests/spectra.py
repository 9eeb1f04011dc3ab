"""What the tests share beside :mod:`eigengrad.testing`: names of dtypes and spectra, and short forms."""

import torch
from torch import Tensor

from eigengrad import testing
from eigengrad.testing import SPECTRA, invariant_loss, relative_error

__all__ = ["DTYPES", "PSD", "SPECTRA", "diagonal", "hermitian", "invariant_loss", "projectors", "relative_error"]

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)

PSD = tuple(name for name in SPECTRA if SPECTRA[name](4).min() >= 0)
"""The names of those that are positive semidefinite."""


def hermitian(eigenvalues: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Matrices ``(*, n, n)`` with these ``eigenvalues (*, n)`` up to rounding, in one random basis."""
    return testing.hermitian(eigenvalues, dtype=dtype, generator=generator)


def diagonal(eigenvalues: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices ``(*, n, n)`` whose computed eigenvalues ``(*, n)`` are exact, so that ties are ties to the last bit."""
    return torch.diag_embed(eigenvalues.to(dtype))


def symmetrised(X: Tensor) -> Tensor:
    """The Hermitian part. Finite differences must take it inside, since the matrix functions read one triangle."""
    return (X + X.mH) / 2


def projectors(V: Tensor) -> Tensor:
    """``v_c v_c^H (*, n, n, n)`` for every column: all that is defined about separated eigenvectors."""
    columns = V.mT.unsqueeze(-1)
    return columns @ columns.mH
