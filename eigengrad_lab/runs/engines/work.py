"""What an engine is given, and what it yields.

An engine is a function from runs to an iterator over how they end. Records are on disk, so whatever becomes of the
engine, the same command takes up where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData
from eigengrad_lab.runs.execution import Recording
from eigengrad_lab.training import Result

__all__ = ["RETRIES", "Broken", "Ended", "Engine", "Work"]

RETRIES = 3
"""How often a run whose process died is taken up again before it counts as broken."""


@dataclass(frozen=True)
class Broken:
    """An attempt that ended without a result: a defect, or a machine that failed. It is tried again next time."""

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
    threads: int | None = None
    """Of each training on a CPU; by default one where there are several workers, else torch's."""
    until: float | None = None
    """When to stop, as ``time.monotonic`` counts: runs on their way save their state."""

    def seconds_left(self) -> float | None:
        """Until then."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())

    def set_threads(self) -> None:
        """In a worker."""
        if (threads := self.threads or (1 if self.workers > 1 else None)) is not None:
            torch.set_num_threads(threads)


class Engine(Protocol):
    """How runs are carried out."""

    def __call__(self, work: Work) -> Iterator[Ended]:
        """Train everything, and yield each run as it ends.

        When ``work.until`` comes, the iterator ends before all have. Then, on KeyboardInterrupt, or when the iterator
        is closed, runs on their way save their state and end.
        """
        ...
