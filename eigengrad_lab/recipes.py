"""The paper's tables and figures as lists of trainings, and the recipes they can be trained by.

Source of every figure: Wang et al., *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019, section 4.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from eigengrad_lab.config import Method, RunConfig, UsageError

__all__ = [
    "DENOISING",
    "ENERGIES",
    "GROUP_SIZES",
    "ITERATIONS",
    "PRESETS",
    "RANK",
    "RANKS",
    "WHITENING",
    "ExperimentName",
    "PresetName",
    "denoising",
    "grid",
    "milestones",
    "sweeps",
    "whitening",
]

GROUP_SIZES = (4, 8, 16, 32, 64)
"""The paper's d, Table 1."""
WHITENING: tuple[Method, ...] = ("svd", "pi", "ours", "closed-form", "batchnorm")
DENOISING: tuple[Method, ...] = ("svd", "pi", "ours", "closed-form", "batchnorm")
RANK = 16
"""Eigenvectors kept of 64, Table 2."""
ENERGIES = (0.85, 0.9, 0.95, 0.99, 0.995, 1.0)
RANKS = (2, 4, 8, 16, 32)
ITERATIONS = (1, 2, 4, 9, 14, 19, 29)
"""The three panels of Figure 3."""

ExperimentName = Literal["table1", "figure1", "table2", "figure2", "figure3"]
"""What of the paper is made of trainings."""
PresetName = Literal["demo", "short", "paper"]


PRESETS: dict[PresetName, int] = {"demo": 10, "short": 35, "paper": 350}
"""Epochs: seconds a run on the digits; the paper's schedule, ten times shorter; the paper's schedule.

Everything else is the paper's recipe (the defaults of :class:`RunConfig`).
"""

Choice = dict[str, Any]
"""The fields of a :class:`RunConfig` that say which extra layer is trained."""


def milestones(epochs: int) -> tuple[int, ...]:
    """The paper's 100, 200 and 300 of 350 epochs, scaled."""
    return tuple(round(epochs * share / 7) for share in (2, 4, 6))


def grid(choices: Iterable[Choice], *, seeds: int, epochs: int, **common: Any) -> list[RunConfig]:
    """Every choice of the extra layer, ``seeds`` times; ``common`` are the fields that all runs share.

    Seeds are the outer loop, so that a table interrupted half-way has something in every cell.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {seeds}")
    if epochs < 1:
        raise UsageError(f"--epochs must be at least 1, got {epochs}")
    common |= {"epochs": epochs, "milestones": milestones(epochs)}
    unique = list({tuple(choice.items()): choice for choice in choices}.values())
    return [RunConfig(**common, **choice, seed=seed) for seed in range(seeds) for choice in unique]


def whitening(methods: Sequence[Method], group_sizes: Sequence[int]) -> list[Choice]:
    """Table 1 and Figure 1: every method at every group size; the batchnorm baseline, which has no d, once."""
    return [
        choice
        for method in _known(methods)
        for choice in (
            [_baseline()]
            if method == "batchnorm"
            else [{"layer": "zca", "method": method, "group_size": d} for d in sorted(set(group_sizes))]
        )
    ]


def denoising(methods: Sequence[Method], rank: int = RANK) -> list[Choice]:
    """Table 2 and Figure 2: every method on the leading ``rank`` eigenvectors, and the batchnorm baseline."""
    return [
        _baseline() if method == "batchnorm" else {"layer": "pca", "method": method, "rank": rank}
        for method in _known(methods)
    ]


def sweeps(
    energies: Sequence[float] = ENERGIES, ranks: Sequence[int] = RANKS, iterations: Sequence[int] = ITERATIONS
) -> list[Choice]:
    """Figure 3: the paper's method over preserved information, number of eigenvectors, and power iterations."""
    ours: Choice = {"layer": "pca", "method": "ours"}
    return [
        *({**ours, "energy": energy} for energy in energies),
        *({**ours, "rank": rank} for rank in ranks),
        *({**ours, "rank": RANK} | ({} if T == 19 else {"iterations": T}) for T in iterations),
    ]


def _baseline() -> Choice:
    return {"layer": None, "method": "batchnorm"}


def _known(methods: Sequence[Method]) -> list[Method]:
    known = get_args(Method)
    if unknown := [method for method in methods if method not in known]:
        raise UsageError(f"--methods: unknown {unknown}; known are {', '.join(known)}")
    return list(dict.fromkeys(methods))
