"""The operators that pass over data, against the formulas in double precision, for every instruction set."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import eigengrad as eg
from eigengrad import native
from eigengrad.native import operators
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
    T, centre, offset = (make((1, G, d, k), dtype, generator)[0] for k in (d, 1, 1))
    wide, wide_g, wide_T, wide_centre, wide_offset = (tensor.double() for tensor in (x, g, T, centre, offset))

    mean, scatter = operators.moments(x)
    expected = wide.mean(dim=(0, 3)).unsqueeze(-1)
    centred = wide - expected
    close(mean, expected)
    close(scatter, (centred @ centred.mT).sum(dim=0))

    y = x.new_empty(B, G, d, M)
    operators.affine(y, x, T, centre, offset, False)
    close(y, wide_T @ (wide - wide_centre) + wide_offset)
    total = g.clone()
    operators.affine(total, x, T, centre, offset, True)
    close(total, wide_g + wide_T @ (wide - wide_centre) + wide_offset)

    gx = torch.empty_like(g)
    gT, g_offset = operators.affine_backward(gx, x, g, T, centre)
    close(gx, wide_T.mT @ wide_g)
    close(gT, (wide_g @ (wide - wide_centre).mT).sum(dim=0))
    close(g_offset, wide_g.sum(dim=(0, 3)).unsqueeze(-1))
    without = operators.affine_backward(None, x, g, T, centre)
    assert torch.equal(without[0], gT)


def test_threads_change_no_bit(generator: torch.Generator) -> None:
    x = make((40, 2, 16, 100), torch.float32, generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(operators.moments(x))
    torch.set_num_threads(1)
    for mean, scatter in results[1:]:
        assert torch.equal(mean, results[0][0])
        assert torch.equal(scatter, results[0][1])


def test_one_bad_group(generator: torch.Generator) -> None:
    """NaN and infinity stay in their group."""
    x = make((3, 3, 4, 50), torch.float32, generator)
    clean = operators.moments(x)
    x[1, 1, 2, 7] = torch.nan
    x[2, 1, 0, 3] = torch.inf
    mean, scatter = operators.moments(x)
    for group in (0, 2):
        assert torch.equal(mean[group], clean[0][group])
        assert torch.equal(scatter[group], clean[1][group])
    assert mean[1, 2].isnan().all()


@with_kernel
def test_images_that_are_not_contiguous(generator: torch.Generator) -> None:
    """They are copied: the same bits as of contiguous ones, of what is read, and of what is written."""
    x, g = (make((4, 2, 8, 16), torch.float32, generator) for _ in range(2))
    T, centre = (torch.randn(2, 8, width, generator=generator) for width in (8, 1))
    results = []
    for spread in (lambda x: x.clone(), lambda x: x.mT.contiguous().mT, lambda x: torch.cat([x, x], 1)[:, :2]):
        y, gx = spread(g), spread(g)
        operators.affine(y, spread(x), T, centre, centre, True)
        results.append(
            [*operators.moments(spread(x)), y, *operators.affine_backward(gx, spread(x), spread(g), T, centre), gx]
        )
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


class Recorded(TorchDispatchMode):
    """The names of this package's operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if operator.namespace == "eigengrad":
            self.names.append(operator._opname)
        return operator(*arguments, **(options or {}))


@with_kernel
@pytest.mark.parametrize("d", [8, 64])
def test_a_layer_uses_them(d: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of a layer: two passes each way, and the same figures as by torch's products."""
    x = torch.randn(8, 64, 10, 10, generator=generator, requires_grad=True)
    cotangent = torch.randn(x.shape, generator=generator)

    def step() -> tuple[Tensor, Tensor]:
        y = eg.nn.ZCAWhitening(64, group_size=d)(x)
        return y, torch.autograd.grad(y, x, cotangent)[0]

    with Recorded() as recorded:
        ours = step()
    passed = ("moments", "affine", "affine_backward")
    assert [name for name in recorded.names if name in passed] == ["moments", "affine", "affine_backward", "affine"]
    monkeypatch.setattr(passes, "MOST_CHANNELS", 0)
    for actual, expected in zip(ours, step(), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
