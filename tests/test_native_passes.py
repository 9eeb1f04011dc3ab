"""The operators that pass over data, against the formulas in double precision, for every instruction set."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import eigengrad as eg
from eigengrad import native
from eigengrad.conditioning import Conditioning
from eigengrad.native import operators
from eigengrad.native import passes as reference
from eigengrad.nn.functional import moments as passes

with_kernel = pytest.mark.skipif(not native.available(), reason="a property of the compiled kernel")

SHAPES = [
    (4, 1, 64, 1024),
    (3, 8, 8, 49),
    (2, 1, 5, 9),
    (7, 3, 4, 5),
    (1, 2, 3, 10_100),  # an image of three segments
    (40, 4, 16, 64),
    (5, 10, 1, 16),
    (3, 2, 35, 81),
    (2, 1, 200, 33),
]


def make(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, extra: int = 0) -> Tensor:
    """Data away from zero; with ``extra``, a slice of images that have more groups."""
    B, G, d, M = shape
    return (torch.randn(B, G + extra, d, M, dtype=torch.float64, generator=generator) + 3).to(dtype)[:, :G]


def close(actual: Tensor, expected: Tensor) -> None:
    error = torch.linalg.vector_norm(actual.double() - expected) / torch.linalg.vector_norm(expected)
    assert error < 20 * torch.finfo(actual.dtype).eps


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extra", [0, 1])
def test_against_the_formulas(
    shape: tuple[int, ...], dtype: torch.dtype, extra: int, generator: torch.Generator
) -> None:
    B, G, d, M = shape
    x, g = make(shape, dtype, generator, extra), make(shape, dtype, generator)
    T, centre, offset, scale = (make((1, G, d, k), dtype, generator)[0] for k in (d, 1, 1, 1))
    wide, wide_g, wide_T, wide_centre, wide_offset, wide_scale = (
        tensor.double() for tensor in (x, g, T, centre, offset, scale)
    )

    mean, covariance, shrunk, conditioned, finite = operators.moments(x, 0.0, 0.25, 0.0)
    expected = wide.mean(dim=(0, 3)).unsqueeze(-1)
    centred = wide - expected
    exact = (centred @ centred.mT).sum(dim=0) / (B * M)
    close(mean, expected)
    close(covariance, exact)
    assert torch.equal(shrunk, covariance)
    close(conditioned, exact + 0.25 * torch.eye(d))
    assert finite.all()

    y = x.new_empty(B, G, d, M)
    operators.affine(y, x, T, centre, scale, offset)
    close(y, wide_scale * (wide_T @ (wide - wide_centre)) + wide_offset)
    operators.affine(y, x, T, centre, None, None)
    close(y, wide_T @ (wide - wide_centre))

    total, C = g.clone(), covariance.clone()
    operators.moments_backward(total, x, centre, C, offset, T, None, 0.0, 0.0)
    close(total, wide_g + ((wide_T + wide_T.mT) @ (wide - wide_centre) + wide_offset) / (B * M))

    gx = torch.empty_like(g)
    gT, g_centre, g_scale, g_offset = operators.affine_backward(gx, x, g, T, centre, scale)
    product, sums = (wide_g @ (wide - wide_centre).mT).sum(dim=0), wide_g.sum(dim=(0, 3)).unsqueeze(-1)
    rows = wide_scale * wide_T
    close(gx, rows.mT @ wide_g)
    close(gT, wide_scale * product)
    close(g_centre, -rows.mT @ sums)
    close(g_scale, (wide_T * product).sum(dim=-1, keepdim=True))
    close(g_offset, sums)
    without = operators.affine_backward(None, x, g, T, centre, scale)
    assert torch.equal(without[0], gT)


def spectra(d: int, dtype: torch.dtype) -> Tensor:
    """Covariances of every kind: random, of few observations, at ends of the range, diagonal, singular, zero, bad."""
    X = torch.randn(9, d, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    C = X @ X.mT / 12
    C[1] *= 1e-30
    C[2] *= 1e25
    C[3] = torch.diag_embed(torch.arange(1.0, d + 1.0))
    C[4] = X[4, :, :1] @ X[4, :, :1].mT
    C[5] = 0
    C[6, 0, 0] = torch.nan
    C[7, -1, 0] = C[7, 0, -1] = torch.inf
    C[8, 0], C[8, :, 0] = 1e-12 * C[8, 0], 1e-12 * C[8, :, 0]  # a channel that is almost dead
    return C.to(dtype)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("by", [(-1.0, 1e-4, 0.1), (0.3, 1e-4, 0.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 1.0)])
@pytest.mark.parametrize("d", [1, 2, 3, 17, 64])
def test_conditioning(d: int, by: tuple[float, float, float]) -> None:
    """What the operators make of a covariance, and its cotangent, is what autograd finds in double precision."""
    signs = torch.ones(1, 9, d, 2, dtype=torch.float64)
    signs[..., 1] = -1
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        for C in spectra(d, dtype).split(1):
            # Data with this covariance, by its root: the operator is asked about data.
            exact = C.double()
            if exact.isfinite().all():
                L, V = torch.linalg.eigh(exact)
                data = (V * (L.clamp_min(0) * d).sqrt().unsqueeze(-2)).to(dtype)
                data = torch.cat([data, -data], dim=-1).unsqueeze(0)
            else:
                data = C.unsqueeze(0).clone()
            mean, found, shrunk, conditioned, finite = operators.moments(data, *by)
            m = data.shape[-1]
            wide = found.double().requires_grad_()
            expected = Conditioning(*by).apply(mean.double(), wide, m)
            assert finite.tolist() == expected.finite.tolist() == [bool(found.isfinite().all())]
            assert mean.isnan().all() == (not finite.all())
            if not finite.all():
                assert torch.equal(conditioned, torch.eye(d, dtype=dtype).unsqueeze(0))
                continue
            scale = exact.abs().max() + by[1]
            assert (shrunk - expected.shrunk).abs().max() <= tolerance * scale
            assert (conditioned - expected.A).abs().max() <= tolerance * scale
            gA = torch.randn(1, d, d, dtype=dtype, generator=torch.Generator().manual_seed(1))
            (gC,) = torch.autograd.grad(expected.A, wide, gA.double())
            total = torch.zeros_like(data)
            operators.moments_backward(total, data, mean, found, None, None, gA, by[0], by[2])
            right = (gC + gC.mT) / m @ (data.double() - mean.double())
            assert (total - right).abs().max() <= tolerance * right.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_running_estimates(dtype: torch.dtype, generator: torch.Generator) -> None:
    """The kernel's, against the formula: slices of wider estimates, groups that may not, averages of all batches."""
    mean, covariance = (torch.randn(3, 2, width, dtype=dtype, generator=generator) for width in (1, 2))
    flags = torch.tensor([True, True, False, True])
    for valid, first in ((None, 0), (flags[:3], 0), (flags, 1), (torch.ones(3, dtype=torch.bool), 0)):
        for together in (False, True):
            for momentum, before in ((0.25, None), (0.0, torch.tensor(4))):
                results = []
                for update in (operators.update, reference.update):
                    running = [torch.ones(8, dtype=dtype), torch.ones(8, 3, dtype=dtype), torch.tensor(4)]
                    views = running[0][2:], running[1][2:, :2], running[2]
                    update(*views, before, mean, covariance, valid, first, momentum, together)
                    results.append(running)
                for actual, expected in zip(*results, strict=True):
                    torch.testing.assert_close(actual, expected)
                assert results[0][2] == (4 if together and valid is not None and not valid.all() else 5)


def test_threads_change_no_bit(generator: torch.Generator) -> None:
    x = make((40, 2, 16, 100), torch.float32, generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(operators.moments(x, -1.0, 1e-4, 0.1))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


def test_one_bad_group(generator: torch.Generator) -> None:
    """NaN and infinity stay in their group."""
    x = make((3, 3, 4, 50), torch.float32, generator)
    clean = operators.moments(x, -1.0, 1e-4, 0.1)
    x[1, 1, 2, 7] = torch.nan
    x[2, 1, 0, 3] = torch.inf
    found = operators.moments(x, -1.0, 1e-4, 0.1)
    for group in (0, 2):
        assert all(torch.equal(a[group], b[group]) for a, b in zip(found, clean, strict=True))
    assert found[0][1].isnan().all()
    assert found[-1].tolist() == [True, False, True]


@with_kernel
def test_images_that_are_not_contiguous(generator: torch.Generator) -> None:
    """They are copied: the same bits as of contiguous ones, of what is read, and of what is written."""
    x, g = (make((4, 2, 8, 16), torch.float32, generator) for _ in range(2))
    T, centre = (torch.randn(2, 8, width, generator=generator) for width in (8, 1))
    results = []
    for spread in (lambda x: x.clone(), lambda x: x.mT.contiguous().mT, lambda x: torch.cat([x, x], 1)[:, :2]):
        y, gx = spread(g), spread(g)
        operators.affine(y, spread(x), T, centre, centre, centre)
        sums = operators.affine_backward(gx, spread(x), spread(g), T, centre, centre)
        moments = operators.moments(spread(x), -1.0, 1e-4, 0.1)
        operators.moments_backward(gx, spread(x), *moments[:2], centre, None, T, -1.0, 0.1)
        results.append([*moments, y, *sums, gx])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


class Recorded(TorchDispatchMode):
    """The names of the operators that run, but for those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if not operator.is_view and not operator._opname.startswith(("empty", "new_empty", "_unsafe_view")):
            self.names.append(operator._opname)
        return operator(*arguments, **(options or {}))


@with_kernel
@pytest.mark.parametrize("d", [8, 64])
def test_a_layer_uses_them(d: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's step is seven operators of ours, and the host's look at what is finite: nothing of torch's beside them.
    The figures are those by torch's products."""
    x = torch.randn(8, 64, 10, 10, generator=generator, requires_grad=True)
    cotangent = torch.randn(x.shape, generator=generator)

    def step(layer: eg.nn.ZCAWhitening) -> list[Tensor]:
        y = layer(x)
        return [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent), *layer.buffers()]

    layer, other = (eg.nn.ZCAWhitening(64, group_size=d) for _ in range(2))
    with Recorded() as recorded:
        ours = step(layer)
    forward, backward = recorded.names[:6], recorded.names[6:]
    assert forward == ["moments", "all", "_local_scalar_dense", "root", "affine", "update"]
    assert backward == ["affine_backward", "pull_back", "moments_backward"]
    monkeypatch.setattr(passes, "MOST_CHANNELS", 0)
    for actual, expected in zip(ours, step(other), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
