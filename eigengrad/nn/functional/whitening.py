"""Whitening: the function behind :class:`eigengrad.nn.ZCAWhitening`, as ``F.batch_norm`` is behind ``nn.BatchNorm2d``.

ZCA whitening multiplies centred data by the inverse square root of its covariance, ``W = C^(-1/2)``. Of all matrices
that whiten, W is the symmetric one, hence the one that moves the data least. Channels are whitened in groups of ``d``;
with ``d = 1`` this is batch normalisation.

Evaluation uses the W of the running covariance. An average of the W of many batches is not it: ``C^(-1/2)`` is convex,
so that rare batches of small variance dominate.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.conditioning import Conditioning, check_relative_eps, check_shrinkage, floored
from eigengrad.eigh import eigh
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.matrix_functions.square_roots import root_of_bounded
from eigengrad.nn.functional.batch_statistics import (
    MOMENTUM,
    RELATIVE_EPS,
    SHRINKAGE,
    AffineMap,
    RunningEstimates,
    batch_statistics,
    check_group_size,
    check_input,
    check_tensors,
    evaluate,
    learned,
    or_identity,
)
from eigengrad.nn.functional.channel_groups import Layout, blocks, parts, together
from eigengrad.nn.functional.distributed import Processes
from eigengrad.nn.functional.finite_check import unchecked
from eigengrad.nn.functional.moments import affine, full_precision, working_dtype

__all__ = ["METHODS", "check_method", "evaluation_maps", "inverse_root", "whiten", "whitening_matrix"]

METHODS = ("zca", "cholesky")
"""``C^(-1/2)``, and the inverse of the lower triangular factor in ``C = L L^T``."""


def whiten(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_covariance: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float | None = MOMENTUM,
    eps: float = 1e-4,
    *,
    relative_eps: float = RELATIVE_EPS,
    shrinkage: float | str = SHRINKAGE,
    method: str = "zca",
    num_batches_tracked: Tensor | None = None,
    group_size: int | None = None,
    gradient: GradientRule | Unrolled | None = None,
    solver: solvers.Name | solvers.Solver = "auto",
    process_group: Processes = None,
    errors: str = "raise",
) -> Tensor:
    r"""Whitening of each group of channels, over the batch and all positions.

    .. math:: y = w \cdot A^{-1/2} (x - \mu) + b, \qquad A = (1 - r)\, C + (r\, t + \epsilon) I, \qquad
              C = \frac1m \sum (x - \mu)(x - \mu)^T, \qquad t = \frac1d \mathrm{tr}(C)

    The moments and the decomposition are computed in float32 for half precision input, also under autocast. For the
    backward pass only ``x`` and O(C d) numbers are kept.

    Fewer observations than channels, and constant or dead channels, are no error: where the covariance vanishes, r and
    ``eps`` keep W finite, and the centred data is zero. For estimates that evaluate well a group wants at least twice
    as many observations as channels; ``shrinkage`` helps where there are fewer.

    Args:
        x: the input, ``(N, C)`` or ``(N, C, *)``.
        running_mean: running estimate of the mean, ``(C,)``. Updated in place when training.
        running_covariance: running estimate of C, ``(C, d)``: row c is channel c's row of its group's matrix, and the
            rows of a last smaller group are padded with zeros. Updated in place when training. In evaluation, W is
            computed from it, by a decomposition in each call (a layer keeps W).
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        training: use the moments of ``x`` (and update the running estimates, where given), or the running estimates.
        momentum: weight of the new moments, ``running += momentum * (new - running)``; ``None`` for the average of all
            batches that ``num_batches_tracked`` counts.
        eps: added to the diagonal of the covariance; the default is the paper's.
        relative_eps: r, a share of the group's mean variance that is added as well, from 0 to 1. Bounds W at any scale
            of the data, by ``(r t + eps) ** -0.5``, and with it the harm done by running estimates that lag behind the
            weights, in directions in which the data hardly varies. The paper has none. At 0, eps alone must exceed what
            rounding leaves of a covariance, some 1e-7 of its largest eigenvalue in float32: less is noise, amplified.
        shrinkage: how far to shrink C toward its diagonal before all else: a share, or ``"auto"`` for the one of least
            expected error (:func:`eigengrad.conditioning.shrunk`). What enters the running estimate is
            the shrunk covariance, as it was used.
        method: ``"zca"``, or ``"cholesky"`` for the inverse of the Cholesky factor of A in place of its root, which
            whitens one channel after the other; ``gradient`` and ``solver`` have no part in it.
        num_batches_tracked: number of batches in the running estimates, ``()``. Updated in place when training.
        group_size: d. By default all channels, or 64 if there are more. The last group is smaller where d does not
            divide C.
        gradient: ``None`` for the exact derivative of ``A^(-1/2)`` (:func:`eigengrad.inv_sqrtm`), the safe
            choice. With a rule, W is built from eigenvectors that are differentiated by it, as in the paper.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments: a group, or ``"all"``. ``None`` for the moments of this
            process alone.
        errors: what becomes of a group whose covariance is not finite, by NaN, infinity or overflow, and of a batch
            with a single observation. ``"raise"``, the default, stops, since a network that quietly trains on
            unwhitened batches is worse. ``"skip"`` multiplies the group by the identity, then by scale and offset,
            leaves its running estimates untouched. No group spoils another. Neither waits for a CUDA device beyond
            what the solver does, and ``"auto"`` does not up to 64 channels: with ``"raise"``, the group's output is NaN
            then, the batch leaves no trace in the running estimates, and the error comes with a later call. (A
            compiled, traced or captured graph cannot ask: there, it is NaN and no error.)

    Returns:
        The whitened data, of the shape, dtype and memory format of ``x``.

    Raises:
        ValueError: for an input of fewer than two dimensions, a single observation per channel in training, buffers or
            parameters of another size, evaluation without running estimates.
        torch.linalg.LinAlgError: if a covariance is not finite, with ``errors="raise"``.

    Source: Wang et al., NeurIPS 2019, section 4.1; Huang et al., *Decorrelated Batch Normalization*, CVPR 2018; for the
    Cholesky factor, Ermolov et al., *Whitening for Self-Supervised Representation Learning*, ICML 2021.

    Example:
        >>> import torch, eigengrad as eg
        >>> x = torch.randn(1000, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.5]])
        >>> y = eg.whiten(x, relative_eps=0.0, shrinkage=0.0)
        >>> torch.allclose(y.T.cov(correction=0), torch.eye(2), atol=1e-2)
        True
    """
    check_input(x, training, eps, process_group, errors)
    check_relative_eps(relative_eps)
    check_shrinkage(shrinkage)
    check_method(method)
    channels = x.shape[1]
    d = check_group_size(group_size, channels)
    check_tensors(
        training,
        running_mean=(running_mean, (channels,)),
        running_covariance=(running_covariance, (channels, d)),
        weight=(weight, (channels,)),
        bias=(bias, (channels,)),
    )
    if not training:
        assert running_mean is not None and running_covariance is not None
        W = whitening_matrix(running_covariance, eps, relative_eps, method).to(working_dtype(x))
        return evaluate(x, evaluation_maps(running_mean.to(W.dtype), W, weight, bias), d)

    outputs, estimates = [], RunningEstimates(momentum, num_batches_tracked, errors)
    by = Conditioning.of(shrinkage, eps, relative_eps)
    with full_precision(x.device):
        for part, block, size in parts(x, d):
            layout = Layout.of(part, size)
            data = layout.arrange(part)
            found = batch_statistics(data, block, by, process_group, errors)
            if method == "cholesky":
                W = _inverse_factor(found.A)
            else:
                W = inverse_root(found.A, eps, gradient, unchecked(solver, found.A))
            found.check.settle(len(W))
            if errors == "skip":
                W = or_identity(W, found.valid)
            estimates.record(block, found, running_mean, running_covariance)
            outputs.append(affine(data, W, found.mean, *learned(W, block, weight, bias), layout, route=found.route))
    estimates.commit()
    return together(outputs, x)


def whitening_matrix(running_covariance: Tensor, eps: float, relative_eps: float, method: str) -> Tensor:
    """W of a running covariance, both ``(C, d)``: computed once for many batches, in double precision."""
    rows = []
    with full_precision(running_covariance.device):
        wide = running_covariance.to(torch.float32 if running_covariance.device.type == "mps" else torch.float64)
        for block, size in blocks(*running_covariance.shape):
            A = floored(wide[block, :size].reshape(-1, size, size), eps, relative_eps)
            W = _inverse_factor(A) if method == "cholesky" else inverse_root(A, eps, None, "auto")
            rows.append(torch.nn.functional.pad(W.reshape(-1, size), (0, running_covariance.shape[1] - size)))
        return torch.cat(rows).to(running_covariance.dtype)


def evaluation_maps(
    running_mean: Tensor, whitening: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Iterator[AffineMap]:
    """What evaluation by W ``(C, d)`` does to each block of channels, in the dtype of W and the mean."""
    for block, size in blocks(*whitening.shape):
        W = whitening[block, :size].reshape(-1, size, size)
        yield AffineMap(block, running_mean[block].view(-1, size, 1), W, *learned(W, block, weight, bias))


def check_method(method: str) -> None:
    """Whether it is one of :data:`METHODS`."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")


def inverse_root(
    A: Tensor, eps: float, gradient: GradientRule | Unrolled | None, solver: solvers.Name | solvers.Solver
) -> Tensor:
    """``A^(-1/2)``.

    The spectrum begins at eps at least, and an eigenvalue that rounding has pushed below, by no more than ``d`` units
    of the largest one's last place, is lifted to it. One that is further off is wrong, and shows as NaN where it is
    negative.
    """
    floor = max(eps, torch.finfo(A.dtype).tiny)
    if gradient is None:
        return root_of_bounded(A, floor, inverse=True, solver=solver)
    L, V = eigh(A, gradient=gradient, solver=solver)
    rounding = L.shape[-1] * torch.finfo(L.dtype).eps * L.amax(dim=-1, keepdim=True)
    L = torch.where(floor - rounding < L, L.clamp(min=floor), L)
    return (V * L.rsqrt().unsqueeze(-2)) @ V.mH


def _inverse_factor(A: Tensor) -> Tensor:
    """``L^(-1)`` of ``A = L L^T``, NaN where A is not positive definite."""
    L, info = torch.linalg.cholesky_ex(A)
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    inverse = torch.linalg.solve_triangular(L, identity.expand_as(L), upper=False)
    return torch.where((info == 0)[..., None, None], inverse, torch.nan)
