"""From a matrix to its eigenvectors and back, as functions of a matrix need it.

These are as accurate as the decomposition lets them be, and in single precision a solver's error is several times that
of everything that follows. Small matrices, if they are few, therefore go through double precision, where that is cheap,
and the decomposition of many or of larger ones is corrected: with ``R = I - V^H V`` and ``S = V^H A V``,

    l_i <- s_ii / (1 - r_ii),    V <- V (I + R/2 + K),    k_ij = (s_ij + (l_i + l_j) r_ij / 2) / (l_j - l_i),

which leaves errors of the second order. Between eigenvalues too close for that the kernel (``native/refine.hpp``, and
``refine_long.hpp`` for larger matrices) rotates; torch's operators, which do this where there is no kernel, leave the
solver's error there.

Source: Ogita and Aishima, 2018, "Iterative refinement for symmetric eigenvalue decomposition"; 2019, "... II: clustered
eigenvalues".
"""

import torch
from torch import Tensor

from eigengrad import native, solvers
from eigengrad.native import products
from eigengrad.native.thresholds import smallest_batch_of_roots

__all__ = ["conjugate", "decompose", "recompose", "root"]

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}

_LARGEST_IN_DOUBLE = 32
"""Up to this n LAPACK's error in single precision is largest, and double precision takes a half longer at most."""

_LARGEST_ROOT_IN_DOUBLE = 12
"""Up to this n, the kernel's root of a few matrices takes a tenth longer in double precision than in single."""

_WIDEST = 2.0**-13
"""The largest angle in K, whose square is lost."""


def decompose(A: Tensor, solver: solvers.Solver) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``, by ``solver`` as it is unless that is ``"auto"``.

    The eigenvalues of matrices in single precision may be out of order by their rounding errors.
    """
    L, V, crude = _decompose(A, solver)
    return _corrected(A, V) if crude else (L, V)


def _decompose(A: Tensor, solver: solvers.Solver) -> tuple[Tensor, Tensor, bool]:
    """Also whether these are to be corrected."""
    if not isinstance(solver, solvers.Auto) or A.dtype not in _WIDER or not A.is_cpu or A.dim() < 2:
        return *solver(A), False
    n, by_kernel = A.shape[-1], native.eager(A) and native.chosen(A)
    if n <= _LARGEST_IN_DOUBLE and not by_kernel:
        L, V = solver(A.to(_WIDER[A.dtype]))
        return L.to(torch.float32), V.to(A.dtype), False
    return *solver(A), True


def _corrected(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    if products.takes(V):
        return products.refine(A, V)
    half = A.tril()  # A by its lower triangle: this, with half of the diagonal, and its adjoint
    half.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    S, W = V.mH @ (half @ V), V.mH @ V
    S = S + S.mH
    lengths = W.diagonal(dim1=-2, dim2=-1).real
    L = S.diagonal(dim1=-2, dim2=-1).real / lengths
    F = S - (L.unsqueeze(-1) + L.unsqueeze(-2)) / 2 * W
    gaps = L.unsqueeze(-2) - L.unsqueeze(-1)
    K = torch.where(F.abs() < _WIDEST * gaps.abs(), F / gaps, 0)
    change = K - W / 2
    change.diagonal(dim1=-2, dim2=-1).add_(0.5)
    return L, V + V @ change


def recompose(V: Tensor, x: Tensor) -> Tensor:
    """``V diag(x) V^H`` for ``V (*, n, n)`` and real ``x (*, n)``."""
    return products.recompose(V, x) if products.multiplies(V, weights=x) else (V * x.unsqueeze(-2)) @ V.mH


def conjugate(V: Tensor, W: Tensor, B: Tensor) -> Tensor:
    """``V (W o (V^H B V)) V^H`` for symmetric ``W`` and Hermitian ``B``, all ``(*, n, n)``."""
    if products.multiplies(V, B, weights=W):
        return products.pull_back(V, B, W, kind="function")
    return V @ (W * (V.mH @ B @ V)) @ V.mH


def root(A: Tensor, floor: float, solver: solvers.Solver, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``A^(1/2)`` or ``A^(-1/2)``, its eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``.

    Eigenvalues of ``A`` below ``floor`` are taken to be ``floor``. Few small matrices take one call of the kernel.
    """
    if _in_one_call(A, solver):
        few_and_small = A.shape[-1] <= _LARGEST_ROOT_IN_DOUBLE and not native.chosen(A)
        return products.root(A, floor, inverse=inverse, through_double=A.dtype == torch.float32 and few_and_small)
    L, V, crude = _decompose(A, solver)
    if crude:
        if products.multiplies(V):
            return products.refined_root(A, V, floor, inverse=inverse)
        L, V = _corrected(A, V)
    L = L.clamp_min(floor)
    x = L.rsqrt() if inverse else L.sqrt()
    return recompose(V, x), x, V


def _in_one_call(A: Tensor, solver: solvers.Solver) -> bool:
    if A.is_complex() or not isinstance(solver, solvers.Auto | solvers.Native) or A.dim() < 2 or not native.eager(A):
        return False
    n = A.shape[-1]
    return A.numel() >= n * n * smallest_batch_of_roots(n) and products.takes(A)
