"""Runs as a report sees them, and the settings that they share."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eigengrad_lab.config import RunConfig, is_reference
from eigengrad_lab.methods import METHODS
from eigengrad_lab.parts import short_name
from eigengrad_lab.recipes import RECIPES, milestones
from eigengrad_lab.runs.records import RunRecord, recorded_runs
from eigengrad_lab.runs.status import status_of
from eigengrad_lab.training import EpochMetrics, Result

__all__ = ["Run", "by_setting", "describe", "read_runs", "setting_name"]

VARIED = ("layer", "method", "group_size", "rank", "energy", "iterations", "seed", "gradient", "solver")
"""What varies within one table or figure; everything else is the setting."""
OF_OWN_ROWS = ("clip_norm", "bad_steps", "eps")
"""What a row of the user's own may vary besides."""


@dataclass(frozen=True)
class Run:
    """One run, done or not."""

    config: RunConfig
    result: Result | None
    metrics: list[EpochMetrics]
    environment: dict[str, Any]
    """What is known of it, for figures to be quoted with."""
    state: str = "no result yet"
    """What is known of a run without a result: running, stopped, broken, and why."""

    @property
    def succeeded(self) -> bool:
        """Whether it is done, and did not fail."""
        return self.result is not None and self.result.succeeded

    @property
    def failed(self) -> bool:
        """Whether it failed, and was not merely too short."""
        return self.result is not None and self.result.failed

    @property
    def ending(self) -> str:
        """How it ended, or what became of it."""
        return self.state if self.result is None else str(self.result)


def read_runs(configs: Iterable[RunConfig], root: Path) -> list[Run]:
    """What the records below ``root`` say of each configuration."""
    runs = []
    for config in configs:
        record = RunRecord(root, config)
        status = status_of(record)
        state = f"{status.state}: {status.detail}" if status.detail else status.state
        runs.append(Run(config, record.result(), record.metrics(), record.environment(), state))
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
    words = [config.data.replace("/", "-"), short_model(config, digest=True), f"{config.epochs}epochs"]
    if config.train_images is not None:
        words.append(f"{config.train_images}images")
    if config.test_images is not None:
        words.append(f"{config.test_images}tested")
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    defaults["milestones"] = list(milestones(config.epochs)) if config.schedule == "steps" else []
    named = {*VARIED, "data", "model", "epochs", "train_images", "test_images"}
    named |= set(OF_OWN_ROWS) if config.method not in METHODS else METHODS[config.method].settings.keys()
    others = {name: value for name, value in config.to_dict().items() if name not in named and value != defaults[name]}
    for name, recipe in RECIPES.items():
        if recipe and recipe.items() <= others.items():
            words.append(name)
            others = {name: value for name, value in others.items() if name not in recipe}
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
    recipe = "" if config.schedule == "steps" else f" ({config.schedule})"
    return f"{config.data}{images}, {short_model(config)} network, {config.epochs} epochs{recipe}, seeds: {seeds}"


def short_model(config: RunConfig, *, digest: bool = False) -> str:
    """The network's name; of the user's own, that of its function, with the digest of its source if asked for."""
    if not is_reference(config.model):
        return config.model
    name, source = short_name(config.model), config.model.partition("@")[2]
    return f"{name}-{source}" if digest and source else name
