"""What a run leaves behind, one folder each: configuration, environment, metrics, checkpoints, and how it ended.

Every file is written whole to a temporary name and then moved into place, so that a reader, or a run that resumes,
sees either the old file or the new one. A run whose ``result.json`` exists is done; one with a checkpoint is resumed.
The process that writes holds a lock on the folder, which vanishes with it.
"""

import dataclasses
import fcntl
import json
import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.runs.environment import differences, environment
from eigengrad_lab.runs.files import NO_FILE, read_json, without_nan, write_atomically, write_json, write_text
from eigengrad_lab.training import EpochMetrics, Result

__all__ = ["Position", "RunRecord", "recorded_runs", "trainings"]


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is (``progress.json``), and which process trains it."""

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

    batch_size: int = 0

    def seconds_a_step(self) -> float:
        """This process's own pace; NaN before its first step."""
        done = self.step - self.started_at_step
        return (self.updated - self.started) / done if done else math.nan

    def seconds_left(self) -> float:
        """By that pace."""
        return self.seconds_a_step() * (self.steps - self.step)

    def images_a_second(self) -> float:
        """By that pace."""
        return self.batch_size / self.seconds_a_step()


Parsed = TypeVar("Parsed", EpochMetrics, Result, Position)


class RunRecord:
    """The folder of one run, below ``root``, named by the identity of its configuration."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.config = config
        self.folder = root / config.identity

    @contextmanager
    def claim(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Become the only writer, waiting for another one to end. False if ``should_stop`` is true before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            while not _try_lock(lock.fileno()):
                if should_stop():
                    yield False
                    return
                time.sleep(0.2)
            yield True

    def is_claimed(self) -> bool:
        """Whether a process is training it."""
        try:
            with (self.folder / "lock").open() as lock:
                return not _try_lock(lock.fileno(), shared=True)
        except FileNotFoundError:
            return False

    def open(self, command: str = "", device: str = "cpu") -> None:
        """Write down what is run where, and by which command; of a run that goes on elsewhere, where it was before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "config.json", self.config.to_dict())
        now, before = environment(device) | {"command": command}, self.environment()
        earlier = before.pop("earlier", [])
        if before and differences([before, now]):
            earlier = [*earlier, before]
        write_json(self.folder / "environment.json", now | ({"earlier": earlier} if earlier else {}))
        (self.folder / "broken.json").unlink(missing_ok=True)

    def environment(self) -> dict[str, Any]:
        """What is known of where it was trained, for its figures to be quoted with."""
        return read_json(self.folder / "environment.json") or {}

    def result(self) -> Result | None:
        """The result, or ``None`` while the run is not done."""
        return self._read("result.json", Result)

    def position(self) -> Position | None:
        """Where the run is, or was when it last wrote so."""
        return self._read("progress.json", Position)

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
        lines = (json.dumps(without_nan(dataclasses.asdict(epoch)), allow_nan=False) + "\n" for epoch in metrics)
        write_text(self.folder / "metrics.jsonl", "".join(lines))

    def write_position(self, position: Position) -> None:
        """Tell those who watch where the run is."""
        write_json(self.folder / "progress.json", dataclasses.asdict(position))

    def write_result(self, result: Result) -> None:
        """Close the run."""
        write_json(self.folder / "result.json", dataclasses.asdict(result))
        (self.folder / "progress.json").unlink(missing_ok=True)

    def write_weights(self, state: dict[str, Any]) -> None:
        """Keep the network as it is at the end: its tensors, and what inputs are standardised by."""
        write_atomically(self.folder / "weights.pt", lambda file: torch.save(state, file))

    def weights(self) -> dict[str, Any] | None:
        """What :meth:`write_weights` kept, on the CPU, or ``None``."""
        path = self.folder / "weights.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None

    def write_broken(self, error: BaseException) -> None:
        """Note a defect that ended this attempt."""
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        lines = traceback.format_exception(error)
        write_json(self.folder / "broken.json", {"reason": reason, "traceback": "".join(lines)})

    def _read(self, name: str, kind: type[Parsed]) -> Parsed | None:
        content = read_json(self.folder / name)
        try:
            return None if content is None else _parsed(kind, content)
        except (TypeError, ValueError):
            return None


def trainings(output: Path) -> Path:
    """The folder of all runs' folders, below that of everything a command writes."""
    return output / "trainings"


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


def _parsed(kind: type[Parsed], content: dict[str, Any]) -> Parsed:
    """A dataclass from JSON that anyone may have written; TypeError or ValueError unless each value is of its type."""
    if kind is not Result:  # JSON has no NaN: where a number must be, null stands for it
        content = {name: math.nan if given is None else given for name, given in content.items()}
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
