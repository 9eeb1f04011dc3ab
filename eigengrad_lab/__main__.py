"""The command line. Nothing heavy is imported until a command runs, so that --help answers at once."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from eigengrad_lab.config import Layer, Method, UsageError
from eigengrad_lab.options import Execution, Scale
from eigengrad_lab.recipes import (
    DENOISING,
    ENERGIES,
    GROUP_SIZES,
    ITERATIONS,
    RANK,
    RANKS,
    WHITENING,
    ExperimentName,
)

__all__ = ["main"]

Flat = tyro.conf.arg(name="")  # options of a part are options of the command


@dataclass(frozen=True)
class Experiment:
    """What the commands that train have in common."""

    scale: Annotated[Scale, Flat] = Scale()  # noqa: RUF009 (a frozen value)
    execution: Annotated[Execution, Flat] = Execution()  # noqa: RUF009 (a frozen value)
    seeds: int = 3
    """Runs of each cell, with the seeds 0, 1, ..."""


@dataclass(frozen=True)
class Table1(Experiment):
    """Reproduce Table 1: ZCA whitening by each method at each group size.

    Trains what is not yet done, prints the table, and writes it with training curves and a report.html below --output.
    Interrupt it at will: the same command goes on from there.

    Example: eigengrad reproduce table1 --data ~/cifar10 --model small --epochs 5 --train-images 5000 --seeds 2
    """

    methods: tuple[Method, ...] = WHITENING
    """svd, pi, ours, closed-form, batchnorm, qr."""
    group_sizes: tuple[int, ...] = GROUP_SIZES
    """The paper's d, between 1 and 64."""


@dataclass(frozen=True)
class Table2(Experiment):
    """Reproduce Table 2: PCA denoising by each method, against batch normalisation.

    Example: eigengrad reproduce table2 --seeds 5
    """

    methods: tuple[Method, ...] = DENOISING
    """svd, pi, ours, closed-form, batchnorm, qr."""
    rank: int = RANK
    """How many eigenvectors are kept, of 64."""


@dataclass(frozen=True)
class Figure1(Experiment):
    """Reproduce Figure 1: training loss of whitening, power iteration against the paper's method.

    Example: eigengrad reproduce figure1 --group-sizes 4 8 16
    """

    methods: tuple[Method, ...] = ("pi", "ours")
    """svd, pi, ours, closed-form, batchnorm, qr."""
    group_sizes: tuple[int, ...] = (4, 8)
    """The paper's d, between 1 and 64."""


@dataclass(frozen=True)
class Figure2(Experiment):
    """Reproduce Figure 2: training loss of denoising, power iteration, batch normalisation and the paper's method.

    Example: eigengrad reproduce figure2 --seeds 2
    """

    methods: tuple[Method, ...] = ("pi", "ours", "batchnorm")
    """svd, pi, ours, closed-form, batchnorm, qr."""
    rank: int = RANK
    """How many eigenvectors are kept, of 64."""


@dataclass(frozen=True)
class Figure3(Experiment):
    """Reproduce Figure 3: error of denoising over preserved information, eigenvectors kept, and power iterations.

    Example: eigengrad reproduce figure3 --seeds 2 --energies 0.9 0.99 --ranks 4 16
    """

    energies: tuple[float, ...] = ENERGIES
    """Shares of the spectrum to keep, up to 1."""
    ranks: tuple[int, ...] = RANKS
    """Numbers of eigenvectors to keep."""
    iterations: tuple[int, ...] = ITERATIONS
    """Numbers of power iterations."""


@dataclass(frozen=True)
class Analysis:
    """Reproduce the paper's analysis: what power iteration leaves out, each rule's weights, and the gradient's bound.

    Trains nothing and takes seconds.

    Example: eigengrad reproduce analysis --output runs
    """

    output: Path = Path("runs")
    """Folder of all records and reports."""


@dataclass(frozen=True)
class Train:
    """Train one network, every choice a flag, and print how it ended. The same command resumes it.

    Example: eigengrad train --method ours --group-size 16 --epochs 5

    Several GPUs: torchrun --nproc-per-node 4 -m eigengrad_lab train --method ours --group-size 16 --data cifar10
    """

    scale: Annotated[Scale, Flat] = Scale()  # noqa: RUF009 (a frozen value)
    execution: Annotated[Execution, Flat] = Execution()  # noqa: RUF009 (a frozen value)
    method: Method = "ours"
    """How the extra layer is computed and differentiated."""
    layer: Layer = "zca"
    """zca whitens, pca denoises; batchnorm is a method without either."""
    group_size: int | None = None
    """Of zca; by default 64, all channels."""
    rank: int | None = None
    """Of pca, eigenvectors kept; by default 16."""
    energy: float | None = None
    """Of pca, the share of the spectrum kept, instead of --rank."""
    seed: int = 0
    """Of the weights, the order and the crops."""
    iterations: int = 19
    """Power iterations, of pi and ours."""
    eps: float = 1e-4
    """Added to the covariance."""
    learning_rate: float = 0.1
    """Of the first epochs."""
    batch_size: int = 128
    """Images of a step, over all processes."""
    sgd_momentum: float = 0.9
    """Of the optimiser."""
    weight_decay: float = 5e-4
    """Of all parameters."""


@dataclass(frozen=True)
class Status:
    """Show what has run, is running, was stopped or failed, and why.

    Example: eigengrad status --output runs
    """

    output: Path = Path("runs")
    """Folder of all records and reports."""


@dataclass(frozen=True)
class Report:
    """Rebuild every table, figure and page from the records alone.

    Example: eigengrad report table1 figure3 --output runs
    """

    what: tyro.conf.Positional[tuple[ExperimentName, ...]] = ()
    """Print these alone; the files of all are rebuilt."""
    output: Path = Path("runs")
    """Folder of all records and reports."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse ``arguments`` (those of the process by default) and run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    reproduce = tyro.extras.SubcommandApp()
    for name, options in {
        "table1": Table1,
        "table2": Table2,
        "figure1": Figure1,
        "figure2": Figure2,
        "figure3": Figure3,
        "analysis": Analysis,
    }.items():
        reproduce.command(name=name)(options)
    app = tyro.extras.SubcommandApp()
    app.command(reproduce, name="reproduce", help="Reproduce a table or a figure of the paper.")
    app.command(name="train")(Train)
    app.command(name="status")(Status)
    app.command(name="report")(Report)
    asked = app.cli(prog="eigengrad", description="The laboratory of eigengrad.", args=arguments)

    from eigengrad_lab import commands

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        done = getattr(commands, type(asked).__name__.lower())(**vars(asked), arguments=arguments)
    except UsageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    sys.exit(0 if done else 1)


def _interrupt(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
