"""inv_sqrtm: values, and derivatives of every order where eigenvalues meet."""

from collections.abc import Callable

import pytest
import torch
from spectra import hermitian, relative_error
from torch import Tensor

import eigengrad as eg

SPECTRA = {
    "separated": [0.3, 1.0, 2.5, 4.0],
    "tie": [0.5, 0.5, 2.0, 3.0],
    "triple": [0.7, 2.0, 2.0, 2.0],
    "identity": [1.5, 1.5, 1.5, 1.5],
    "cluster": [1.0, 1.0 + 1e-9, 1.0 + 2e-9, 3.0],
    "wide": [1e-4, 1e-4, 1.0, 50.0],
}


def positive(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return hermitian(torch.tensor(SPECTRA[spectrum], dtype=torch.float64), dtype, generator)


def closed_form(A: Tensor, G: Tensor) -> Tensor:
    """Daleckii and Krein's cotangent, in the dtype of A."""
    L, V = torch.linalg.eigh(A)
    s = L.sqrt()
    product, total = s.unsqueeze(-1) * s.unsqueeze(-2), s.unsqueeze(-1) + s.unsqueeze(-2)
    return V @ (-(V.mH @ ((G + G.mH) / 2) @ V) / (product * total)) @ V.mH


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_value_and_gradient(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = positive(spectrum, dtype, generator).requires_grad_()
    W = eg.inv_sqrtm(A)
    torch.testing.assert_close(W @ A @ W, torch.eye(4, dtype=dtype), rtol=0, atol=1e-10)
    G = torch.randn(4, 4, dtype=dtype, generator=generator)
    gradient = torch.autograd.grad(W, A, G)[0]
    assert relative_error(gradient, closed_form(A.detach(), G)) < 1e-11


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_float32_gradient(spectrum: str, generator: torch.Generator) -> None:
    """As accurate as the input's own rounding allows: an error of eps in A moves the gradient by eps * condition."""
    wide = positive(spectrum, torch.float64, generator)
    A = wide.float().requires_grad_()
    G = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    gradient = torch.autograd.grad(eg.inv_sqrtm(A), A, G.float())[0]
    condition = SPECTRA[spectrum][-1] / SPECTRA[spectrum][0]
    assert relative_error(gradient.double(), closed_form(A.detach().double(), G)) < 1e-6 * condition


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", ["separated", "tie", "triple", "identity"])
def test_gradcheck(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Finite differences are valid at ties: the function is smooth there. First and second order, both modes."""
    A = positive(spectrum, dtype, generator).requires_grad_()

    def function(X: Tensor) -> Tensor:
        return eg.inv_sqrtm((X + X.mH) / 2)

    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("outermost", [torch.func.jacfwd, torch.func.jacrev])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_third_derivative(dtype: torch.dtype, outermost: Callable, generator: torch.Generator) -> None:
    """Against the Taylor coefficients of ``X`` in ``X(t) X(t) = (A + t B)^(-1)``, at a triple tie.

    Forward mode once only: nested, torch 2.13 returns zeros through any autograd.Function (pytorch issue 197867).
    """
    x = torch.tensor([0.5, 0.5, 0.5, 0.25], dtype=torch.float64)
    A = (x**-2).diag().to(dtype)
    X, W = torch.randn(2, 4, 4, dtype=dtype, generator=generator)
    B = X + X.mH
    inverse, coefficients = [A.inverse()], [x.diag().to(dtype)]
    for order in (1, 2, 3):
        inverse.append(-inverse[-1] @ B @ inverse[0])
        known = sum(coefficients[k] @ coefficients[order - k] for k in range(1, order))
        coefficients.append((inverse[order] - known) / (x.unsqueeze(-1) + x))

    def along(t: Tensor) -> Tensor:
        return torch.linalg.vecdot(W.flatten(), eg.inv_sqrtm(A + t * B).flatten()).real

    third = outermost(torch.func.jacrev(torch.func.jacrev(along)))(torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(third, 6 * torch.linalg.vecdot(W.flatten(), coefficients[3].flatten()).real)


def test_hessian_and_vmap(generator: torch.Generator) -> None:
    batch = torch.stack([positive(spectrum, torch.float64, generator) for spectrum in ("separated", "tie", "identity")])

    def loss(A: Tensor) -> Tensor:
        return (eg.inv_sqrtm((A + A.mT) / 2) ** 3).sum()

    one_by_one = torch.stack([torch.autograd.functional.hessian(loss, A) for A in batch])
    torch.testing.assert_close(torch.func.vmap(torch.func.hessian(loss))(batch), one_by_one)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float64, 1e-30), (torch.float64, 1e30), (torch.float32, 1e-20), (torch.float32, 1e20)],
)
def test_scales(dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """``f(c A) = c^(-1/2) f(A)``, and its gradient follows as ``c^(-3/2)``."""
    A = positive("tie", dtype, generator)
    G = torch.randn(4, 4, dtype=dtype, generator=generator)
    results = []
    for factor in (1.0, scale):
        scaled = (A * factor).requires_grad_()
        W = eg.inv_sqrtm(scaled)
        results.append((W.detach() * factor**0.5, torch.autograd.grad(W, scaled, G)[0] * factor**1.5))
    for actual, expected in zip(results[1], results[0], strict=True):
        assert relative_error(actual, expected) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("solver", ["eigh", "svd", "qr", eg.solvers.PowerIteration(300)])
def test_solvers(solver: str | eg.solvers.Solver, generator: torch.Generator) -> None:
    A = positive("separated", torch.float64, generator)
    torch.testing.assert_close(eg.inv_sqrtm(A, solver=solver), eg.inv_sqrtm(A), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="solver must be one of"):
        eg.inv_sqrtm(A, solver="lapack")


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_compile(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Forward and backward, at a tie and away from it."""
    torch._dynamo.reset()
    A = torch.stack([positive(spectrum, dtype, generator) for spectrum in ("separated", "identity")]).requires_grad_()
    G = torch.randn(4, 4, dtype=dtype, generator=generator)
    compiled = torch.compile(eg.inv_sqrtm, fullgraph=True, backend="aot_eager")(A)
    expected = eg.inv_sqrtm(A)
    torch.testing.assert_close(compiled, expected)
    for actual, reference in zip(
        *(torch.autograd.grad(W, A, G.expand(A.shape)) for W in (compiled, expected)), strict=True
    ):
        torch.testing.assert_close(actual, reference)


def test_floor() -> None:
    """An eigenvalue that rounding pushed below zero counts as the floor."""
    A = torch.tensor([-1e-9, 1.0]).double().diag()
    assert eg.inv_sqrtm(A).isnan().any()
    torch.testing.assert_close(eg.inv_sqrtm(A, floor=1e-4), torch.tensor([100.0, 1.0]).double().diag())
    with pytest.raises(ValueError, match="floor must not be negative, got -1"):
        eg.inv_sqrtm(A, floor=-1)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (0, 3, 3), (2, 0, 0), (2, 3, 2, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    A = (4 * torch.eye(shape[-1])).expand(shape).clone().requires_grad_()
    W = eg.inv_sqrtm(A)
    torch.testing.assert_close(W, 0.5 * torch.eye(shape[-1]).expand(shape))
    assert torch.autograd.grad(W.sum(), A)[0].shape == shape


def test_one_bad_matrix_spoils_no_other(generator: torch.Generator) -> None:
    A = torch.stack([positive("tie", torch.float64, generator), torch.zeros(4, 4).double()]).requires_grad_()
    gradient = torch.autograd.grad(eg.inv_sqrtm(A).sum(), A)[0]
    assert gradient[0].isfinite().all()
    assert not gradient[1].isfinite().all()
