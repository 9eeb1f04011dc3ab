"""What each command does: settle which runs are asked for, have them trained, write the report.

The functions take the options of the command of their name, and answer whether everything ended well.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eigengrad_lab import recipes
from eigengrad_lab import status as standing
from eigengrad_lab.config import Layer, Method, RunConfig, UsageError
from eigengrad_lab.data import canonical_name, load
from eigengrad_lab.execution import recording, settle_device, show_plan, train_missing, trainings
from eigengrad_lab.options import Execution, Scale
from eigengrad_lab.records import RunRecord, command_line
from eigengrad_lab.report import rebuild, write_analysis, write_report
from eigengrad_lab.team import joined_team
from eigengrad_lab.train import Interrupted
from eigengrad_lab.train import train as train_run

__all__ = ["analysis", "figure1", "figure2", "figure3", "report", "status", "table1", "table2", "train"]

Arguments = Sequence[str]


def table1(*, methods: Sequence[Method], group_sizes: Sequence[int], **options: Any) -> bool:
    """``eigengrad reproduce table1``."""
    return _reproduce("table1", recipes.whitening(methods, group_sizes), **options)


def table2(*, methods: Sequence[Method], rank: int, **options: Any) -> bool:
    """``eigengrad reproduce table2``."""
    return _reproduce("table2", recipes.denoising(methods, rank), **options)


def figure1(*, methods: Sequence[Method], group_sizes: Sequence[int], **options: Any) -> bool:
    """``eigengrad reproduce figure1``."""
    return _reproduce("figure1", recipes.whitening(methods, group_sizes), **options)


def figure2(*, methods: Sequence[Method], rank: int, **options: Any) -> bool:
    """``eigengrad reproduce figure2``."""
    return _reproduce("figure2", recipes.denoising(methods, rank), **options)


def figure3(*, energies: Sequence[float], ranks: Sequence[int], iterations: Sequence[int], **options: Any) -> bool:
    """``eigengrad reproduce figure3``."""
    return _reproduce("figure3", recipes.sweeps(energies, ranks, iterations), **options)


def _reproduce(
    name: str,
    choices: Iterable[recipes.Choice],
    *,
    scale: Scale,
    execution: Execution,
    seeds: int,
    arguments: Arguments,
) -> bool:
    console = _console()
    configs = recipes.grid(choices, seeds=seeds, **_common(scale))
    if execution.dry_run:
        show_plan(configs, execution, console)
        return True
    broken = train_missing(configs, scale.data, execution, console, command=command_line(arguments))
    console.print(write_report(name, configs, execution.output))
    for run in broken:
        console.print(f"broken {run.config.identity}: {run.reason}", style="red", highlight=False, markup=False)
    if broken:
        console.print("The same command tries them again.")
    return not broken


def analysis(*, output: Path, arguments: Arguments) -> bool:
    """``eigengrad reproduce analysis``."""
    _console().print(write_analysis(output, command_line(arguments)))
    return True


def train(*, scale: Scale, execution: Execution, layer: Layer, arguments: Arguments, **fields: Any) -> bool:
    """``eigengrad train``."""
    console = _console()
    if fields["method"] == "batchnorm":
        _reject(fields, "group_size", "rank", "energy", because="--method batchnorm has no such setting")
        fields["layer"] = None
    elif layer == "zca":
        _reject(fields, "rank", "energy", because="it goes with --layer pca")
        fields |= {"layer": layer, "group_size": fields["group_size"] or recipes.GROUP_SIZES[-1]}
    else:
        _reject(fields, "group_size", because="it goes with --layer zca")
        if fields["rank"] is not None and fields["energy"] is not None:
            raise UsageError("--rank and --energy are two ways to say what is kept: give one")
        if fields["rank"] is None and fields["energy"] is None:
            fields["rank"] = recipes.RANK
        fields["layer"] = layer
    common = _common(scale)
    config = RunConfig(**common, milestones=recipes.milestones(common["epochs"]), **fields)
    if execution.dry_run:
        show_plan([config], execution, console)
        return True
    if execution.engine != "local":
        broken = train_missing([config], scale.data, execution, console, command=command_line(arguments))
        return not broken
    return _train_here(config, scale, execution, console, command_line(arguments))


def _train_here(config: RunConfig, scale: Scale, execution: Execution, console: Console, command: str) -> bool:
    """In this process, with all of its threads; or in those of ``torchrun``."""
    from eigengrad_lab.progress import Display

    records = recording(execution, command)
    with joined_team(settle_device(execution.device)) as (team, device):
        data = load(scale.data, train_images=scale.train_images, test_images=scale.test_images).to(device)
        console.quiet = not team.leads
        with Display([config], records.root, console) as display:
            try:
                result = train_run(config, data, records, team=team, warn=display.warn)
            except Interrupted:
                raise KeyboardInterrupt from None
            display.ended(config, result)
        console.print(f"its records are in {RunRecord(trainings(execution), config).folder}", highlight=False)
    return True


def status(*, output: Path, arguments: Arguments) -> bool:
    """``eigengrad status``."""
    standing.show_status(output / "trainings", _console())
    return True


def report(*, output: Path, what: Sequence[recipes.ExperimentName], arguments: Arguments) -> bool:
    """``eigengrad report``."""
    console, any_shown = _console(), False
    for shown in rebuild(output, what):
        console.print(shown)
        any_shown = True
    if not any_shown:
        wanted = f" of {', '.join(what)}" if what else ""
        raise UsageError(f"no runs{wanted} in {output / 'trainings'}; eigengrad reproduce makes some")
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


def _reject(fields: dict[str, Any], *names: str, because: str) -> None:
    for name in names:
        if fields[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')}: {because}")


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
