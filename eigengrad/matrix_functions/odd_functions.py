"""Odd functions of singular values with their divided differences, for arguments of either sign.

Each is smooth but for a threshold, and its divided differences are quotients across it, with arguments that are apart.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["Identity", "Reciprocal", "SoftThreshold"]


class _Odd:
    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0


class Identity(_Odd):
    """``x`` where its magnitude exceeds the threshold, the parameter, and 0 elsewhere."""

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return torch.where(x.abs() > t[0], x, 0.0)

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        both = (x.abs() > t[0]) & (y.abs() > t[0])
        return torch.where(both, 1.0, _quotient(self(x, *t) - self(y, *t), x - y))

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        return _across(
            self.first, torch.zeros_like(x + y + z), _alike([v.abs() > t[0] for v in (x, y, z)]), x, y, z, *t
        )


class Reciprocal(_Odd):
    """``1/x`` where its magnitude exceeds the threshold, the parameter, and 0 elsewhere."""

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return torch.where(x.abs() > t[0], x, torch.inf).reciprocal()

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        both = (x.abs() > t[0]) & (y.abs() > t[0])
        return torch.where(both, -self(x, *t) * self(y, *t), _quotient(self(x, *t) - self(y, *t), x - y))

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        product = self(x, *t) * self(y, *t) * self(z, *t)  # 0 where all are dropped
        return _across(self.first, product, _alike([v.abs() > t[0] for v in (x, y, z)]), x, y, z, *t)


class SoftThreshold(_Odd):
    """``x`` less 1 of its magnitude, or 0."""

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return x.sgn() * (x.abs() - 1).clamp_min(0)

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        outside = ((x > 1) & (y > 1)) | ((x < -1) & (y < -1))
        return torch.where(outside, 1.0, _quotient(self(x) - self(y), x - y))

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        alike = _alike([v > 1 for v in (x, y, z)]) & _alike([v < -1 for v in (x, y, z)])
        return _across(self.first, torch.zeros_like(x + y + z), alike, x, y, z)


def _alike(is_so: list[Tensor]) -> Tensor:
    first, second, third = is_so
    return (first == second) & (second == third)


def _quotient(difference: Tensor, distance: Tensor) -> Tensor:
    return difference / torch.where(distance == 0, 1.0, distance)


def _across(
    first: Callable[..., Tensor], smooth: Tensor, alike: Tensor, x: Tensor, y: Tensor, z: Tensor, *t: Tensor
) -> Tensor:
    """``f[x, y, z]``: ``smooth`` where the arguments are alike, else a quotient by their largest distance."""
    low, high = torch.minimum(torch.minimum(x, y), z), torch.maximum(torch.maximum(x, y), z)
    middle = torch.maximum(torch.minimum(x, y), torch.minimum(torch.maximum(x, y), z))
    return torch.where(alike, smooth, _quotient(first(high, middle, *t) - first(middle, low, *t), high - low))
