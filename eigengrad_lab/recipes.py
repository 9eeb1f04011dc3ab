"""The paper's tables and figures as values, and the recipes that their trainings follow.

:data:`EXPERIMENTS` is the one place where a table or figure stands: its command, the trainings it is made of, and its
section of a report follow from the entry. Free of torch, so that the command line can be parsed without it.

Source of every figure: Wang et al., *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019, section 4.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.methods import COMPARED, own_method, settings_of
from eigengrad_lab.parts import parameters

__all__ = [
    "EXPERIMENTS",
    "GROUP_SIZES",
    "ITERATIONS",
    "PRESETS",
    "RANK",
    "RECIPES",
    "Denoising",
    "Experiment",
    "PresetName",
    "RecipeName",
    "Sweeps",
    "Variation",
    "Whitening",
    "grid",
    "milestones",
    "scheduled",
]

GROUP_SIZES = (4, 8, 16, 32, 64)
"""The paper's d, Table 1."""
RANK = 16
"""Eigenvectors kept of 64, Table 2."""
ITERATIONS = RunConfig.iterations
"""Power iterations, everywhere but in Figure 3."""

PresetName = Literal["demo", "short", "paper"]
PRESETS: dict[PresetName, int] = {"demo": 10, "short": 35, "paper": 350}
"""Epochs: seconds a run on the digits; the paper's schedule, ten times shorter; the paper's schedule."""

RecipeName = Literal["paper", "fast"]
RECIPES: dict[RecipeName, dict[str, Any]] = {
    "paper": {},
    "fast": {"schedule": "one-cycle", "nesterov": True, "learning_rate": 0.2},
}
"""What differs from the defaults of :class:`RunConfig`, which are the paper's. ``fast``: one cycle of few epochs."""
FAST_EPOCHS = 8
"""Of the fast recipe, where no number is given."""

Choice = dict[str, Any]
"""The fields of a :class:`RunConfig` that say which extra layer is trained."""
Own = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="method", metavar="NAME=MODULE:OBJECT")]


class Variation(ABC):
    """What an experiment varies: a frozen dataclass whose fields are options of the experiment's command."""

    @abstractmethod
    def choices(self) -> list[Choice]:
        """Every extra layer that is trained."""

    @staticmethod
    @abstractmethod
    def shows(config: RunConfig) -> bool:
        """Whether a recorded run belongs in the experiment's section of a report."""

    @staticmethod
    @abstractmethod
    def is_reason_for(config: RunConfig) -> bool:
        """Whether such a run is enough for a section; the baseline alone is not."""


@dataclass(frozen=True)
class Whitening(Variation):
    """Every method at every group size; the batchnorm baseline, which has no group size, once."""

    methods: tuple[str, ...] = COMPARED
    """batchnorm, svd, pi, ours, closed-form, qr, and the rivals svd-clipped, svd-skip, svd-taylor, svd-lorentzian."""
    own: Own = ()
    """A further row of your own, as often as you like: half=my_module:Half (a gradient rule), or with more settings
    half=my_module:Half,solver=qr,clip_norm=1, or a whole layer, mine=layer=my_module:make."""
    group_sizes: tuple[int, ...] = GROUP_SIZES
    """The paper's d, between 1 and 64."""

    def choices(self) -> list[Choice]:
        """Method by method."""
        return [
            choice
            for row in _rows(self.methods, self.own)
            for choice in (
                [{**row, "group_size": d} for d in sorted(set(self.group_sizes))]
                if _takes(row, "group_size")
                else [row]
            )
        ]

    @staticmethod
    def shows(config: RunConfig) -> bool:
        """Whitening, the baseline, and layers of the user's own."""
        return config.layer != "pca" and config.rank is None and config.iterations == ITERATIONS

    @staticmethod
    def is_reason_for(config: RunConfig) -> bool:
        """Any but the baseline."""
        return config.layer is not None


@dataclass(frozen=True)
class Denoising(Variation):
    """Every method on the leading ``rank`` eigenvectors, and the batchnorm baseline."""

    methods: tuple[str, ...] = COMPARED
    """batchnorm, svd, pi, ours, closed-form, qr, and the rivals svd-clipped, svd-skip, svd-taylor, svd-lorentzian."""
    own: Own = ()
    """A further row of your own, as often as you like: half=my_module:Half (a gradient rule), or with more settings
    half=my_module:Half,solver=qr,clip_norm=1, or a whole layer, mine=layer=my_module:make."""
    rank: int = RANK
    """How many eigenvectors are kept, of 64."""

    def choices(self) -> list[Choice]:
        """Method by method."""
        return [
            {**row, **({"layer": "pca"} if row["layer"] == "zca" else {}), "rank": self.rank}
            if _takes(row, "rank")
            else row
            for row in _rows(self.methods, self.own)
        ]

    @staticmethod
    def shows(config: RunConfig) -> bool:
        """Denoising with the paper's rank, the baseline, and layers of the user's own."""
        return (config.rank == RANK or config.layer not in ("pca", "zca")) and config.iterations == ITERATIONS

    @staticmethod
    def is_reason_for(config: RunConfig) -> bool:
        """Denoising."""
        return config.layer == "pca"


@dataclass(frozen=True)
class Sweeps(Variation):
    """The paper's method over preserved information, number of eigenvectors, and number of power iterations."""

    energies: tuple[float, ...] = (0.85, 0.9, 0.95, 0.99, 0.995, 1.0)
    """Shares of the spectrum to keep, up to 1."""
    ranks: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Numbers of eigenvectors to keep."""
    iterations: tuple[int, ...] = (1, 2, 4, 9, 14, 19, 29)
    """Numbers of power iterations."""

    def choices(self) -> list[Choice]:
        """Sweep by sweep."""
        ours: Choice = {"layer": "pca", "method": "ours"}
        _require_some("--energies, --ranks, --iterations", (*self.energies, *self.ranks, *self.iterations))
        return [
            *({**ours, "energy": energy} for energy in self.energies),
            *({**ours, "rank": rank} for rank in self.ranks),
            *({**ours, "rank": RANK} | ({} if T == ITERATIONS else {"iterations": T}) for T in self.iterations),
        ]

    @staticmethod
    def shows(config: RunConfig) -> bool:
        """Denoising by the paper's method."""
        return config.layer == "pca" and config.method == "ours"

    @staticmethod
    def is_reason_for(config: RunConfig) -> bool:
        """Any but the point that stands in Table 2 too."""
        return not Denoising.shows(config)


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper that is made of trainings."""

    name: str
    """Of its command, of its files, and of its layout in ``report.sections``."""
    title: str
    """Of its section in a report."""
    about: str
    """The help text of its command: what it reproduces, and an example."""
    varied: Variation
    """What it varies, with the values that it takes by default."""


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "table1",
            "Table 1: ZCA whitening",
            """Reproduce Table 1: ZCA whitening by each method at each group size.

            Trains what is not yet done, prints the table, and writes it with training curves and a report.html
            below --output. Interrupt it at will: the same command goes on from there.

            Example: eigengrad reproduce table1 --data ~/cifar10 --model small --epochs 5 --train-images 5000 --seeds 2
            """,
            Whitening(),
        ),
        Experiment(
            "figure1",
            "Figure 1: training loss with ZCA whitening",
            """Reproduce Figure 1: training loss of whitening, power iteration against the paper's method.

            Example: eigengrad reproduce figure1 --group-sizes 4 8 16
            """,
            Whitening(("pi", "ours"), group_sizes=(4, 8)),
        ),
        Experiment(
            "table2",
            "Table 2: PCA denoising",
            """Reproduce Table 2: PCA denoising by each method, against batch normalisation.

            Example: eigengrad reproduce table2 --seeds 5
            """,
            Denoising(),
        ),
        Experiment(
            "figure2",
            "Figure 2: training loss with PCA denoising",
            """Reproduce Figure 2: training loss of denoising, power iteration, batch normalisation and the
            paper's method.

            Example: eigengrad reproduce figure2 --seeds 2
            """,
            Denoising(("pi", "ours", "batchnorm")),
        ),
        Experiment(
            "figure3",
            "Figure 3: PCA denoising over its settings",
            """Reproduce Figure 3: error of denoising over preserved information, eigenvectors kept, and power
            iterations.

            Example: eigengrad reproduce figure3 --seeds 2 --energies 0.9 0.99 --ranks 4 16
            """,
            Sweeps(),
        ),
    )
}
"""By name, in the order of a report."""


def milestones(epochs: int) -> tuple[int, ...]:
    """The paper's 100, 200 and 300 of 350 epochs, scaled."""
    return tuple(round(epochs * share / 7) for share in (2, 4, 6))


def grid(varied: Variation, *, seeds: int, epochs: int, **common: Any) -> list[RunConfig]:
    """Every choice of the extra layer, ``seeds`` times; ``common`` are the fields that all runs share.

    Seeds are the outer loop, so that a table interrupted half-way has something in every cell.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {seeds}")
    common |= {"epochs": epochs} | scheduled(epochs, common.get("schedule", "steps"))
    unique = list({tuple(choice.items()): choice for choice in varied.choices()}.values())
    return [RunConfig(**{**common, **choice, "seed": seed}) for seed in range(seeds) for choice in unique]


def scheduled(epochs: int, schedule: str) -> dict[str, Any]:
    """The milestones, of the schedule that has some."""
    if epochs < 1:
        raise UsageError(f"--epochs must be at least 1, got {epochs}")
    return {"milestones": milestones(epochs)} if schedule == "steps" else {}


def _rows(methods: Sequence[str], own: Sequence[str]) -> list[Choice]:
    """Each method's own fields; the layer is whitening where it says nothing else."""
    _require_some("--methods", (*methods, *own))
    known = {name: settings_of(name) for name in methods}
    named = [own_method(text) for text in own]
    if len({name for name, _ in named}) < len(named):
        raise UsageError("--method: two rows of one name")
    return [{"layer": "zca", "method": name, **settings} for name, settings in (known | dict(named)).items()]


def _takes(row: Choice, setting: str) -> bool:
    """Whether the row's layer has the setting: of the user's own, if its function has an argument of the name."""
    if row["layer"] in ("zca", None):
        return row["layer"] is not None
    return setting in parameters(row["layer"], "--method")


def _require_some(option: str, given: Sequence[object]) -> None:
    if not given:
        raise UsageError(f"{option}: nothing is named, so there is nothing to train")
