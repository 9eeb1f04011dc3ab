"""What training costs beside the model's own step: data, augmentation, logging, progress and checkpoints.

Both sides train the same network with the same optimiser on images of CIFAR-10's shape. The bare step repeats forward,
backward and update on one batch; the laboratory's run does all it does in an experiment, checkpoints as often as by
default. The two take turns, step by step.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.timing import claim, report
from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData
from eigengrad_lab.models import build
from eigengrad_lab.runs.execution import Recording, train
from eigengrad_lab.training import Training

IMAGES, TESTS = 2560, 128
EPOCHS = {"small": 2, "resnet18": 1}
SHARE = 0.95


def images() -> ImageData:
    """Random images of CIFAR-10's shape."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES + TESTS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES + TESTS,), generator=generator)
    return ImageData(pixels[:IMAGES], labels[:IMAGES], pixels[IMAGES:], labels[IMAGES:], classes=10, pad=4, flip=True)


class BareStep:
    """The model's step and nothing else."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.network = build(config, image_channels=3, classes=10, generator=torch.Generator())
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.images, self.labels = torch.randn(config.batch_size, 3, 32, 32), torch.randint(10, (config.batch_size,))

    def __call__(self) -> None:
        loss = nn.functional.cross_entropy(self.network(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def paired_steps(config: RunConfig, data: ImageData, root: Path) -> list[tuple[float, float]]:
    """Seconds of each step of a run as the laboratory does it, with all that happens between two steps; and of a bare
    step after each.

    Evaluation is left out, being no part of a training step.
    """
    seconds: list[tuple[float, float]] = []
    bare, run_epoch = BareStep(config), Training.run_epoch
    bare()

    def timed(self: Training) -> Iterator[None]:
        started = time.perf_counter()
        for _ in run_epoch(self):
            yield
            between = time.perf_counter()
            bare()
            ended = time.perf_counter()
            seconds.append((between - started, ended - between))
            started = time.perf_counter()

    Training.run_epoch = timed  # type: ignore[method-assign]
    try:
        train(config, data, Recording(root))
    finally:
        Training.run_epoch = run_epoch  # type: ignore[method-assign]
    return seconds[1:]


def main(models: list[str]) -> None:
    """Measure in turn, report, and assert the claim."""
    data = images()
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for model in models:
        config = RunConfig(data="random", model=model, method="ours", group_size=16, seed=0, epochs=EPOCHS[model])  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as root:
            pairs = paired_steps(config, data, Path(root))
        lower, ratio, upper = statistics.quantiles([ours / bare for ours, bare in pairs], n=4)
        figures = {
            "ratio": ratio,
            "ratio_lower_quartile": lower,
            "ratio_upper_quartile": upper,
            "ours_seconds": statistics.median(ours for ours, _ in pairs),
            "rival_seconds": statistics.median(bare for _, bare in pairs),
        }
        measured[f"training step, {model}"] = {"the bare step": figures}
    report("throughput", measured)
    for case, rivals in measured.items():
        share = 1 / rivals["the bare step"]["ratio"]
        claim(f"{case}: throughput at least {SHARE:.0%} of the bare step's: {share:.1%}", share >= SHARE)


if __name__ == "__main__":
    main(sys.argv[1:] or ["small", "resnet18"])
