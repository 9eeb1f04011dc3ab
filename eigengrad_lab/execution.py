"""From a list of runs to their records: what is missing is trained, under a progress display."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from eigengrad_lab import engine
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import load
from eigengrad_lab.events import require_tensorboard
from eigengrad_lab.options import Execution
from eigengrad_lab.progress import Display
from eigengrad_lab.records import RunRecord
from eigengrad_lab.train import Recording

__all__ = ["recording", "settle_device", "show_plan", "train_missing", "trainings"]


def trainings(execution: Execution) -> Path:
    """The folder of all runs' records."""
    return execution.output / "trainings"


def recording(execution: Execution, command: str) -> Recording:
    """Where runs leave their records, and with what; other processes have other working folders."""
    root = trainings(execution).resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Recording(root, command, execution.tensorboard, execution.checkpoint_seconds)


def train_missing(
    configs: Sequence[RunConfig], data: str, execution: Execution, console: Console, *, command: str
) -> list[engine.Broken]:
    """Train those of ``configs`` that have no result yet, on the data set ``data``. Returns the ones that broke.

    Raises:
        UsageError: for options that name nothing, or nothing that is here.
        KeyboardInterrupt: once the runs on their way have saved their state.
    """
    runs, device = trainings(execution), settle_device(execution.device)
    run = engine.by_name(execution.engine, execution.address)
    if execution.tensorboard:
        require_tensorboard()
    missing = [config for config in configs if RunRecord(runs, config).result() is None]
    if len(missing) < len(configs):
        console.print(f"{len(configs) - len(missing)} of {len(configs)} runs were done before", highlight=False)
    if not missing:
        return []
    with console.status(f"loading {data}"):
        images = load(data, train_images=configs[0].train_images, test_images=configs[0].test_images)

    broken = []
    with Display(missing, runs, console) as display:
        work = engine.Work(
            missing,
            images,
            recording(execution, command),
            device,
            execution.workers or min(len(configs), default_workers(device)),  # of all: it decides about threads
            display.warn,
        )
        for config, outcome in run(work):
            display.ended(config, outcome)
            if isinstance(outcome, engine.Broken):
                broken.append(outcome)
    return broken


def show_plan(configs: Sequence[RunConfig], execution: Execution, console: Console) -> None:
    """What would be trained, each run with its identity and what is known of it; and what they have in common."""
    fields = [config.to_dict() for config in configs]
    common = {name: value for name, value in fields[0].items() if all(other[name] == value for other in fields)}
    varied = [name for name in fields[0] if name not in common]
    table = Table("run", *varied, "state", title=f"{len(configs)} runs")
    for config, values in zip(configs, fields, strict=True):
        result = RunRecord(trainings(execution), config).result()
        cells = ("" if values[name] is None else str(values[name]) for name in varied)
        table.add_row(config.identity, *cells, "to train" if result is None else f"done: {result}")
    console.print(table)
    for name, value in common.items():
        console.print(f"{name} {value}", highlight=False)


def default_workers(device: torch.device) -> int:
    """One process for each core, or one for a GPU."""
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def settle_device(name: str) -> torch.device:
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
