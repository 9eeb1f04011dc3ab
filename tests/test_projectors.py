"""projector and topk_eigh: exact at ties away from the cut, the rule at the cut, and slices that equal the whole."""

from collections.abc import Callable

import pytest
import torch
from spectra import hermitian, relative_error, symmetrised
from torch import Tensor

import eigengrad as eg

REAL_AND_COMPLEX = (torch.float64, torch.complex128)
CUTS = {
    "ties on both sides": ([0.5, 0.5, 2.0, 3.0, 3.0], 2),
    "triple tie kept": ([0.7, 2.0, 2.0, 2.0, 5.0], 4),
    "triple tie dropped": ([-1.0, -1.0, -1.0, 2.5, 4.0], 2),
    "two cuts": ([0.7, 2.0, 2.0, 2.0, 5.0], slice(1, 4)),
    "the smallest": ([0.7, 0.7, 2.0, 2.0, 5.0], slice(0, 2)),
    "nearly tied": ([1.0, 1.0 + 1e-9, 2.0, 2.0 + 1e-9, 5.0], 3),
    "by value": ([-1.0, -1.0, 2.0, 2.0, 3.0], lambda L: L > 0),
    "all": ([1.0] * 5, 5),
    "none": ([1.0] * 5, 0),
}
RULES = [
    eg.Lorentzian(),
    eg.PowerIteration(),
    eg.PowerIteration(1),
    eg.Taylor(),
    eg.Clipped(3.0),
    eg.Lorentzian(1e-3),
    eg.Masked(),
]

Cut = int | slice | Callable[[Tensor], Tensor]


def matrix(spectrum: list[float], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return hermitian(torch.tensor(spectrum, dtype=torch.float64), dtype, generator)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize(("spectrum", "k"), CUTS.values(), ids=CUTS)
def test_gradgradcheck(spectrum: list[float], k: Cut, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = matrix(spectrum, dtype, generator).requires_grad_()

    def function(X: Tensor) -> Tensor:
        return eg.projector(symmetrised(X), k, gradient=eg.Exact())

    P = function(A)
    torch.testing.assert_close(P @ P, P)
    torch.testing.assert_close(P @ A, A @ P)
    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize(("spectrum", "k"), CUTS.values(), ids=CUTS)
def test_gradgradcheck_at_ties_to_the_last_bit(spectrum: list[float], k: Cut, dtype: torch.dtype) -> None:
    A = torch.tensor(spectrum, dtype=torch.float64).to(dtype).diag()
    assert torch.linalg.eigvalsh(A).unique().numel() == len(set(spectrum))
    A.requires_grad_()

    def function(X: Tensor) -> Tensor:
        return eg.projector(symmetrised(X), k, gradient=eg.Exact())

    assert torch.autograd.gradcheck(function, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
def test_third_derivative(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Against the second, by finite differences, at ties on both sides of the cut."""
    A = matrix([0.5, 0.5, 2.0, 3.0, 3.0], dtype, generator)
    B, W = (symmetrised(torch.randn(5, 5, dtype=dtype, generator=generator)) for _ in range(2))

    def along(t: Tensor) -> Tensor:
        return torch.linalg.vecdot(W.flatten(), eg.projector(A + t * B, 3, gradient=eg.Exact()).flatten()).real

    second = torch.func.grad(torch.func.grad(along))
    zero, step = torch.zeros(()).double(), torch.tensor(1e-4).double()
    expected = (second(step) - second(-step)) / (2 * step)
    torch.testing.assert_close(torch.func.grad(second)(zero), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("k", [2, slice(1, 4)])
def test_rule_across_the_cut(rule: eg.gradients.GradientRule, k: int | slice, generator: torch.Generator) -> None:
    """For separated spectra the gradient is that of ``U U^H`` through eigh, with weights inside a block left out."""
    A = matrix([-0.9, 0.2, 1.0, 2.5, 4.0], torch.complex128, generator).requires_grad_()
    G = torch.randn(5, 5, dtype=A.dtype, generator=generator)
    L, V = torch.linalg.eigh(A.detach())
    kept = torch.zeros(5).double()
    kept[slice(3, 5) if k == 2 else k] = 1.0
    weights = rule.kernel(L) * (1 - kept).unsqueeze(-1) * kept
    expected = symmetrised(V @ (weights * (V.mH @ (G + G.mH) @ V)) @ V.mH)
    actual = torch.autograd.grad(eg.projector(A, k, gradient=rule), A, G)[0]
    assert relative_error(actual, expected) < 1e-13


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_bounded_as_the_cut_closes(rule: eg.gradients.GradientRule) -> None:
    A = torch.diag_embed(torch.tensor([1.0, 2.0, 2.0])).requires_grad_()
    gradient = torch.autograd.grad(eg.projector(A, 1, gradient=rule)[1, 2], A, create_graph=True)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= rule.bound(1.0, 2.0)
    assert torch.autograd.grad(gradient.square().sum(), A)[0].isfinite().all() if gradient.requires_grad else True
    assert not torch.autograd.grad(eg.projector(A, 1, gradient=eg.Exact())[1, 2], A)[0].isfinite().all()


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("rule", [eg.Exact(), eg.PowerIteration(7)], ids=repr)
@pytest.mark.parametrize("k", [0, 2, 5, slice(0, 2), slice(1, 4)])
def test_topk_is_a_slice(
    k: int | slice, rule: eg.gradients.GradientRule, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Value, first and second derivatives, and forward mode, are those of slicing eigh."""
    A = matrix([-1.0, 0.3, 1.0, 2.5, 4.0], dtype, generator)
    columns = slice(5 - k, 5) if isinstance(k, int) else k
    G, W, dA = torch.randn(3, 5, 5, dtype=dtype, generator=generator)

    def sliced(A: Tensor) -> tuple[Tensor, Tensor]:
        L, V = eg.eigh(A, gradient=rule)
        return L[columns], V[:, columns]

    def loss(A: Tensor, decompose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        L, V = decompose(symmetrised(A))
        return torch.linalg.vecdot(G.flatten(), ((V * L.sin().unsqueeze(-2)) @ V.mH).flatten()).real

    def whole(A: Tensor) -> Tensor:
        return loss(A, sliced)

    def top(A: Tensor) -> Tensor:
        return loss(A, lambda A: eg.topk_eigh(A, k, gradient=rule))

    assert top(A) == whole(A)
    torch.testing.assert_close(torch.func.grad(top)(A), torch.func.grad(whole)(A))
    torch.testing.assert_close(torch.func.jvp(top, (A,), (dA,)), torch.func.jvp(whole, (A,), (dA,)))
    second = [
        torch.func.grad(lambda A, f=f: torch.linalg.vecdot(W.flatten(), torch.func.grad(f)(A).flatten()).real)(A)
        for f in (top, whole)
    ]
    torch.testing.assert_close(*second)


def test_topk_eigenvalues_alone_at_a_tie() -> None:
    """A loss of eigenvalues meets no kernel, whatever the rule."""
    A = torch.eye(3).requires_grad_()
    L, _ = eg.topk_eigh(A, 2, gradient=eg.Exact())
    torch.testing.assert_close(torch.autograd.grad(L.sum(), A)[0].trace(), torch.tensor(2.0))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0), (2, 3, 1, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    A = torch.ones(shape).requires_grad_()
    k = min(1, shape[-1])
    P, (L, V) = eg.projector(A, k), eg.topk_eigh(A, k)
    assert (P.shape, L.shape, V.shape) == (shape, (*shape[:-2], k), (*shape[:-1], k))
    assert torch.autograd.grad(P.sum() + L.sum() + V.sum(), A)[0].shape == shape


def test_errors() -> None:
    A = torch.eye(3)
    for function in (eg.projector, eg.topk_eigh):
        with pytest.raises(ValueError, match="k must lie between 0 and n = 3, got 4"):
            function(A, 4)
        with pytest.raises(ValueError, match="k must be a slice without a step"):
            function(A, slice(0, 3, 2))
        with pytest.raises(TypeError, match="k must be an int or a slice, got 'two'"):
            function(A, "two")
        with pytest.raises(TypeError, match="gradient must be a rule"):
            function(A, 1, gradient="exact")
    with pytest.raises(TypeError, match="k must return a tensor of booleans"):
        eg.projector(A, lambda L: L)
