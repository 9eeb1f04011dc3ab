"""Many trainings at once: on this machine's cores (``local``), or as tasks of a Ray cluster (``ray``).

An engine is a function from runs to an iterator over how they end. Records are on disk, so whatever becomes of the
engine, the same command takes up where it stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import ImageData
from eigengrad_lab.records import Result
from eigengrad_lab.train import Recording

__all__ = ["RETRIES", "Broken", "Ended", "Engine", "Work", "by_name"]

RETRIES = 3
"""How often a run whose process died is taken up again before it counts as broken."""


@dataclass(frozen=True)
class Broken:
    """An attempt that ended without a result: a defect, or a machine that gave up. It is tried again next time."""

    config: RunConfig
    reason: str


Ended = tuple[RunConfig, Result | Broken]


@dataclass(frozen=True)
class Work:
    """What an engine is to do."""

    configs: Sequence[RunConfig]
    data: ImageData
    """On the CPU."""
    recording: Recording
    device: torch.device
    workers: int
    """Trainings at once."""
    warn: Callable[[str], None]
    """Told in a sentence about what goes wrong on the way."""


class Engine(Protocol):
    """How runs are carried out."""

    def __call__(self, work: Work) -> Iterator[Ended]:
        """Train everything, and yield each run as it ends.

        On KeyboardInterrupt, or when the iterator is closed, runs on their way save their state and end.
        """
        ...


def by_name(name: str, address: str | None = None) -> Engine:
    """The engine ``"local"``, or ``"ray"`` at the address of a cluster.

    Raises:
        UsageError: for another name, if Ray is not installed, or for an address without Ray.
    """
    if name == "ray":
        from eigengrad_lab.engine.on_ray import OnRay

        return OnRay(address)
    if name != "local":
        raise UsageError(f"--engine must be local or ray, got {name!r}")
    if address is not None:
        raise UsageError("--address is that of a Ray cluster: it goes with --engine ray")
    from eigengrad_lab.engine.local import run

    return run
