"""A training step of a layer on the GPU's kernels, which a CPU emulates: its results, its launches, and no wait."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulation import FakeDevice, fake_device, needs_compiler
from torch import Tensor

import eigengrad as eg
from eigengrad import native
from eigengrad.gpu import operators, passes
from eigengrad.nn.functional import moments
from eigengrad.testing import relative_error

pytestmark = needs_compiler

LAUNCHES = (
    *("moments_of_chunks", "moments_of_groups", "decompose", "affine_of_chunks"),
    *("affine_backward_of_chunks", "sums_of_groups", "pull_back", "affine_of_chunks"),
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDevice]:
    """The CUDA implementations under the names of the operators."""
    with fake_device(monkeypatch, tmp_path) as found:
        for name, implementation in (operators.IMPLEMENTATIONS | passes.IMPLEMENTATIONS).items():
            monkeypatch.setattr(native.operators, name, implementation)
        monkeypatch.setattr(moments, "_in_one_pass", passes.takes)
        yield found


def step(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return [y, *torch.autograd.grad((weights * y.tanh()).sum(), [x, *layer.parameters()]), *layer.buffers()]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("gradient", [None, eg.PowerIteration(19), eg.Lorentzian()], ids=repr)
@pytest.mark.parametrize("d", [4, 12])
def test_whitening(
    d: int, gradient: eg.gradients.GradientRule | None, memory_format: torch.memory_format, device: FakeDevice
) -> None:
    """Eight launches, whatever the gradient: each of four passes reads the data once."""
    x = torch.randn(6, 24, 7, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
    results = []
    for dtype in (torch.float32, torch.float64):
        layer = eg.nn.ZCAWhitening(24, group_size=d, gradient=gradient, affine=True, dtype=dtype)
        results.append(step(layer, x.to(dtype)))
        names = [name.split("_by")[0].split("<")[0] for name, *_ in device.cuda.launches]
        assert tuple(names) == LAUNCHES
        device.cuda.launches.clear()
    for single, double in zip(*results, strict=True):
        assert relative_error(single, double) < 1e-4
    assert results[0][0].is_contiguous(memory_format=memory_format)
    expected = step(
        eg.nn.ZCAWhitening(24, group_size=d, gradient=gradient, dtype=torch.float64, solver="eigh"), x.double()
    )
    for actual, right in zip(results[1], expected, strict=True):
        assert relative_error(actual, right) < 1e-9


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision(half: torch.dtype, device: FakeDevice) -> None:
    """Data of half precision goes straight through the passes; moments and matrices stay in float32."""
    x = torch.randn(6, 24, 7, 5, generator=torch.Generator().manual_seed(0))
    found = step(eg.nn.ZCAWhitening(24, group_size=8), x.to(half))
    assert found[0].dtype == half
    assert len(device.cuda.launches) == len(LAUNCHES)
    expected = step(eg.nn.ZCAWhitening(24, group_size=8), x.to(half).float())
    for actual, right in zip(found, expected, strict=True):
        assert relative_error(actual, right) < 8 * torch.finfo(half).eps


def test_denoising(device: FakeDevice) -> None:
    x = torch.randn(6, 24, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = step(eg.nn.PCADenoising(24, rank=5, dtype=torch.float64), x)
    assert device.cuda.launches
    expected = step(eg.nn.PCADenoising(24, rank=5, dtype=torch.float64, solver="eigh"), x)
    for actual, right in zip(found, expected, strict=True):
        assert relative_error(actual, right) < 1e-8
