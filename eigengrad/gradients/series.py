"""Weights that are a few or many terms of a geometric series in the ratio of two eigenvalues.

``PowerIteration`` and ``Taylor`` (:mod:`eigengrad.gradients`, whose letters these are) stop the series
``1/(a - b) = (1/a) sum_k r^k`` after T terms. Here it is summed for all pairs at once, right at ``r = 1``, where every
term is 1, and with its derivatives there.
"""

import torch
from torch import Tensor

from eigengrad.gradients.gaps import pairs

__all__ = ["FEW_TERMS", "series_kernel"]

FEW_TERMS = 32
"""Up to here a series is summed by multiplications: faster than the closed form, and as accurate."""


def series_kernel(eigenvalues: Tensor, terms: tuple[int, int]) -> Tensor:
    """``(1/a) sum_{k<m} r^k`` where the column is the major, ``-(1/a) sum_{k<n} r^k`` elsewhere, for ``terms`` (m, n).

    The compiled kernel does the same for few terms (``native/weights.hpp``).

    A few terms are summed by multiplications alone, many in closed form, at a cost that does not depend on T. Choices
    are products with 0 and 1, since on a CPU ``torch.where`` costs as much as ten of them.
    """
    major_terms, minor_terms = terms
    row, column = pairs(eigenvalues)
    magnitude_row, magnitude_column = pairs(eigenvalues.abs())
    difference = magnitude_column - magnitude_row

    # 1 where the column is the major, -1 where the row is, 0 on the diagonal; equal magnitudes go by the index.
    ones = eigenvalues.new_ones(eigenvalues.shape[-1], eigenvalues.shape[-1])
    side = difference.detach().sgn().mul_(2.0).add_(ones.triu(1) - ones.tril(-1)).sgn_()
    major = side.relu()
    minor = major - side

    # The signed 1/a: 0 for an a so small that T/a would overflow.
    negligible = eigenvalues.abs() < float(max(major_terms, minor_terms)) * torch.finfo(eigenvalues.dtype).tiny
    inverse_row, inverse_column = pairs(torch.where(negligible, torch.inf, eigenvalues).reciprocal())
    inverse = torch.addcmul(major * inverse_column, minor, inverse_row, value=-1)

    distance = (column - row) * inverse  # 1 - r, in [0, 2]; exact for floating-point neighbours
    if max(major_terms, minor_terms) <= FEW_TERMS:
        total, next_term = _sum_of_few(1.0 - distance, minor_terms)
        if major_terms > minor_terms:
            total = torch.addcmul(total, major, next_term)
    else:
        shortfall = side * difference * inverse.abs()  # 1 - abs(r)
        total = _sum_of_many(distance, shortfall, major, major_terms, minor_terms)
    return total * inverse


def _sum_of_few(ratio: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """``S_m = sum_{k<m} r^k`` and ``r^m`` by the bits of m: ``S_2m = S_m + r^m S_m`` and ``S_(m+1) = S_m + r^m``.

    Right at a tie with all derivatives, being a polynomial. The error is that of r, carried along: at most
    ``m`` roundings of the sum, or of 1 where terms of alternating sign cancel.
    """
    if terms == 0:
        return torch.zeros_like(ratio), torch.ones_like(ratio)
    total, power = torch.ones_like(ratio), ratio
    for bit in f"{terms:b}"[1:]:
        total, power = torch.addcmul(total, total, power), power * power
        if bit == "1":
            total, power = total + power, power * ratio
    return total, power


def _sum_of_many(distance: Tensor, shortfall: Tensor, major: Tensor, major_terms: int, minor_terms: int) -> Tensor:
    """``(1 - r^T)/(1 - r)`` for ``distance = 1 - r`` and ``shortfall = 1 - abs(r)``, so that no difference cancels.

    * ``1 - abs(r)^T = -expm1(T log1p(-shortfall))``;
    * around ``r = 1`` the first two terms of the expansion in ``1 - r``, which carry the value T at a tie and the
      derivative there, where that of the quotient would cancel.
    """
    eps = torch.finfo(distance.dtype).eps
    terms = float(minor_terms) + (float(major_terms) - float(minor_terms)) * major
    decay = torch.expm1(terms * torch.log1p(-shortfall.clamp_max(1.0 - eps / 2)))  # abs(r)^T - 1, short of log(0)

    sign = torch.sgn(1.0 - distance)  # of r; then of r^T
    minor = 1.0 - major
    sign = major * (sign if major_terms % 2 else 1.0) + minor * (sign if minor_terms % 2 else 1.0)
    remainder = (1.0 - sign) - sign * decay  # 1 - r^T

    order = (terms - 1.0) * distance
    tied = torch.relu(torch.sgn(eps**0.5 - order))
    return torch.lerp(remainder / (distance + tied), terms * (1.0 - 0.5 * order), tied)
