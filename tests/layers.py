"""The layers that must keep BatchNorm's contract, BatchNorm itself among them, and data for them."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import eigengrad as eg

C = 6
SHAPES = [(12, C), (12, C, 5), (8, C, 4, 3), (4, C, 3, 2, 2)]
IMAGES = (8, C, 4, 3)
Make = Callable[..., nn.Module]


def batch_norm(dimensions: int = 4, **options: object) -> nn.Module:
    if "bias" in options and "bias" not in inspect.signature(nn.BatchNorm2d).parameters:
        pytest.skip(f"BatchNorm has no argument bias in torch {torch.__version__}")
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dimensions]
    return kind(C, **{"eps": 1e-4} | options)  # type: ignore[arg-type]


def whitening_with_one_left(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=5, **options)  # type: ignore[arg-type]


def whitening(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=4, **options)  # type: ignore[arg-type]


def paper_whitening(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=4, gradient=eg.PowerIteration(), solver="svd", **options)  # type: ignore[arg-type]


def denoising(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.PCADenoising(C, rank=4, **options)  # type: ignore[arg-type]


def denoising_by_energy(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.PCADenoising(C, energy=0.8, errors="skip", **options)  # type: ignore[arg-type]


every_layer = pytest.mark.parametrize(
    "make", [batch_norm, whitening, whitening_with_one_left, paper_whitening, denoising, denoising_by_energy]
)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Correlated channels with a mean, and spectra without ties."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(shape[1]) + torch.randn(shape[1], shape[1], generator=torch.Generator().manual_seed(7)) / 2
    data = torch.randn(shape[0], *shape[2:], shape[1], generator=generator) @ mixing + 2.0
    return data.movedim(-1, 1).contiguous().to(dtype)


def trained(make: Make, dimensions: int = 4, **options: object) -> nn.Module:
    """With parameters and running estimates of its own."""
    layer = make(dimensions, **options)
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    for seed in (11, 12):
        layer(draw(*SHAPES[dimensions - 2], seed=seed, dtype=options.get("dtype", torch.float32)))  # type: ignore[arg-type]
    return layer


def buffers(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same_buffers(layer: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)
