"""Two batches of matrices: what is asked of them, brought to one shape, and whether they are equal."""

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.eigh import mirrored

__all__ = ["broadcast", "check_pair", "differ"]


def check_pair(A: Tensor, B: Tensor, first: str = "A", second: str = "B") -> None:
    """Raise unless both are batches of square matrices of one dtype, device and size, whose batches broadcast.

    Raises:
        TypeError, ValueError: that name them.
    """
    check_square(A, first)
    check_square(B, second)
    if (A.dtype, A.device, A.shape[-1]) != (B.dtype, B.device, B.shape[-1]):
        of_A, of_B = (f"{X.dtype} on {X.device} and n = {X.shape[-1]}" for X in (A, B))
        raise ValueError(f"{second} must have the dtype, device and size of {first}, {of_A}, got {of_B}")
    batches = A.shape[:-2], B.shape[:-2]
    if any(a != b and 1 not in (a, b) for a, b in zip(*(reversed(batch) for batch in batches), strict=False)):
        raise ValueError(
            f"the batches of {first} and {second} must broadcast, got {tuple(A.shape)} and {tuple(B.shape)}"
        )


def broadcast(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The Hermitian matrices of which A and B hold lower triangles, of one batch shape."""
    A, B = mirrored(A, "L"), mirrored(B, "L")
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    return A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:])


def differ(A: Tensor, B: Tensor) -> Tensor:
    """Whether Hermitian matrices are other numbers: only then has their distance a gradient that is not 0."""
    return (A != B).flatten(-2).any(-1)
