"""Whitening: the function behind :class:`eigengrad.nn.ZCAWhitening`, as ``F.batch_norm`` is behind ``nn.BatchNorm2d``.

ZCA whitening multiplies centred data by the inverse square root of its covariance, ``W = (C + eps I)^(-1/2)``. Of all
matrices that whiten, W is the symmetric one, hence the one that moves the data least. Channels are whitened in groups
of ``d``; with ``d = 1`` this is batch normalisation.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from eigengrad import solvers
from eigengrad.channel_groups import arrange, arrange_back, blocks
from eigengrad.eigh import eigh
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.matrix_functions import inv_sqrtm
from eigengrad.moments import affine, joined, moments

__all__ = ["whiten"]


def whiten(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_whitening: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-4,
    *,
    group_size: int | None = None,
    gradient: GradientRule | Unrolled | None = None,
    solver: str | solvers.Solver = "auto",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""ZCA whitening of each group of channels, over the batch and all positions.

    .. math:: y = w \cdot (C + \epsilon I)^{-1/2} (x - \mu) + b, \qquad C = \frac1m \sum (x - \mu)(x - \mu)^T

    The moments and the decomposition are computed in float32 for half precision input, also under autocast.

    Args:
        x: the input, ``(N, C)`` or ``(N, C, *)``.
        running_mean: running estimate of the mean, ``(C,)``. Updated in place when training.
        running_whitening: running estimate of W, ``(C, d)``: row c is channel c's row of its group's matrix, and the
            rows of a last smaller group are padded with zeros. Updated in place when training. What is averaged is W
            itself, so that evaluation needs no decomposition.
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        training: use the moments of ``x`` (and update the running estimates, where given), or the running estimates.
        momentum: weight of the new moments, ``running += momentum * (new - running)``.
        eps: added to the diagonal of the covariance; the default is the paper's. Bounds W by ``eps ** -0.5``.
        group_size: d. All channels by default. The last group is smaller where d does not divide C.
        gradient: ``None`` for the exact derivative of ``(C + eps I)^(-1/2)`` (:func:`eigengrad.inv_sqrtm`), the safe
            choice. With a rule, W is built from eigenvectors that are differentiated by it, as in the paper.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments. ``None`` for the moments of this process alone.

    Returns:
        The whitened data, of the shape and dtype of ``x``.

    Raises:
        ValueError: for an input of fewer than two dimensions, a single observation per channel in training, buffers or
            parameters of another size, evaluation without running estimates.

    Source: Wang et al., NeurIPS 2019, section 4.1; Huang et al., *Decorrelated Batch Normalization*, CVPR 2018.

    Example:
        >>> import torch, eigengrad as eg
        >>> x = torch.randn(1000, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.5]])
        >>> y = eg.whiten(x)
        >>> torch.allclose(y.T.cov(correction=0), torch.eye(2), atol=1e-2)
        True
    """
    channels, d = _check(x, running_mean, running_whitening, weight, bias, training, eps, group_size)
    if training and process_group is None:
        observations = x.numel() // channels
        if observations == 1:
            raise ValueError(f"whitening needs more than one value per channel when training, got {tuple(x.shape)}")
        if observations == 0:
            running_mean = running_whitening = None  # nothing was seen: the estimates stay as they are

    dtype = torch.promote_types(x.dtype, torch.float32)
    outputs = []
    with torch.autocast(x.device.type, enabled=False):
        for block, size in blocks(channels, d):
            data, route = arrange(x[:, block], size), None
            if training:
                mean, covariance, route = moments(data)
                if process_group is not None:
                    mean, covariance, _ = joined(mean, covariance, data.shape[0] * data.shape[3], process_group)
                T = _inverse_root(covariance, eps, gradient, solver)
                _update(running_mean, (block,), mean.flatten(), momentum)
                _update(running_whitening, (block, slice(size)), T.flatten(0, 1), momentum)
            else:
                assert running_mean is not None and running_whitening is not None
                mean = running_mean[block].to(dtype).view(-1, size, 1)
                T = running_whitening[block, :size].to(dtype).view(-1, size, size)
            if weight is not None:  # on the small matrix, to spare a pass over the data
                T = T * weight[block].to(dtype).view(-1, size, 1)
            offset = torch.zeros_like(mean) if bias is None else bias[block].to(dtype).view(-1, size, 1)
            outputs.append(arrange_back(affine(data, T, mean, offset, route=route), x[:, block], size))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _inverse_root(
    covariance: Tensor, eps: float, gradient: GradientRule | Unrolled | None, solver: str | solvers.Solver
) -> Tensor:
    """``(C + eps I)^(-1/2)``.

    The spectrum begins at eps, and an eigenvalue that rounding has pushed below, by no more than ``d`` units of the
    largest one's last place, is lifted to it. One that is further off is wrong, and shows as NaN where it is negative.
    """
    A = covariance + eps * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    if gradient is None:
        return inv_sqrtm(A, floor=eps, solver=solver)
    L, V = eigh(A, gradient=gradient, solver=solver)
    rounding = L.shape[-1] * torch.finfo(L.dtype).eps * L.amax(dim=-1, keepdim=True)
    L = torch.where(eps - rounding < L, L.clamp(min=eps), L)
    return (V * L.rsqrt().unsqueeze(-2)) @ V.mH


@torch.no_grad()
def _update(running: Tensor | None, rows: tuple[slice, ...], new: Tensor, momentum: float | Tensor) -> None:
    if running is not None:
        old = running[rows]
        old.add_(momentum * (new.to(old.dtype) - old))


def _check(
    x: Tensor,
    running_mean: Tensor | None,
    running_whitening: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    group_size: int | None,
) -> tuple[int, int]:
    """The number of channels and the group size, once everything fits together."""
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"x must be (N, C) or (N, C, *) with at least one channel, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real and floating point, got {x.dtype}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}: it bounds the whitening matrix by eps ** -0.5")
    channels = x.shape[1]
    d = channels if group_size is None else group_size
    if not 1 <= d <= channels:
        raise ValueError(f"group_size must lie between 1 and the number of channels, {channels}, got {group_size}")
    if not training and (running_mean is None or running_whitening is None):
        raise ValueError("training=False needs running_mean and running_whitening; pass both, or training=True")
    shapes = {
        "running_mean": (running_mean, (channels,)),
        "running_whitening": (running_whitening, (channels, d)),
        "weight": (weight, (channels,)),
        "bias": (bias, (channels,)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} for {channels} channels in groups of {d}, got {tuple(tensor.shape)}"
            )
    return channels, d
