"""Whitening: the function behind :class:`eigengrad.nn.ZCAWhitening`, as ``F.batch_norm`` is behind ``nn.BatchNorm2d``.

ZCA whitening multiplies centred data by the inverse square root of its covariance, ``W = (C + eps I)^(-1/2)``. Of all
matrices that whiten, W is the symmetric one, hence the one that moves the data least. Channels are whitened in groups
of ``d``; with ``d = 1`` this is batch normalisation.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from eigengrad import solvers
from eigengrad.eigh import eigh
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.matrix_functions.square_roots import root_of_bounded
from eigengrad.nn.functional.batch_statistics import (
    AffineMap,
    RunningEstimates,
    batch_moments,
    check_group_size,
    check_input,
    check_tensors,
    evaluate,
    scaled,
)
from eigengrad.nn.functional.channel_groups import Layout, blocks, parts, together
from eigengrad.nn.functional.moments import affine, full_precision, working_dtype

__all__ = ["whiten"]


def whiten(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_whitening: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-4,
    *,
    num_batches_tracked: Tensor | None = None,
    group_size: int | None = None,
    gradient: GradientRule | Unrolled | None = None,
    solver: solvers.Name | solvers.Solver = "auto",
    process_group: ProcessGroup | None = None,
    errors: str = "raise",
) -> Tensor:
    r"""ZCA whitening of each group of channels, over the batch and all positions.

    .. math:: y = w \cdot (C + \epsilon I)^{-1/2} (x - \mu) + b, \qquad C = \frac1m \sum (x - \mu)(x - \mu)^T

    The moments and the decomposition are computed in float32 for half precision input, also under autocast. For the
    backward pass only ``x`` and O(C d) numbers are kept.

    Fewer observations than channels, and constant or dead channels, are no error: where the covariance vanishes,
    ``eps`` keeps W finite, and the centred data is zero.

    Args:
        x: the input, ``(N, C)`` or ``(N, C, *)``.
        running_mean: running estimate of the mean, ``(C,)``. Updated in place when training.
        running_whitening: running estimate of W, ``(C, d)``: row c is channel c's row of its group's matrix, and the
            rows of a last smaller group are padded with zeros. Updated in place when training. What is averaged is W
            itself, so that evaluation needs no decomposition.
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        training: use the moments of ``x`` (and update the running estimates, where given), or the running estimates.
        momentum: weight of the new moments, ``running += momentum * (new - running)``; ``None`` for the average of all
            batches that ``num_batches_tracked`` counts.
        eps: added to the diagonal of the covariance; the default is the paper's. Bounds W by ``eps ** -0.5``.
        num_batches_tracked: number of batches in the running estimates, ``()``. Updated in place when training.
        group_size: d. All channels by default. The last group is smaller where d does not divide C.
        gradient: ``None`` for the exact derivative of ``(C + eps I)^(-1/2)`` (:func:`eigengrad.inv_sqrtm`), the safe
            choice. With a rule, W is built from eigenvectors that are differentiated by it, as in the paper.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments. ``None`` for the moments of this process alone.
        errors: what becomes of a group whose covariance is not finite, by NaN, infinity or overflow, and of a batch
            with a single observation. ``"raise"``, the default, stops, since a network that quietly trains on
            unwhitened batches is worse. ``"skip"`` multiplies the group by the identity, then by scale and offset,
            leaves its running estimates untouched. No group spoils another. Neither waits for a CUDA device beyond
            what the solver does: with ``"raise"``, the answer is read after the decomposition, whose own check has
            waited. (A compiled graph cannot ask; with ``"raise"``, it stops where the solver does. The power iteration
            solver never waits, and on CUDA gives NaN.)

    Returns:
        The whitened data, of the shape, dtype and memory format of ``x``.

    Raises:
        ValueError: for an input of fewer than two dimensions, a single observation per channel in training, buffers or
            parameters of another size, evaluation without running estimates.
        torch.linalg.LinAlgError: if a covariance is not finite, with ``errors="raise"``.

    Source: Wang et al., NeurIPS 2019, section 4.1; Huang et al., *Decorrelated Batch Normalization*, CVPR 2018.

    Example:
        >>> import torch, eigengrad as eg
        >>> x = torch.randn(1000, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.5]])
        >>> y = eg.whiten(x)
        >>> torch.allclose(y.T.cov(correction=0), torch.eye(2), atol=1e-2)
        True
    """
    check_input(x, training, eps, process_group, errors)
    channels = x.shape[1]
    d = check_group_size(group_size, channels)
    check_tensors(
        training,
        running_mean=(running_mean, (channels,)),
        running_whitening=(running_whitening, (channels, d)),
        weight=(weight, (channels,)),
        bias=(bias, (channels,)),
    )
    if not training:
        assert running_mean is not None and running_whitening is not None
        dtype = working_dtype(x)
        maps = evaluation_maps(running_mean.to(dtype), running_whitening.to(dtype), weight, bias)
        return evaluate(x, maps, d)

    outputs, estimates = [], RunningEstimates(momentum, num_batches_tracked)
    with full_precision(x.device):
        for part, block, size in parts(x, d):
            layout = Layout.of(part, size)
            data = layout.arrange(part)
            mean, covariance, valid, route, check = batch_moments(data, block, process_group, errors)
            W = check.finish(_inverse_root(covariance, eps, gradient, solver))
            if errors == "skip" and valid is not None:
                W = torch.where(valid, W, torch.eye(size, dtype=W.dtype, device=W.device))
            estimates.record(valid, block, (running_mean, mean), (running_whitening, W))
            T, offset = scaled(W, block, weight, bias)
            outputs.append(affine(data, T, mean, offset, layout, route=route))
    estimates.commit()
    return together(outputs, x)


def evaluation_maps(
    running_mean: Tensor, running_whitening: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Iterator[AffineMap]:
    """What evaluation does to each block of channels, in the dtype of the running estimates."""
    for block, size in blocks(*running_whitening.shape):
        W = running_whitening[block, :size].reshape(-1, size, size)
        yield AffineMap(block, running_mean[block].view(-1, size, 1), *scaled(W, block, weight, bias))


def _inverse_root(
    covariance: Tensor, eps: float, gradient: GradientRule | Unrolled | None, solver: solvers.Name | solvers.Solver
) -> Tensor:
    """``(C + eps I)^(-1/2)``.

    The spectrum begins at eps, and an eigenvalue that rounding has pushed below, by no more than ``d`` units of the
    largest one's last place, is lifted to it. One that is further off is wrong, and shows as NaN where it is negative.
    """
    A = covariance + eps * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    if gradient is None:
        return root_of_bounded(A, eps, inverse=True, solver=solver)
    L, V = eigh(A, gradient=gradient, solver=solver)
    rounding = L.shape[-1] * torch.finfo(L.dtype).eps * L.amax(dim=-1, keepdim=True)
    L = torch.where(eps - rounding < L, L.clamp(min=eps), L)
    return (V * L.rsqrt().unsqueeze(-2)) @ V.mH
