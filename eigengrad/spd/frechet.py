r"""Fréchet's distance of two Gaussians, as the FID takes it: of large covariances, of few samples as often as not.

    tr C,   C = (G^H B G)^1/2,   A = G G^H

is the fidelity, for which two eigendecompositions do, or one with Cholesky's factor, in place of three.

Source: Dowson and Landau, 1982; Heusel et al., NeurIPS 2017 (FID).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from eigengrad import solvers
from eigengrad.autograd import Function, hermitian_part, is_traced, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.scales import power_of_two, size_of
from eigengrad.spd.arguments import broadcast, check_batches, check_pair, differ, positive
from eigengrad.spd.bures import factor
from eigengrad.spd.transport import Pairs, SquaredDistance, Transport, reciprocal

__all__ = ["frechet_distance"]

LARGE = 256
"""From this size on it is worth a look whether Cholesky's factor will do, and whether anyone wants a gradient."""


@public
def frechet_distance(mean1: Tensor, A: Tensor, mean2: Tensor, B: Tensor) -> Tensor:
    r"""The squared 2-Wasserstein distance of two Gaussians, :math:`\|m_1 - m_2\|^2 + d^2(A, B)`: of features, the FID.

    Its derivatives are right for covariances of fewer samples than features, too, as those of :func:`bures_distance`.

    Args:
        mean1: real or complex vectors.
        A: their covariances, Hermitian positive semidefinite. The lower triangle is read.
        mean2: of the other Gaussian.
        B: the same.

    Returns:
        Real squared distances, without the cure of ``+ eps`` on a diagonal, by two eigendecompositions: never less than
        ``||m1 - m2||^2``, and that for equal covariances. They are right to the rounding of the traces, below which
        the value of nearly equal covariances is noise; :func:`bures_distance` is right there, at the price of one more
        decomposition. The gradient is right in either.

    Shape:
        Means ``(*, n)``, covariances ``(*, n, n)``, to ``(*)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments of shapes or dtypes that do not fit.
        torch.linalg.LinAlgError: on NaN or infinity, and of covariances that are not semidefinite.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.frechet_distance(torch.zeros(2), torch.eye(2), torch.ones(2), 4 * torch.eye(2))
        tensor(4.)
    """
    check_pair(A, B)
    for name, mean in (("mean1", mean1), ("mean2", mean2)):
        if not isinstance(mean, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(mean).__name__}; torch.as_tensor makes one")
        if (mean.dtype, mean.device) != (A.dtype, A.device) or mean.shape[-1:] != A.shape[-1:]:
            raise ValueError(
                f"{name} must be vectors (*, {A.shape[-1]}) of {A.dtype} on {A.device}, as the covariances, got "
                f"{tuple(mean.shape)} of {mean.dtype} on {mean.device}"
            )
    check_batches({"mean1": (mean1, 1), "A": (A, 2), "mean2": (mean2, 1), "B": (B, 2)})
    apart = mean1 - mean2
    of_means = (apart.conj() * apart).real.sum(-1)
    A, B = broadcast(A, B)
    traces = _trace(A.detach()) + _trace(B.detach())
    is_large = A.shape[-1] >= LARGE and A.dim() == 2 and not _is_transformed()
    large = _of_large(A, B, traces) if is_large else None
    if large is not None:
        return of_means + large
    pairs = _pairs(A.detach(), B.detach(), of_range=is_large)
    return of_means + SquaredDistance.call(A, B, _difference(A, B, traces, pairs.c), *pairs)


def _difference(A: Tensor, B: Tensor, traces: Tensor, c: Tensor) -> Tensor:
    """``traces - 2 sum c``, which rounding must not make less than zero, nor other than zero of equal matrices."""
    return torch.where(differ(A.detach(), B.detach()), (traces - 2 * c.sum(-1)).clamp_min(0), 0.0)


def _pairs(A: Tensor, B: Tensor, *, of_range: bool) -> Pairs:
    """Those of A's range alone where its rank may be looked at: few samples make a small second problem."""
    a, b = _root_of_size(A), _root_of_size(B)
    A, B = A / a**2, B / b**2
    G = factor(A, "A")
    if of_range:
        G = G[:, : int((G != 0).any(0).sum()) + 1]  # one null vector tells that there are some
    c, W = Eigenbasis.for_function(hermitian_part(G.mH @ B @ G), solvers.resolve("auto"))
    c = positive(c, "B").sqrt()
    X = G @ W
    Y = B @ X * reciprocal(c).unsqueeze(-2)
    return Pairs(a * X, b * Y, (a * b).squeeze(-1) * c)


def _root_of_size(A: Tensor) -> Tensor:
    """A power of two near the root of A's size, since ``G^H B G`` may leave the range where A and B are within."""
    return power_of_two(size_of(A, (-2, -1)).sqrt())


def _is_transformed() -> bool:
    """Whether values are not there to look at, or tangents not to be lost."""
    return is_traced() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _trace(A: Tensor) -> Tensor:
    return A.diagonal(dim1=-2, dim2=-1).real.sum(-1)


def _of_large(A: Tensor, B: Tensor, traces: Tensor) -> Tensor | None:
    """The squared distance of one large A and B, if A is so definite that Cholesky's factor will do."""
    gradient = torch.is_grad_enabled() and (A.requires_grad or B.requires_grad)
    a, b = _root_of_size(A), _root_of_size(B)
    G, failed = torch.linalg.cholesky_ex(A.detach() / a**2)
    pivots = G.diagonal().real ** 2
    rounding = len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max()
    if bool(failed) or not bool(pivots.min() > 1e3 * rounding):
        return None
    product = _lower_congruence(G, B.detach() / b**2)
    c, W = torch.linalg.eigh(product) if gradient else (torch.linalg.eigvalsh(product), product)
    c = (a * b).squeeze(-1) * positive(c, "B").sqrt()
    value = _difference(A, B, traces, c)
    return _LargeDistance.call(A, B, value, a * G, c, W) if gradient else value


def _lower_congruence(G: Tensor, B: Tensor) -> Tensor:
    """The lower triangle of ``G^H B G`` for a lower triangular G, by a quarter of the products; above, anything."""
    result = torch.empty_like(B)
    starts = range(0, len(B), LARGE)
    for j in starts:
        image = B[j:, j:] @ G[j:, j : j + LARGE]
        for i in starts[j // LARGE :]:
            result[i : i + LARGE, j : j + LARGE] = G[i:, i : i + LARGE].mH @ image[i - j :]
    return result


class _LargeDistance(Function):
    """``A, B -> d^2``, whose value is given, with ``A = G G^H``, G triangular, and ``G^H B G = W diag(c^2) W^H``.

    The pairs are made when someone wants the gradient.
    """

    @staticmethod
    def forward(A: Tensor, B: Tensor, value: Tensor, G: Tensor, c: Tensor, W: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, B, _, *factors = inputs
        save(ctx, A, B, *factors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, B, G, c, W = ctx.saved_tensors
        of_A, of_B = ctx.needs_input_grad[:2]
        again = torch.is_grad_enabled()  # to be differentiated in turn
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        X = G @ W if of_B or again else W
        Y = torch.linalg.solve_triangular(G.mH, W, upper=True) * c if of_A or again else W
        gA = g * (identity - Transport.call(A, B, X, Y, c)) if of_A else None
        gB = g * (identity - Transport.call(B, A, Y, X, c)) if of_B else None
        return gA, gB, None, None, None, None
