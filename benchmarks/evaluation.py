"""Whether layers evaluate as well as they train: test error with running statistics and with the batch's, by epoch.

    python -m benchmarks.evaluation                      # everything: many hours on two cores
    python -m benchmarks.evaluation --reduced            # with fewer images of CIFAR-10: two hours or so
    python -m benchmarks.evaluation --minutes 30         # rows in order until the time is over
    python -m benchmarks.evaluation --table              # what has been measured so far

A row is one training. Rows are written one by one, and those that are there are not trained again. The first part holds
the networks against the same with BatchNorm; the second varies what the defaults of ``ZCAWhitening`` decide, and runs
the paper's layer, which averages its whitening matrix; the third the rule across the cut of ``PCADenoising``.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import eigengrad as eg
from benchmarks.timing import RESULTS, provenance, write
from eigengrad.nn.functional import denoising
from eigengrad.nn.functional.batch_statistics import MOMENTUM, RELATIVE_EPS, SHRINKAGE
from eigengrad_lab.config import CHANNELS
from eigengrad_lab.data import ImageData, draw_crops, load
from eigengrad_lab.models import BasicBlock, ResNet
from eigengrad_lab.paper_whitening import PaperWhitening

FILE = RESULTS / "evaluation.json"
SEEDS = (0, 1, 2)
MOMENTUM_OF = {"whitening": MOMENTUM, "denoising": 0.1}
MOMENTA = (0.1, 0.25, 0.5)
"""Windows that are evaluated in every training."""
IMAGES, TEST_IMAGES = {False: 4000, True: 2000}, 1000
"""Of CIFAR-10, and reduced."""
HIGH, LOW = 0.1, 0.01
EPOCHS = {"digits mlp": (6, 2), "digits": (6, 2), "cifar10": (4, 2)}
"""Of each network, how many epochs at the high and then at the low learning rate."""
DEFAULTS = (RELATIVE_EPS, SHRINKAGE)
VARIATIONS = [(0.0, 0.0), (1e-2, 0.0), (1e-1, 0.0), *((r, "auto") for r in (0.0, 1e-3, 1e-2, 3e-2, 2e-1))]
"""Of the relative eps and of shrinkage, beside the defaults."""
HEADING = """# Evaluation of the layers

Test error in percent at every epoch, means over the seeds: `batch` with the batch's own statistics in all layers of the
network, `running` with running ones. `excess` is what `running` costs over `batch` beyond BatchNorm's own gap in the
same network and epoch; at or below zero the layer evaluates as well as BatchNorm does. Where it is above, at the high
learning rate, running statistics lag behind the weights: a first convolution leaves most of 64 channels without a
variance of their own, and what the weights' next step moves there meets the floor's amplification. A shorter window and
a higher floor shrink it, and it is gone once the learning rate has come down.
"""
RULES = {"PowerIteration(19)": eg.PowerIteration(19), "Lorentzian()": eg.Lorentzian()}


@dataclass(frozen=True)
class Row:
    """One training."""

    network: str
    batch: int
    seed: int
    layer: str
    """``"batchnorm"``, ``"whitening"``, ``"paper"`` or ``"denoising"``."""
    d: int | None = None
    relative_eps: float | None = None
    shrinkage: float | str | None = None
    energy: float | None = None
    rule: str | None = None
    images: int | None = None
    """Of the training set, where it is a part."""

    @property
    def key(self) -> str:
        """The settings, as text."""
        named = [f"{name}={value}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(named)


def rows(reduced: bool) -> Iterator[Row]:
    """All of them, what decides the defaults first."""
    cifar, digits, mlp = (
        {"network": "cifar10", "images": IMAGES[reduced]},
        {"network": "digits"},
        {"network": "digits mlp"},
    )
    varied = ((mlp, 32), (digits, 32), (cifar, 16 if reduced else 128))
    for seed, (network, batch) in itertools.product(SEEDS, varied):
        yield Row(**network, batch=batch, seed=seed, layer="batchnorm")
        yield Row(**network, batch=batch, seed=seed, layer="paper", d=64)
        for relative_eps, shrinkage in (DEFAULTS, *VARIATIONS):
            yield Row(**network, batch=batch, seed=seed, layer="whitening", d=64, **_named(relative_eps, shrinkage))
    for seed in SEEDS:
        for network, batches, sizes in (
            (mlp, (32, 64), (64,)),
            (digits, (16, 32, 128), (16, 64)),
            (cifar, (16,), (16, 64)),
        ):
            for batch in batches:
                yield Row(**network, batch=batch, seed=seed, layer="batchnorm")
                for d in sizes:
                    yield Row(**network, batch=batch, seed=seed, layer="whitening", d=d, **_named(*DEFAULTS))
    for seed, (network, batch) in itertools.product(SEEDS, varied[1:]):
        for energy, rule in itertools.product((0.6, 0.95), RULES):
            yield Row(**network, batch=batch, seed=seed, layer="denoising", energy=energy, rule=rule)


def _named(relative_eps: float, shrinkage: float | str) -> dict[str, Any]:
    return {"relative_eps": relative_eps, "shrinkage": shrinkage}


def normalization(row: Row, channels: int) -> nn.Module:
    """The layer of a row."""
    match row.layer:
        case "batchnorm":
            return nn.BatchNorm1d(channels) if "mlp" in row.network else nn.BatchNorm2d(channels)
        case "paper":
            assert row.d is not None
            return PaperWhitening(channels, group_size=row.d, gradient=None, solver="auto")
        case "whitening":
            assert row.relative_eps is not None and row.shrinkage is not None
            return eg.nn.ZCAWhitening(
                channels, group_size=row.d, relative_eps=row.relative_eps, shrinkage=row.shrinkage
            )
        case _:
            return eg.nn.PCADenoising(channels, energy=row.energy)


def build(row: Row, data: ImageData) -> nn.Module:
    """The network of a row: a perceptron of two hidden layers, or the laboratory's small one."""
    if "mlp" in row.network:
        hidden = [(nn.Linear(CHANNELS, CHANNELS), normalization(row, CHANNELS), nn.ReLU()) for _ in range(2)]
        return nn.Sequential(nn.Flatten(), *itertools.chain(*hidden), nn.Linear(CHANNELS, data.classes))
    extra, inputs = normalization(row, CHANNELS), data.train_images.shape[1]
    return ResNet(BasicBlock, widths=(32, 64), depths=(1, 1), extra=extra, inputs=inputs, classes=data.classes)


class Windows:
    """Running covariances and means of a network's layers by other momenta, from what each batch does to its own."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [layer for layer in network.modules() if hasattr(layer, "running_covariance")]
        self.other = {m: [self._copy(layer) for layer in self.layers] for m in MOMENTA}

    @staticmethod
    def _copy(layer: nn.Module) -> tuple[Tensor, Tensor]:
        return layer.running_mean.double(), layer.running_covariance.double()  # type: ignore[operator]

    def step(self, before: list[tuple[Tensor, Tensor]]) -> None:
        """After a step that moved the layers' own estimates from ``before``."""
        for index, layer in enumerate(self.layers):
            for old, new, which in zip(before[index], self._copy(layer), range(2), strict=True):
                batch = old + (new - old) / layer.momentum  # type: ignore[operator]
                for m, estimates in self.other.items():
                    estimates[index][which].lerp_(batch, m)

    def now(self) -> list[tuple[Tensor, Tensor]]:
        """The layers' own estimates, copied."""
        return [self._copy(layer) for layer in self.layers]

    def networks(self, network: nn.Module) -> Iterator[tuple[float, nn.Module]]:
        """The network with each momentum's estimates."""
        if not self.layers:
            return
        for m, estimates in self.other.items():
            copied = copy.deepcopy(network)
            layers = [layer for layer in copied.modules() if hasattr(layer, "running_covariance")]
            for layer, (mean, covariance) in zip(layers, estimates, strict=True):
                layer.running_mean.copy_(mean)  # type: ignore[operator]
                layer.running_covariance.copy_(covariance)  # type: ignore[operator]
            yield m, copied


@torch.no_grad()
def error(network: nn.Module, data: ImageData, prepare: Callable[[Tensor], Tensor], batch: int | None) -> float:
    """Test error in percent, with running statistics, or with those of batches of test images."""
    network = copy.deepcopy(network).train(batch is not None)
    order = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))
    wrong = seen = 0
    for chosen in order.split(batch or 500):
        if len(chosen) == (batch or len(chosen)):
            predicted = network(prepare(data.test_images[chosen])).argmax(1)
            wrong += int((predicted != data.test_labels[chosen]).sum())
            seen += len(chosen)
    return 100 * wrong / seen


def train(row: Row, data: ImageData) -> list[dict[str, float]]:
    """Errors of each epoch, in percent."""
    torch.manual_seed(row.seed)
    if row.rule is not None:
        denoising.ACROSS_THE_CUT = RULES[row.rule]
    network, generator = build(row, data), torch.Generator().manual_seed(row.seed)
    windows, (mean, std) = Windows(network), data.moments()
    optimizer = torch.optim.SGD(network.parameters(), lr=HIGH, momentum=0.9, weight_decay=5e-4)
    measured, (high, low) = [], EPOCHS[row.network]

    def prepare(images: Tensor) -> Tensor:
        return (images.float() - mean) / std

    for epoch in range(high + low):
        for group in optimizer.param_groups:
            group["lr"] = HIGH if epoch < high else LOW
        losses = []
        for chosen in torch.randperm(len(data.train_labels), generator=generator).split(row.batch):
            if len(chosen) < row.batch:
                continue
            images = data.train_images[chosen]
            if "mlp" not in row.network:
                crops = draw_crops(len(chosen), *images.shape[2:], pad=data.pad, flip=data.flip, generator=generator)
                images = crops.of(images, data.pad)
            before = windows.now()
            loss = nn.functional.cross_entropy(network(prepare(images)), data.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            windows.step(before)
            losses.append(loss.item())
        figures = {"loss": statistics.mean(losses), "batch": error(network, data, prepare, row.batch)}
        if not windows.layers:
            figures["running"] = error(network, data, prepare, None)
        for m, other in windows.networks(network):
            figures[running(m)] = error(other, data, prepare, None)
        measured.append({name: round(value, 4) for name, value in figures.items()})
    return measured


def running(momentum: float) -> str:
    """Name of the figure for a window."""
    return f"running, momentum {momentum:g}"


def evaluated(row: Row, figures: dict[str, list[float]]) -> list[float]:
    """Test errors with the running statistics that the row's layer has by default."""
    return figures["running" if row.layer in ("batchnorm", "paper") else running(MOMENTUM_OF[row.layer])]


def measure(until: float, reduced: bool) -> dict[str, list[dict[str, float]]]:
    """All rows that are missing, until the time is over."""
    warnings.filterwarnings("ignore", ".* observations are few")
    measured: dict[str, list[dict[str, float]]] = stored()
    sets: dict[str, ImageData] = {}
    missing = list({row.key: row for row in rows(reduced) if row.key not in measured}.values())
    for index, row in enumerate(missing):
        if time.time() > until:
            break
        name = row.network.split()[0]
        if name == "cifar10" and "EIGENGRAD_CIFAR10" not in os.environ:
            continue
        if name not in sets:
            sizes = {"train_images": row.images, "test_images": TEST_IMAGES} if name == "cifar10" else {}
            sets[name] = load(os.environ["EIGENGRAD_CIFAR10"] if name == "cifar10" else name, **sizes)
        started = time.monotonic()
        measured[row.key] = train(row, sets[name])
        write(FILE, json.dumps({"provenance": provenance("evaluation"), "rows": measured}, indent=1) + "\n")
        last = {name: values[-1] for name, values in mean_of_seeds({row.key: measured[row.key]}, row).items()}
        print(f"{index + 1}/{len(missing)} {row.key} ({time.monotonic() - started:.0f} s): {last}", flush=True)
    return measured


def stored() -> dict[str, list[dict[str, float]]]:
    """The rows that have been written."""
    return json.loads(FILE.read_text())["rows"] if FILE.exists() else {}


def mean_of_seeds(measured: dict[str, list[dict[str, float]]], row: Row) -> dict[str, list[float]]:
    """Each figure's means over the seeds that are there, epoch by epoch."""
    found = [measured[key] for seed in SEEDS if (key := replace(row, seed=seed).key) in measured]
    if not found:
        return {}
    return {
        name: [statistics.mean(run[epoch][name] for run in found) for epoch in range(len(found[0]))]
        for name in found[0][0]
    } | {"seeds": [len(found)]}


def table(measured: dict[str, list[dict[str, float]]], reduced: bool) -> list[str]:
    """The rows as lines; a row's excess is what running statistics cost beyond BatchNorm's own gap in that epoch."""
    lines = []
    for row in {row: None for row in rows(reduced) if row.seed == SEEDS[0]}:
        figures = mean_of_seeds(measured, row)
        if not figures:
            continue
        plain = mean_of_seeds(measured, Row(row.network, row.batch, SEEDS[0], "batchnorm", images=row.images))
        title = ", ".join(text for text in row.key.split(", ") if not text.startswith("seed"))
        lines.append(f"{title} ({figures['seeds'][0]} seeds)")
        for name, values in figures.items():
            if name != "seeds":
                lines.append(f"    {name:24}" + "".join(f"{value:8.2f}" for value in values))
        if plain and row.layer == "whitening":
            own = (max(r - b, 0.0) for r, b in zip(plain["running"], plain["batch"], strict=True))
            gaps = zip(evaluated(row, figures), figures["batch"], own, strict=True)
            lines.append(f"    {'excess':24}" + "".join(f"{r - b - gap:8.2f}" for r, b, gap in gaps))
    return lines


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so many")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--reduced", action="store_true", help="with fewer images of CIFAR-10")
    options = parser.parse_args()
    measured = stored() if options.table else measure(time.time() + 60 * options.minutes, options.reduced)
    lines = table(measured, options.reduced)
    print("\n".join(lines))
    write(FILE.with_suffix(".md"), "\n".join([HEADING, "```", *lines, "```", ""]))


if __name__ == "__main__":
    main()
