"""One training as a value: everything that decides its figures, and nothing else.

Free of torch, so that the command line can be parsed and a grid laid out without importing it.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from eigengrad_lab.schedules import Schedule, learning_rate_share

__all__ = ["CHANNELS", "Layer", "Model", "RunConfig", "UsageError", "is_reference"]

Layer = Literal["zca", "pca"]
Model = Literal["small", "resnet18", "resnet50"]

CHANNELS = 64
"""Channels of the extra layer, in every model of this laboratory."""


class UsageError(ValueError):
    """A user's mistake: the command line prints the message without a traceback."""


def is_reference(text: str | None) -> bool:
    """Whether ``text`` names a part of the user's own, ``module:object`` (see :mod:`eigengrad_lab.parts`)."""
    return text is not None and ":" in text


@dataclass(frozen=True)
class RunConfig:
    """One training.

    ``identity`` names it: two configurations with the same fields are the same run, wherever and whenever they are
    executed, and its folder of records is found by that name.
    """

    data: str
    """Name of the data set, as :func:`eigengrad_lab.data.canonical_name` gives it."""
    model: str
    """small, resnet18, resnet50, or a reference to a function that builds one."""
    method: str
    """Name of a row of a table: how the extra layer is computed and differentiated (see ``methods``)."""
    seed: int
    epochs: int
    layer: str | None = "zca"
    """What the extra layer does: zca whitens, pca denoises, a reference is the user's own; ``None`` for batchnorm."""
    group_size: int | None = None
    """Of whitening, the paper's d."""
    rank: int | None = None
    """Of denoising, the number of eigenvectors kept; or else ``energy``."""
    energy: float | None = None
    """Of denoising, the share of the spectrum kept, the paper's preserved information."""
    learning_rate: float = 0.1
    """The largest; ``schedule`` says when."""
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
    # The fields from here on are part of the identity only where they differ from their defaults.
    gradient: str | None = None
    """Reference to the gradient rule, where it is not the method's own."""
    solver: str | None = None
    """Name of or reference to the solver, likewise."""
    clip_norm: float | None = None
    """Total gradient norm above which gradients are scaled down."""
    bad_steps: Literal["fail", "skip"] = "fail"
    """What becomes of a step whose loss or gradient is not finite: the run's failure, or no update."""
    schedule: Schedule = "steps"
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from zero."""
    nesterov: bool = False
    label_smoothing: float = 0.0
    amp: Literal["bf16"] | None = None
    """Autocast to bfloat16."""
    compile: bool = False
    """Train the network as ``torch.compile`` makes it."""
    channels_last: bool = False
    flip: bool | None = None
    """Whether half of the training images are mirrored; by default where the data set's pictures allow it."""
    crop: int | None = None
    """Pixels of zeros around an image before a crop of its own size is taken; by default an eighth of its height."""
    image_size: int | None = None
    """Height and width to which every image is scaled."""
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None

    def __post_init__(self) -> None:
        own = is_reference(self.layer)
        allowed = {None: (), "zca": ("group_size",), "pca": ("rank", "energy")}
        _require(
            own or self.layer in allowed,
            f"layer must be zca or pca, module:function, or None for batchnorm, got {self.layer!r}",
        )
        _require((self.layer is None) == (self.method == "batchnorm"), "layer is None for batchnorm, and only for it")
        if not own:
            settings = allowed[self.layer]
            for name in ("group_size", "rank", "energy"):
                _require(getattr(self, name) is None or name in settings, f"{name} is no setting of {self.layer}")
            given = [name for name in settings if getattr(self, name) is not None]
            _require(len(given) == bool(settings), f"{self.layer} needs one of {', '.join(settings)}")
        channels = CHANNELS if not is_reference(self.model) else 1 << 20  # another network has its own
        for name, value in vars(self).items():
            _require(not isinstance(value, float) or math.isfinite(value), f"{name} must be finite, got {value}")
        for name in ("group_size", "rank"):
            value = getattr(self, name)
            _require(value is None or 1 <= value <= channels, f"{name} must lie between 1 and {channels}, got {value}")
        _require(
            self.energy is None or 0 < self.energy <= 1, f"energy must be above 0 and at most 1, got {self.energy}"
        )
        for name in ("epochs", "batch_size", "iterations", "train_images", "test_images", "image_size"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("learning_rate", "eps", "clip_norm"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "warmup_epochs", "seed", "crop"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} must be at least 0, got {value}")
        for name in ("sgd_momentum", "label_smoothing"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} must be at least 0 and below 1, got {value}")
        _require(self.seed < 2**63, f"seed must be below 2^63, got {self.seed}")
        _require(
            self.warmup_epochs <= self.epochs,
            f"warmup_epochs must be at most epochs, {self.epochs}, got {self.warmup_epochs}",
        )
        _require(not self.nesterov or self.sgd_momentum > 0, "nesterov needs an sgd_momentum above 0")

    @property
    def identity(self) -> str:
        """A readable name with a hash of all fields: ``zca-ours-d8-seed0-1f2e3d4c``."""
        fields = {
            name: value
            for name, value in self.to_dict().items()
            if name in _ALWAYS_HASHED or value != _DEFAULTS.get(name)
        }
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
        layer = [self.layer] if self.layer in ("zca", "pca") else []
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

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate after so many epochs, whole or not, counted from 0."""
        share = learning_rate_share(self.schedule, epoch, self.epochs, self.milestones, self.warmup_epochs)
        return self.learning_rate * share


_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(RunConfig) if field.default is not dataclasses.MISSING
}
_names = [field.name for field in dataclasses.fields(RunConfig)]
_ALWAYS_HASHED = frozenset(_names[: _names.index("gradient")])


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)
