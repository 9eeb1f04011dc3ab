"""What an engine is given, and what it yields.

An engine is a function from runs to an iterator over how they end. Records are on disk, so whatever becomes of the
engine, the same command takes up where it stopped.
"""

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


class Engine(Protocol):
    """How runs are carried out."""

    def __call__(self, work: Work) -> Iterator[Ended]:
        """Train everything, and yield each run as it ends.

        On KeyboardInterrupt, or when the iterator is closed, runs on their way save their state and end.
        """
        ...
