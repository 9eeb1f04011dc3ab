"""What a run tells while it is going on: its position, and TensorBoard's event files where they are asked for."""

import time
from pathlib import Path
from typing import Any

from eigengrad_lab.config import UsageError
from eigengrad_lab.runs.records import Position, RunRecord
from eigengrad_lab.training import EpochMetrics, Training

__all__ = ["Events", "PositionReporter", "require_tensorboard"]

POSITION_SECONDS = 1.0
"""Least time between two positions."""
SHOWN = ("train_loss", "test_error_pct", "learning_rate", "largest_gradient_norm")


class PositionReporter:
    """Writes down where a run is, now and then; at once where it begins."""

    def __init__(self, record: RunRecord, training: Training) -> None:
        self.record, self.training, self.first_step = record, training, training.step
        self.started, self.told = time.time(), 0.0
        self.tell(at_once=True)

    def tell(self, *, at_once: bool = False) -> None:
        """Write the position unless that was done a moment ago; ``at_once``, in any case."""
        if not at_once and time.monotonic() - self.told < POSITION_SECONDS:
            return
        training, metrics = self.training, self.training.metrics
        self.record.write_position(
            Position(
                step=training.step,
                steps=training.steps,
                epoch=training.epoch,
                epochs=training.config.epochs,
                train_loss=metrics[-1].train_loss if metrics else float("nan"),
                test_error_pct=metrics[-1].test_error_pct if metrics else float("nan"),
                started=self.started,
                started_at_step=self.first_step,
                batch_size=training.config.batch_size,
            )
        )
        self.told = time.monotonic()


class Events:
    """The curves of one run, by step. A run that resumes takes back what it had written after ``first_step``."""

    def __init__(self, folder: Path, *, first_step: int, enabled: bool) -> None:
        self.writer: Any = None
        if enabled:
            require_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "events"), purge_step=first_step + 1)

    def write(self, metrics: EpochMetrics) -> None:
        """One epoch."""
        if self.writer is not None:
            for name in SHOWN:
                self.writer.add_scalar(name, getattr(metrics, name), metrics.step)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()


def require_tensorboard() -> None:
    """Raise ``UsageError`` where it is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'eigengrad[lab]'") from error
