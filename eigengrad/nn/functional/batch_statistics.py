"""What whitening and denoising share with batch normalisation: checks, the batch's moments, running estimates.

A layer of either kind is one affine map for each group of channels, ``T (x - mean) + offset``: from the batch's moments
in training, from running estimates in evaluation.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from eigengrad.nn.functional.channel_groups import Layout, parts, together
from eigengrad.nn.functional.distributed import Processes, check_processes, joined, resolved
from eigengrad.nn.functional.finite_check import FiniteCheck
from eigengrad.nn.functional.moments import affine, full_precision, moments

__all__ = [
    "GROUP_SIZE",
    "MOMENTUM",
    "RELATIVE_EPS",
    "SHRINKAGE",
    "AffineMap",
    "Moments",
    "RunningEstimates",
    "batch_moments",
    "check_group_size",
    "check_input",
    "check_settings",
    "check_tensors",
    "evaluate",
    "scaled",
]


RELATIVE_EPS = 0.1
"""Share of the mean variance that is added to the covariance, unless it is given."""
SHRINKAGE = "auto"
"""Of the covariance toward its diagonal, likewise."""
MOMENTUM = 0.25
"""Of running covariances, likewise: a shorter window than BatchNorm's lags less behind weights that move fast. These
three are measured: ``benchmarks/evaluation.py``."""
GROUP_SIZE = 64
"""Largest group that is made without being asked for. A covariance of d channels wants several times d observations."""


class Moments(NamedTuple):
    """Of one block of groups in one batch."""

    mean: Tensor
    """``(G, d, 1)``."""
    covariance: Tensor
    """``(G, d, d)``, biased."""
    observations: int | Tensor
    """Of each channel, over all processes."""
    valid: Tensor | None
    """Which groups may enter the running estimates, ``(G, 1, 1)`` or one for all; ``None`` if every one may."""
    route: Tensor
    """Of :func:`eigengrad.nn.functional.moments.moments`."""
    check: FiniteCheck
    """To be settled after the decomposition."""


class AffineMap(NamedTuple):
    """``T (x - mean) + offset`` for the groups of size d in one block of channels."""

    block: slice
    mean: Tensor
    """``(G, d, 1)``."""
    T: Tensor
    """``(G, d, d)``."""
    offset: Tensor
    """``(G, d, 1)``."""


def batch_moments(data: Tensor, block: slice, process_group: Processes, errors: str) -> Moments:
    """Moments of ``data (B, G, d, M)``, joined over the processes, and identity and zero for skipped groups."""
    d = data.shape[2]

    def describe(group: int) -> str:
        first = block.start + group * d
        return f"channels {first} to {first + d - 1}"

    check = FiniteCheck(describe)
    mean, covariance, route = moments(data)
    observations: int | Tensor = data.shape[0] * data.shape[3]
    enough = None
    if (group := resolved(process_group)) is not None:
        mean, covariance, observations = joined(mean, covariance, data.shape[0] * data.shape[3], group)
        enough = observations > 1
    elif isinstance(observations, int) and observations < 2:
        enough = torch.zeros(1, dtype=torch.bool, device=data.device)
    if errors == "raise":
        covariance = check.ask(covariance)
        valid = check.finite if enough is None or check.finite is None else check.finite & enough
        return Moments(mean, covariance, observations, enough if valid is None else valid, route, check)
    valid = covariance.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    if enough is not None:
        valid = valid & enough
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    mean, covariance = torch.where(valid, mean, 0.0), torch.where(valid, covariance, identity)
    return Moments(mean, covariance, observations, valid, route, check)


def scaled(matrix: Tensor, block: slice, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """T and offset of ``matrix (G, d, d)`` and each channel's scale and offset: the data is not touched once more."""
    dtype, shape = matrix.dtype, (*matrix.shape[:2], 1)
    T = matrix if weight is None else matrix * weight[block].to(dtype).view(shape)
    return T, matrix.new_zeros(shape) if bias is None else bias[block].to(dtype).view(shape)


def evaluate(x: Tensor, maps: Iterable[AffineMap], d: int) -> Tensor:
    """All channels of ``x (N, C, *)``, in groups of d, through the maps of their blocks."""
    outputs = []
    with full_precision(x.device):
        for (part, _, size), (_, mean, T, offset) in zip(parts(x, d), maps, strict=True):
            layout = Layout.of(part, size)
            outputs.append(affine(layout.arrange(part), T, mean, offset, layout))
    return together(outputs, x)


class RunningEstimates:
    """One batch's update of running estimates, in place, and of the number of batches in them.

    Args:
        momentum: weight of the batch; ``None`` for the average of all batches counted.
        num_batches_tracked: ``()``, or ``None`` where nobody counts.
        errors: with ``"raise"``, a group that may not enter keeps the whole batch out, as the exception would.
    """

    def __init__(self, momentum: float | None, num_batches_tracked: Tensor | None, errors: str) -> None:
        if momentum is None and num_batches_tracked is None:
            raise ValueError("momentum=None averages all batches: pass num_batches_tracked, or a number as momentum")
        self.num_batches_tracked = num_batches_tracked
        self.together = errors == "raise"
        self.momentum: float | Tensor = 0.0
        if momentum is not None:
            self.momentum = momentum
        elif num_batches_tracked is not None:
            self.momentum = (num_batches_tracked + 1).reciprocal()  # a tensor: the host need not wait for it
        self.recorded: list[tuple[Tensor | None, slice, tuple[tuple[Tensor | None, Tensor], ...]]] = []

    def record(self, valid: Tensor | None, block: slice, *pairs: tuple[Tensor | None, Tensor]) -> None:
        """Pairs of a running estimate and the batch's own, ``(G, d, *)``, for a block; nothing changes yet."""
        self.recorded.append((valid, block, pairs))

    def commit(self) -> None:
        """Move the estimates of valid groups, once no block can fail any more; count the batch if there are any.

        Detached, not under ``no_grad``: a region without results is one that an exported program cannot be loaded with
        (torch 2.13).
        """
        masks = [valid for valid, _, _ in self.recorded if valid is not None]
        whole = torch.stack([mask.all() for mask in masks]).all() if masks and self.together else None
        for mask, block, pairs in self.recorded:
            valid = mask if whole is None else whole
            for running, new in pairs:
                if running is not None:
                    if functorch.is_batchedtensor(new) and not functorch.is_batchedtensor(running):
                        raise RuntimeError(
                            "torch.func.vmap maps over batches, but not over the running estimates, which cannot take "
                            "in several at once: use track_running_stats=False, or evaluation mode, or map over the "
                            "buffers as well (torch.func.stack_module_state)"
                        )
                    old = running[block, : new.shape[-1]] if running.dim() == 2 else running[block]
                    step = self.momentum * (new.detach().to(old.dtype) - old.view(new.shape))
                    old.add_((step if valid is None else torch.where(valid, step, 0.0)).reshape(old.shape))
        if self.num_batches_tracked is not None:
            if whole is not None:
                self.num_batches_tracked.add_(whole)
            elif len(masks) < len(self.recorded):
                self.num_batches_tracked.add_(1)
            else:
                self.num_batches_tracked.add_(torch.stack([mask.any() for mask in masks]).any())


def check_input(x: Tensor, training: bool, eps: float, process_group: Processes, errors: str) -> None:
    """Whether ``x`` and the settings make sense."""
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"x must be (N, C) or (N, C, *) with at least one channel, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real and floating point, got {x.dtype}")
    check_settings(eps, errors)
    check_processes(process_group)
    if training and process_group is None and errors == "raise" and x.numel() == x.shape[1]:
        raise ValueError(
            f"training needs more than one value per channel, got {tuple(x.shape)}; pass more, or errors='skip'"
        )


def check_tensors(training: bool, **expected: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Whether parameters and running estimates, ``name=(tensor, shape)``, are there and of the right shapes."""
    for name, (tensor, shape) in expected.items():
        if tensor is None and name.startswith("running") and not training:
            raise ValueError(f"training=False needs {name}; pass it, or training=True")
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for {shape[0]} channels, got {tuple(tensor.shape)}")


def check_settings(eps: float, errors: str, *, positive: bool = False) -> None:
    """What is known before there is any input."""
    if not (eps > 0 if positive else eps >= 0):
        raise ValueError(
            f"eps must {'be positive' if positive else 'not be negative'}, got {eps}: it is added to variances"
        )
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors must be 'raise' or 'skip', got {errors!r}")


def check_group_size(group_size: int | None, channels: int) -> int:
    """The group size d; by default all channels, or :data:`GROUP_SIZE`."""
    if group_size is not None and (not isinstance(group_size, int) or isinstance(group_size, bool)):
        raise TypeError(f"group_size must be an int, got {group_size!r} of type {type(group_size).__name__}")
    if group_size is not None and not 1 <= group_size <= channels:
        raise ValueError(f"group_size must lie between 1 and the number of channels, {channels}, got {group_size}")
    return min(channels, GROUP_SIZE) if group_size is None else group_size
