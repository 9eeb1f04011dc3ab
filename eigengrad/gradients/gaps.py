"""Gaps between eigenvalues, relative to the matrix's own scale, and the weights made of them alone."""

import torch
from torch import Tensor

__all__ = ["diagonal", "gaps", "lorentzian_kernel", "pairs", "scale"]

NARROWEST = 1e-18
"""The least relative width of a Lorentzian, whose square single precision has."""


def pairs(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """``L[i]`` as a column vector and ``L[j]`` as a row vector, ready to broadcast to ``(*, n, n)``."""
    return eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2)


def diagonal(eigenvalues: Tensor) -> Tensor:
    """Booleans ``(n, n)``."""
    return torch.eye(eigenvalues.shape[-1], dtype=torch.bool, device=eigenvalues.device)


def gaps(eigenvalues: Tensor) -> Tensor:
    """``L[j] - L[i]``. The diagonal has no derivative: two huge ones that cancel would round all others away."""
    row, column = pairs(eigenvalues)
    return (column - row).masked_fill(diagonal(eigenvalues), 0.0)


def scale(eigenvalues: Tensor) -> Tensor:
    """``max abs(L)`` as ``(*, 1, 1)``, or 1 for a zero matrix, whose gaps are all zero whatever they are divided by."""
    if eigenvalues.shape[-1] == 0:
        return eigenvalues.new_ones(()).expand(*eigenvalues.shape[:-1], 1, 1)
    largest = eigenvalues.abs().amax(-1)[..., None, None]
    return torch.where(largest > 0, largest, 1.0)


def lorentzian_kernel(eigenvalues: Tensor, width: float) -> Tensor:
    """``d/(d^2 + w^2)`` for gaps d, and w the ``width`` relative to ``max abs(L)``, wide enough for a finite bound.

    The compiled kernel does the same (``native/weights.hpp``).
    """
    tiny = torch.finfo(eigenvalues.dtype).tiny
    largest = scale(eigenvalues)
    inverse = torch.where(largest < tiny, torch.inf, largest).reciprocal()  # 0 for a matrix too small to have one
    w = (inverse.detach() * 0.25 * tiny).clamp_min(max(width, NARROWEST))
    distance = gaps(eigenvalues) * inverse
    return distance / torch.addcmul(w * w, distance, distance) * inverse
