"""What the whitening layer adds to a training step of ResNet-18, in time and in peak memory, over BatchNorm.

Memory is the peak of what the profiler sees allocated during a step, beyond what was there before.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import eigengrad as eg
from benchmarks.timing import claim, ratios, report
from eigengrad_lab.models import BasicBlock, ResNet

IMAGES = 32
GROUP_SIZES = (8, 64)


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
    """Mebibytes, by the profiler's record of allocations: the same in every run."""
    step()  # gradients and the optimiser's state stay allocated
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak / 2**20


def main() -> None:
    """Measure, report, and assert the claims."""
    measured: dict[str, dict[str, dict[str, float]]] = {}
    batchnorm = training_step("BatchNorm2d")
    for d in GROUP_SIZES:
        time = ratios(training_step(str(d)), {"BatchNorm2d": batchnorm}, rounds=7, warmup=1)
        measured[f"ResNet-18 step, time, d = {d}"] = time
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
    main()
