"""The GPU's passes over data on a CPU (``emulation.py``), against double precision, in every dtype and layout."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulation import FakeDevice, fake_device, needs_compiler
from torch import Tensor

from eigengrad.gpu import passes
from eigengrad.native import reference
from eigengrad.testing import relative_error

pytestmark = needs_compiler

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDevice]:
    with fake_device(monkeypatch, tmp_path) as found:
        yield found


def images(d: int, dtype: torch.dtype, channels_last: bool, *, seed: int = 0, B: int = 3, M: int = 750) -> Tensor:
    """Data ``(B, 2, d, M)`` far from zero, as channel_groups lays it out: several chunks, of several tiles."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, 2, d, M, dtype=torch.float64, generator=generator)
    x = (x + 0.5 * x.flip(2) + 30.0 * (seed == 0)).to(dtype)
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) if channels_last else x


def maps(d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(d)
    working = torch.promote_types(dtype, torch.float32)
    T = torch.randn(2, d, d, dtype=torch.float64, generator=generator)
    centre, offset = torch.randn(2, 2, d, 1, dtype=torch.float64, generator=generator)
    return T.to(working), (centre + 30).to(working), offset.to(working)


def tolerance(dtype: torch.dtype) -> float:
    return 40 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps


by_case = pytest.mark.parametrize(
    ("d", "dtype", "channels_last"),
    [(d, torch.float32, last) for d in (1, 3, 4, 17, 64) for last in (False, True)]
    + [(10, dtype, last) for dtype in DTYPES for last in (False, True)],
)


@by_case
def test_moments(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data = images(d, dtype, channels_last, B=3, M=2000)
    mean, scatter = passes.moments(data)
    expected = reference.moments(data.double())
    assert mean.dtype == scatter.dtype == torch.promote_types(dtype, torch.float32)
    assert relative_error(mean, expected[0]) < tolerance(dtype)
    assert relative_error(scatter, expected[1]) < 4 * tolerance(dtype)
    device.cuda.seed = 3
    again = passes.moments(data)
    assert torch.equal(mean, again[0])
    assert torch.equal(scatter, again[1])
    assert [blocks for _, blocks, *_ in device.cuda.launches[:2]] == [22, 2]


@by_case
def test_affine(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data, (T, centre, offset) = images(d, dtype, channels_last), maps(d, dtype)
    for add in (False, True):
        y = images(d, dtype, not channels_last, seed=1)
        expected = y.double()
        reference.affine(expected, data.double(), T.double(), centre.double(), offset.double(), add)
        passes.affine(y, data, T, centre, offset, add)
        assert relative_error(y, expected) < tolerance(dtype) + torch.finfo(dtype).eps
    assert len(device.cuda.launches) == 2


@by_case
def test_affine_backward(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data, (T, centre, _) = images(d, dtype, channels_last), maps(d, dtype)
    g = images(d, dtype, channels_last, seed=1)
    for cotangent in (g, g[:1, :, :, :1].expand_as(g)):
        gx, exact = torch.empty_like(data), torch.empty_like(data, dtype=torch.float64)
        found = passes.affine_backward(gx, data, cotangent, T, centre)
        expected = reference.affine_backward(exact, data.double(), cotangent.double(), T.double(), centre.double())
        assert relative_error(gx, exact) < tolerance(dtype) + torch.finfo(dtype).eps
        for actual, right in zip(found, expected, strict=True):
            assert (actual - right).abs().max() < 10 * tolerance(dtype) * right.abs().max()
    device.cuda.seed = 3
    without = passes.affine_backward(None, data, cotangent, T, centre)
    assert all(torch.equal(a, b) for a, b in zip(found, without, strict=True))


def test_a_bad_group_stays_alone(device: FakeDevice) -> None:
    data = images(4, torch.float32, False)
    data[1, 1, 2, 70] = torch.nan
    mean, scatter = passes.moments(data)
    assert mean[1, 2].isnan()
    assert scatter[1, 2].isnan().all()
    assert mean[0].isfinite().all()
    assert scatter[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_to_the_nearest(dtype: torch.dtype, device: FakeDevice) -> None:
    """As torch rounds, over the whole range, infinity and NaN included."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    data = every.reshape(1, 1, 1, -1)
    y, zero, one = torch.empty_like(data), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    factor = 1 + 2.0**-9
    passes.affine(y, data, factor * one, zero, zero, False)
    expected = (data.float() * factor).to(dtype)
    assert torch.equal(y.nan_to_num(7.0, 8.0, 9.0), expected.nan_to_num(7.0, 8.0, 9.0))


def test_what_is_left_to_torch(device: FakeDevice) -> None:
    for data in (torch.zeros(2, 3, 65, 7), torch.zeros(0, 3, 4, 7), torch.zeros(2, 3, 4, 0)):
        mean, scatter = passes.moments(data)
        assert (mean.shape, scatter.shape) == ((3, data.shape[2], 1), (3, data.shape[2], data.shape[2]))
    assert not device.cuda.launches
    data, (T, centre, offset) = images(4, torch.float32, False), maps(4, torch.float32)
    with pytest.raises(RuntimeError, match=r"wants \(2, 4, 4\) of torch.float32"):
        passes.affine(data, data, T[:1], centre, offset, False)
    with pytest.raises(RuntimeError, match=r"got .* of torch\.float64"):
        passes.affine_backward(None, data, data, T, centre.double())
