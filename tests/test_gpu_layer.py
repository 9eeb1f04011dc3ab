"""A training step of a layer on the GPU's kernels, which a CPU emulates: its results, its launches, and no wait."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from emulation import FakeDevice, fake_device, needs_compiler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import eigengrad as eg
from eigengrad import native
from eigengrad.gpu import operators, passes
from eigengrad.nn.functional import finite_check, moments
from eigengrad.testing import relative_error

pytestmark = needs_compiler

LAUNCHES = (
    *("moments_of_chunks", "moments_of_groups", "decompose", "affine_of_chunks", "update_of_groups"),
    *("affine_backward_of_chunks", "affine_backward_of_groups", "pull_back", "moments_backward_of_chunks"),
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


class Torch(TorchDispatchMode):
    """Operators of torch's that launch something on a device: all that are not about memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if not operator.is_view and not operator._opname.startswith(("empty", "new_empty", "_unsafe_view", "promote")):
            self.names.append(operator._opname)
        return operator(*arguments, **(options or {}))


@pytest.mark.parametrize("d", [4, 12])
@pytest.mark.parametrize("channels", [24, 28])
def test_launches(channels: int, d: int, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with the exact gradient is nine launches, and the copy of an answer; nothing of torch's beside them.

    A last smaller group is one step more, and what puts the two together.
    """
    monkeypatch.setattr(finite_check, "_in_background", lambda tensor: True)
    monkeypatch.setattr(finite_check, "_Answer", Arrived)
    layer = eg.nn.ZCAWhitening(channels, group_size=d)
    x = torch.randn(6, channels, 7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with Torch() as torchs:
        y = layer(x)
        torch.autograd.grad(y, [x, *layer.parameters()], g)
    names = [name.split("_by")[0].split("<")[0] for name, *_ in device.cuda.launches]
    if channels % d == 0:
        assert tuple(names) == LAUNCHES
        assert torchs.names == ["all", "_local_scalar_dense"]  # the answer, on the host
    else:
        assert sorted(names) == sorted(2 * LAUNCHES)
        assert len(torchs.names) < 30


class Arrived:
    """An answer that is there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._here = tensor

    def read(self) -> Tensor:
        return self._here


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_a_bad_batch(errors: str, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answer is on its way, the bad group is NaN and no estimate moves; skipped, it is left as it is."""
    monkeypatch.setattr(finite_check, "_is_captured", lambda tensor: True)
    layer = eg.nn.ZCAWhitening(8, group_size=4, errors=errors)
    before = [buffer.clone() for buffer in layer.buffers()]
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x[7, 5] = torch.inf
    y = layer(x)
    assert y[:, :4].isfinite().all()
    for buffer, old in zip(layer.buffers(), before, strict=True):
        if errors == "raise":
            assert torch.equal(buffer, old)
        else:
            assert not torch.equal(buffer, old)
            assert buffer.dim() == 0 or torch.equal(buffer[4:], old[4:])
    if errors == "raise":
        assert y[:, 4:].isnan().all()
    else:
        others = torch.arange(50) != 7
        torch.testing.assert_close(y[others, 4:], x[others, 4:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("gradient", [None, eg.PowerIteration(19), eg.Lorentzian()], ids=repr)
@pytest.mark.parametrize("d", [4, 12])
def test_whitening(
    d: int, gradient: eg.gradients.GradientRule | None, memory_format: torch.memory_format, device: FakeDevice
) -> None:
    """Nine launches, whatever the gradient: each of four passes reads the data once."""
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
