"""One training as a value: everything that decides its figures, and nothing else.

Free of torch, so that the command line can be parsed and a grid laid out without importing it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

__all__ = ["Method", "Model", "RunConfig", "UsageError"]

Method = Literal["svd", "pi", "ours", "closed-form", "batchnorm", "qr"]
Model = Literal["small", "resnet18", "resnet50"]


class UsageError(ValueError):
    """A user's mistake: the command line prints the message without a traceback."""


@dataclass(frozen=True)
class RunConfig:
    """One training.

    ``identity`` names it: two configurations with the same fields are the same run, wherever and whenever they are
    executed, and its folder of records is found by that name.
    """

    data: str
    """Name of the data set, as :func:`eigengrad_lab.data.canonical_name` gives it."""
    model: Model
    method: Method
    """How the extra layer after the first convolution is computed and differentiated (see ``models.extra_layer``)."""
    group_size: int | None
    """The paper's d; ``None`` for the batchnorm baseline."""
    seed: int
    epochs: int
    learning_rate: float = 0.1
    batch_size: int = 128
    sgd_momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = ()
    """Epochs after which the learning rate is divided by ten."""
    iterations: int = 19
    """Power iterations, of ``pi`` and ``ours``."""
    eps: float = 1e-4
    train_images: int | None = None
    """A fixed random subset of the training images of this size; all of them by default."""
    test_images: int | None = None

    @property
    def identity(self) -> str:
        """A readable name with a hash of all fields: ``ours-d8-seed0-1f2e3d4c``."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        group = "" if self.group_size is None else f"-d{self.group_size}"
        return f"{self.method}{group}-seed{self.seed}-{digest}"

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of the given epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
