"""What has run, is running, was stopped, failed, and why: read from the records."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eigengrad_lab.checkpoints import Checkpoints
from eigengrad_lab.progress import duration
from eigengrad_lab.records import RunRecord, recorded_runs

__all__ = ["Standing", "show_status", "standings"]

STYLES = {"running": "cyan", "failed": "red", "broken": "bold red", "stopped": "yellow"}


@dataclass(frozen=True)
class Standing:
    """How it stands with one run."""

    name: str
    state: str
    """``done``, ``failed`` (a result like any other), ``running``, ``stopped`` (the same command resumes it) or
    ``broken`` (a defect; the same command tries again)."""
    detail: str


def standings(root: Path) -> tuple[list[Standing], list[str]]:
    """Every run below ``root``, and a sentence about each folder that is none."""
    records, strange = recorded_runs(root)
    return [standing(record) for record in records], strange


def standing(record: RunRecord) -> Standing:
    """How it stands with the run of one record."""
    name, position = record.folder.name, record.position()
    if (result := record.result()) is not None:
        return Standing(name, "done" if result.succeeded else "failed", str(result))
    where = ""
    if position is not None:
        where = f"step {position.step} of {position.steps}, epoch {position.epoch + 1} of {position.epochs}"
    if record.is_claimed():
        if position is not None:
            where += f", {duration(position.seconds_left())} left, process {position.process} on {position.host}"
        return Standing(name, "running", where or "starting")
    if (reason := record.broken()) is not None:
        return Standing(name, "broken", reason)
    return Standing(name, "stopped", where if Checkpoints(record.folder).exist() else "before its first checkpoint")


def show_status(root: Path, console: Console) -> None:
    """A table of all runs, and how many there are of each kind."""
    every, strange = standings(root)
    if not every:
        console.print(f"no runs in {root}; eigengrad reproduce or eigengrad train makes some", highlight=False)
    else:
        table = Table("run", "state", "")
        for run in every:
            table.add_row(run.name, run.state, run.detail, style=STYLES.get(run.state))
        console.print(table)
        console.print(", ".join(_counts(every)), highlight=False)
    for sentence in strange:
        console.print(f"passed over {sentence}", style="yellow", highlight=False, markup=False)


def _counts(every: list[Standing]) -> Iterator[str]:
    for state, count in Counter(run.state for run in every).most_common():
        yield f"{count} {state}"
