"""Second-order pooling: values, gradients at ties and null spaces, and the vector's geometry."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg

FUNCTIONS: dict[str | float, Callable[[Tensor], Tensor]] = {
    "sqrtm": torch.sqrt,
    "logm": torch.log,
    0.5: torch.sqrt,
    0.3: lambda L: L**0.3,
    -1.0: torch.reciprocal,
    1: lambda L: L,
}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor, function: str | float) -> Tensor:
    """Matrices, one after the other, by the eigenvectors of torch."""
    matrices = []
    for sample in x.flatten(2):
        L, V = torch.linalg.eigh(sample.cov(correction=0) + 1e-4 * torch.eye(len(sample), dtype=x.dtype))
        matrices.append((V * FUNCTIONS[function](L)) @ V.mT)
    return torch.stack(matrices)


def as_matrices(y: Tensor, n: int) -> Tensor:
    """The symmetric matrices behind the vectors."""
    row, column = torch.triu_indices(n, n)
    upper = torch.zeros(len(y), n, n, dtype=y.dtype)
    upper[:, row, column] = y / 2**0.5
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    return upper + upper.mT + torch.diag_embed(diagonal * (2**0.5 - 2))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 4, 30), (3, 4, 5, 6), (2, 1, 7), (2, 4, 3, 2, 3), (3, 4, 2)])
def test_values_and_gradients(shape: tuple[int, ...], function: str | float) -> None:
    """Fewer positions than channels included: there, eigenvalues tie at eps, and torch's gradient is no oracle."""
    x = draw(*shape).requires_grad_()
    y, expected = eg.pool_covariance(x, function), by_hand(x, function)
    assert y.shape == (shape[0], shape[1] * (shape[1] + 1) // 2)
    torch.testing.assert_close(as_matrices(y, shape[1]), expected, rtol=1e-9, atol=1e-9)
    gradient = torch.autograd.grad((y**3).sum(), x)[0]
    if shape != (3, 4, 2):
        scaled = expected * (2**0.5 + (1 - 2**0.5) * torch.eye(shape[1], dtype=x.dtype))
        reference = torch.autograd.grad((scaled.triu() ** 3).sum(), x)[0]
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()


def test_inner_products_are_kept() -> None:
    x = draw(5, 4, 20)
    y, matrices = eg.pool_covariance(x, "logm"), by_hand(x, "logm")
    torch.testing.assert_close(y @ y.mT, torch.einsum("aij,bij->ab", matrices, matrices))


@pytest.mark.parametrize("function", ["sqrtm", "logm", 0.3])
def test_gradcheck_at_ties(function: str | float) -> None:
    """A null space of dimension two, and uncorrelated channels of the same variance."""
    t = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    tied = torch.stack([t.sin(), t.cos(), (2 * t).sin(), (2 * t).cos()])
    few = draw(4, 8)
    few[:, 2:] = few[:, :1]
    x = torch.stack([tied, few]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: eg.pool_covariance(x, function, eps=0.1), x)
    assert torch.autograd.gradgradcheck(lambda x: eg.pool_covariance(x, function, eps=0.1), x)


@pytest.mark.parametrize("function", ["sqrtm", "logm", 0.3])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
def test_float32_at_any_scale(function: str | float, scale: float) -> None:
    """Rank one, whose other eigenvalues rounding would push below zero."""
    x = scale * (1 + draw(2, 1, 50, dtype=torch.float32).repeat(1, 8, 1))
    x.requires_grad_()
    y = eg.nn.CovariancePooling(function)(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    x = draw(3, 4, 30, dtype=torch.float32)
    expected = eg.pool_covariance(x.to(dtype).float())
    y = eg.pool_covariance(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.01, atol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(eg.pool_covariance(x), eg.pool_covariance(x), rtol=0, atol=0)


def test_transforms() -> None:
    x, layer = draw(6, 4, 5, 3), eg.nn.CovariancePooling("sqrtm")
    torch.testing.assert_close(torch.func.vmap(layer)(x.view(2, 3, 4, 5, 3)).flatten(0, 1), layer(x))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    assert layer(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("shape", [(3, 4, 30), (2, 16, 40), (2, 8, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_newton_schulz(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within a thousandth of the largest eigenvalue, null spaces included; gradients where there are none."""
    x = draw(*shape, dtype=dtype).requires_grad_()
    y, expected = eg.pool_covariance(x, solver="newton_schulz"), eg.pool_covariance(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    if shape[2] > shape[1]:
        actual, wanted = (torch.autograd.grad((out**3).sum(), x)[0] for out in (y, expected))
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


def test_export_without_a_decomposition() -> None:
    layer, x = eg.nn.CovariancePooling(solver="newton_schulz"), draw(3, 4, 5, 6, dtype=torch.float32)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    targets = [str(node.target) for node in program.graph.nodes]
    assert not any("linalg" in target or "eigengrad" in target for target in targets)
    torch.testing.assert_close(program.module()(x[:2]), layer(x[:2]))
    with pytest.raises(ValueError, match="newton_schulz' computes square roots"):
        eg.nn.CovariancePooling("logm", solver="newton_schulz")
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(layer))
    torch.testing.assert_close(graph(x), layer(x))


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_tokens_and_masks(errors: str) -> None:
    """Samples of different lengths: as each alone; what is masked has no effect, even NaN, and no gradient."""
    tokens = draw(3, 9, 4)
    layer = eg.nn.CovariancePooling(dim=-1, errors=errors)
    torch.testing.assert_close(layer(tokens), eg.nn.CovariancePooling()(tokens.mT))
    lengths = torch.tensor([9, 6, 0])
    mask = torch.arange(9) < lengths[:, None]
    spoiled = torch.where(mask.unsqueeze(-1), tokens, torch.nan).requires_grad_()
    y = layer(spoiled, mask)
    torch.testing.assert_close(y[:2], torch.cat([layer(tokens[i : i + 1, :n]) for i, n in enumerate(lengths[:2])]))
    y.sum().backward()
    assert spoiled.grad is not None
    assert spoiled.grad[~mask].eq(0).all()
    with pytest.raises(ValueError, match=r"mask must be of bool, of shape \(3, 9\)"):
        layer(tokens, mask[:, :8])


def test_errors() -> None:
    for x in (draw(4, 3), draw(4, 0, 5), draw(4, 3, 0)):
        with pytest.raises(ValueError, match=r"x must be \(N, C, \*\)"):
            eg.pool_covariance(x)
    for function in ("exp", float("nan"), True):
        with pytest.raises(ValueError, match="function must be 'sqrtm', 'logm' or a finite exponent"):
            eg.nn.CovariancePooling(function)
    with pytest.raises(ValueError, match="eps must be positive"):
        eg.nn.CovariancePooling(eps=0.0)
    with pytest.raises(TypeError, match="floating point"):
        eg.pool_covariance(torch.zeros(2, 3, 4, dtype=torch.long))
    assert repr(eg.nn.CovariancePooling(0.5, solver="svd", errors="skip")) == (
        "CovariancePooling(0.5, eps=0.0001, solver='svd', errors='skip')"
    )
