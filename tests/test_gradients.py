"""Every rule's kernel: its values against mpmath, its bound, its scale law, its behaviour at zero and at ties."""

import dataclasses
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import eigengrad as eg
from eigengrad.gradients.series import FEW_TERMS

ITERATIONS = (1, 2, 5, 19, FEW_TERMS, FEW_TERMS + 1, 200, 10**6, 10**9)
BOUNDED = [
    eg.PowerIteration(),
    eg.PowerIteration(1),
    eg.PowerIteration(10**6),
    eg.Taylor(),
    eg.Taylor(0),
    eg.Clipped(),
    eg.Clipped(3.0),
    eg.Lorentzian(),
    eg.Lorentzian(1e-12),
    eg.Lorentzian(1e-3),
    eg.Masked(),
    eg.Masked(0.1),
]
RULES = [eg.Exact(), *BOUNDED]

Weights = Callable[[mpmath.mpf, mpmath.mpf], tuple[mpmath.mpf, mpmath.mpf]]
"""``(a, b)`` to the weight of the minor in d(major) and of the major in d(minor), as in the package's table."""


def series(terms: int, a: mpmath.mpf, b: mpmath.mpf) -> mpmath.mpf:
    return mpmath.mpf(terms) / a if a == b else (1 - (b / a) ** terms) / (a - b)


def antisymmetric(weight: Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]) -> Weights:
    return lambda a, b: (weight(a, b), -weight(a, b))


def clipped(limit: float) -> Weights:
    return antisymmetric(lambda a, b: max(-mpmath.mpf(limit), min(mpmath.mpf(limit), 1 / (a - b))))


def lorentzian(width: float) -> Weights:
    return antisymmetric(lambda a, b: (a - b) / ((a - b) ** 2 + (width * abs(a)) ** 2))


def masked(rtol: float) -> Weights:
    return antisymmetric(lambda a, b: mpmath.mpf(0) if abs(a - b) <= rtol * abs(a) else 1 / (a - b))


def pairs(dtype: torch.dtype) -> Tensor:
    """Ascending eigenvalue pairs ``(m, 2)``: every kind of ratio, both signs and several sizes of the major."""
    eps = torch.finfo(dtype).eps
    generator = torch.Generator().manual_seed(1)
    distance = 10 ** (-16 * torch.rand(60, dtype=torch.float64, generator=generator))
    special = torch.tensor([1, 1 - eps / 2, 1 - eps, 0.5, 0.5 - eps / 4, 0.85, 1e-3, 1e-20, 0], dtype=torch.float64)
    ratios = torch.cat([special, -special, 1 - distance, distance - 1, 2 * distance - 1])
    majors = torch.tensor([1.0, -1.0, 0.7, -3e5], dtype=torch.float64)
    major = majors.repeat_interleave(len(ratios)).to(dtype)
    minor = ratios.repeat(len(majors)).to(dtype) * major
    return torch.stack([major, minor], dim=-1).sort(dim=-1).values


def largest_error(rule: eg.gradients.GradientRule, weights: Weights, L: Tensor, *, cancelling: bool = False) -> float:
    """Largest relative error of the kernel over the pairs ``L (m, 2)``, in units of the dtype's eps.

    With ``cancelling``, relative to the first term 1/a where terms of alternating sign add up to less.
    """
    K, worst, eps = rule.kernel(L).tolist(), 0.0, torch.finfo(L.dtype).eps
    for (first, second), matrix in zip(L.tolist(), K, strict=True):
        second_is_major = abs(second) >= abs(first)
        a, b = (second, first) if second_is_major else (first, second)
        of_minor, of_major = (matrix[0][1], matrix[1][0]) if second_is_major else (matrix[1][0], matrix[0][1])
        for actual, expected in zip((of_minor, of_major), weights(mpmath.mpf(a), mpmath.mpf(b)), strict=True):
            size = abs(expected) or mpmath.mpf("1e-300")  # an exact 0 must be met exactly
            if cancelling and a * b < 0:
                size = max(size, 1 / abs(mpmath.mpf(a)))
            error = abs(actual - expected) / size
            worst = max(worst, float(error / eps))
    return worst


@pytest.fixture(autouse=True)
def precision():
    with mpmath.workprec(300):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", ITERATIONS)
def test_series_kernels_to_a_few_ulp(terms: int, dtype: torch.dtype) -> None:
    L = pairs(dtype)
    power_iteration = largest_error(
        eg.PowerIteration(terms), lambda a, b: (series(terms, a, b), -series(terms - 1, a, b)), L, cancelling=True
    )
    taylor = largest_error(eg.Taylor(terms), antisymmetric(lambda a, b: series(terms + 1, a, b)), L, cancelling=True)
    # A few terms are summed one by one, and carry along the rounding of r.
    carried = terms if terms <= FEW_TERMS else 0
    assert power_iteration < 4 + carried
    assert taylor < 4 + carried


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        (eg.Clipped(), clipped(1e10)),
        (eg.Clipped(3.0), clipped(3.0)),
        (eg.Lorentzian(1e-12), lorentzian(1e-12)),
        (eg.Lorentzian(0.1), lorentzian(0.1)),
        (eg.Masked(1e-3), masked(1e-3)),
        (eg.Exact(), antisymmetric(lambda a, b: 1 / (a - b))),
    ],
)
def test_other_kernels_to_a_few_ulp(rule: eg.gradients.GradientRule, weights: Weights, dtype: torch.dtype) -> None:
    L = pairs(dtype)
    distinct = L[L[:, 0] != L[:, 1]]
    assert len(distinct) > 300
    assert largest_error(rule, weights, distinct) < 4


@pytest.mark.parametrize("terms", [19, 200])
@pytest.mark.parametrize("b", [1.0, 1 - 1e-12, 1 - 1e-6, 0.85, 0.5, 0.2, 0.0, -0.3, -0.9])
def test_derivative_of_the_series_kernel(b: float, terms: int) -> None:
    """What second derivatives of eigh rest on; at a tie it must be the limit, not the derivative of a branch."""
    L = torch.tensor([b, 1.0], dtype=torch.float64)
    derivative = torch.func.jacrev(lambda L: eg.PowerIteration(terms).kernel(L)[0, 1])(L)
    by_minor = sum(k * b ** (k - 1) for k in range(1, terms))
    by_major = -sum((k + 1) * b**k for k in range(terms))
    torch.testing.assert_close(derivative, torch.tensor([by_minor, by_major]).double(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_diagonal_carries_no_derivative(rule: eg.gradients.GradientRule) -> None:
    """It is a tie of every eigenvalue with itself: what a rule does at ties must not round the rest away."""
    L = torch.tensor([-0.5, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 3, dtype=torch.float64)
    whole, without = weights, weights - weights.diag().diag()
    expected = torch.autograd.grad((rule.kernel(L) * without).sum(), L)[0]
    torch.testing.assert_close(torch.autograd.grad((rule.kernel(L) * whole).sum(), L)[0], expected, rtol=1e-13, atol=0)


def test_ties_with_the_later_one_as_major() -> None:
    for L in ([2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]):
        major = torch.ones(3, 3).triu(1) / L[0]
        tied = torch.tensor(L)
        assert torch.equal(eg.PowerIteration(7).kernel(tied), 7 * major - 6 * major.mT)
        assert torch.equal(eg.Taylor(7).kernel(tied), 8 * major - 8 * major.mT)
        assert torch.equal(eg.Masked().kernel(tied), torch.zeros(3, 3))
        assert torch.equal(eg.Lorentzian().kernel(tied), torch.zeros(3, 3))
        assert torch.equal(eg.Clipped(5.0).kernel(tied), 10 * (major - major.mT) * (L[0] / 2))
        assert torch.equal(eg.Exact().kernel(tied).isinf(), ~torch.eye(3, dtype=torch.bool))


magnitudes = st.sampled_from([0.0, 0.25, 1.0]) | st.floats(1e-6, 1.0)
eigenvalues = st.lists(st.tuples(magnitudes, st.sampled_from([1, -1])).map(math.prod), min_size=1, max_size=8).map(
    sorted
)


@given(eigenvalues, st.sampled_from([1e-20, 1.0, 1e20]), st.sampled_from([torch.float32, torch.float64]))
@pytest.mark.parametrize("rule", BOUNDED, ids=repr)
def test_bound_holds(rule: eg.gradients.GradientRule, values: list[float], scale: float, dtype: torch.dtype) -> None:
    """Ties, zeros and mirrored pairs included: the strategy repeats a few magnitudes on purpose."""
    L = torch.tensor(values, dtype=torch.float64).mul(scale).to(dtype)
    K = rule.kernel(L)
    bound = rule.bound(float(L.abs().min()), float(L.abs().max()))
    assert K.isfinite().all()
    assert float(K.abs().max()) <= bound * (1 + 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("rule", "L", "bound"),
    [
        (eg.PowerIteration(19), [0.5, 0.5], 38.0),
        (eg.Taylor(9), [0.5, 0.5], 20.0),
        (eg.Clipped(3.0), [0.5, 0.5], 3.0),
        (eg.Lorentzian(0.25), [0.375, 0.5], 4.0),
    ],
)
def test_bound_is_reached(rule: eg.gradients.GradientRule, L: list[float], bound: float) -> None:
    assert rule.bound(0.5, 0.5) == bound
    assert float(rule.kernel(torch.tensor(L)).abs().max()) == pytest.approx(bound, rel=1e-6)


def test_bound_of_a_singular_spectrum() -> None:
    assert eg.Exact().bound(1.0, 1.0) == math.inf
    assert eg.PowerIteration().bound(0.0, 1.0) == math.inf
    assert eg.Masked(1e-3).bound(0.0, 2.0) == 500.0


@given(eigenvalues, st.integers(-40, 40), st.sampled_from([torch.float32, torch.float64]))
@pytest.mark.parametrize("rule", [rule for rule in RULES if not isinstance(rule, eg.Clipped)], ids=repr)
def test_scale_law(rule: eg.gradients.GradientRule, values: list[float], exponent: int, dtype: torch.dtype) -> None:
    """``K(c L) = K(L)/c``, to the last bit when c is a power of two."""
    L = torch.tensor(values, dtype=dtype)
    torch.testing.assert_close(rule.kernel(L * 2.0**exponent), rule.kernel(L) / 2.0**exponent, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_zero_eigenvalues(rule: eg.gradients.GradientRule, dtype: torch.dtype) -> None:
    for values in ([0.0, 0.0], [0.0, 0.0, 0.0, 3.0], [-2.0, 0.0, 0.0, 1.0]):
        L = torch.tensor(values, dtype=dtype, requires_grad=True)
        K = rule.kernel(L)
        assert K.isfinite().all(), values
        assert torch.autograd.grad(K.sum(), L)[0].isfinite().all(), values
    zero = rule.kernel(torch.zeros(4, dtype=dtype))
    tie = rule.max_magnitude if isinstance(rule, eg.Clipped) else 0.0
    assert torch.equal(zero, tie * (torch.ones(4, 4).triu(1) - torch.ones(4, 4).tril(-1)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [eg.PowerIteration(), eg.Taylor(), eg.PowerIteration(10**6)], ids=repr)
def test_eigenvalues_too_small_for_the_bound(rule: eg.gradients.GradientRule, dtype: torch.dtype) -> None:
    """Where ``T/abs(a)`` overflows the weight is 0, and just above it is as large as the bound says."""
    tiny = torch.finfo(dtype).tiny
    assert not rule.kernel(torch.tensor([0.0, tiny / 4, tiny], dtype=dtype)).any()
    L = torch.tensor([1.0, 1.0], dtype=dtype) * tiny * 2.0**21
    assert float(rule.kernel(L)[0, 1]) == pytest.approx(rule.bound(float(L[0]), float(L[1])))


def test_derivative_where_clipped() -> None:
    """A clamped weight is constant, also where the square of the exact one overflows."""
    L = torch.tensor([0.0, 1e-22, 3e-15], requires_grad=True)
    K = eg.Clipped(1e10).kernel(L)
    assert torch.equal(K.detach(), 1e10 * (torch.ones(3, 3).triu(1) - torch.ones(3, 3).tril(-1)))
    assert torch.equal(torch.autograd.grad(K.square().sum(), L)[0], torch.zeros(3))


@pytest.mark.parametrize("rule", [eg.Clipped(1e300), eg.Lorentzian(1e-300), eg.Masked(1e-300)], ids=repr)
def test_thresholds_beyond_the_range_of_float32(rule: eg.gradients.GradientRule) -> None:
    K = rule.kernel(torch.tensor([1.0, 1.0, 3.0]))
    assert not K.isnan().any()
    assert not K.diagonal().any()
    torch.testing.assert_close(K[:2, 2], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("terms", [10**18, 10**20])
def test_counts_beyond_the_range_of_integers(terms: int) -> None:
    K = eg.PowerIteration(terms).kernel(torch.tensor([-0.5, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(K[0, 1:], torch.tensor([1 / 1.5, 1 / 1.5]).double())
    torch.testing.assert_close(K[1:, 1:], torch.tensor([[0.0, terms], [-terms, 0.0]]).double())


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_shapes(rule: eg.gradients.GradientRule) -> None:
    for shape in ((0,), (1,), (2,), (3, 0), (0, 3), (0, 0), (2, 3, 4)):
        L = torch.rand(shape, dtype=torch.float64).sort(dim=-1).values
        K = rule.kernel(L)
        assert K.shape == (*shape, shape[-1])
        assert K.dtype == L.dtype
        assert not K.diagonal(dim1=-2, dim2=-1).any()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_batches_are_independent(rule: eg.gradients.GradientRule) -> None:
    """The relative thresholds are those of each matrix, not of the batch."""
    L = torch.tensor([[0.0, 0.0, 1.0], [1e-9, 1.05e-9, 2e-9], [1e9, 1.5e9, 1e10]], dtype=torch.float64)
    assert torch.equal(rule.kernel(L), torch.stack([rule.kernel(row) for row in L]))


@pytest.mark.parametrize("rule", [*RULES, eg.Unrolled()], ids=repr)
def test_rules_are_values(rule: eg.gradients.GradientRule | eg.Unrolled) -> None:
    twin = dataclasses.replace(rule)
    assert twin == rule
    assert hash(twin) == hash(rule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.iterations = 3  # type: ignore[misc, union-attr]
    assert eval(repr(rule), vars(eg)) == rule  # what is printed can be pasted


def test_protocol() -> None:
    assert all(isinstance(rule, eg.gradients.GradientRule) for rule in RULES)
    assert not isinstance(eg.Unrolled(), eg.gradients.GradientRule)


@pytest.mark.parametrize(
    ("rule", "argument", "least"), [(eg.PowerIteration, "iterations", 1), (eg.Taylor, "degree", 0)]
)
def test_counts_are_checked(rule: type, argument: str, least: int) -> None:
    assert getattr(rule(least), argument) == least
    for value in (2.0, "3", True, None):
        with pytest.raises(TypeError, match=f"{rule.__name__}: {argument} must be an int"):
            rule(value)
    with pytest.raises(ValueError, match=f"{rule.__name__}: {argument} must be at least {least}, got {least - 1}"):
        rule(least - 1)


@pytest.mark.parametrize(
    ("rule", "argument"), [(eg.Clipped, "max_magnitude"), (eg.Lorentzian, "width"), (eg.Masked, "rtol")]
)
def test_thresholds_are_checked(rule: type, argument: str) -> None:
    assert getattr(rule(1), argument) == 1
    for value in ("3", True, [], 1j):
        with pytest.raises(TypeError, match=f"{rule.__name__}: {argument} must be a number"):
            rule(value)
    for value in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"{rule.__name__}: {argument} must be positive and finite, got {value}"):
            rule(value)
