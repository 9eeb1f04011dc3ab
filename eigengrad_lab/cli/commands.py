"""What each command does. The functions take what was asked for, and return whether everything ended well."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from eigengrad_lab import recipes
from eigengrad_lab.cli import launch, tables
from eigengrad_lab.cli.options import Analysis, Command, Report, Reproduce, Scale, Status, Train
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import canonical_name
from eigengrad_lab.report.write import rebuild, write_analysis, write_report
from eigengrad_lab.runs.environment import command_line
from eigengrad_lab.runs.records import trainings

__all__ = ["run"]


def run(request: Command, arguments: Sequence[str]) -> bool:
    """Do what was asked for by ``arguments``, which records quote."""
    console = Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
    match request:
        case Reproduce():
            return reproduce(request, console, command_line(arguments))
        case Analysis():
            console.print(write_analysis(request.output, command_line(arguments)))
            return True
        case Train():
            return train(request, console, command_line(arguments))
        case Status():
            tables.show_statuses(trainings(request.output), console)
            return True
        case Report():
            return report(request, console)


def reproduce(request: Reproduce, console: Console, command: str) -> bool:
    """``eigengrad reproduce table1`` and its like."""
    execution = request.execution
    configs = recipes.grid(request.varied, seeds=request.seeds, **_common(request.scale))
    if execution.dry_run:
        tables.show_plan(configs, trainings(execution.output), console)
        return True
    broken = launch.train_missing(configs, request.scale.data, execution, console, command)
    console.print(write_report(request.name, configs, execution.output))
    for attempt in broken:
        console.print(f"broken {attempt.config.identity}: {attempt.reason}", style="red", highlight=False, markup=False)
    if broken:
        console.print("The same command tries them again.")
    return not broken


def train(request: Train, console: Console, command: str) -> bool:
    """``eigengrad train``."""
    execution = request.execution
    config = _configuration(request)
    if execution.dry_run:
        tables.show_plan([config], trainings(execution.output), console)
        return True
    if execution.engine != "local":
        return not launch.train_missing([config], request.scale.data, execution, console, command)
    launch.train_here(config, request.scale.data, execution, console, command)
    return True


def report(request: Report, console: Console) -> bool:
    """``eigengrad report``."""
    any_shown = False
    for shown in rebuild(request.output, request.what):
        console.print(shown)
        any_shown = True
    if not any_shown:
        wanted = f" of {', '.join(request.what)}" if request.what else ""
        raise UsageError(f"no runs{wanted} in {trainings(request.output)}; eigengrad reproduce makes some")
    return True


def _common(scale: Scale) -> dict[str, Any]:
    """The fields of a configuration that all runs of a command share."""
    return {
        "data": canonical_name(scale.data),
        "model": scale.model or ("small" if scale.data == "digits" else "resnet18"),
        "epochs": recipes.PRESETS[scale.preset] if scale.epochs is None else scale.epochs,
        "train_images": scale.train_images,
        "test_images": scale.test_images,
    }


def _configuration(request: Train) -> RunConfig:
    """The one run of ``eigengrad train``; options that do not go with the layer are refused, others have defaults."""
    fields = {name: value for name, value in vars(request).items() if name not in ("scale", "execution")}
    if request.method == "batchnorm":
        _reject(fields, "group_size", "rank", "energy", because="--method batchnorm has no such setting")
        fields["layer"] = None
    elif request.layer == "zca":
        _reject(fields, "rank", "energy", because="it goes with --layer pca")
        fields["group_size"] = request.group_size or recipes.GROUP_SIZES[-1]
    else:
        _reject(fields, "group_size", because="it goes with --layer zca")
        if request.rank is not None and request.energy is not None:
            raise UsageError("--rank and --energy are two ways to say what is kept: give one")
        if request.rank is None and request.energy is None:
            fields["rank"] = recipes.RANK
    common = _common(request.scale)
    return RunConfig(**common, milestones=recipes.milestones(common["epochs"]), **fields)


def _reject(fields: dict[str, Any], *names: str, because: str) -> None:
    for name in names:
        if fields[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')}: {because}")
