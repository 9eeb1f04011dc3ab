"""What the commands can be told, as values. Free of torch, so that the command line can be parsed without it.

The :class:`Scale` of an experiment is part of each run's identity, how it is carried out (:class:`Execution`) is not:
the same command with another number of workers goes on with the same runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eigengrad_lab.config import Model
from eigengrad_lab.recipes import PresetName

__all__ = ["EngineName", "Execution", "Scale"]

EngineName = Literal["local", "ray"]


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
