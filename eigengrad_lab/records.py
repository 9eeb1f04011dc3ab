"""What a run leaves behind, one folder each: configuration, environment, metrics, checkpoints, and how it ended.

Every file is written whole to a temporary name and then moved into place, so that a reader, or a run that resumes,
sees either the old file or the new one. A run whose ``result.json`` exists is done; one with a checkpoint is resumed.
Whoever writes holds a lock on the folder, which vanishes with its process.
"""

import dataclasses
import fcntl
import json
import math
import os
import platform
import shlex
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

import eigengrad
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.files import write_text

__all__ = ["EpochMetrics", "Position", "Result", "RunRecord", "command_line", "environment", "recorded_runs"]


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

    def __post_init__(self) -> None:
        if self.succeeded != (self.test_error_pct is not None and math.isfinite(self.test_error_pct)):
            raise ValueError(f"a run has an error if it succeeded, and only then, got {self.test_error_pct}")

    def __str__(self) -> str:
        if self.succeeded:
            return f"{self.test_error_pct:.2f}% test error"
        return f"failed at step {self.failed_at_step}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is (``progress.json``), and which process is at it."""

    step: int
    steps: int
    epoch: int
    epochs: int
    train_loss: float
    """Of the last epoch; NaN before the first has ended."""
    test_error_pct: float
    host: str = dataclasses.field(default_factory=socket.gethostname)
    process: int = dataclasses.field(default_factory=os.getpid)
    started: float = 0.0
    """When this process began, in seconds since 1970, and at which step."""
    started_at_step: int = 0
    updated: float = dataclasses.field(default_factory=time.time)

    def seconds_left(self) -> float:
        """By this process's own pace; NaN before its first step."""
        done = self.step - self.started_at_step
        return (self.updated - self.started) / done * (self.steps - self.step) if done else math.nan


NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
Kept = TypeVar("Kept", EpochMetrics, Result, Position)


class RunRecord:
    """The folder of one run, below ``root``, named by the identity of its configuration."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.config = config
        self.folder = root / config.identity

    @contextmanager
    def claim(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Become the only writer, waiting for another one to end. False if ``should_stop`` says yes before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            while not _try_lock(lock.fileno()):
                if should_stop():
                    yield False
                    return
                time.sleep(0.2)
            yield True

    def is_claimed(self) -> bool:
        """Whether a process is at it."""
        try:
            with (self.folder / "lock").open() as lock:
                return not _try_lock(lock.fileno(), shared=True)
        except FileNotFoundError:
            return False

    def open(self, command: str = "") -> None:
        """Write down what is run where, and by which command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "config.json", self.config.to_dict())
        write_json(self.folder / "environment.json", environment() | {"command": command})
        (self.folder / "broken.json").unlink(missing_ok=True)

    def result(self) -> Result | None:
        """The result, or ``None`` while the run is not done."""
        return self._kept("result.json", Result)

    def position(self) -> Position | None:
        """Where the run is, or was when last heard of."""
        return self._kept("progress.json", Position)

    def broken(self) -> str | None:
        """Why the last attempt ended without a result, in one line, if a defect ended it."""
        content = read_json(self.folder / "broken.json")
        return None if content is None else str(content.get("reason", "unknown"))

    def metrics(self) -> list[EpochMetrics]:
        """The epochs recorded so far, up to the first line that cannot be read."""
        metrics: list[EpochMetrics] = []
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
            metrics.extend(_parsed(EpochMetrics, json.loads(line)) for line in lines)
        except (*NO_FILE, ValueError, TypeError):
            pass
        return metrics

    def damaged(self) -> list[Path]:
        """Files that are there and not what a run writes, which their readers take for missing or ended early."""
        result, metrics = self.folder / "result.json", self.folder / "metrics.jsonl"
        damaged = [result] if result.exists() and self.result() is None else []
        if metrics.exists() and not (
            metrics.is_file() and len(self.metrics()) == len(metrics.read_bytes().splitlines())
        ):
            damaged.append(metrics)
        return damaged

    def write_metrics(self, metrics: list[EpochMetrics]) -> None:
        """Write all epochs so far, one JSON object a line."""
        lines = (json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in metrics)
        write_text(self.folder / "metrics.jsonl", "".join(lines))

    def write_position(self, position: Position) -> None:
        """Tell whoever watches."""
        write_json(self.folder / "progress.json", dataclasses.asdict(position))

    def write_result(self, result: Result) -> None:
        """Close the run."""
        write_json(self.folder / "result.json", dataclasses.asdict(result))
        (self.folder / "progress.json").unlink(missing_ok=True)

    def write_broken(self, error: BaseException) -> None:
        """Note a defect that ended this attempt."""
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        lines = traceback.format_exception(error)
        write_json(self.folder / "broken.json", {"reason": reason, "traceback": "".join(lines)})

    def _kept(self, name: str, kind: type[Kept]) -> Kept | None:
        content = read_json(self.folder / name)
        try:
            return None if content is None else _parsed(kind, content)
        except (TypeError, ValueError):
            return None


def recorded_runs(root: Path) -> tuple[list[RunRecord], list[str]]:
    """All runs below ``root`` by name, and a sentence about each folder that is none and each file that is damaged."""
    records, strange = [], []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        content = read_json(folder / "config.json")
        try:
            if content is None:
                raise UsageError("no readable config.json")
            config = RunConfig.from_dict(content)
            if config.identity != folder.name:
                raise UsageError(f"its config.json is that of {config.identity}")
            records.append(RunRecord(root, config))
            strange += [f"{path}: not what a run writes" for path in records[-1].damaged()]
        except UsageError as error:
            strange.append(f"{folder}: {error}")
    return records, strange


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


def command_line(arguments: Sequence[str]) -> str:
    """The command of these arguments, for records that others read: of a folder elsewhere, the last name alone."""
    return shlex.join(["eigengrad", *map(_without_place, arguments)])


def _without_place(word: str) -> str:
    """A folder without the folders it lies in, as ``--data=/a/b`` too; ``owner/name`` of a hub is none."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    elsewhere = path.is_absolute() or ".." in path.parts or path.exists()
    return f"{option}{equals}{path.name or value}" if elsewhere else word


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; ``None`` if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (*NO_FILE, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """An object to a file."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _parsed(kind: type[Kept], content: dict[str, Any]) -> Kept:
    """A dataclass from JSON that anyone may have written; TypeError or ValueError unless each value is of its type."""
    value = kind(**content)
    for field in dataclasses.fields(kind):
        given = getattr(value, field.name)
        whole = type(given) is int and isinstance(0.0, field.type)  # type: ignore[arg-type]  # 2 is as good as 2.0
        if not (whole or isinstance(given, field.type)):  # type: ignore[arg-type]
            raise TypeError(f"{field.name} must be of type {field.type}, got {given!r}")
    return value


def _try_lock(file: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
