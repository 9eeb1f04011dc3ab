"""What each command can be told, as values. Free of torch, so that the command line can be parsed without it.

The :class:`Scale` and :class:`Training` of an experiment are part of each run's identity, how it is carried out
(:class:`Execution`) is not: the same command with another number of workers goes on with the same runs.
"""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from eigengrad_lab.config import RunConfig
from eigengrad_lab.recipes import EXPERIMENTS, Experiment, PresetName, RecipeName, Variation
from eigengrad_lab.schedules import Schedule

__all__ = [
    "Analysis",
    "Command",
    "Execution",
    "Export",
    "Report",
    "Reproduce",
    "Scale",
    "Status",
    "Summary",
    "Train",
    "Training",
    "reproducing",
]

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
    """digits (of scikit-learn); cifar10, cifar100 or another owner/name of the hub; a folder in the hub's layout; a
    folder of pictures, train/CLASS/*.png and test/CLASS/*.png; or an .npz archive."""
    model: str | None = None
    """Network: small, resnet18, resnet50, or your own, my_module:build. By default small for the digits, else
    resnet18."""
    preset: PresetName = "demo"
    """Epochs: demo 10, short 35, paper 350; with --recipe fast, 8."""
    epochs: int | None = None
    """Overrides the preset; the learning rate follows its schedule over them."""
    train_images: int | None = None
    """Train on a fixed random subset of this size."""
    test_images: int | None = None
    """Test on a fixed random subset of this size."""
    image_column: str | None = None
    """Of a table: where its images are. By default img or image."""
    label_column: str | None = None
    """Of a table: where its labels are. By default label or fine_label."""
    train_split: str | None = None
    """Name of the training split or folder, by default train."""
    test_split: str | None = None
    """Name of the test split or folder, by default test."""
    image_size: int | None = None
    """Scale every image to this height and width."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Mirror half of the training images; auto mirrors colour photographs, not grey pictures."""
    crop: int | None = None
    """Zeros around an image before a random crop of its size; 0 for no crops. By default an eighth of its height."""


@dataclass(frozen=True)
class Training:
    """How to train; what is not given is the recipe's."""

    recipe: RecipeName = "paper"
    """paper: SGD, the learning rate in steps. fast: one cycle with Nesterov's momentum, a few epochs."""
    learning_rate: float | None = None
    """The largest. By default 0.1, the paper's; of the fast recipe, 0.2."""
    batch_size: int = RunConfig.batch_size
    """Images of a step, over all processes."""
    sgd_momentum: float = RunConfig.sgd_momentum
    """Of the optimiser."""
    nesterov: bool = False
    """Nesterov's momentum; the fast recipe has it."""
    weight_decay: float = RunConfig.weight_decay
    """Of all parameters."""
    schedule: Schedule | None = None
    """Of the learning rate: steps after 2/7, 4/7 and 6/7 of the epochs, one-cycle, or cosine."""
    warmup_epochs: float = RunConfig.warmup_epochs
    """Epochs over which the learning rate rises from zero before."""
    label_smoothing: float = RunConfig.label_smoothing
    """Share of each label that is spread over all classes."""
    clip_norm: float | None = None
    """Scale gradients down to this total norm, in every row of a table."""
    eps: float = RunConfig.eps
    """Added to the covariance, or to the variances."""
    amp: Literal["off", "bf16"] = "off"
    """bf16: autocast to bfloat16."""
    compile: bool = False
    """Train the network as torch.compile makes it."""
    channels_last: bool = False
    """Keep images and weights in the channels-last memory format."""


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
    threads: int | None = None
    """Of each training on a CPU. By default one where there are several workers, else what torch takes. The last bits
    of a figure depend on it."""
    hours: float | None = None
    """Stop after this time, with all states saved; the same command goes on from there."""
    tensorboard: bool = False
    """Write TensorBoard's event files beside the records."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints of a run: what a process that dies may cost."""
    weights: bool = False
    """Keep each network at its end, for eigengrad export; train always does."""
    dry_run: bool = False
    """Print what would be trained, each run with its identity, and how long it would take, and stop."""


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a table or figure; each experiment has a subclass with its own name, variation and help text."""

    name: ClassVar[str]
    """Of the experiment."""
    varied: Annotated[Variation, Flat]
    scale: Annotated[Scale, Flat] = Scale()
    training: Annotated[Training, Flat] = Training()
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

    Your own parts: eigengrad train --gradient my_module:MyRule --group-size 16

    Several GPUs: torchrun --nproc-per-node 4 -m eigengrad_lab train --method ours --group-size 16 --data cifar10
    """

    scale: Annotated[Scale, Flat] = Scale()
    training: Annotated[Training, Flat] = Training()
    execution: Annotated[Execution, Flat] = Execution()
    method: str = "ours"
    """How the extra layer is computed and differentiated: batchnorm, svd, pi, ours, closed-form, qr, svd-clipped,
    svd-skip, svd-taylor, svd-lorentzian, or a row of your own, half=my_module:Half, as in reproduce."""
    gradient: str | None = None
    """A gradient rule of your own, my_module:MyRule or my_module:MyRule(0.5), or eigengrad:Taylor(degree=4); the
    forward pass is the SVD, unless --solver says otherwise."""
    solver: str | None = None
    """eigh, svd, qr, native, power_iteration, auto, or your own, my_module:MySolver."""
    layer: str = "zca"
    """zca whitens, pca denoises, my_module:make is your own; batchnorm is a method without any."""
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


@dataclass(frozen=True)
class Status:
    """Show what has run, is running, was stopped or failed, and why.

    Example: eigengrad status --output runs
    """

    output: Path = Path("runs")
    """Folder of all records and reports."""


@dataclass(frozen=True)
class Summary:
    """Write one CSV of all runs: configuration, figures, seconds, peak memory, commit and machine.

    Example: eigengrad summary --output runs --to runs.csv
    """

    output: Path = Path("runs")
    """Folder of all records and reports."""
    to: Path | None = None
    """The file; by default summary.csv in the folder."""


@dataclass(frozen=True)
class Export:
    """Write a trained network for deployment: ONNX, in evaluation mode, its whitening folded into the convolution
    before.

    It takes raw pixels, 0 to 255, and gives logits. Needs the packages onnx and onnxscript.

    Example: eigengrad export zca-ours-d16-seed0-1f2e3d4c --output runs --to network.onnx
    """

    run: tyro.conf.Positional[str]
    """Identity of a run whose weights were kept, or the beginning of one."""
    output: Path = Path("runs")
    """Folder of all records and reports."""
    to: Path | None = None
    """The file; by default the run's identity and .onnx, here."""


@dataclass(frozen=True)
class Report:
    """Rebuild every table, figure and page from the records alone.

    Example: eigengrad report table1 figure3 --output runs
    """

    what: tyro.conf.Positional[tuple[ExperimentName, ...]] = ()
    """Print these alone; the files of all are rebuilt."""
    output: Path = Path("runs")
    """Folder of all records and reports."""


Command = Reproduce | Analysis | Train | Status | Summary | Export | Report


def reproducing(experiment: Experiment) -> type[Reproduce]:
    """The command that reproduces an experiment: its options are what the experiment varies, and all that train."""
    return make_dataclass(
        experiment.name,
        [("varied", Annotated[type(experiment.varied), Flat], experiment.varied)],
        bases=(Reproduce,),
        namespace={"__doc__": experiment.about, "name": experiment.name},
        frozen=True,
    )
