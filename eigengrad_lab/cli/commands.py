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


def run(asked: Command, arguments: Sequence[str]) -> bool:
    """Do what was asked for by ``arguments``, which records quote."""
    console = Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
    match asked:
        case Reproduce():
            return reproduce(asked, console, command_line(arguments))
        case Analysis():
            console.print(write_analysis(asked.output, command_line(arguments)))
            return True
        case Train():
            return train(asked, console, command_line(arguments))
        case Status():
            tables.show_statuses(trainings(asked.output), console)
            return True
        case Report():
            return report(asked, console)


def reproduce(asked: Reproduce, console: Console, command: str) -> bool:
    """``eigengrad reproduce table1`` and its like."""
    execution = asked.execution
    configs = recipes.grid(asked.varied, seeds=asked.seeds, **_common(asked.scale))
    if execution.dry_run:
        tables.show_plan(configs, trainings(execution.output), console)
        return True
    broken = launch.train_missing(configs, asked.scale.data, execution, console, command)
    console.print(write_report(asked.name, configs, execution.output))
    for attempt in broken:
        console.print(f"broken {attempt.config.identity}: {attempt.reason}", style="red", highlight=False, markup=False)
    if broken:
        console.print("The same command tries them again.")
    return not broken


def train(asked: Train, console: Console, command: str) -> bool:
    """``eigengrad train``."""
    execution = asked.execution
    config = _configuration(asked)
    if execution.dry_run:
        tables.show_plan([config], trainings(execution.output), console)
        return True
    if execution.engine != "local":
        return not launch.train_missing([config], asked.scale.data, execution, console, command)
    launch.train_here(config, asked.scale.data, execution, console, command)
    return True


def report(asked: Report, console: Console) -> bool:
    """``eigengrad report``."""
    any_shown = False
    for shown in rebuild(asked.output, asked.what):
        console.print(shown)
        any_shown = True
    if not any_shown:
        wanted = f" of {', '.join(asked.what)}" if asked.what else ""
        raise UsageError(f"no runs{wanted} in {trainings(asked.output)}; eigengrad reproduce makes some")
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


def _configuration(asked: Train) -> RunConfig:
    """The one run of ``eigengrad train``; options that do not go with the layer are refused, others have defaults."""
    fields = {name: value for name, value in vars(asked).items() if name not in ("scale", "execution")}
    if asked.method == "batchnorm":
        _reject(fields, "group_size", "rank", "energy", because="--method batchnorm has no such setting")
        fields["layer"] = None
    elif asked.layer == "zca":
        _reject(fields, "rank", "energy", because="it goes with --layer pca")
        fields["group_size"] = asked.group_size or recipes.GROUP_SIZES[-1]
    else:
        _reject(fields, "group_size", because="it goes with --layer zca")
        if asked.rank is not None and asked.energy is not None:
            raise UsageError("--rank and --energy are two ways to say what is kept: give one")
        if asked.rank is None and asked.energy is None:
            fields["rank"] = recipes.RANK
    common = _common(asked.scale)
    return RunConfig(**common, milestones=recipes.milestones(common["epochs"]), **fields)


def _reject(fields: dict[str, Any], *names: str, because: str) -> None:
    for name in names:
        if fields[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')}: {because}")
