"""One run from a configuration to a result, come what may: its record, its checkpoints, its interruptions.

A run that meets NaN, diverges, or whose decomposition does not converge has *failed*, and that is its result: the paper
counts such runs. A run that is stopped, or whose process dies, has no result yet: the same call goes on from its last
checkpoint, to the same figures.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from eigengrad_lab.checkpoints import Checkpoints
from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData
from eigengrad_lab.events import Events
from eigengrad_lab.records import Position, Result, RunRecord
from eigengrad_lab.signals import StopSignals
from eigengrad_lab.team import ALONE, Team
from eigengrad_lab.training import Training

__all__ = ["Interrupted", "Recording", "train"]

NEWS_SECONDS = 1.0
"""Least time between two words on where the run is."""
AGREEMENT_STEPS = 16
"""The processes of a team ask each other this often whether to stop: asking makes them wait."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop and has saved its state; training the same configuration again resumes it."""


@dataclass(frozen=True)
class Recording:
    """Where a run leaves its records, and with what."""

    root: Path
    """The folder of all runs' folders."""
    command: str = ""
    """The command line, for the record."""
    tensorboard: bool = False
    """Write TensorBoard's event files too."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints: what a process that dies may cost."""


def train(
    config: RunConfig,
    data: ImageData,
    recording: Recording,
    *,
    team: Team = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda message: None,
) -> Result:
    """Train ``config`` on the device where ``data`` lies, or return the result it already has.

    Another process that is at the same run is waited for. SIGINT and SIGTERM count as a wish to stop.

    Args:
        config: what to train.
        data: its images.
        recording: where its records go.
        team: the processes that share each batch, all of which make this call.
        should_stop: asked before each step.
        warn: told about damaged checkpoints.

    Raises:
        Interrupted: once a stop was asked for, with the state saved.
    """
    record = RunRecord(recording.root, config)
    with StopSignals() as signals:

        def stop() -> bool:
            return signals.asked() or should_stop()

        with record.claim(stop) if team.leads else nullcontext(True) as claimed:
            if team.agree(not claimed, data.train_images.device):
                raise Interrupted
            if (result := record.result()) is not None:
                return result
            try:
                return _train(record, data, recording, team, stop, warn)
            except Interrupted:
                raise
            except Exception as error:
                if team.leads:
                    record.write_broken(error)
                raise


def _train(
    record: RunRecord,
    data: ImageData,
    recording: Recording,
    team: Team,
    stop: Callable[[], bool],
    warn: Callable[[str], None],
) -> Result:
    device = data.train_images.device
    checkpoints = Checkpoints(record.folder, warn)
    if team.leads:
        record.open(recording.command)
        state = checkpoints.load(device)
    team.wait()
    if not team.leads:
        state = checkpoints.load(device)
    training = Training(record.config, data, team)
    if state is not None:
        training.load_state_dict(state)
    reporter = _Reporter(record, training, first_step=training.step)
    result, saved_at = None, time.monotonic()
    with Events(record.folder, first_step=training.step, enabled=recording.tensorboard and team.leads) as events:
        while result is None:
            for _ in training.run_epoch():
                ask = training.step % AGREEMENT_STEPS == 0 or team.size == 1
                if ask and team.agree(stop(), device):
                    if team.leads:
                        checkpoints.save(training.state_dict())
                    raise Interrupted
                if team.leads:
                    due = time.monotonic() - saved_at > recording.checkpoint_seconds
                    reporter.tell(at_once=due)
                    if due:
                        checkpoints.save(training.state_dict())
                        saved_at = time.monotonic()
            result = training.end_epoch()
            if team.leads:
                record.write_metrics(training.metrics)
                reporter.tell(at_once=True)
                events.write(training.metrics[-1])
    if team.leads:
        record.write_result(result)
        checkpoints.remove()
    team.wait()
    return result


class _Reporter:
    """Says where a run is, now and then."""

    def __init__(self, record: RunRecord, training: Training, first_step: int) -> None:
        self.record, self.training, self.first_step = record, training, first_step
        self.started, self.told = time.time(), 0.0
        self.tell(at_once=True)

    def tell(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self.told < NEWS_SECONDS:
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
            )
        )
        self.told = time.monotonic()
