"""The command line: ``eigengrad reproduce table1``. Nothing heavy is imported until a command runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from eigengrad_lab.config import Method, Model, UsageError
from eigengrad_lab.recipes import GROUP_SIZES, METHODS, PresetName

__all__ = ["Table1", "main"]


@dataclass(frozen=True)
class Table1:
    """Reproduce Table 1: ZCA whitening by each method at each group size.

    Trains what is not yet done, prints the table, and writes it with training curves and a report.html below --output.
    Interrupt it at will: the same command goes on from there.

    Example: eigengrad reproduce table1 --data ~/cifar10 --model small --epochs 5 --train-images 5000 --seeds 2
    """

    data: str = "digits"
    """digits (of scikit-learn); cifar10, cifar100 or another owner/name from the hub; or a folder in its layout."""
    model: Model | None = None
    """Network. By default small for the digits, resnet18 for all else."""
    preset: PresetName = "demo"
    """Epochs: demo 10, short 35, paper 350."""
    epochs: int | None = None
    """Overrides the preset; the learning rate still falls after 2/7, 4/7 and 6/7 of them."""
    methods: tuple[Method, ...] = METHODS
    """svd, pi, ours, closed-form, batchnorm, qr."""
    group_sizes: tuple[int, ...] = GROUP_SIZES
    """The paper's d, between 1 and 64."""
    seeds: int = 5
    """Runs of each cell."""
    train_images: int | None = None
    """Train on a fixed random subset of this size."""
    test_images: int | None = None
    """Test on a fixed random subset of this size."""
    output: Path = Path("runs")
    """Folder of all records and reports."""
    device: str = "auto"
    """cpu, cuda, or auto for cuda where there is one."""
    workers: int | None = None
    """Trainings at once. By default one for each core, or one on a GPU."""


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
