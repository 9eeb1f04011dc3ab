"""The GPU's passes over data on a CPU (``emulation.py``), against double precision, in every dtype and layout."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulation import FakeDevice, fake_device, needs_compiler
from torch import Tensor

from eigengrad.gpu import passes
from eigengrad.native import passes as reference
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


AUTO = (-1.0, 1e-3, 0.1)


@by_case
def test_moments(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data = images(d, dtype, channels_last, B=3, M=2000)
    found = passes.moments(data, *AUTO)
    expected = reference.moments(data.double(), *AUTO)
    for actual, right in zip(found[:-1], expected[:-1], strict=True):
        assert actual.dtype == torch.promote_types(dtype, torch.float32)
        assert relative_error(actual, right) < 4 * tolerance(dtype)
    assert found[-1].all()
    device.cuda.seed = 3
    assert all(map(torch.equal, found, passes.moments(data, *AUTO)))
    assert [blocks for _, blocks, *_ in device.cuda.launches[:2]] == [22, 2]


@by_case
@pytest.mark.parametrize("given", ["mean", "covariance", "A", "all"])
def test_moments_backward(d: int, dtype: torch.dtype, channels_last: bool, given: str, device: FakeDevice) -> None:
    data = images(d, dtype, channels_last)
    mean, covariance, *_ = passes.moments(data, *AUTO)
    gA, g_mean, gC = maps(d, dtype)[0], maps(d, dtype)[2], maps(d, dtype)[0].flip(0)
    cotangents = tuple(
        g if given in (name, "all") else None for g, name in ((g_mean, "mean"), (gC, "covariance"), (gA, "A"))
    )
    gx = images(d, dtype, channels_last, seed=1)
    exact, again = gx.double().clone(), gx.clone()
    wide = [None if x is None else x.double() for x in (mean, covariance, *cotangents)]
    reference.moments_backward(exact, data.double(), *wide, -1.0, 0.1)
    passes.moments_backward(gx, data, mean, covariance, *cotangents, -1.0, 0.1)
    assert relative_error(gx, exact) < 10 * tolerance(dtype) + torch.finfo(dtype).eps
    device.cuda.seed = 3
    passes.moments_backward(again, data, mean, covariance, *cotangents, -1.0, 0.1)
    assert torch.equal(gx, again)


@by_case
def test_affine(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data, (T, centre, offset) = images(d, dtype, channels_last), maps(d, dtype)
    for scale, shift in ((None, None), (offset, offset.flip(1))):
        y = images(d, dtype, not channels_last, seed=1)
        expected = y.double()
        wide = [None if x is None else x.double() for x in (T, centre, scale, shift)]
        reference.affine(expected, data.double(), *wide)
        passes.affine(y, data, T, centre, scale, shift)
        assert relative_error(y, expected) < tolerance(dtype) + torch.finfo(dtype).eps
    assert len(device.cuda.launches) == 2


@by_case
def test_affine_backward(d: int, dtype: torch.dtype, channels_last: bool, device: FakeDevice) -> None:
    data, (T, centre, scale) = images(d, dtype, channels_last), maps(d, dtype)
    g = images(d, dtype, channels_last, seed=1)
    for cotangent, own in ((g, None), (g[:1, :, :, :1].expand_as(g), scale)):
        gx, exact = torch.empty_like(data), torch.empty_like(data, dtype=torch.float64)
        found = passes.affine_backward(gx, data, cotangent, T, centre, own)
        wide = [None if x is None else x.double() for x in (data, cotangent, T, centre, own)]
        expected = reference.affine_backward(exact, *wide)
        assert relative_error(gx, exact) < tolerance(dtype) + torch.finfo(dtype).eps
        for actual, right in zip(found, expected, strict=True):
            assert (actual - right).abs().max() < 10 * tolerance(dtype) * right.abs().max()
    device.cuda.seed = 3
    without = passes.affine_backward(None, data, cotangent, T, centre, scale)
    assert all(map(torch.equal, found, without))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("together", [False, True])
def test_running_estimates(together: bool, dtype: torch.dtype, device: FakeDevice) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, covariance = (torch.randn(3, 5, width, dtype=dtype, generator=generator) for width in (1, 5))
    flags = torch.tensor([True, True, False, True])
    cases = [
        (None, 0, 0.25, None),
        (flags, 1, 0.25, None),
        (flags[:2].repeat(2), 1, 0.0, torch.tensor(4)),
        (~torch.ones(3, dtype=torch.bool), 0, 0.25, None),
    ]
    for valid, first, momentum, before in cases:
        results = []
        for update in (passes.update, reference.update):
            running = [torch.ones(18, dtype=dtype), torch.ones(18, 6, dtype=dtype), torch.tensor(4)]
            views = running[0][3:], running[1][3:, :5], running[2]
            update(*views, before, mean, covariance, valid, first, momentum, together)
            results.append(running)
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected)
    assert len(device.cuda.launches) == len(cases)


def test_a_bad_group_stays_alone(device: FakeDevice) -> None:
    data = images(4, torch.float32, False)
    data[1, 1, 2, 70] = torch.nan
    mean, covariance, shrunk, A, finite = passes.moments(data, *AUTO)
    assert finite.tolist() == [True, False]
    assert mean[1].isnan().all()
    assert torch.equal(A[1], torch.eye(4))
    for good in (mean, covariance, shrunk, A):
        assert good[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_to_the_nearest(dtype: torch.dtype, device: FakeDevice) -> None:
    """As torch rounds, over the whole range, infinity and NaN included."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    data = every.reshape(1, 1, 1, -1)
    y, zero, one = torch.empty_like(data), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    factor = 1 + 2.0**-9
    passes.affine(y, data, factor * one, zero, None, None)
    expected = (data.float() * factor).to(dtype)
    assert torch.equal(y.nan_to_num(7.0, 8.0, 9.0), expected.nan_to_num(7.0, 8.0, 9.0))


def test_what_is_left_to_torch(device: FakeDevice) -> None:
    for data in (torch.zeros(2, 3, 65, 7), torch.zeros(0, 3, 4, 7), torch.zeros(2, 3, 4, 0)):
        mean, covariance, *_ = passes.moments(data, *AUTO)
        assert (mean.shape, covariance.shape) == ((3, data.shape[2], 1), (3, data.shape[2], data.shape[2]))
    assert not device.cuda.launches
    data, (T, centre, offset) = images(4, torch.float32, False), maps(4, torch.float32)
    with pytest.raises(RuntimeError, match=r"wants \(2, 4, 4\) of torch.float32"):
        passes.affine(data, data, T[:1], centre, None, offset)
    with pytest.raises(RuntimeError, match=r"got .* of torch\.float64"):
        passes.affine_backward(None, data, data, T, centre.double(), None)
