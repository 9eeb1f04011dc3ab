"""What ``eigengrad reproduce`` does: settle which runs are asked for, have them trained, write the report."""

import sys
from collections.abc import Sequence

from rich.console import Console

from eigengrad_lab import recipes
from eigengrad_lab.config import Method
from eigengrad_lab.data import canonical_name
from eigengrad_lab.execution import train_missing, trainings
from eigengrad_lab.options import Execution, Scale
from eigengrad_lab.report import write_table1

__all__ = ["reproduce_table1"]


def reproduce_table1(
    scale: Scale,
    execution: Execution,
    *,
    methods: Sequence[Method],
    group_sizes: Sequence[int],
    seeds: int,
    command: Sequence[str],
) -> int:
    """Train and report Table 1, and return the number of runs that broke.

    The arguments are those of ``eigengrad reproduce table1``; ``command`` is that command line, for the report.
    """
    console = Console() if sys.stdout.isatty() else Console(width=132)  # a table needs more than a pipe's default 80
    configs = recipes.table1(
        data=canonical_name(scale.data),
        model=scale.model or ("small" if scale.data == "digits" else "resnet18"),
        epochs=recipes.PRESETS[scale.preset].epochs if scale.epochs is None else scale.epochs,
        methods=methods,
        group_sizes=group_sizes,
        seeds=seeds,
        train_images=scale.train_images,
        test_images=scale.test_images,
    )
    broken = train_missing(configs, scale.data, execution, console)

    first = configs[0]
    name = ["table1", first.data.replace("/", "-"), first.model, f"{first.epochs}epochs"]
    if first.train_images is not None:
        name.append(f"{first.train_images}images")
    folder = execution.output / "-".join(name)
    console.print(write_table1(configs, trainings(execution), folder, command))
    console.print(f"report.html, table1.md, table1.csv and figure1.png are in {folder}", highlight=False)
    for run in broken:
        console.print(f"[red]broken[/red] {run.config.identity}: {run.reason}", highlight=False)
    if broken:
        console.print("The same command tries them again.")
    return len(broken)
