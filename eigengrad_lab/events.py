"""TensorBoard's event files, on request."""

from pathlib import Path
from types import TracebackType
from typing import Any

from eigengrad_lab.config import UsageError
from eigengrad_lab.records import EpochMetrics

__all__ = ["Events", "require_tensorboard"]

SHOWN = ("train_loss", "test_error_pct", "learning_rate", "largest_gradient_norm")


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()


def require_tensorboard() -> None:
    """Raise ``UsageError`` where it is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'eigengrad[lab]'") from error
