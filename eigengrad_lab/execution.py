"""From a list of runs to their records: what is missing is trained, under a progress display."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eigengrad_lab import engine
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import load
from eigengrad_lab.options import Execution
from eigengrad_lab.records import Result, RunRecord

__all__ = ["train_missing", "trainings"]


def trainings(execution: Execution) -> Path:
    """The folder of all runs' records."""
    return execution.output / "trainings"


def train_missing(
    configs: Sequence[RunConfig], data: str, execution: Execution, console: Console
) -> list[engine.Broken]:
    """Train those of ``configs`` that have no result yet, on the data set ``data``. Returns the ones that broke."""
    runs, device = trainings(execution), settle_device(execution.device)
    missing = [config for config in configs if RunRecord(runs, config).result() is None]
    if len(missing) < len(configs):
        console.print(f"{len(configs) - len(missing)} of {len(configs)} runs were done before", highlight=False)
    if not missing:
        return []
    with console.status(f"loading {data}"):
        images = load(data, train_images=configs[0].train_images, test_images=configs[0].test_images)

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        everything = progress.add_task("runs", total=len(missing), loss="")
        lines = {
            config.identity: progress.add_task(config.identity, start=False, visible=False, loss="")
            for config in missing
        }

        ended = set()

        def on_progress(news: engine.Progress) -> None:
            if news.identity in ended:  # news may arrive after the result
                return
            line = lines[news.identity]
            progress.start_task(line)
            progress.update(line, visible=True, completed=news.step, total=news.steps)
            if news.train_loss is not None:
                progress.update(line, loss=f"loss {news.train_loss:.3f}")

        def on_result(config: RunConfig, result: Result) -> None:
            ended.add(config.identity)
            progress.advance(everything)
            progress.update(lines[config.identity], visible=False)
            style = "" if result.succeeded else "[red]"
            progress.console.print(f"{style}{config.identity}: {result}", highlight=False)

        return engine.run_all(
            missing,
            images,
            runs,
            device=device,
            workers=execution.workers or min(len(missing), engine.default_workers(device)),
            on_progress=on_progress,
            on_result=on_result,
        )


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
