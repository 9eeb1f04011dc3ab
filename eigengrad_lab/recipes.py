"""The paper's tables as lists of trainings, and the recipes they can be trained by.

Source of every figure: Wang et al., *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from eigengrad_lab.config import Method, Model, RunConfig, UsageError

__all__ = ["GROUP_SIZES", "METHODS", "PRESETS", "Preset", "PresetName", "table1"]

GROUP_SIZES = (4, 8, 16, 32, 64)
METHODS: tuple[Method, ...] = ("svd", "pi", "ours", "closed-form", "batchnorm")
CHANNELS = 64
"""Channels of the extra layer, in every model."""

PresetName = Literal["demo", "short", "paper"]


@dataclass(frozen=True)
class Preset:
    """How long to train. Everything else is the paper's recipe (the defaults of :class:`RunConfig`)."""

    epochs: int
    about: str


PRESETS: dict[PresetName, Preset] = {
    "demo": Preset(10, "seconds a run on the digits"),
    "short": Preset(35, "the paper's schedule, ten times shorter"),
    "paper": Preset(350, "the paper's schedule: learning rate 0.1, divided by ten after 100, 200 and 300 epochs"),
}


def milestones(epochs: int) -> tuple[int, ...]:
    """The paper's 100, 200 and 300 of 350 epochs, scaled."""
    return tuple(round(epochs * share / 7) for share in (2, 4, 6))


def table1(
    *,
    data: str,
    model: Model,
    epochs: int,
    methods: Sequence[Method] = METHODS,
    group_sizes: Sequence[int] = GROUP_SIZES,
    seeds: int = 5,
    train_images: int | None = None,
    test_images: int | None = None,
) -> list[RunConfig]:
    """Table 1: every method at every group size, ``seeds`` times; the batchnorm baseline, which has no d, once a seed.

    Seeds are the outer loop, so that a table interrupted half-way has something in every cell.
    """
    if unknown := [method for method in methods if method not in get_args(Method)]:
        raise UsageError(f"--methods: unknown {unknown}; known are {', '.join(get_args(Method))}")
    for name, value in {"--seeds": seeds, "--epochs": epochs, "--train-images": train_images}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if wrong := [d for d in group_sizes if not 1 <= d <= CHANNELS]:
        raise UsageError(f"--group-sizes must lie between 1 and {CHANNELS}, the layer's channels, got {wrong}")
    return [
        RunConfig(
            data=data,
            model=model,
            method=method,
            seed=seed,
            epochs=epochs,
            layer=None if method == "batchnorm" else "zca",
            group_size=group_size,
            milestones=milestones(epochs),
            train_images=train_images,
            test_images=test_images,
        )
        for seed in range(seeds)
        for method in dict.fromkeys(methods)
        for group_size in ([None] if method == "batchnorm" else sorted(set(group_sizes)))
    ]
