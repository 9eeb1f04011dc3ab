"""Runs as a report sees them, and the settings that they share."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eigengrad_lab.config import RunConfig
from eigengrad_lab.recipes import milestones
from eigengrad_lab.runs.files import read_json
from eigengrad_lab.runs.records import RunRecord, recorded_runs
from eigengrad_lab.training import EpochMetrics, Result

__all__ = ["METHODS", "Run", "by_setting", "describe", "read_runs", "setting_name"]

METHODS = {
    "svd": "SVD",
    "pi": "PI",
    "ours": "ours",
    "closed-form": "closed form",
    "qr": "QR",
    "batchnorm": "BatchNorm",
}
"""Labels, in the order of every table and legend. "ours" is the paper's own name for its method."""

VARIED = ("layer", "method", "group_size", "rank", "energy", "iterations", "seed")
"""What varies within one table or figure; everything else is the setting."""


@dataclass(frozen=True)
class Run:
    """One run, done or not."""

    config: RunConfig
    result: Result | None
    metrics: list[EpochMetrics]
    environment: dict[str, str | int | float]
    """What is known of it, for figures to be quoted with."""

    @property
    def succeeded(self) -> bool:
        """Whether it is done, and did not fail."""
        return self.result is not None and self.result.succeeded


def read_runs(configs: Iterable[RunConfig], root: Path) -> list[Run]:
    """What the records below ``root`` say of each configuration."""
    runs = []
    for config in configs:
        record = RunRecord(root, config)
        found = read_json(record.folder / "environment.json") or {}
        environment = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
        runs.append(Run(config, record.result(), record.metrics(), environment))
    return runs


def by_setting(root: Path) -> tuple[dict[str, list[RunConfig]], list[str]]:
    """Every recorded configuration, by the name of its setting; and a sentence about each folder that is no record."""
    records, strange = recorded_runs(root)
    settings: dict[str, list[RunConfig]] = {}
    for record in sorted(records, key=lambda record: (record.config.seed, record.folder.name)):
        settings.setdefault(setting_name(record.config), []).append(record.config)
    return settings, strange


def setting_name(config: RunConfig) -> str:
    """Of a folder for reports: data and how much of it, network, epochs; with a hash where all else is no recipe's."""
    words = [config.data.replace("/", "-"), config.model, f"{config.epochs}epochs"]
    if config.train_images is not None:
        words.append(f"{config.train_images}images")
    if config.test_images is not None:
        words.append(f"{config.test_images}tested")
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    defaults["milestones"] = list(milestones(config.epochs))
    named = {*VARIED, "data", "model", "epochs", "train_images", "test_images"}
    others = {name: value for name, value in config.to_dict().items() if name not in named and value != defaults[name]}
    if others:
        words.append(hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6])
    return "-".join(words)


def describe(configs: Sequence[RunConfig]) -> str:
    """What was trained, in one phrase."""
    config = configs[0]
    counts = {"training": config.train_images, "test": config.test_images}
    given = ", ".join(f"{count} {kind} images" for kind, count in counts.items() if count)
    images = f" ({given})" if given else ""
    seeds = len({other.seed for other in configs})
    return f"{config.data}{images}, {config.model} network, {config.epochs} epochs, seeds: {seeds}"
