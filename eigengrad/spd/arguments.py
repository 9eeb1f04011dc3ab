"""Two batches of matrices: what is asked of them and their eigenvalues, brought to one shape, whether they differ."""

from itertools import zip_longest

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.autograd import has_values, is_traced
from eigengrad.eigh import mirrored

__all__ = ["broadcast", "check_batches", "check_pair", "cholesky", "differ", "positive", "semidefinite"]


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
    check_batches({first: (A, 2), second: (B, 2)})


def check_batches(tensors: dict[str, tuple[Tensor, int]]) -> None:
    """Raise unless the batches of these broadcast, whose last dimensions, so many, are no batch.

    Raises:
        ValueError: that names them.
    """
    batches = (X.shape[: X.dim() - dims] for X, dims in tensors.values())
    if any(len({*sizes} - {1}) > 1 for sizes in zip_longest(*map(reversed, batches), fillvalue=1)):
        shapes = [str(tuple(X.shape)) for X, _ in tensors.values()]
        names, got = (", ".join(words[:-1]) + " and " + words[-1] for words in (list(tensors), shapes))
        raise ValueError(f"the batches of {names} must broadcast, got {got}")


def cholesky(A: Tensor, name: str) -> Tensor:
    """The factor of a matrix called ``name``.

    Raises:
        torch.linalg.LinAlgError: that names it, if it is not positive definite.
    """
    if is_traced():
        return torch.linalg.cholesky(A)
    try:
        return torch.linalg.cholesky(A)
    except torch.linalg.LinAlgError as error:
        raise torch.linalg.LinAlgError(f"{name} must be positive definite, and finite: {error}") from None


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
