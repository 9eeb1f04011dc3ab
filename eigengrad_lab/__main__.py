"""The command line: ``eigengrad reproduce table1``. Nothing heavy is imported until a command runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from eigengrad_lab.config import Method, UsageError
from eigengrad_lab.options import Execution, Scale
from eigengrad_lab.recipes import GROUP_SIZES, METHODS

__all__ = ["Table1", "main"]

Flat = tyro.conf.arg(name="")  # options of a part are options of the command


@dataclass(frozen=True)
class Table1:
    """Reproduce Table 1: ZCA whitening by each method at each group size.

    Trains what is not yet done, prints the table, and writes it with training curves and a report.html below --output.
    Interrupt it at will: the same command goes on from there.

    Example: eigengrad reproduce table1 --data ~/cifar10 --model small --epochs 5 --train-images 5000 --seeds 2
    """

    scale: Annotated[Scale, Flat] = Scale()  # noqa: RUF009 (a frozen value)
    execution: Annotated[Execution, Flat] = Execution()  # noqa: RUF009 (a frozen value)
    methods: tuple[Method, ...] = METHODS
    """svd, pi, ours, closed-form, batchnorm, qr."""
    group_sizes: tuple[int, ...] = GROUP_SIZES
    """The paper's d, between 1 and 64."""
    seeds: int = 5
    """Runs of each cell."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse ``arguments`` (those of the process by default) and run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    reproduce = tyro.extras.SubcommandApp()
    reproduce.command(name="table1")(Table1)
    app = tyro.extras.SubcommandApp()
    app.command(reproduce, name="reproduce", help="Reproduce a table of the paper.")
    options = app.cli(prog="eigengrad", description="The laboratory of eigengrad.", args=arguments)

    from eigengrad_lab.reproduce import reproduce_table1

    try:
        broken = reproduce_table1(**vars(options), command=["eigengrad", *arguments])
    except UsageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
