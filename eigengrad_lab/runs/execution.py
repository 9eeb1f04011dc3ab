"""One run from a configuration to a result: its record, its checkpoints, its interruptions, its failures.

A run that meets NaN, diverges, or whose decomposition does not converge has *failed*, and that is its result: the paper
counts such runs. A run that is stopped, or whose process dies, has no result yet: the same call goes on from its last
checkpoint, to the same figures.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData
from eigengrad_lab.distributed import ONE_PROCESS, Processes
from eigengrad_lab.runs.checkpoints import Checkpoints
from eigengrad_lab.runs.records import RunRecord
from eigengrad_lab.runs.reporting import Events, PositionReporter
from eigengrad_lab.runs.signals import StopSignals
from eigengrad_lab.training import Result, Training

__all__ = ["Interrupted", "Recording", "train"]

AGREEMENT_STEPS = 16
"""Several processes ask each other whether to stop once in this many steps: asking makes them wait."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop and has saved its state; training the same configuration again resumes it."""


@dataclass(frozen=True)
class Recording:
    """Where a run leaves its records, and what else it writes there."""

    root: Path
    """The folder of all runs' folders."""
    command: str = ""
    """The command line, for the record."""
    tensorboard: bool = False
    """Write TensorBoard's event files too."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints: what a process that dies may cost."""
    weights: bool = False
    """Keep the network as it is at the end."""


def train(
    config: RunConfig,
    data: ImageData,
    recording: Recording,
    *,
    processes: Processes = ONE_PROCESS,
    should_stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda message: None,
) -> Result:
    """Train ``config`` on the device where ``data`` lies, or return the result it already has.

    If another process trains the same run, this one waits for it. SIGINT and SIGTERM ask to stop.

    Args:
        config: what to train.
        data: its images.
        recording: where its records go.
        processes: those that share each batch, all of which make this call.
        should_stop: asked before each step.
        warn: told about damaged checkpoints.

    Raises:
        Interrupted: once a stop was asked for, with the state saved.
    """
    record = RunRecord(recording.root, config)
    with StopSignals() as signals:

        def stop() -> bool:
            return signals.received_any() or should_stop()

        with record.claim(stop) if processes.is_leader else nullcontext(True) as claimed:
            if processes.any(not claimed, data.train_images.device):
                raise Interrupted
            if (result := record.result()) is not None:
                return result
            try:
                return _train(record, data, recording, processes, stop, warn)
            except Interrupted:
                raise
            except Exception as error:
                if processes.is_leader:
                    with suppress(OSError):  # a full disk is told by the error itself
                        record.write_broken(error)
                raise


def _train(
    record: RunRecord,
    data: ImageData,
    recording: Recording,
    processes: Processes,
    stop: Callable[[], bool],
    warn: Callable[[str], None],
) -> Result:
    device, leads = data.train_images.device, processes.is_leader
    checkpoints = Checkpoints(record.folder, warn)
    if leads:
        record.open(recording.command, str(device))
        state = checkpoints.load(device)
    processes.wait()  # a damaged checkpoint must be set aside once
    if not leads:
        state = checkpoints.load(device)
    training = Training(record.config, data, processes)
    if state is not None:
        training.load_state_dict(state)
    reporter = PositionReporter(record, training)
    result, saved_at = None, time.monotonic()
    with Events(
        record.folder, first_step=training.step, enabled=recording.tensorboard and processes.is_leader
    ) as events:
        while result is None:
            for _ in training.run_epoch():
                ask = training.step % AGREEMENT_STEPS == 0 or processes.size == 1
                if ask and processes.any(stop(), device):
                    if leads:
                        checkpoints.save(training.state_dict())
                    raise Interrupted
                if leads:
                    due = time.monotonic() - saved_at > recording.checkpoint_seconds
                    reporter.tell(at_once=due)
                    if due:
                        checkpoints.save(training.state_dict())
                        saved_at = time.monotonic()
            result = training.end_epoch()
            if leads:
                record.write_metrics(training.metrics)
                reporter.tell(at_once=True)
                events.write(training.metrics[-1])
    if leads:
        if recording.weights:
            record.write_weights(training.final_state())
        record.write_result(result)
        checkpoints.remove()
    processes.wait()
    return result
