"""What a run leaves behind, one folder each: configuration, environment, metrics, checkpoint, result.

Every file is written whole to a temporary name and then moved into place, so that a reader, or a run that resumes, sees
either the old file or the new one. A run whose ``result.json`` exists is done; one with a checkpoint is resumed.
"""

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

import eigengrad
from eigengrad_lab.config import RunConfig

__all__ = ["EpochMetrics", "Result", "RunRecord", "environment", "write_atomically"]


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """One line of ``metrics.jsonl``."""

    epoch: int
    """Epochs completed, counted from 1."""
    step: int
    """Steps completed since the start of the run."""
    train_loss: float
    """Mean cross-entropy of the epoch's mini-batches, in nats, or of those before the failure."""
    test_error_pct: float
    learning_rate: float
    largest_gradient_norm: float
    """Largest total gradient norm over the epoch's steps."""
    seconds: float


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended. A run that failed is a result like any other."""

    succeeded: bool
    test_error_pct: float | None
    """Error of the last epoch; ``None`` for a run that failed."""
    failed_at_step: int | None = None
    reason: str | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.succeeded:
            return f"{self.test_error_pct:.2f}% test error"
        return f"failed at step {self.failed_at_step}: {self.reason}"


class RunRecord:
    """The folder of one run, below ``root``, named by the identity of its configuration."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.config = config
        self.folder = root / config.identity

    def open(self) -> None:
        """Make the folder and write down what is run where."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_json("config.json", self.config.to_dict())
        self._write_json("environment.json", environment())

    def result(self) -> Result | None:
        """The result, or ``None`` while the run is not done."""
        path = self.folder / "result.json"
        return Result(**json.loads(path.read_text())) if path.exists() else None

    def metrics(self) -> list[EpochMetrics]:
        """The epochs recorded so far."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        return [EpochMetrics(**json.loads(line)) for line in path.read_text().splitlines()]

    def write_metrics(self, metrics: list[EpochMetrics]) -> None:
        """Write all epochs so far, one JSON object a line."""
        text = "".join(json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in metrics)
        write_atomically(self.folder / "metrics.jsonl", lambda file: file.write(text.encode()))

    def write_result(self, result: Result) -> None:
        """Close the run: write its result and drop the checkpoint, which nobody will resume from."""
        self._write_json("result.json", dataclasses.asdict(result))
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``state``: tensors, numbers, strings, and lists and dicts of them."""
        write_atomically(self.folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """The state last written, or ``None``."""
        path = self.folder / "checkpoint.pt"
        return torch.load(path, map_location=device, weights_only=True) if path.exists() else None

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.folder / name, lambda file: file.write(text.encode()))


def environment() -> dict[str, Any]:
    """What a figure must be quoted with: versions and the machine."""
    return {
        "eigengrad": eigengrad.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there."""
    with _temporary(path) as file:
        write(file)


@contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    # NamedTemporaryFile is private to its owner; a record may be read by anyone who may read the folder.
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
