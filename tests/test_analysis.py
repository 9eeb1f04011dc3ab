"""analysis: the numbers it gives are those that kernels and gradients show."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import eigengrad as eg
from eigengrad.analysis import gradient_bound, iterations_for, remainder
from eigengrad.testing import hermitian


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
    largest = float(torch.linalg.eigvalsh(A.detach()).max(dim=-1).values.min())
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


def test_inspect() -> None:
    """Gaps, clusters and amplification are relative to each matrix's own scale."""
    L = torch.tensor([[1.0, 2.0, 2.0, 4.0], [-1.0, -0.5, 0.25, 1.0]]).double()
    for scale in (1e-100, 1.0, 1e100):
        found = eg.analysis.inspect(torch.diag_embed(L * scale), rules=[eg.Exact(), eg.PowerIteration(7)])
        torch.testing.assert_close(found.gaps, L.diff(dim=-1) / torch.tensor([[4.0], [1.0]]).double())
        assert found.clusters.tolist() == [[0, 1, 1, 2], [0, 1, 2, 3]]
        torch.testing.assert_close(found.condition, torch.tensor([4.0, 4.0]).double())
        assert found.amplification[eg.Exact()].tolist() == [torch.inf, 2.0]
        torch.testing.assert_close(found.amplification[eg.PowerIteration(7)][0], torch.tensor(14.0).double())
        assert "PowerIteration(iterations=7)" in str(found)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, 4.0], "torch.linalg.eigh will do"),
        ([1.0, 1.00001, 4.0], r"costs Exact\(\) 6 of 16 digits"),
        ([1.0, 4.0, 4.0, 4.0], r"3 eigenvalues are tied, so that Exact\(\) has no gradient"),
        ([0.0, 0.0, 4.0], "2 eigenvalues are tied and the rank is deficient"),
        ([4.0], "no pair of eigenvalues"),
        ([], "no pair of eigenvalues"),
    ],
)
def test_advice(values: list[float], words: str) -> None:
    A = torch.tensor(values).double().diag()
    found = eg.analysis.inspect(A)
    assert re.search(words, found.advice)
    assert found.advice in str(found)
    assert found.eigenvalues.shape == (len(values),)


def test_condition_of_singular_matrices() -> None:
    for values in ([0.0, 0.0], [0.0, 3.0]):
        assert eg.analysis.inspect(torch.tensor(values).diag()).condition == torch.inf


def test_inspect_errors() -> None:
    with pytest.raises(ValueError, match="rtol must be finite and not negative"):
        eg.analysis.inspect(torch.eye(2), rtol=-1.0)
    with pytest.raises(TypeError, match="gradient must be a rule"):
        eg.analysis.inspect(torch.eye(2), rules=["exact"])
    assert eg.analysis.inspect(torch.zeros(0, 3, 3)).clusters.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_gauge_dependence(dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """Found whatever the size of the loss; torch's own check of phases is absolute, and misses the small ones."""
    tied = hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]), dtype=dtype, generator=generator)
    separated = hermitian(torch.tensor([1.0, 2.0, 3.0, 4.0]), dtype=dtype, generator=generator)
    W = torch.randn(4, 4, dtype=dtype, generator=generator)

    def entries(L: Tensor, V: Tensor) -> Tensor:
        return scale * (W * V).real.sum()

    def single_projectors(L: Tensor, V: Tensor) -> Tensor:
        return scale * (W[0] @ V).abs().pow(4).sum()

    def whole_matrix(L: Tensor, V: Tensor) -> Tensor:
        return scale * (W @ (V * L.sin().unsqueeze(-2)) @ V.mH).real.trace()

    def values_alone(L: Tensor, V: Tensor) -> Tensor:
        return scale * L.sum()

    found = {
        (loss, name): eg.analysis.gauge_dependence(loss, A, generator=generator)
        for loss in (entries, single_projectors, whole_matrix, values_alone)
        for name, A in (("tied", tied), ("separated", separated))
    }
    assert found[entries, "separated"].phase > 0.1
    assert found[single_projectors, "separated"].phase < 1e-4
    assert found[single_projectors, "separated"].basis == 0
    assert found[single_projectors, "tied"].basis > 0.1
    assert found[whole_matrix, "tied"].basis < 1e-4
    assert found[values_alone, "tied"] == eg.analysis.GaugeDependence(0.0, 0.0)
    assert "basis in clusters" in str(found[entries, "tied"])


def test_gauge_dependence_errors() -> None:
    A = torch.eye(2)
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        eg.analysis.gauge_dependence(lambda L, V: L.sum(), A, trials=0)
    with pytest.raises(ValueError, match="loss must return a real scalar"):
        eg.analysis.gauge_dependence(lambda L, V: V, A)
