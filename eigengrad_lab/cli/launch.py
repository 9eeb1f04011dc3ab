"""From configurations to their results: what is missing is trained, under a progress display."""

import os
from collections.abc import Sequence

import torch
from rich.console import Console

from eigengrad_lab.cli.options import Execution
from eigengrad_lab.cli.progress import Display
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import load
from eigengrad_lab.distributed import joined_processes
from eigengrad_lab.runs import engines
from eigengrad_lab.runs.execution import Interrupted, Recording, train
from eigengrad_lab.runs.records import RunRecord, trainings
from eigengrad_lab.runs.reporting import require_tensorboard

__all__ = ["train_here", "train_missing"]


def train_missing(
    configs: Sequence[RunConfig], data: str, execution: Execution, console: Console, command: str
) -> list[engines.Broken]:
    """Train those of ``configs`` that have no result yet, on the data set ``data``. Returns the ones that broke.

    Raises:
        UsageError: for options that name nothing, or nothing that is here.
        KeyboardInterrupt: once the runs on their way have saved their state.
    """
    root, device = trainings(execution.output), _device(execution.device)
    run = engines.by_name(execution.engine, execution.address)
    if execution.tensorboard:
        require_tensorboard()
    missing = [config for config in configs if RunRecord(root, config).result() is None]
    if len(missing) < len(configs):
        console.print(f"{len(configs) - len(missing)} of {len(configs)} runs were done before", highlight=False)
    if not missing:
        return []
    with console.status(f"loading {data}"):
        images = load(data, train_images=configs[0].train_images, test_images=configs[0].test_images)

    broken = []
    with Display(missing, root, console) as display:
        work = engines.Work(
            missing,
            images,
            _recording(execution, command),
            device,
            execution.workers or min(len(configs), _default_workers(device)),  # of all: it decides about threads
            display.warn,
        )
        for config, outcome in run(work):
            display.ended(config, outcome)
            if isinstance(outcome, engines.Broken):
                broken.append(outcome)
    return broken


def train_here(config: RunConfig, data: str, execution: Execution, console: Console, command: str) -> None:
    """Train one run in this process, with all of its threads; or in those of ``torchrun``."""
    recording = _recording(execution, command)
    with joined_processes(_device(execution.device)) as (processes, device):
        images = load(data, train_images=config.train_images, test_images=config.test_images).to(device)
        console.quiet = not processes.is_leader
        with Display([config], recording.root, console) as display:
            try:
                result = train(config, images, recording, processes=processes, warn=display.warn)
            except Interrupted:
                raise KeyboardInterrupt from None
            display.ended(config, result)
        folder = RunRecord(trainings(execution.output), config).folder
        console.print(f"its records are in {folder}", highlight=False)


def _recording(execution: Execution, command: str) -> Recording:
    """Where runs leave their records, as an absolute path: other processes have other working folders."""
    root = trainings(execution.output).resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Recording(root, command, execution.tensorboard, execution.checkpoint_seconds)


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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this machine, or this build of torch, has no CUDA; use cpu or auto")
    return device
