"""analysis: the numbers it gives are those that kernels and gradients show."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eigengrad as eg
from eigengrad.analysis import gradient_bound, iterations_for, remainder


def test_gradient_bound_is_the_papers() -> None:
    assert gradient_bound(64, eps=1e-4) == 64 * 19 / 1e-4
    assert gradient_bound(5, eps=0.5, gradient=eg.PowerIteration(3)) == 30.0
    assert gradient_bound(5, eps=0.5, gradient=eg.Taylor(3)) == 40.0
    assert gradient_bound(5, eps=0.5, gradient=eg.Clipped(2.0)) == 10.0
    assert gradient_bound(5, eps=0.5, gradient=eg.Lorentzian(0.25), largest=4.0) == 2.5
    assert gradient_bound(5, eps=0.5, gradient=eg.Masked(0.25), largest=4.0) == 5.0
    assert gradient_bound(5, eps=0.5, gradient=eg.Exact()) == math.inf


def test_gradient_bound_of_a_singular_matrix() -> None:
    assert gradient_bound(3, eps=0.0) == math.inf
    assert gradient_bound(3, eps=0.0, gradient=eg.Clipped(2.0)) == 6.0
    assert gradient_bound(0, eps=0.1) == 0.0


@pytest.mark.parametrize("rule", [eg.PowerIteration(), eg.Taylor(), eg.Clipped(), eg.Lorentzian(1e-3), eg.Masked()])
def test_gradient_bound_holds(rule: eg.gradients.GradientRule, generator: torch.Generator) -> None:
    """On covariances of a few samples plus ``eps I``, whose smallest eigenvalue is repeated: the paper's setting."""
    n, eps = 8, 1e-2
    X = torch.randn(20, n, 3, dtype=torch.float64, generator=generator)
    A = (X @ X.mH + eps * torch.eye(n)).requires_grad_()
    gV = torch.randn(A.shape, dtype=A.dtype, generator=generator)
    (gA,) = torch.autograd.grad(eg.eigh(A, gradient=rule)[1], A, gV)
    amplification = torch.linalg.matrix_norm(gA) / torch.linalg.matrix_norm(gV)
    largest = float(torch.linalg.eigvalsh(A).max(dim=-1).values.min())
    assert amplification.max() <= gradient_bound(n, eps * (1 - 1e-9), gradient=rule, largest=largest)


@pytest.mark.parametrize("iterations", [1, 2, 19])
@pytest.mark.parametrize("ratio", [0.99, 0.85, 0.5, 0.0, -0.3, -0.9])
def test_remainder_is_what_power_iteration_leaves_out(ratio: float, iterations: int) -> None:
    L = torch.tensor([ratio, 1.0], dtype=torch.float64)
    exact, biased = eg.Exact().kernel(L)[0, 1], eg.PowerIteration(iterations).kernel(L)[0, 1]
    assert remainder(ratio, iterations) == pytest.approx(float(abs(exact - biased) / exact), rel=1e-9, abs=1e-12)


def test_remainder_at_the_ends() -> None:
    assert remainder(1.0, 10**9) == remainder(-1.0, 3) == 1.0
    assert remainder(0.5, 0) == 1.0
    assert remainder(0.0) == 0.0
    assert remainder(0.85) == remainder(0.85, iterations=19) == pytest.approx(0.0456, abs=1e-4)


@given(st.floats(-1, 1, exclude_min=True, exclude_max=True), st.floats(1e-12, 1, exclude_max=True))
def test_iterations_for_is_the_smallest_number(ratio: float, share: float) -> None:
    iterations = iterations_for(ratio, share)
    assert isinstance(iterations, int)
    assert remainder(ratio, iterations) <= share
    assert iterations == 1 or remainder(ratio, iterations - 1) > share


def test_iterations_for_the_papers_example() -> None:
    assert iterations_for(0.85) == iterations_for(0.85, share=0.05) == iterations_for(-0.85) == 19
    assert iterations_for(0.5, share=0.125) == 3  # on the boundary, where logarithms round
    assert iterations_for(0.05) == iterations_for(0.0) == 1


@pytest.mark.parametrize("share", [0.05, 0.999999])
def test_iterations_for_neighbours_of_one(share: float) -> None:
    ratio = math.nextafter(1.0, 0.0)
    assert iterations_for(ratio, share) == pytest.approx(math.log(share) / math.log(ratio), rel=1e-9)


def test_errors() -> None:
    for arguments in ({"n": -1}, {"eps": -1e-3}, {"largest": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} must not be negative, got -"):
            gradient_bound(**{"n": 2, "eps": 0.1, **arguments})
    for ratio in (1.1, -1.1, math.nan):
        with pytest.raises(ValueError, match=r"ratio must lie in \[-1, 1\], got"):
            remainder(ratio)
    with pytest.raises(ValueError, match="iterations must not be negative, got -1"):
        remainder(0.5, -1)
    for ratio in (1.0, -1.0, 2.0, math.nan):
        with pytest.raises(ValueError, match="ratio must lie strictly between -1 and 1, got"):
            iterations_for(ratio)
    for share in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="share must lie strictly between 0 and 1, got"):
            iterations_for(0.5, share)
