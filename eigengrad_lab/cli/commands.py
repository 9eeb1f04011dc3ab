"""What each command does. The functions take what was asked for, and return whether everything ended well, or ``None``
if the time was up before."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eigengrad_lab import parts, recipes
from eigengrad_lab.cli import launch, tables
from eigengrad_lab.cli.options import (
    Analysis,
    Command,
    Execution,
    Export,
    Report,
    Reproduce,
    Scale,
    Status,
    Summary,
    Train,
    Training,
)
from eigengrad_lab.config import RunConfig, UsageError, is_reference
from eigengrad_lab.data import canonical_name
from eigengrad_lab.methods import own_method, settings_of
from eigengrad_lab.report.summary import write_summary
from eigengrad_lab.report.write import rebuild, write_analysis, write_report
from eigengrad_lab.runs.environment import command_line
from eigengrad_lab.runs.export import export
from eigengrad_lab.runs.records import trainings

__all__ = ["run"]

MODELS = ("small", "resnet18", "resnet50")
OWN_FIELDS = ("scale", "training", "execution", "gradient", "solver", "method")


def run(request: Command, arguments: Sequence[str]) -> bool | None:
    """Do what was asked for by ``arguments``, which records quote."""
    console = Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
    _check_output(request.output if hasattr(request, "output") else request.execution.output)
    match request:
        case Reproduce():
            return reproduce(request, console, command_line(arguments))
        case Analysis():
            console.print(write_analysis(request.output, command_line(arguments)))
            return True
        case Train():
            return train(request, console, command_line(arguments))
        case Status():
            _check_exists(request.output)
            tables.show_statuses(trainings(request.output), console)
            return True
        case Summary():
            _check_exists(request.output)
            path, count = write_summary(trainings(request.output), request.to or request.output / "summary.csv")
            console.print(f"{count} runs in {path}", highlight=False)
            return True
        case Export():
            console.print(export(trainings(request.output), request.run, request.to), highlight=False)
            return True
        case Report():
            return report(request, console)


def reproduce(request: Reproduce, console: Console, command: str) -> bool | None:
    """``eigengrad reproduce table1`` and its like."""
    execution = _checked(request.execution)
    configs = recipes.grid(request.varied, seeds=request.seeds, **_common(request.scale, request.training))
    if execution.dry_run:
        tables.show_plan(configs, trainings(execution.output), console)
        launch.estimate(configs, request.scale.data, execution, console)
        return True
    broken, in_time = launch.train_missing(configs, request.scale.data, execution, console, command)
    shown, written = write_report(request.name, configs, execution.output)
    console.print(shown)
    for attempt in broken:
        console.print(f"broken {attempt.config.identity}: {attempt.reason}", style="red", highlight=False, markup=False)
    if broken:
        console.print("The same command tries them again.")
    return None if not in_time else not broken and written


def train(request: Train, console: Console, command: str) -> bool | None:
    """``eigengrad train``."""
    execution = _checked(request.execution)
    config = _configuration(request)
    if execution.dry_run:
        tables.show_plan([config], trainings(execution.output), console)
        launch.estimate([config], request.scale.data, execution, console)
        return True
    if execution.engine != "local":
        broken, in_time = launch.train_missing([config], request.scale.data, execution, console, command)
        return not broken if in_time else None
    result = launch.train_here(config, request.scale.data, execution, console, command)
    return None if result is None else not result.failed


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


def _check_output(output: Path) -> None:
    """A folder, or the place of one; and one that may be written to, if it is there."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--output {output}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"--output {output}: {existing} may not be written to")


def _check_exists(output: Path) -> None:
    if not output.exists():
        raise UsageError(f"--output {output}: there is no such folder; eigengrad reproduce and train make one")


def _checked(execution: Execution) -> Execution:
    for name, least in (("workers", 1), ("threads", 1), ("checkpoint_seconds", 0), ("hours", 0)):
        value = getattr(execution, name)
        if value is not None and not value >= least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    return execution


def _common(scale: Scale, training: Training) -> dict[str, Any]:
    """The fields of a configuration that all runs of a command share."""
    model = scale.model or ("small" if scale.data == "digits" else "resnet18")
    if is_reference(model):
        model = parts.canonical(model, "--model")
    elif model not in MODELS:
        hint = parts.did_you_mean(model, MODELS)
        raise UsageError(f"--model {model}: known are {', '.join(MODELS)}, or your own, module:function{hint}")
    given = {name: value for name, value in vars(training).items() if value is not None and name != "recipe"}
    given["amp"] = None if training.amp == "off" else training.amp
    if not training.nesterov:
        del given["nesterov"]  # a recipe may have it
    usual = recipes.FAST_EPOCHS if training.recipe == "fast" else recipes.PRESETS[scale.preset]
    shape = {name: value for name, value in vars(scale).items() if name not in ("data", "model", "preset", "epochs")}
    shape["flip"] = {"auto": None, "on": True, "off": False}[scale.flip]
    return {
        **shape,
        **recipes.RECIPES[training.recipe],
        **given,
        "data": canonical_name(scale.data),
        "model": model,
        "epochs": usual if scale.epochs is None else scale.epochs,
    }


def _configuration(request: Train) -> RunConfig:
    """The one run of ``eigengrad train``; options that do not go with the layer are refused, others have defaults."""
    fields = {name: value for name, value in vars(request).items() if name not in OWN_FIELDS}
    fields |= _method(request)
    if fields["method"] == "batchnorm":
        _reject(fields, "group_size", "rank", "energy", because="--method batchnorm has no such setting")
        fields["layer"] = None
    elif is_reference(fields["layer"]):
        fields["layer"] = parts.canonical(fields["layer"], "--layer")
    elif fields["layer"] == "zca":
        _reject(fields, "rank", "energy", because="it goes with --layer pca")
        if fields["group_size"] is None:
            fields["group_size"] = recipes.GROUP_SIZES[-1]
    elif fields["layer"] == "pca":
        _reject(fields, "group_size", because="it goes with --layer zca")
        if request.rank is not None and request.energy is not None:
            raise UsageError("--rank and --energy are two ways to say what is kept: give one")
        if request.rank is None and request.energy is None:
            fields["rank"] = recipes.RANK
    else:
        hint = parts.did_you_mean(fields["layer"], ("zca", "pca"))
        raise UsageError(f"--layer {fields['layer']}: known are zca, pca, or your own, module:function{hint}")
    common = _common(request.scale, request.training)
    common |= recipes.scheduled(common["epochs"], common.get("schedule", "steps"))
    return RunConfig(**{**common, **fields})


def _method(request: Train) -> dict[str, Any]:
    """The fields that say how the layer is computed; a part of the user's own names the method where nothing else
    does."""
    own = {
        name: parts.canonical(value, f"--{name}") if is_reference(value) else value
        for name, value in (("gradient", request.gradient), ("solver", request.solver))
        if value is not None
    }
    if request.gradient is not None and not is_reference(request.gradient):
        raise UsageError(f"--gradient {request.gradient}: must be module:object, such as eigengrad:Taylor(degree=4)")
    if "=" in request.method.partition(":")[0]:
        name, settings = own_method(request.method)
        return {"method": name, **settings, **own}
    if own or is_reference(request.layer):
        if request.method != "ours":
            raise UsageError(
                f"--method {request.method}: parts of your own are a method by themselves; name it by --method "
                "NAME=module:object, or leave --method out"
            )
        named = next(
            (value for value in (request.gradient, request.layer, request.solver) if is_reference(value)), None
        )
        return {"method": parts.short_name(named) if named else f"svd-{request.solver}", **own}
    return {"method": request.method, **settings_of(request.method, "--method")}


def _reject(fields: dict[str, Any], *names: str, because: str) -> None:
    for name in names:
        if fields[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')}: {because}")
