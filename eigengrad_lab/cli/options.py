"""What each command can be told, as values. Free of torch, so that the command line can be parsed without it.

The :class:`Scale` of an experiment is part of each run's identity, how it is carried out (:class:`Execution`) is not:
the same command with another number of workers goes on with the same runs.
"""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from eigengrad_lab.config import Layer, Method, Model, RunConfig
from eigengrad_lab.recipes import EXPERIMENTS, Experiment, PresetName, Variation

__all__ = ["Analysis", "Command", "Execution", "Report", "Reproduce", "Scale", "Status", "Train", "reproducing"]

EngineName = Literal["local", "ray"]
if TYPE_CHECKING:
    ExperimentName = str
else:
    ExperimentName = Literal[tuple(EXPERIMENTS)]
Flat = tyro.conf.arg(name="")  # a part's options appear as the command's own


@dataclass(frozen=True)
class Scale:
    """On what to train, and how long."""

    data: str = "digits"
    """digits (of scikit-learn); cifar10, cifar100 or another owner/name from the hub; or a folder in its layout."""
    model: Model | None = None
    """Network. By default small for the digits, resnet18 for all else."""
    preset: PresetName = "demo"
    """Epochs: demo 10, short 35, paper 350."""
    epochs: int | None = None
    """Overrides the preset; the learning rate still falls after 2/7, 4/7 and 6/7 of them."""
    train_images: int | None = None
    """Train on a fixed random subset of this size."""
    test_images: int | None = None
    """Test on a fixed random subset of this size."""


@dataclass(frozen=True)
class Execution:
    """Where and how to run; no part of a run's identity."""

    output: Path = Path("runs")
    """Folder of all records and reports."""
    device: str = "auto"
    """cpu, cuda, or auto for cuda where there is one."""
    engine: EngineName = "local"
    """local: worker processes on this machine. ray: tasks of a Ray cluster, on many."""
    address: str | None = None
    """With --engine ray, the cluster to join; by default a Ray of this machine's own."""
    workers: int | None = None
    """Trainings at once. By default one for each core, or one on a GPU."""
    tensorboard: bool = False
    """Write TensorBoard's event files beside the records."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints of a run: what a process that dies may cost."""
    dry_run: bool = False
    """Print what would be trained, each run with its identity, and stop."""


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a table or figure; each experiment has a subclass with its own name, variation and help text."""

    name: ClassVar[str]
    """Of the experiment."""
    varied: Annotated[Variation, Flat]
    scale: Annotated[Scale, Flat] = Scale()
    execution: Annotated[Execution, Flat] = Execution()
    seeds: int = 3
    """Runs of each cell, with the seeds 0, 1, ..."""


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

    scale: Annotated[Scale, Flat] = Scale()
    execution: Annotated[Execution, Flat] = Execution()
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
    iterations: int = RunConfig.iterations
    """Power iterations, of pi and ours."""
    eps: float = RunConfig.eps
    """Added to the covariance."""
    learning_rate: float = RunConfig.learning_rate
    """Of the first epochs."""
    batch_size: int = RunConfig.batch_size
    """Images of a step, over all processes."""
    sgd_momentum: float = RunConfig.sgd_momentum
    """Of the optimiser."""
    weight_decay: float = RunConfig.weight_decay
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


Command = Reproduce | Analysis | Train | Status | Report


def reproducing(experiment: Experiment) -> type[Reproduce]:
    """The command that reproduces an experiment: its options are what the experiment varies, and all that train."""
    return make_dataclass(
        experiment.name,
        [("varied", Annotated[type(experiment.varied), Flat], experiment.varied)],
        bases=(Reproduce,),
        namespace={"__doc__": experiment.about, "name": experiment.name},
        frozen=True,
    )
