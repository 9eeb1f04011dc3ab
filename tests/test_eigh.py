"""eigh: its gradient against the literal procedure and torch's own, its values, its behaviour at ties, its errors."""

from collections.abc import Callable

import literal
import pytest
import torch
from spectra import DTYPES, SPECTRA, diagonal, hermitian, invariant_loss, projectors, relative_error, symmetrised
from torch import Tensor

import eigengrad as eg
from eigengrad import solvers
from eigengrad.eigh import EighResult

REAL_AND_COMPLEX = (torch.float64, torch.complex128)
BOUNDED = [eg.Lorentzian(), eg.PowerIteration(), eg.Taylor(), eg.Clipped(3.0), eg.Lorentzian(1e-3), eg.Masked()]
RULES = [eg.Exact(), *BOUNDED]
TIED = {
    "two": torch.tensor([1.0, 2.0, 2.0, 4.0]),
    "four": torch.ones(4),
    "negative": torch.tensor([-3.0, -3.0, 1.0, 1.0]),
    "mirrored": torch.tensor([-2.0, -2.0, 2.0, 2.0]),
    "rank deficient": torch.tensor([0.0, 0.0, 0.0, 1.0]),
}

Decomposition = Callable[[Tensor], tuple[Tensor, Tensor]]


def gradient(loss: Callable[..., Tensor], decompose: Decomposition, A: Tensor) -> Tensor:
    """Hermitian part of the gradient of ``loss(L, V)``: what autograd through a loop returns need not be Hermitian."""
    A = A.detach().requires_grad_()
    return symmetrised(torch.autograd.grad(loss(*decompose(A)), A)[0])


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("spectrum", ["separated", "tie", "cluster", "indefinite", "mirrored"])
@pytest.mark.parametrize(
    ("n", "iterations"), [(2, 1), (2, 200), (3, 2), (5, 5), (8, 1), (8, 200), (16, 19), (32, 2), (32, 19)]
)
def test_power_iteration_is_the_literal_procedure(
    n: int, iterations: int, spectrum: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    A = hermitian(SPECTRA[spectrum](n), dtype, generator)
    loss = invariant_loss(n, dtype, generator)
    expected = gradient(loss, lambda A: literal.eigh(A, iterations), A)
    actual = gradient(loss, lambda A: eg.eigh(A, gradient=eg.PowerIteration(iterations), solver="eigh"), A)
    assert relative_error(actual, expected) < 1e-10


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("iterations", [1, 5, 19])
def test_power_iteration_is_the_literal_procedure_under_vmap(
    iterations: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    n = 6
    A = torch.stack([hermitian(SPECTRA[name](n), dtype, generator) for name in ("separated", "tie", "indefinite")])
    loss = invariant_loss(n, dtype, generator)

    def mapped(decompose: Decomposition) -> Tensor:
        return symmetrised(torch.func.vmap(torch.func.grad(lambda A: loss(*decompose(A))))(A))

    expected = mapped(lambda A: literal.eigh(A, iterations))
    actual = mapped(lambda A: eg.eigh(A, gradient=eg.PowerIteration(iterations), solver="eigh"))
    assert relative_error(actual, expected) < 1e-10


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("UPLO", ["L", "U"])
@pytest.mark.parametrize("spectrum", ["separated", "indefinite", "geometric"])
def test_exact_is_torch(spectrum: str, UPLO: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = hermitian(SPECTRA[spectrum](5), dtype, generator)
    A = A.tril() + 7 * A.triu(1) if UPLO == "L" else A.triu() + 7 * A.tril(-1)  # the other triangle must not matter
    loss = invariant_loss(5, dtype, generator)
    expected = gradient(loss, lambda A: torch.linalg.eigh(A, UPLO), A)
    assert relative_error(gradient(loss, lambda A: eg.eigh(A, UPLO, gradient=eg.Exact()), A), expected) < 1e-10


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_gradient_is_hermitian(rule: eg.gradients.GradientRule, generator: torch.Generator) -> None:
    """To the last bit, whatever the loss: a step along it keeps both triangles of A alike."""
    A = hermitian(SPECTRA["separated"](5), torch.complex128, generator).requires_grad_()
    _, V = eg.eigh(A, gradient=rule)
    gA = torch.autograd.grad(V, A, torch.randn(5, 5, dtype=A.dtype, generator=generator))[0]
    assert torch.equal(gA, gA.mH)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", ["auto", "eigh"])
@pytest.mark.parametrize("shape", [(0,), (1,), (4,), (0, 3), (2, 3, 5)])
def test_values_are_torch(shape: tuple[int, ...], solver: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = torch.randn(*shape, shape[-1], dtype=dtype, generator=generator)
    for UPLO in ("L", "U"):
        result, expected = eg.eigh(A, UPLO, solver=solver), torch.linalg.eigh(A, UPLO)
        assert isinstance(result, EighResult)
        if solver == "eigh":
            assert torch.equal(result.eigenvalues, expected.eigenvalues)
            assert torch.equal(result.eigenvectors, expected.eigenvectors)
        torch.testing.assert_close(result.eigenvalues, expected.eigenvalues)
        assert result.eigenvectors.stride() == expected.eigenvectors.stride()
        V = result.eigenvectors
        torch.testing.assert_close((V * result.eigenvalues.unsqueeze(-2)) @ V.mH, eg.solvers.hermitian(A, UPLO))


def test_empty_gradients() -> None:
    for shape in ((0, 0), (0, 3, 3), (2, 0, 0)):
        A = torch.zeros(shape, requires_grad=True)
        L, V = eg.eigh(A)
        assert torch.autograd.grad(L.sum() + V.sum(), A)[0].shape == shape


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        (eg.Exact(), torch.float64),
        (eg.Exact(), torch.complex128),
        (eg.PowerIteration(60), torch.float64),
        (eg.PowerIteration(60), torch.complex128),
        (eg.Taylor(60), torch.float64),
        (eg.Clipped(), torch.float64),
        (eg.Lorentzian(), torch.float64),
        (eg.Masked(), torch.float64),
    ],
)
def test_gradcheck(rule: eg.gradients.GradientRule, dtype: torch.dtype, generator: torch.Generator) -> None:
    """At ratios of 1/2 sixty terms leave out 1e-18 of the exact gradient, so finite differences must agree."""
    values = [-0.5, 0.25, 1.0]
    X = hermitian(torch.tensor(values, dtype=torch.float64), dtype, generator).requires_grad_()

    def function(X: Tensor) -> tuple[Tensor, Tensor]:
        L, V = eg.eigh(symmetrised(X), gradient=rule)
        return L, projectors(V)

    assert torch.autograd.gradcheck(function, (X,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (X,), check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("tie", TIED)
def test_eigenvalue_loss_is_exact_at_ties(
    tie: str, rule: eg.gradients.GradientRule, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """``sum L^3 = tr A^3`` has the gradient ``3 A^2``; no rule is to touch it, whichever way it is asked for."""
    for A in (diagonal(TIED[tie], dtype), hermitian(TIED[tie], dtype, generator)):

        def loss(A: Tensor) -> Tensor:
            return eg.eigh(A, gradient=rule)[0].pow(3).sum()

        assert (
            relative_error(gradient(lambda L, _: L.pow(3).sum(), lambda A: eg.eigh(A, gradient=rule), A), 3 * A @ A)
            < 1e-12
        )
        assert relative_error(torch.func.grad(loss)(A), 3 * A @ A) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("rule", BOUNDED, ids=repr)
@pytest.mark.parametrize("tie", TIED)
def test_gradient_is_bounded(
    tie: str, rule: eg.gradients.GradientRule, scale: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    for A in (diagonal(TIED[tie] * scale, dtype), hermitian(TIED[tie].double() * scale, dtype, generator)):
        gV = torch.randn(A.shape, dtype=dtype, generator=generator)
        A.requires_grad_()
        L, V = eg.eigh(A, gradient=rule)
        (gA,) = torch.autograd.grad(V, A, gV)
        assert gA.isfinite().all()
        # In double: norms of these sizes overflow in float32. An eigenvalue of exactly 0 has the weight 0 as a major.
        magnitudes = [abs(value) for value in L.tolist() if value]
        bound = rule.bound(min(magnitudes), max(magnitudes)) * gV.to(torch.complex128).norm()
        assert gA.to(torch.complex128).norm() <= bound * (1 + 1e-4)


@pytest.mark.parametrize("tie", TIED)
def test_torch_fails_where_the_rules_do_not(tie: str, generator: torch.Generator) -> None:
    """The reason for this package: without it, the tests above are about matrices that any gradient survives."""
    A, loss = diagonal(TIED[tie], torch.float64), invariant_loss(4, torch.float64, generator)
    assert gradient(loss, torch.linalg.eigh, A).isnan().any()
    for rule in BOUNDED:
        assert gradient(loss, lambda A, rule=rule: eg.eigh(A, gradient=rule), A).isfinite().all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_tied_matrix_does_not_spoil_its_batch(rule: eg.gradients.GradientRule, generator: torch.Generator) -> None:
    A = torch.stack([hermitian(SPECTRA["separated"](4), torch.float64, generator) for _ in range(4)])
    A[1], A[2] = diagonal(TIED["four"], A.dtype), diagonal(TIED["rank deficient"], A.dtype)
    loss = invariant_loss(4, A.dtype, generator)
    together = gradient(loss, lambda A: eg.eigh(A, gradient=rule), A)
    alone = torch.stack([gradient(loss, lambda A: eg.eigh(A, gradient=rule), matrix) for matrix in A])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0, equal_nan=True)
    assert together[[0, 3]].isfinite().all()
    assert together[1].isnan().any() == isinstance(rule, eg.Exact)


@pytest.mark.parametrize("solver", ["svd", "qr", eg.solvers.PowerIteration(200)])
def test_any_solver_with_any_rule(solver: str | eg.solvers.Solver, generator: torch.Generator) -> None:
    """The gradient is a function of L and V alone, so converged solvers agree on it."""
    A = hermitian(torch.tensor([0.1, 0.3, 1.0]).double(), torch.float64, generator)
    loss = invariant_loss(3, A.dtype, generator)
    for rule in RULES:
        expected = gradient(loss, lambda A, rule=rule: eg.eigh(A, gradient=rule), A)
        actual = gradient(loss, lambda A, rule=rule: eg.eigh(A, gradient=rule, solver=solver), A)
        assert relative_error(actual, expected) < 1e-12


def test_a_rule_of_your_own(generator: torch.Generator) -> None:
    class Deaf:
        def kernel(self, eigenvalues: Tensor) -> Tensor:
            return eigenvalues.new_zeros(*eigenvalues.shape, eigenvalues.shape[-1])

        def bound(self, smallest: float, largest: float) -> float:
            return 0.0

    A = hermitian(SPECTRA["separated"](4), torch.float64, generator)
    assert not gradient(lambda L, V: V.pow(3).sum(), lambda A: eg.eigh(A, gradient=Deaf()), A).any()


@pytest.mark.parametrize("rule", ["exact", eg.Exact, None, eg.solvers.QR()])
def test_gradient_is_checked(rule: object) -> None:
    with pytest.raises(TypeError, match="gradient must be a rule such as"):
        eg.eigh(torch.eye(2), gradient=rule)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["auto", "eigh", "svd", "qr"])
def test_unrolled_needs_steps(solver: str) -> None:
    with pytest.raises(ValueError, match=f"gradient=Unrolled.*got solver='{solver}'; use solver='power_iteration'"):
        eg.eigh(torch.eye(2), gradient=eg.Unrolled(), solver=solver)


def test_errors_of_torch_come_through() -> None:
    with pytest.raises(torch.linalg.LinAlgError):
        eg.eigh(torch.full((2, 2), torch.nan), solver="svd")  # LAPACK's eigh may return NaN instead


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (50,), (4, 50), (64, 3)])
def test_nan_in_the_triangle_that_is_not_read(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    A = diagonal(torch.arange(1.0, shape[-1] + 1).expand(shape), dtype)
    spoiled = A.clone()
    spoiled[..., 0, 1] = torch.nan
    for UPLO, matrix in (("L", spoiled), ("U", spoiled.mT)):
        torch.testing.assert_close(eg.eigh(matrix, UPLO).eigenvalues, A.diagonal(dim1=-2, dim2=-1).real.clone())
    for function in (eg.sqrtm, eg.logm):
        assert function(spoiled).isfinite().all()


@pytest.mark.parametrize("solver", ["auto", "eigh", "native", "svd", "qr", "power_iteration"])
def test_unknown_triangle(solver: solvers.Name) -> None:
    with pytest.raises(ValueError, match="UPLO must be 'L' or 'U', got 'X'"):
        eg.eigh(torch.eye(2), "X", solver=solver)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("UPLO", ["L", "U"])
def test_generalised_problem(UPLO: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Values against the equation, gradients in both matrices against finite differences."""
    A = hermitian(torch.tensor([-1.0, 0.3, 1.0, 2.5]).double(), dtype, generator)
    B = hermitian(torch.tensor([0.5, 0.5, 1.0, 3.0]).double(), dtype, generator)
    other = torch.triu if UPLO == "L" else torch.tril  # the other triangle must not matter
    diagonal_of_ones = torch.eye(4, dtype=dtype)
    L, V = eg.eigh(A + other(A, 1 if UPLO == "L" else -1), UPLO, B=B - other(B, 1 if UPLO == "L" else -1))
    torch.testing.assert_close(A @ V, B @ V * L)
    torch.testing.assert_close(V.mH @ B @ V, diagonal_of_ones)

    def function(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        L, V = eg.eigh(symmetrised(A), UPLO, gradient=eg.Exact(), B=symmetrised(B))
        return L, projectors(V)

    inputs = (A.requires_grad_(), B.requires_grad_())
    for gradient in torch.autograd.grad(eg.eigh(A, UPLO, B=B).eigenvectors.real.sum(), inputs):
        torch.testing.assert_close(gradient, gradient.mH)  # a step along it keeps both triangles alike
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_generalised_problem_is_bounded_at_ties_and_broadcasts() -> None:
    A = torch.eye(3).requires_grad_()
    B = torch.stack([2 * torch.eye(3), torch.eye(3)]).requires_grad_()
    L, V = eg.eigh(A, B=B)
    torch.testing.assert_close(L, torch.tensor([[0.5] * 3, [1.0] * 3]))
    assert all(g.isfinite().all() for g in torch.autograd.grad((L * V[..., 0, :] ** 2).sum(), [A, B]))
    with pytest.raises(torch.linalg.LinAlgError, match="B must be positive definite, but matrix 0 of the batch"):
        eg.eigh(A, B=-B)
