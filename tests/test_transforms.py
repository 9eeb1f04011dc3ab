"""PyTorch's transforms of eigh, by rule and by solver. (Of every function: test_conformance.py, test_tracing.py.)"""

from collections.abc import Callable

import pytest
import torch
from spectra import hermitian, invariant_loss, relative_error, symmetrised
from torch import Tensor

import eigengrad as eg

RULES = [eg.Exact(), eg.PowerIteration(), eg.Taylor(), eg.Clipped(), eg.Lorentzian(), eg.Masked()]
RANDOM = eg.solvers.PowerIteration(30)
BRIEF = eg.solvers.PowerIteration(3)  # a tracer's time grows with every step
SOLVERS = ["eigh", "svd", "qr"]
PAIRS = [*((rule, "eigh") for rule in RULES), (eg.PowerIteration(), "svd"), (eg.PowerIteration(), "qr")]
DTYPES = (torch.float64, torch.complex128)

Scalar = Callable[[Tensor], Tensor]


def batch(dtype: torch.dtype, n: int = 4) -> Tensor:
    """Three positive definite matrices ``(3, n, n)`` with separated spectra of different scales."""
    generator = torch.Generator().manual_seed(2)
    values = 1.5 ** torch.arange(n).double() * torch.tensor([0.1, 1.0, 10.0]).double().unsqueeze(-1)
    return torch.stack([hermitian(L, dtype, generator) for L in values])


def loss_of(
    rule: eg.gradients.GradientRule | eg.Unrolled,
    solver: str | eg.solvers.Solver,
    n: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Scalar:
    """A real loss of matrices ``(*, n, n)`` through :func:`eigengrad.eigh`, its weights drawn beforehand."""
    weigh = invariant_loss(n, dtype, torch.Generator().manual_seed(3))

    def loss(A: Tensor) -> Tensor:
        L, V = eg.eigh(symmetrised(A), gradient=rule, solver=solver)
        return weigh(L.sin(), V)

    return loss


def autograd(loss: Scalar, A: Tensor) -> Tensor:
    A = A.detach().requires_grad_()
    return torch.autograd.grad(loss(A), A)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", [*SOLVERS, RANDOM])
def test_vmap(solver: str | eg.solvers.Solver, dtype: torch.dtype) -> None:
    A = batch(dtype)
    randomness = "different" if solver is RANDOM else "error"
    L, V = torch.func.vmap(lambda A: eg.eigh(A, solver=solver), randomness=randomness)(A)
    assert relative_error((V * L.unsqueeze(-2)) @ V.mH, A) < (1e-3 if solver is RANDOM else 1e-13)
    outer, _ = torch.func.vmap(lambda A: eg.eigh(A, solver=solver), in_dims=2, out_dims=1, randomness=randomness)(
        A.movedim(0, 2)
    )
    assert relative_error(outer.mT, L) < (1e-3 if solver is RANDOM else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "solver"), PAIRS)
def test_grad(rule: eg.gradients.GradientRule, solver: str, dtype: torch.dtype) -> None:
    A, loss = batch(dtype), loss_of(rule, solver, dtype=dtype)
    expected = autograd(loss, A)
    assert relative_error(torch.func.grad(loss)(A), expected) < 1e-12
    assert relative_error(torch.func.vmap(torch.func.grad(loss))(A), expected) < 1e-12
    nested = torch.func.vmap(torch.func.vmap(torch.func.grad(loss)))(torch.stack([A, 2 * A]))
    assert relative_error(nested, autograd(loss, torch.stack([A, 2 * A]))) < 1e-12


@pytest.mark.parametrize(("rule", "solver"), PAIRS)
def test_jvp(rule: eg.gradients.GradientRule, solver: str) -> None:
    """Forward mode is the adjoint of reverse mode: ``<gradient, dA> = d loss``."""
    for dtype in DTYPES:
        A, loss = batch(dtype), loss_of(rule, solver, dtype=dtype)
        dA = symmetrised(torch.randn_like(A))
        value, tangent = torch.func.jvp(loss, (A,), (dA,))
        assert value == loss(A)
        torch.testing.assert_close(tangent, torch.linalg.vecdot(autograd(loss, A).flatten(), dA.flatten()).real)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_forward_mode_adds_up_at_ties(rule: eg.gradients.GradientRule) -> None:
    """Both modes read the same K, so they agree at a tie too, and disagree nowhere with NaN but for Exact."""
    A, dA = torch.eye(3, dtype=torch.float64), symmetrised(torch.randn(3, 3, dtype=torch.float64))
    loss = loss_of(rule, "eigh", n=3)
    _, tangent = torch.func.jvp(loss, (A,), (dA,))
    torch.testing.assert_close(tangent, (autograd(loss, A) * dA).sum(), equal_nan=True)
    assert tangent.isfinite() != isinstance(rule, eg.Exact)


@pytest.mark.parametrize(("rule", "solver"), PAIRS)
def test_hessian(rule: eg.gradients.GradientRule, solver: str) -> None:
    """All ways to a second derivative agree, under vmap as well."""
    A, loss = batch(torch.float64, n=3), loss_of(rule, solver, n=3)
    expected = torch.stack([torch.autograd.functional.hessian(loss, matrix) for matrix in A])
    assert relative_error(torch.func.hessian(loss)(A[0]), expected[0]) < 1e-10  # forward over reverse
    reverse = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(loss)))(A)
    assert relative_error(reverse, expected) < 1e-10
    forward = torch.func.vmap(torch.func.hessian(loss))(A)
    assert relative_error(forward, expected) < 1e-10


@pytest.mark.parametrize(("rule", "solver"), [*PAIRS, (eg.PowerIteration(), BRIEF), (eg.Unrolled(), BRIEF)])
def test_compile(rule: eg.gradients.GradientRule | eg.Unrolled, solver: str | eg.solvers.Solver) -> None:
    """Forward and backward in one graph each."""
    torch._dynamo.reset()
    A, loss = batch(torch.float64), loss_of(rule, solver)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.manual_seed(5)
    expected_value, expected = loss(A), autograd(loss, A)
    torch.manual_seed(5)
    assert relative_error(compiled(A), expected_value) < 1e-13
    assert relative_error(autograd(compiled, A), expected) < 1e-13


class Module(torch.nn.Module):
    """What torch.export takes."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, A: Tensor) -> object:
        return self.function(A)


@pytest.mark.parametrize(
    "function",
    [
        *(lambda A, solver=solver: eg.eigh(A, solver=solver) for solver in SOLVERS),
        eg.inv_sqrtm,
        lambda A: eg.inv_sqrtm(A, floor=0.5, solver="qr"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_export(function: Callable[[Tensor], object], dtype: torch.dtype) -> None:
    """With a free batch size, saved and run as a program of its own."""
    A = batch(dtype)
    program = torch.export.export(Module(function), (A,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batched in (A, torch.cat([A, 2 * A])):
        torch.testing.assert_close(program.module()(batched), function(batched))  # eager products may be fused


@pytest.mark.parametrize("rule", [eg.PowerIteration(), eg.Unrolled()], ids=repr)
def test_export_of_random_starts(rule: eg.gradients.GradientRule | eg.Unrolled) -> None:
    module, A = Module(lambda A: eg.eigh(A, gradient=rule, solver=BRIEF)), batch(torch.float64, n=3)
    program = torch.export.export(module, (A,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    larger = torch.cat([A, 2 * A])
    torch.manual_seed(5)
    expected = module(larger)
    torch.manual_seed(5)
    torch.testing.assert_close(program(larger), expected)
