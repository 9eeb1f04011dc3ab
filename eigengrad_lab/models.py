"""The paper's networks: ResNets for small images whose first normalisation is the layer under test.

A 3x3 first convolution with 64 channels, the extra layer, ReLU, a 3x3 max-pool of stride 2, then He et al.'s stages.
All other normalisations are BatchNorm.

Source: Wang et al., NeurIPS 2019, section 4.1; He, Zhang, Ren, Sun, *Deep Residual Learning*, CVPR 2016.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

import eigengrad as eg
from eigengrad_lab.config import CHANNELS, RunConfig, UsageError, is_reference
from eigengrad_lab.paper_whitening import PaperWhitening
from eigengrad_lab.parts import called, load

__all__ = ["ResNet", "build", "extra_layer"]

Pair = tuple[eg.solvers.Name | eg.solvers.Solver, eg.gradients.GradientRule | eg.Unrolled | None]
"""A solver forward, a gradient backward; ``None`` for the closed form."""


MakeLayer = Callable[[int], nn.Module]
"""From a number of channels to the layer under test."""


def build(
    config: RunConfig,
    *,
    image_channels: int,
    classes: int,
    generator: torch.Generator,
    process_group: ProcessGroup | None = None,
) -> nn.Module:
    """The network of a configuration, initialised from torch's global generator.

    A network of the user's own is what their function makes of ``function(layer, inputs=..., classes=...)``; it calls
    ``layer(channels)`` wherever the layer under test should stand.

    ``generator`` (on the training device) feeds the random starts of the ``pi`` method. With a ``process_group``, the
    extra layer shares its moments.

    Raises:
        UsageError: if the function of a user's own network gives no module.
    """
    if is_reference(config.model):
        made: list[nn.Module] = []

        def make(channels: int) -> nn.Module:
            made.append(extra_layer(config, generator, process_group, channels))
            return made[-1]

        function = load(config.model, "--model")
        network = called(config.model, "--model", function, make, inputs=image_channels, classes=classes)
        if not isinstance(network, nn.Module):
            raise UsageError(f"--model {config.model}: it must return a torch.nn.Module, got {type(network).__name__}")
        if not any(layer is part for layer in made for part in network.modules()):
            raise UsageError(f"--model {config.model}: the network has no layer(channels), the one under test")
        return network
    extra = extra_layer(config, generator, process_group)
    match config.model:
        case "small":
            return ResNet(
                BasicBlock, widths=(32, 64), depths=(1, 1), extra=extra, inputs=image_channels, classes=classes
            )
        case "resnet18":
            return ResNet(BasicBlock, extra=extra, inputs=image_channels, classes=classes)
        case "resnet50":
            return ResNet(Bottleneck, depths=(3, 4, 6, 3), extra=extra, inputs=image_channels, classes=classes)
    raise UsageError(f"model must be small, resnet18, resnet50 or module:function, got {config.model!r}")


def extra_layer(
    config: RunConfig,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
    channels: int = CHANNELS,
) -> nn.Module:
    """The layer under test. One of the user's own is what their function makes of the channels and the settings
    given."""
    if config.layer is None:
        return nn.BatchNorm2d(channels)
    if is_reference(config.layer):
        sizes = {"group_size": config.group_size, "rank": config.rank, "energy": config.energy}
        given = {name: value for name, value in sizes.items() if value is not None}
        layer = called(config.layer, "--layer", load(config.layer, "--layer"), channels, **given)
        if not isinstance(layer, nn.Module):
            raise UsageError(f"--layer {config.layer}: it must return a torch.nn.Module, got {type(layer).__name__}")
        return layer
    for name in ("group_size", "rank"):
        size = getattr(config, name)
        if size is not None and size > channels:
            raise UsageError(
                f"--model {config.model}: its layer has {channels} channels, fewer than {name}, {size}; give a smaller "
                f"--{name.replace('_', '-')}"
            )
    solver, gradient = pair(config, generator)
    if config.layer == "zca":
        return PaperWhitening(
            channels,
            eps=config.eps,
            group_size=config.group_size,
            gradient=gradient,
            solver=solver,
            process_group=process_group,
        )
    return eg.nn.PCADenoising(
        channels,
        eps=config.eps,
        rank=config.rank,
        energy=config.energy,
        gradient=gradient,
        solver=solver,
        process_group=process_group,
    )


def pair(config: RunConfig, generator: torch.Generator | None = None) -> Pair:
    """The solver forward and the gradient backward of a method; a row of the user's own has SVD forward, as the
    paper."""
    pairs: dict[str, Pair] = {
        "qr": ("qr", eg.Exact()),
        "pi": (eg.solvers.PowerIteration(config.iterations, generator), eg.Unrolled()),
        "ours": ("svd", eg.PowerIteration(config.iterations)),
        "closed-form": ("auto", None),
    }
    solver, gradient = pairs.get(config.method, ("svd", eg.Exact()))
    if config.gradient is not None:
        gradient = load(config.gradient, "--gradient")
        if not isinstance(gradient, eg.gradients.GradientRule | eg.Unrolled):
            raise UsageError(
                f"--gradient {config.gradient}: a rule has kernel(eigenvalues) and bound(smallest, largest); "
                f"{type(gradient).__name__} has not"
            )
        if isinstance(gradient, eg.gradients.GradientRule):
            weights = called(config.gradient, "--gradient", gradient.kernel, torch.arange(1.0, 4.0).expand(2, 3))
            if not isinstance(weights, Tensor) or weights.shape != (2, 3, 3):
                got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
                raise UsageError(
                    f"--gradient {config.gradient}: kernel must return a matrix (*, n, n) for eigenvalues (*, n), got "
                    f"{got} for (2, 3)"
                )
    if config.solver is not None:
        solver = load(config.solver, "--solver") if is_reference(config.solver) else config.solver  # type: ignore[assignment]
        try:
            eg.solvers.resolve(solver)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--solver {config.solver}: {error}") from error
    return solver, gradient


class ResNet(nn.Module):
    """A residual network for images of 8x8 pixels or more; by default the stages of ResNet-18."""

    def __init__(
        self,
        block: type["BasicBlock | Bottleneck"],
        *,
        extra: nn.Module,
        inputs: int,
        classes: int,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(inputs, CHANNELS, 3), extra, nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        )
        stages, width_in = [], CHANNELS
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for position in range(depth):
                stages.append(block(width_in, width, stride=2 if index and not position else 1))
                width_in = width * block.expansion
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, inputs, height, width)``."""
        return self.head(self.stages(self.stem(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalised(inputs, width, 3, stride=stride), nn.ReLU(inplace=True), *normalised(width, width, 3)
        )
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, inputs, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, four times as wide at the end."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.body = nn.Sequential(
            *normalised(inputs, width, 1),
            nn.ReLU(inplace=True),
            *normalised(width, width, 3, stride=stride),
            nn.ReLU(inplace=True),
            *normalised(width, outputs, 1),
        )
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, inputs, H, W)`` to ``(N, 4 width, H / stride, W / stride)``."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, initialised for ReLU (He et al., ICCV 2015)."""
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def normalised(inputs: int, outputs: int, size: int, *, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return convolution(inputs, outputs, size, stride=stride), nn.BatchNorm2d(outputs)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, a 1x1 convolution elsewhere."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*normalised(inputs, outputs, 1, stride=stride))
