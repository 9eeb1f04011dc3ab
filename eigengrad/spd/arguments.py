"""Two batches of matrices: what is asked of them and their eigenvalues, brought to one shape, whether they differ."""

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.autograd import has_values
from eigengrad.eigh import mirrored

__all__ = ["broadcast", "check_pair", "differ", "positive", "semidefinite"]


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


def semidefinite(l: Tensor, name: str) -> Tensor:  # noqa: E741
    """Ascending eigenvalues of a matrix called ``name``, which is to have none that are negative beyond rounding.

    Raises:
        torch.linalg.LinAlgError: if it has some; NaN for these, where values cannot be looked at.
    """
    if l.numel() == 0:
        return l
    least, largest = l[..., :1], l[..., -1:]
    negative = least < -max(torch.finfo(l.dtype).eps ** 0.5, _rounding(l)) * largest.abs()
    if not has_values(l):
        return torch.where(negative, torch.nan, l)
    if bool(negative.any()):
        bad = int(negative.flatten().nonzero()[0])
        raise torch.linalg.LinAlgError(
            f"{name} must be positive semidefinite, got one, {bad} of the batch, with eigenvalues from "
            f"{float(least.flatten()[bad]):.3g} to {float(largest.flatten()[bad]):.3g}; if it is so by the rounding of "
            "a lower precision, add a share of the identity to it"
        )
    return l


def positive(l: Tensor, name: str) -> Tensor:  # noqa: E741
    """:func:`semidefinite` ones: those within rounding of zero are zero."""
    if l.numel() == 0:
        return l
    l = semidefinite(l, name)  # noqa: E741
    return torch.where(l > _rounding(l) * l[..., -1:], l, torch.where(l.isnan(), l, 0.0))


def _rounding(l: Tensor) -> float:  # noqa: E741
    return l.shape[-1] * torch.finfo(l.dtype).eps
