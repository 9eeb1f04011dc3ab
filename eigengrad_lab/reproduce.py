"""The commands' work: settle what is asked, train what is missing under a progress display, write the report."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eigengrad_lab import engine, recipes
from eigengrad_lab.config import Method, Model, RunConfig, UsageError
from eigengrad_lab.data import canonical_name, load
from eigengrad_lab.records import Result, RunRecord
from eigengrad_lab.report import write_table1

__all__ = ["reproduce_table1"]


def reproduce_table1(
    *,
    data: str,
    model: Model | None,
    preset: recipes.PresetName,
    epochs: int | None,
    methods: Sequence[Method],
    group_sizes: Sequence[int],
    seeds: int,
    train_images: int | None,
    test_images: int | None,
    output: Path,
    device: str,
    workers: int | None,
    command: Sequence[str],
) -> int:
    """Train and report Table 1, and return the number of runs that broke.

    The arguments are those of ``eigengrad reproduce table1``; ``command`` is that command line, for the report.
    """
    console = Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
    configs = recipes.table1(
        data=canonical_name(data),
        model=model or ("small" if data == "digits" else "resnet18"),
        epochs=recipes.PRESETS[preset].epochs if epochs is None else epochs,
        methods=methods,
        group_sizes=group_sizes,
        seeds=seeds,
        train_images=train_images,
        test_images=test_images,
    )
    runs = output / "trainings"
    broken = train_missing(configs, data, runs, device=settle_device(device), workers=workers, console=console)

    first = configs[0]
    name = ["table1", first.data.replace("/", "-"), first.model, f"{first.epochs}epochs"]
    if first.train_images is not None:
        name.append(f"{first.train_images}images")
    folder = output / "-".join(name)
    console.print(write_table1(configs, runs, folder, command))
    console.print(f"report.html, table1.md, table1.csv and figure1.png are in {folder}", highlight=False)
    for run in broken:
        console.print(f"[red]broken[/red] {run.config.identity}: {run.reason}", highlight=False)
    if broken:
        console.print("The same command tries them again.")
    return len(broken)


def train_missing(
    configs: Sequence[RunConfig], data: str, runs: Path, *, device: torch.device, workers: int | None, console: Console
) -> list[engine.Broken]:
    """Train those of ``configs`` that have no result yet. Returns the ones that broke."""
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
            workers=workers or min(len(missing), engine.default_workers(device)),
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
