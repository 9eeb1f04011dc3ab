"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable

from eigengrad_lab.runs.records import Position, RunRecord


def wait_until(holds: Callable[[], bool], *, during: subprocess.Popen[str] | None = None, seconds: float = 300) -> None:
    """Until ``holds()``. Fails after that many ``seconds`` (Ray takes 120 to a first step on cores that others use), or
    where the process ``during`` ends before."""
    end = time.monotonic() + seconds
    while not holds():
        assert during is None or during.poll() is None, during.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_for_step(record: RunRecord, step: int, *, during: subprocess.Popen[str] | None = None) -> Position:
    """Until the run of a record is at ``step`` or later: where it is then."""
    wait_until(lambda: (position := record.position()) is not None and position.step >= step, during=during)
    position = record.position()
    assert position is not None
    return position
