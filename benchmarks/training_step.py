"""What the whitening layer adds to a training step of ResNet-18, in time and in peak memory, over BatchNorm.

A step's time depends on whether glibc has returned memory to the system, to fault its pages in once more: a tenth of a
step, for either layer, in one process and not in the next. So the ratio is the median of several processes', measured
twice: as it comes, and with memory kept (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``), computing alone.

Memory is the peak of what the profiler sees allocated during a step, beyond what was there before.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import eigengrad as eg
from benchmarks.timing import claim, ratios, report
from eigengrad_lab.models import BasicBlock, ResNet

IMAGES = 32
GROUP_SIZES = (8, 64)
PROCESSES = 5
KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_THRESHOLD_": str(2**33)}
SETTINGS: dict[str, dict[str, str]] = {"as it comes": {}, "memory kept": KEPT}


def extra(name: str) -> nn.Module:
    """The layer after the first convolution: ``"BatchNorm2d"``, or whitening with a group size for a name."""
    return nn.BatchNorm2d(64) if name == "BatchNorm2d" else eg.nn.ZCAWhitening(64, group_size=int(name))


def training_step(name: str) -> Callable[[], None]:
    """A step with the layer of this name."""
    return step_of(extra(name), IMAGES)


def step_of(layer: nn.Module, images: int, where: torch.device | str = "cpu") -> Callable[[], None]:
    """Forward, backward and the optimiser's step of ResNet-18 with this extra layer on random images."""
    torch.manual_seed(0)
    network = ResNet(BasicBlock, extra=layer, inputs=3, classes=10).to(where)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    x, labels = torch.randn(images, 3, 32, 32).to(where), torch.randint(10, (images,)).to(where)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()

    return step


def layer_step(name: str) -> Callable[[], None]:
    """The layer of this name alone, on 128 images of 64 channels, 32x32."""
    return layer_step_of(extra(name), 128)


def layer_step_of(layer: nn.Module, images: int, where: torch.device | str = "cpu") -> Callable[[], None]:
    """Forward and backward of a layer alone, on images of 64 channels, 32x32."""
    generator, layer = torch.Generator().manual_seed(0), layer.to(where)
    x = torch.randn(images, 64, 32, 32, generator=generator).to(where).requires_grad_()
    cotangent = torch.randn(x.shape, generator=generator).to(where)
    return lambda: layer(x).backward(cotangent)


STEPS = {"ResNet-18": training_step, "layer": layer_step}


def peak_memory(step: Callable[[], None]) -> float:
    """Mebibytes, by the profiler's record of allocations: the largest of several steps, whose convolutions differ."""
    step()  # gradients and the optimiser's state stay allocated
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(8):
            step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak / 2**20


def time_in_processes(setting: dict[str, str]) -> dict[str, dict[str, float]]:
    """By group size, the median over processes of ``{figure: value}``."""
    runs = []
    for _ in range(PROCESSES):
        command = [sys.executable, "-m", "benchmarks.training_step", "one-process"]
        done = subprocess.run(command, env={**os.environ, **setting}, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {
        d: {figure: statistics.median(run[d][figure] for run in runs) for figure in first}
        for d, first in runs[0].items()
    }


def time_here() -> None:
    """One process's figures, as JSON."""
    steps = {f"d = {d}": training_step(str(d)) for d in GROUP_SIZES}
    batchnorm = training_step("BatchNorm2d")
    measured = {d: ratios(step, {"BatchNorm2d": batchnorm}, rounds=15)["BatchNorm2d"] for d, step in steps.items()}
    print(json.dumps(measured))


def main() -> None:
    """Measure, report, and assert the claims."""
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for setting, environment in SETTINGS.items():
        for d, figures in time_in_processes(environment).items():
            measured[f"ResNet-18 step, time, {setting}, {d}"] = {"BatchNorm2d": figures}
    for what in STEPS:
        rival = peak_memory(STEPS[what]("BatchNorm2d"))
        for d in GROUP_SIZES:
            ours = peak_memory(STEPS[what](str(d)))
            figures = {"ratio": ours / rival, "ours_mebibytes": ours, "rival_mebibytes": rival}
            measured[f"{what} step, peak memory, d = {d}"] = {"BatchNorm2d": figures}
    report("training_step", measured)
    for case, rivals in measured.items():
        ratio = rivals["BatchNorm2d"]["ratio"]
        claim(f"{case}: at most BatchNorm's plus 5%: {ratio:.3f}", ratio <= 1.05)


if __name__ == "__main__":
    time_here() if sys.argv[1:] == ["one-process"] else main()
