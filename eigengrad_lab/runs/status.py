"""What has run, is running, was stopped, failed, and why: read from the records."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from eigengrad_lab.runs.checkpoints import Checkpoints
from eigengrad_lab.runs.records import Position, RunRecord, recorded_runs

__all__ = ["RunStatus", "duration", "pace", "recorded_statuses", "status_of"]


@dataclass(frozen=True)
class RunStatus:
    """The state of one run, and what more is known of it."""

    name: str
    state: str
    """``done``, ``failed`` (a result like any other), ``undecided`` (not trained long enough), ``running``, ``stopped``
    (the same command resumes it) or ``broken`` (a defect; the same command tries again)."""
    detail: str


def recorded_statuses(root: Path) -> tuple[list[RunStatus], list[str]]:
    """Every run below ``root``, and a sentence about each folder that is none."""
    records, strange = recorded_runs(root)
    return [status_of(record) for record in records], strange


def status_of(record: RunRecord) -> RunStatus:
    """The state of the run of one record."""
    name, position = record.folder.name, record.position()
    if (result := record.result()) is not None:
        state = "done" if result.succeeded else "undecided" if result.undecided else "failed"
        return RunStatus(name, state, str(result))
    where = ""
    if position is not None:
        where = f"step {position.step} of {position.steps}, epoch {position.epoch + 1} of {position.epochs}"
    if record.is_claimed():
        if position is not None:
            where += f", {pace(position)}, process {position.process} on {position.host}"
        return RunStatus(name, "running", where or "starting")
    if (reason := record.broken()) is not None:
        return RunStatus(name, "broken", reason)
    if not record.folder.exists():
        return RunStatus(name, "to train", "")
    return RunStatus(name, "stopped", where if Checkpoints(record.folder).exist() else "before its first checkpoint")


def pace(position: Position) -> str:
    """``850 images/s, 0:01:20 left``."""
    speed = position.images_a_second()
    return f"{'?' if speed != speed else f'{speed:.0f}'} images/s, {duration(position.seconds_left())} left"


def duration(seconds: float) -> str:
    """``h:mm:ss``, or a question mark for NaN."""
    return "?" if seconds != seconds else str(timedelta(seconds=round(seconds)))
