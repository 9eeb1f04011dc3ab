"""What the whitening layer adds to a training step of ResNet-18, in time and in peak memory, over BatchNorm.

Memory is the growth of the process's peak resident size (Linux's VmHWM) during the steps, each network in a process of
its own.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import eigengrad as eg
from benchmarks.timing import claim, ratios, report
from eigengrad_lab.models import BasicBlock, ResNet

IMAGES = 32
GROUP_SIZES = (8, 64)


def extra(name: str) -> nn.Module:
    """The layer after the first convolution: ``"BatchNorm2d"``, or whitening with a group size for a name."""
    return nn.BatchNorm2d(64) if name == "BatchNorm2d" else eg.nn.ZCAWhitening(64, group_size=int(name))


def training_step(name: str) -> Callable[[], None]:
    """Forward, backward and the optimiser's step of ResNet-18 on random images."""
    torch.manual_seed(0)
    network = ResNet(BasicBlock, extra=extra(name), inputs=3, classes=10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def layer_step(name: str) -> Callable[[], None]:
    """Forward and backward of the layer alone on 128 images of 64 channels, 32x32."""
    layer, generator = extra(name), torch.Generator().manual_seed(0)
    x = torch.randn(128, 64, 32, 32, generator=generator, requires_grad=True)
    cotangent = torch.randn(x.shape, generator=generator)
    return lambda: layer(x).backward(cotangent)


STEPS = {"ResNet-18": training_step, "layer": layer_step}


def peak_growth(what: str, name: str) -> float:
    """Mebibytes by which the first three steps raise the peak resident size of a new process."""
    command = [sys.executable, __file__, what, name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_here(what: str, name: str) -> None:
    """What the new process does."""
    step = STEPS[what](name)
    extra(name)(torch.randn(4, 64, 8, 8)).sum().backward()  # the libraries' own workspace
    before = peak_resident_size()
    for _ in range(3):
        step()
    print(peak_resident_size() - before)


def peak_resident_size() -> float:
    """Of this process, in mebibytes. (``getrusage`` would count the parent's, from before the start of Python.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Measure, report, and assert the claims."""
    measured: dict[str, dict[str, dict[str, float]]] = {}
    batchnorm = training_step("BatchNorm2d")
    for d in GROUP_SIZES:
        time = ratios(training_step(str(d)), {"BatchNorm2d": batchnorm}, rounds=7, warmup=1)
        measured[f"ResNet-18 step, time, d = {d}"] = time
    for what in STEPS:
        rival = peak_growth(what, "BatchNorm2d")
        for d in GROUP_SIZES:
            ours = peak_growth(what, str(d))
            figures = {"ratio": ours / rival, "ours_mebibytes": ours, "rival_mebibytes": rival}
            measured[f"{what} step, peak memory, d = {d}"] = {"BatchNorm2d": figures}
    report("training_step", measured)
    for case, rivals in measured.items():
        ratio = rivals["BatchNorm2d"]["ratio"]
        if case.startswith("ResNet-18"):
            claim(f"{case}: at most BatchNorm's plus 5%: {ratio:.3f}", ratio <= 1.05)


if __name__ == "__main__":
    measure_here(*sys.argv[1:]) if len(sys.argv) == 3 else main()
