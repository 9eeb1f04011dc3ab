"""Moments of a batch that is spread over processes."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from eigengrad.autograd import Function

__all__ = ["Processes", "check_processes", "joined", "resolved"]

Processes = ProcessGroup | Literal["all"] | None
"""Who shares moments: a group; ``"all"``, which can be copied and saved as a group cannot; or ``None``, nobody."""


def resolved(processes: Processes) -> ProcessGroup | None:
    """The group that is meant. ``"all"`` is this process alone until others are started, as in ``nn.SyncBatchNorm``."""
    if not isinstance(processes, str):
        return processes
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.group.WORLD if started else None


def check_processes(processes: Processes) -> None:
    """Whether a text is the one that has a meaning."""
    if isinstance(processes, str) and processes != "all":
        raise ValueError(f"process_group must be a process group, 'all' or None, got {processes!r}")


def joined(
    mean: Tensor, covariance: Tensor, observations: int, process_group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and number ``(1,)`` of all processes' observations, from those of each process.

    Batches may differ in size, and be empty: the numbers travel with the sums. Moments about each process's own mean
    are merged, so nothing cancels (Chan, Golub, LeVeque, *Updating Formulae*, 1979).
    """
    own = mean.new_full((1,), observations)
    packed = _Sum.call(torch.cat([(own * mean).flatten(), own]), process_group)
    count = packed[-1:]
    total = count.clamp(min=1)
    joined_mean = packed[:-1].view_as(mean) / total
    away = mean - joined_mean
    return joined_mean, _Sum.call(own * (covariance + away @ away.mT), process_group) / total, count


class _Sum(Function):
    """Over the processes. Every one of them depends on every input, so cotangents and tangents are summed as well."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, process_group: ProcessGroup) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ProcessGroup], output: Tensor) -> None:
        _, ctx.process_group = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Sum.call(g, ctx.process_group), None

    @staticmethod
    def push_forward(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Sum.call(tangent, ctx.process_group)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, process_group: ProcessGroup) -> tuple[Tensor, int]:
        return _Sum.call(x, process_group), in_dims[0]
