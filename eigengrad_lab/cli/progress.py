"""How far the runs are, read from their records: a live display on a terminal, a line every 15 seconds elsewhere."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eigengrad_lab.config import RunConfig
from eigengrad_lab.runs.engines import Broken
from eigengrad_lab.runs.records import Position, RunRecord
from eigengrad_lab.runs.status import duration, pace
from eigengrad_lab.training import Result

__all__ = ["Display"]

LIVE_SECONDS, PLAIN_SECONDS = 0.5, 15.0


class Display:
    """While entered, follows ``configs`` through their records below ``root``, ``workers`` of them at a time."""

    def __init__(self, configs: Sequence[RunConfig], root: Path, console: Console, workers: int) -> None:
        self.workers, self.seconds_of_the_done = workers, list[float]()
        self.console, self.began, self.total = console, time.time(), len(configs)
        self.unfinished = {config.identity: RunRecord(root, config) for config in configs}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.everything = self.progress.add_task("runs", total=len(configs), details="")
        self.lines: dict[str, TaskID] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def ended(self, config: RunConfig, outcome: Result | Broken) -> None:
        """One run's end, as a line that stays."""
        with self._lock:
            self.unfinished.pop(config.identity)
            if (line := self.lines.pop(config.identity, None)) is not None:
                self.progress.remove_task(line)
            self.progress.advance(self.everything)
            if isinstance(outcome, Result) and outcome.succeeded:
                self.seconds_of_the_done.append(outcome.seconds)
        text = f"broken: {outcome.reason}" if isinstance(outcome, Broken) else str(outcome)
        style = "red" if isinstance(outcome, Broken) or outcome.failed else "yellow" if outcome.undecided else None
        self.console.print(f"{config.identity}: {text}", style=style, highlight=False, markup=False)

    def warn(self, message: str) -> None:
        """Something that went wrong on the way."""
        self.console.print(f"warning: {message}", style="yellow", highlight=False, markup=False)

    def __enter__(self) -> "Display":
        self.progress.start()
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()
        self.progress.stop()

    def _watch(self) -> None:
        while not self._over.wait(LIVE_SECONDS if self.console.is_terminal else PLAIN_SECONDS):
            with self._lock:
                running = {name: p for name, record in self.unfinished.items() if (p := record.position()) is not None}
                current = {name: p for name, p in running.items() if p.updated >= self.began}
                if self.console.is_terminal:
                    self._show(current)
            if not self.console.is_terminal:
                self._print_line(current)

    def _show(self, running: dict[str, Position]) -> None:
        for name, position in running.items():
            if name not in self.lines:
                self.lines[name] = self.progress.add_task(name, total=position.steps, details="")
            self.progress.update(
                self.lines[name], completed=position.step, details=f"{pace(position)}{_details(position)}"
            )

    def _print_line(self, running: dict[str, Position]) -> None:
        done = self.total - len(self.unfinished)
        said = (
            f"{done} of {self.total} runs done, {duration(time.time() - self.began)} so far, {self._left(running)} left"
        )
        for name, position in running.items():
            said += f"; {name} at step {position.step} of {position.steps}, {pace(position)}{_details(position)}"
        self.console.print(said, highlight=False, markup=False)

    def _left(self, running: dict[str, Position]) -> str:
        """Of everything: what is running by its own pace, what waits as the runs that are done or running."""
        left = [position.seconds_left() for position in running.values()]
        whole = [position.seconds_a_step() * position.steps for position in running.values()] + self.seconds_of_the_done
        known = [seconds for seconds in whole if seconds == seconds]
        if not known or any(seconds != seconds for seconds in left):
            return "?"
        waiting = len(self.unfinished) - len(running)
        total = sum(left) + waiting * sum(known) / len(known)
        return duration(max([total / self.workers, *left]))


def _details(position: Position) -> str:
    if not position.epoch:
        return ""
    return f", epoch {position.epoch}, loss {position.train_loss:.3f}, error {position.test_error_pct:.1f}%"
