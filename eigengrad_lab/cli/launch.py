"""From configurations to their results: what is missing is trained, under a progress display."""

import os
import statistics
import time
from collections.abc import Sequence

import torch
from rich.console import Console

from eigengrad_lab.cli.options import Execution
from eigengrad_lab.cli.progress import Display
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import ImageData, load_for
from eigengrad_lab.distributed import joined_processes
from eigengrad_lab.models import extra_layer
from eigengrad_lab.runs import engines
from eigengrad_lab.runs.environment import environment, mixture
from eigengrad_lab.runs.execution import Interrupted, Recording, train
from eigengrad_lab.runs.records import RunRecord, trainings
from eigengrad_lab.runs.reporting import require_tensorboard
from eigengrad_lab.runs.status import duration
from eigengrad_lab.training import Result, Training

__all__ = ["estimate", "train_here", "train_missing"]

TIMED_STEPS, TIMED_SECONDS = 3, 60.0


def train_missing(
    configs: Sequence[RunConfig], data: str, execution: Execution, console: Console, command: str
) -> tuple[list[engines.Broken], bool]:
    """Train those of ``configs`` that have no result yet, on the data set ``data``.

    Returns:
        The ones that broke, and whether all ended before the time was up.

    Raises:
        UsageError: for options that name nothing, or nothing that is here.
        KeyboardInterrupt: once the runs on their way have saved their state.
    """
    root, device = trainings(execution.output), _device(execution.device)
    run = engines.by_name(execution.engine, execution.address)
    if execution.tensorboard:
        require_tensorboard()
    _try_parts(configs)
    missing = [config for config in configs if RunRecord(root, config).result() is None]
    done = [RunRecord(root, config).environment() for config in configs if config not in missing]
    if done:
        console.print(f"{len(done)} of {len(configs)} runs were done before", highlight=False)
    if not missing:
        return [], True
    recording = _recording(execution, command)
    with console.status(f"loading {data}"):
        images = load_for(configs[0], data)

    workers = execution.workers or min(len(configs), _default_workers(device))  # of all: it decides about threads
    until = None if execution.hours is None else time.monotonic() + 3600 * execution.hours
    broken, ended = [], 0
    with Display(missing, root, console, workers) as display:
        work = engines.Work(missing, images, recording, device, workers, display.warn, execution.threads, until)
        if done and (sentence := mixture([*done, _environment(device, work)])):
            display.warn(sentence)
        for config, outcome in run(work):
            ended += 1
            display.ended(config, outcome)
            if isinstance(outcome, engines.Broken):
                broken.append(outcome)
    return broken, ended == len(missing)


def train_here(config: RunConfig, data: str, execution: Execution, console: Console, command: str) -> Result | None:
    """Train one run in this process, with all of its threads; or in those of ``torchrun``. ``None`` if time was up."""
    recording = _recording(execution, command, weights=True)
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    until = None if execution.hours is None else time.monotonic() + 3600 * execution.hours
    with joined_processes(_device(execution.device)) as (processes, device):
        _try_parts([config])
        record = RunRecord(recording.root, config)
        before = [] if record.result() is None else [record.environment()]
        images = load_for(config, data).to(device)
        console.quiet = not processes.is_leader
        with Display([config], recording.root, console, 1) as display:
            if before and (sentence := mixture([*before, environment(str(device))])):
                display.warn(f"it was done before, elsewhere or otherwise. {sentence}")
            try:
                result = train(
                    config,
                    images,
                    recording,
                    processes=processes,
                    warn=display.warn,
                    should_stop=lambda: until is not None and time.monotonic() > until,
                )
            except Interrupted:
                if until is not None and time.monotonic() > until:
                    return None
                raise KeyboardInterrupt from None
            display.ended(config, result)
        console.print(f"its records are in {RunRecord(trainings(execution.output), config).folder}", highlight=False)
    return result


def estimate(configs: Sequence[RunConfig], data: str, execution: Execution, console: Console) -> None:
    """Say how long it would take: by runs of the kind that are done, else by a few steps of each kind, taken now."""
    root, device = trainings(execution.output), _device(execution.device)
    missing = [config for config in configs if RunRecord(root, config).result() is None]
    workers = execution.workers or min(len(configs), _default_workers(device))
    seconds, kinds = [], {}
    with console.status("timing a few steps of each kind"):
        try:
            images = load_for(configs[0], data).to(device)
        except UsageError as error:
            console.print(f"no estimate: {error}", highlight=False)
            return
        begun = time.monotonic()
        if workers > 1 or execution.threads:
            torch.set_num_threads(execution.threads or 1)
        for config in configs:
            result, kind = RunRecord(root, config).result(), (config.method, config.group_size, config.rank)
            if result is not None and result.succeeded:
                kinds[kind] = result.seconds
        for config in missing:
            kind = config.method, config.group_size, config.rank
            if kind not in kinds:
                late = time.monotonic() - begun > TIMED_SECONDS and kinds
                kinds[kind] = statistics.fmean(kinds.values()) if late else _timed(config, images)
            seconds.append(kinds[kind])
    if seconds:
        speed = len(images.train_labels) * configs[0].epochs / max(statistics.fmean(seconds), 1e-9)
        total = max(sum(seconds) / workers, max(seconds))
        console.print(
            f"about {duration(total)} for {len(missing)} runs, {workers} at a time on {device}: "
            f"{speed:.0f} images/s each, {duration(min(seconds))} to {duration(max(seconds))} a run; a rough figure",
            highlight=False,
        )


def _timed(config: RunConfig, images: ImageData) -> float:
    """Seconds of the whole run, by a few steps of it."""
    training, begun, steps = Training(config, images), time.monotonic(), 0
    for _ in training.run_epoch():
        steps += 1
        if steps == 1:
            begun = time.monotonic()  # the first step warms up
        if steps > TIMED_STEPS:
            break
    if images.train_labels.is_cuda:
        torch.cuda.synchronize()
    return (time.monotonic() - begun) / max(steps - 1, 1) * training.steps


def _try_parts(configs: Sequence[RunConfig]) -> None:
    """Make one layer of each kind, so that a mistake in a part of the user's own is one line now."""
    kinds = {(config.method, config.layer, config.gradient, config.solver): config for config in configs}
    for config in kinds.values():
        extra_layer(config)


def _environment(device: torch.device, work: engines.Work) -> dict[str, object]:
    """Of a worker to come."""
    threads = work.threads or (1 if work.workers > 1 else torch.get_num_threads())
    return environment(str(device)) | {"threads": threads}


def _recording(execution: Execution, command: str, *, weights: bool = False) -> Recording:
    """Where runs leave their records, as an absolute path: other processes have other working folders."""
    root = trainings(execution.output).resolve()
    root.mkdir(parents=True, exist_ok=True)
    kept = execution.weights or weights
    return Recording(root, command, execution.tensorboard, execution.checkpoint_seconds, kept)


def _default_workers(device: torch.device) -> int:
    """One process for each core, or one for a GPU."""
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _device(name: str) -> torch.device:
    """The device by name; ``auto`` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r}: {str(error).splitlines()[0]}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: this laboratory trains on cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this machine, or this build of torch, has no CUDA; use cpu or auto")
    return device
