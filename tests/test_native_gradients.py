"""Products with the eigenvectors in the compiled kernel: matrix functions, their gradients, the gradients of rules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native, testing

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
REAL = (torch.float32, torch.float64)
SIZES = (1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 64)


def gradients(function: Callable[[Tensor], Tensor], A: Tensor, G: Tensor) -> Tensor:
    leaf = A.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, G)[0]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
def test_fused_roots(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """Values and gradients of the square roots, in single precision as close to double as torch's products are."""
    X = torch.randn(300, n, n + 3, dtype=torch.float64, generator=generator)
    A = X @ X.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    A[7], A[8] = torch.eye(n), 2 * torch.eye(n)  # ties
    A, G = A.to(dtype), torch.randn(300, n, n, dtype=dtype, generator=generator)
    for function in (eg.inv_sqrtm, eg.sqrtm):
        for cotangent in (G, G.mT, G.expand(300, n, n)[:, :1].expand(300, n, n)):
            actual = [function(A), gradients(function, A, cotangent)]
            lapack = lambda A, function=function: function(A, solver="eigh")  # noqa: E731
            expected = [lapack(A.double()), gradients(lapack, A.double(), cotangent.double())]
            for ours, exact in zip(actual, expected, strict=True):
                # The error of a gradient is that of the eigenvalues, relative to the smallest.
                assert testing.relative_error(ours, exact) < 3e3 * n * torch.finfo(dtype).eps
                assert torch.equal(ours, ours.mT)


def test_fused_root_at_its_floor() -> None:
    """And beside a matrix that has none."""
    A = torch.diag_embed(torch.tensor([[4.0, 1.0, -1e-9]])).expand(64, 3, 3)
    X = eg.inv_sqrtm(A, floor=0.25)
    torch.testing.assert_close(X, torch.tensor([0.5, 1.0, 2.0]).diag().expand(64, 3, 3))
    spoilt = A.clone()
    spoilt[3, 1, 1] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 3 of the batch"):
        eg.inv_sqrtm(spoilt, floor=0.25)
    found = eg.inv_sqrtm(spoilt, floor=0.25, solver="native", errors="nan")
    assert found[3].isnan().all()
    others = torch.arange(64) != 3
    assert torch.equal(found[others], X[others])


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
def test_fused_rules(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """The gradient of every rule against the same formula in torch's products."""
    X = torch.randn(150, n, n, dtype=dtype, generator=generator)
    A, gL = X + X.mT, torch.randn(150, n, dtype=dtype, generator=generator)
    for gV in (X, X.mT):
        for rule in (eg.Exact(), eg.PowerIteration(), eg.Taylor(), eg.Lorentzian(1e-3)):
            leaf = A.clone().requires_grad_()
            L, V = eg.eigh(leaf, gradient=rule)
            for cotangents in ((gL, gV), (None, gV)):
                outputs = [x for x, g in zip((L, V), cotangents, strict=True) if g is not None]
                given = [g for g in cotangents if g is not None]
                (fused,) = torch.autograd.grad(outputs, leaf, given, retain_graph=True)
                (plain,) = torch.autograd.grad(outputs, leaf, given, create_graph=True)
                assert plain.requires_grad
                assert not fused.requires_grad
                assert (fused - plain).norm() <= 100 * torch.finfo(dtype).eps * plain.norm()


def test_second_derivatives_beside_the_fused_first(generator: torch.Generator) -> None:
    X = torch.randn(5, 3, 3, dtype=torch.float64, generator=generator)
    A = (X @ X.mT + torch.eye(3)).requires_grad_()
    for function in (eg.inv_sqrtm, eg.sqrtm, lambda A: eg.eigh(A)[1].square()):
        symmetric = lambda A, function=function: function((A + A.mT) / 2)  # noqa: E731
        if function in (eg.inv_sqrtm, eg.sqrtm):
            assert torch.autograd.gradcheck(symmetric, A, check_forward_ad=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(symmetric, A)
        (first,) = torch.autograd.grad(symmetric(A).sum(), A, create_graph=True)
        assert torch.autograd.grad(first.square().sum(), A)[0].isfinite().all()
