"""The size of matrices and points, by which they are divided where powers of theirs would leave the range."""

import torch
from torch import Tensor

__all__ = ["or_one", "power_of_two", "size_of"]


def size_of(X: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest magnitude over ``dims``, which are kept, as a constant; 1 where all are 0 or there are none."""
    if 0 in X.shape:
        ones = X.new_ones((), dtype=X.dtype.to_real())
        return ones.expand([1 if dim - X.dim() in dims else size for dim, size in enumerate(X.shape)])
    return or_one(X.detach().abs().amax(dims, keepdim=True))


def power_of_two(x: Tensor) -> Tensor:
    """Near x, which is positive, and exact; NaN and infinity as they are."""
    near = torch.ldexp(torch.ones_like(x), x.log2().floor())
    return torch.where(x.isfinite(), near, x)


def or_one(x: Tensor) -> Tensor:
    """x, or 1 where it is 0."""
    return torch.where(x == 0, 1.0, x)
