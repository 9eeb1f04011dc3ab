"""The compiled passes over data, against the formulas in double precision, for every instruction set."""

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native
from eigengrad.native import passes

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernel was not built")

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
    T, centre, offset = (make((1, G, d, k), dtype, generator)[0] for k in (d, 1, 1))
    assert passes.possible(x, g)
    wide, wide_g, wide_T, wide_centre, wide_offset = (tensor.double() for tensor in (x, g, T, centre, offset))

    mean, scatter = passes.moments(x)
    expected = wide.mean(dim=(0, 3)).unsqueeze(-1)
    centred = wide - expected
    close(mean, expected)
    close(scatter, (centred @ centred.mT).sum(dim=0))

    y = x.new_empty(B, G, d, M)
    passes.affine(x, T, centre, offset, y)
    close(y, wide_T @ (wide - wide_centre) + wide_offset)
    total = g.clone()
    passes.affine(x, T, centre, offset, total, add=True)
    close(total, wide_g + wide_T @ (wide - wide_centre) + wide_offset)

    gx = torch.empty_like(g)
    gT, g_offset = passes.affine_backward(x, g, T, centre, gx)
    close(gx, wide_T.mT @ wide_g)
    close(gT, (wide_g @ (wide - wide_centre).mT).sum(dim=0))
    close(g_offset, wide_g.sum(dim=(0, 3)).unsqueeze(-1))
    without = passes.affine_backward(x, g, T, centre, None)
    assert torch.equal(without[0], gT)


def test_threads_change_no_bit(generator: torch.Generator) -> None:
    x = make((40, 2, 16, 100), torch.float32, generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(passes.moments(x))
    torch.set_num_threads(1)
    for mean, scatter in results[1:]:
        assert torch.equal(mean, results[0][0])
        assert torch.equal(scatter, results[0][1])


def test_one_bad_group(generator: torch.Generator) -> None:
    """NaN and infinity stay in their group."""
    x = make((3, 3, 4, 50), torch.float32, generator)
    clean = passes.moments(x)
    x[1, 1, 2, 7] = torch.nan
    x[2, 1, 0, 3] = torch.inf
    mean, scatter = passes.moments(x)
    for group in (0, 2):
        assert torch.equal(mean[group], clean[0][group])
        assert torch.equal(scatter[group], clean[1][group])
    assert mean[1, 2].isnan().all()


def test_what_goes_elsewhere(generator: torch.Generator) -> None:
    """Channels last, half precision, a hidden batch and empty data are torch's."""
    x = make((4, 2, 8, 16), torch.float32, generator)
    assert passes.possible(x)
    assert not passes.possible(x.mT.contiguous().mT)
    assert not passes.possible(x.half())
    assert not passes.possible(x[:0])
    assert not passes.possible(x, x.to("meta"))
    seen = []
    torch.func.vmap(lambda part: (seen.append(passes.possible(part)), part)[1])(x.unsqueeze(0))
    assert seen == [False]


@pytest.mark.parametrize("d", [8, 64])
def test_a_layer_uses_them(d: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of a layer: two passes each way, and the same figures as by torch's products."""
    x = torch.randn(8, 64, 10, 10, generator=generator, requires_grad=True)
    cotangent = torch.randn(x.shape, generator=generator)
    calls: list[str] = []
    run = native.run

    def spy(name: str, *arguments: object) -> None:
        calls.append(name)
        run(name, *arguments)  # type: ignore[arg-type]

    def step() -> tuple[Tensor, Tensor]:
        y = eg.nn.ZCAWhitening(64, group_size=d)(x)
        return y, torch.autograd.grad(y, x, cotangent)[0]

    with monkeypatch.context() as patched:
        patched.setattr(native, "run", spy)
        ours = step()
    assert [name for name in calls if name in ("moments", "affine", "affine_backward")] == [
        "moments",
        "affine",
        "affine_backward",
        "affine",
    ]
    monkeypatch.setattr(passes, "possible", lambda *_: False)
    for actual, expected in zip(ours, step(), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
