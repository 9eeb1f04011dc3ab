"""What whitening and denoising share with batch normalisation: checks, the batch's moments, running estimates.

A layer of either kind is one affine map for each group of channels, ``T (x - mean) + offset``: from the batch's moments
in training, from running estimates in evaluation.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from eigengrad.conditioning import Conditioning
from eigengrad.native import operators, passes
from eigengrad.nn.functional.channel_groups import Layout, parts, together
from eigengrad.nn.functional.distributed import Processes, check_processes, joined, resolved
from eigengrad.nn.functional.finite_check import FiniteCheck
from eigengrad.nn.functional.moments import affine, full_precision, is_replayed, moments

__all__ = [
    "GROUP_SIZE",
    "MOMENTUM",
    "RELATIVE_EPS",
    "SHRINKAGE",
    "AffineMap",
    "RunningEstimates",
    "Statistics",
    "batch_statistics",
    "check_group_size",
    "check_input",
    "check_settings",
    "check_tensors",
    "evaluate",
    "learned",
    "or_identity",
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


class Statistics(NamedTuple):
    """Of one block of groups in one batch."""

    mean: Tensor
    """``(G, d, 1)``; NaN where the covariance is not finite, or zero where that is no error."""
    covariance: Tensor
    """``(G, d, d)``, biased and shrunk: what enters running estimates."""
    A: Tensor
    """What is decomposed, ``(G, d, d)``; always finite."""
    valid: Tensor | None
    """Which groups may enter the running estimates, ``(G,)``; ``None`` if every one may."""
    route: Tensor
    """Of :func:`eigengrad.nn.functional.moments.moments`."""
    check: FiniteCheck
    """To be settled after the decomposition."""


class AffineMap(NamedTuple):
    """``scale (T (x - mean)) + offset`` for the groups of size d in one block of channels."""

    block: slice
    mean: Tensor
    """``(G, d, 1)``."""
    T: Tensor
    """``(G, d, d)``."""
    scale: Tensor | None
    """``(G, d, 1)``; None for 1."""
    offset: Tensor | None
    """``(G, d, 1)``; None for 0."""

    @property
    def matrix(self) -> Tensor:
        """With its rows scaled."""
        return self.T if self.scale is None else self.scale * self.T


def batch_statistics(data: Tensor, block: slice, by: Conditioning, process_group: Processes, errors: str) -> Statistics:
    """Of ``data (B, G, d, M)``, joined over the processes; with ``"skip"``, a bad group's mean is zero."""
    d = data.shape[2]

    def describe(group: int) -> str:
        first = block.start + group * d
        return f"channels {first} to {first + d - 1}"

    check, enough = FiniteCheck(describe), None
    observations = data.shape[0] * data.shape[3]
    if (group := resolved(process_group)) is None:
        mean, _, covariance, A, finite, route = moments(data, by)
        if observations < 2:
            enough = torch.zeros_like(finite)
    else:
        own = moments(data)
        mean, C, count = joined(own.mean, own.covariance, observations, group)
        mean, _, covariance, A, finite = by.apply(mean, C, count)
        route, enough = own.route, (count > 1).expand_as(finite)
    if errors == "raise":
        check.ask(finite)
        valid = enough if check.finite is None else check.finite if enough is None else check.finite & enough
    else:
        valid = finite if enough is None else finite & enough
        mean = torch.where(valid[..., None, None], mean, 0.0)
    return Statistics(mean, covariance.detach(), A, valid, route, check)


def or_identity(matrix: Tensor, valid: Tensor | None) -> Tensor:
    """``matrix (G, d, d)`` of valid groups, and the identity of the others."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix if valid is None else torch.where(valid[..., None, None], matrix, identity)


def learned(
    like: Tensor, block: slice, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Each channel's scale and offset ``(G, d, 1)``, where there are any, for a matrix ``(G, d, d)`` like this."""

    def of(parameter: Tensor | None) -> Tensor | None:
        if parameter is None:
            return None
        own = parameter if block == slice(0, len(parameter)) else parameter[block]  # whose backward would copy
        return own.to(like.dtype).view(*like.shape[:2], 1)

    return of(weight), of(bias)


def evaluate(x: Tensor, maps: Iterable[AffineMap], d: int) -> Tensor:
    """All channels of ``x (N, C, *)``, in groups of d, through the maps of their blocks."""
    outputs = []
    with full_precision(x.device):
        for (part, _, size), (_, mean, T, scale, offset) in zip(parts(x, d), maps, strict=True):
            layout = Layout.of(part, size)
            outputs.append(affine(layout.arrange(part), T, mean, scale, offset, layout))
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
        self.momentum = momentum
        self.recorded: list[tuple[slice, Statistics, Tensor | None, Tensor | None]] = []

    def record(
        self, block: slice, found: Statistics, running_mean: Tensor | None, running_covariance: Tensor | None
    ) -> None:
        """What a block of channels has found, and the estimates ``(C,)`` and ``(C, d)``; nothing changes yet."""
        self.recorded.append((block, found, running_mean, running_covariance))

    def commit(self) -> None:
        """Move the estimates of valid groups, once no block can fail any more; count the batch if there are any.

        Detached, not under ``no_grad``: a region without results is one that an exported program cannot be loaded with
        (torch 2.13).
        """
        flags = [found.valid for _, found, *_ in self.recorded if found.valid is not None]
        valid = None if len(flags) < len(self.recorded) else flags[0] if len(flags) == 1 else torch.cat(flags)
        before = None
        if self.momentum is None and self.num_batches_tracked is not None:
            before = self.num_batches_tracked.clone()  # a tensor: the host need not wait for it
        first, last = 0, self.recorded[-1][0]
        for block, found, running_mean, running_covariance in self.recorded:
            groups, d, _ = found.covariance.shape
            _move(
                None if running_mean is None else running_mean[block],
                None if running_covariance is None else running_covariance[block, :d],
                self.num_batches_tracked if block == last else None,
                found.mean.detach(),
                found.covariance,
                How(before, valid, first, self.momentum or 0.0, self.together),
            )
            first += groups


class How(NamedTuple):
    """The arguments of ``torch.ops.eigengrad.update`` beside estimates and moments."""

    before: Tensor | None
    valid: Tensor | None
    first: int
    momentum: float
    together: bool


def _move(
    running_mean: Tensor | None,
    running_covariance: Tensor | None,
    count: Tensor | None,
    mean: Tensor,
    covariance: Tensor,
    how: How,
) -> None:
    """The estimates of one block."""
    estimates = [estimate for estimate in (running_mean, running_covariance) if estimate is not None]
    moved = estimates if count is None else [*estimates, count]
    if any(map(functorch.is_batchedtensor, (mean, covariance))) and not all(map(functorch.is_batchedtensor, moved)):
        raise RuntimeError(
            "torch.func.vmap maps over batches, but not over the running estimates, which cannot take in several at "
            "once: use track_running_stats=False, or evaluation mode, or map over the buffers as well "
            "(torch.func.stack_module_state)"
        )
    if not moved:
        return
    before, valid, first, momentum, together = how
    if (
        is_replayed()
        or torch._C._are_functorch_transforms_active()
        or any(x.dtype != covariance.dtype or x.stride(-1) != 1 for x in estimates)
    ):
        update: Any = passes.update
    else:
        update = operators.update
        torch.autograd.graph.increment_version(moved)
    update(running_mean, running_covariance, count, before, mean, covariance, valid, first, momentum, together)


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
