"""One training as a value: everything that decides its figures, and nothing else.

Free of torch, so that the command line can be parsed and a grid laid out without importing it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CHANNELS", "Layer", "Method", "Model", "RunConfig", "UsageError"]

Layer = Literal["zca", "pca"]
Method = Literal["svd", "pi", "ours", "closed-form", "batchnorm", "qr"]
Model = Literal["small", "resnet18", "resnet50"]


CHANNELS = 64
"""Channels of the extra layer, in every model."""


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
    seed: int
    epochs: int
    layer: Layer | None = "zca"
    """What the extra layer does: whitening or denoising; ``None`` for the batchnorm baseline."""
    group_size: int | None = None
    """Of whitening, the paper's d."""
    rank: int | None = None
    """Of denoising, the number of eigenvectors kept; or else ``energy``."""
    energy: float | None = None
    """Of denoising, the share of the spectrum kept, the paper's preserved information."""
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

    def __post_init__(self) -> None:
        allowed = {None: (), "zca": ("group_size",), "pca": ("rank", "energy")}
        _require(self.layer in allowed, f"layer must be zca or pca, or None for batchnorm, got {self.layer!r}")
        _require((self.layer is None) == (self.method == "batchnorm"), "layer is None for batchnorm, and only for it")
        for name in ("group_size", "rank", "energy"):
            _require(
                getattr(self, name) is None or name in allowed[self.layer], f"{name} is no setting of {self.layer}"
            )
        given = [name for name in allowed[self.layer] if getattr(self, name) is not None]
        _require(len(given) == bool(allowed[self.layer]), f"{self.layer} needs one of {', '.join(allowed[self.layer])}")
        for name, most in (("group_size", CHANNELS), ("rank", CHANNELS), ("energy", 1.0)):
            value = getattr(self, name)
            _require(value is None or 0 < value <= most, f"{name} must lie between 0 and {most}, got {value}")
        for name in ("epochs", "batch_size", "iterations", "train_images", "test_images"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, got {value}")

    @property
    def identity(self) -> str:
        """A readable name with a hash of all fields: ``zca-ours-d8-seed0-1f2e3d4c``."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
        layer = [] if self.layer is None else [self.layer]
        sizes = {"d": self.group_size, "rank": self.rank, "energy": self.energy}
        settings = [f"{name}{size:g}" for name, size in sizes.items() if size is not None]
        return "-".join([*layer, self.method, *settings, f"seed{self.seed}", digest])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them; the way back is :meth:`from_dict`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RunConfig":
        """A configuration as a record keeps it.

        Raises:
            UsageError: for fields that are none of a configuration's, or do not go together.
        """
        try:
            return cls(**{**fields, "milestones": tuple(fields.get("milestones", ()))})
        except TypeError as error:
            raise UsageError(f"no configuration of a run: {error}") from error

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of the given epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
