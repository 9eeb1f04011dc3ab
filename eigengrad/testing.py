"""For tests of eigensolvers and gradient rules: matrices with chosen spectra, and the contract that a rule must pass.

The kinds of spectra follow LAPACK's test generator for the symmetric eigenproblem (``xDRVST``): zero, identity, evenly,
geometrically and one-sidedly clustered eigenvalues; to which come those that decide about gradients: exact ties, close
clusters, rank deficiency and eigenvalues of opposite sign.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from eigengrad.eigh import eigh
from eigengrad.gradients import GradientRule, check_rule

__all__ = [
    "SPECTRA",
    "RuleProperties",
    "check_gradient_rule",
    "hermitian",
    "invariant_loss",
    "relative_error",
    "spectrum",
    "wilkinson",
]


def _signs(n: int) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(n) % 2).double()


def _pairs(n: int) -> Tensor:
    return (torch.arange(n) // 2 + 1).double()


def _steps(n: int) -> Tensor:
    return torch.arange(1, n + 1).double()


SPECTRA: Mapping[str, Callable[[int], Tensor]] = MappingProxyType(
    {
        "zero": lambda n: torch.zeros(n).double(),
        "identity": lambda n: torch.ones(n).double(),
        "separated": lambda n: _steps(n) / max(n, 1),
        "geometric": lambda n: torch.logspace(-6, 0, n).double(),
        "graded": lambda n: torch.logspace(-30, 0, n).double(),
        "one_large": lambda n: torch.cat([torch.full((max(n - 1, 0),), 1e-14), torch.ones(min(n, 1))]).double(),
        "tie": lambda n: _pairs(n) / max(n, 1),
        "cluster": lambda n: 1 + 1e-9 * torch.arange(n).double(),
        "rank_deficient": lambda n: (_steps(n) - n // 2).clamp_min(0) / max(n, 1),
        "indefinite": lambda n: _steps(n) * _signs(n) / max(n, 1),
        "mirrored": lambda n: _pairs(n) * _signs(n) / max(n, 1),
    }
)
"""Eigenvalues ``(n,)`` in float64, of magnitude at most about 1 and in no particular order, by name."""


def spectrum(kind: str, n: int, *, scale: float = 1.0) -> Tensor:
    """Ascending eigenvalues ``(n,)`` in float64.

    Args:
        kind: a key of ``SPECTRA``: "zero", "identity", "separated", "geometric", "graded", "one_large", "tie",
            "cluster", "rank_deficient", "indefinite" or "mirrored".
        n: how many.
        scale: what they are multiplied by.

    Raises:
        ValueError: for an unknown kind, or a negative n.

    Example:
        >>> import eigengrad as eg
        >>> eg.testing.spectrum("tie", 4)
        tensor([0.2500, 0.2500, 0.5000, 0.5000], dtype=torch.float64)
    """
    if kind not in SPECTRA:
        raise ValueError(f"kind must be one of {', '.join(map(repr, SPECTRA))}, got {kind!r}")
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    return SPECTRA[kind](n).sort().values * scale


def hermitian(
    eigenvalues: Tensor, *, dtype: torch.dtype = torch.float64, generator: torch.Generator | None = None
) -> Tensor:
    """Hermitian matrices with given eigenvalues, up to rounding, in a random basis.

    For ties to the last bit, take ``torch.diag_embed(eigenvalues)``.

    Args:
        eigenvalues: real, ``(*, n)``.
        dtype: of the matrices; float32, float64, complex64 or complex128.
        generator: source of the basis, which is the same for all matrices; torch's global one by default.

    Shape:
        ``(*, n)`` to ``(*, n, n)``.
    """
    wide = torch.complex128 if dtype.is_complex else torch.float64
    n = eigenvalues.shape[-1]
    Q = torch.linalg.qr(torch.randn(n, n, dtype=wide, generator=generator))[0]
    A = (Q * eigenvalues.unsqueeze(-2).to(wide)) @ Q.mH
    return ((A + A.mH) / 2).to(dtype)


def wilkinson(n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Wilkinson's tridiagonal matrix ``(n, n)``, whose eigenvalues come in pairs that agree to many digits.

    Example:
        >>> import torch, eigengrad as eg
        >>> torch.linalg.eigvalsh(eg.testing.wilkinson(21))[-2:]
        tensor([10.7462, 10.7462], dtype=torch.float64)
    """
    beside = torch.ones(max(n - 1, 0), dtype=dtype)
    distance = (torch.arange(n, dtype=dtype) - (n - 1) / 2).abs()
    return distance.diag() + beside.diag(1) + beside.diag(-1) if n else distance.diag()


def invariant_loss(n: int, dtype: torch.dtype, generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """A real ``loss(L, V)`` that reaches every entry of K and no phase: ``sum_c v_c^H W_c v_c + w_c l_c``.

    Args:
        n: size of the matrices.
        dtype: of the matrices.
        generator: source of the random W ``(n, n, n)`` and w ``(n,)``.
    """
    W = torch.randn(n, n, n, dtype=dtype, generator=generator)
    w = torch.randn(n, dtype=dtype.to_real(), generator=generator)

    def loss(L: Tensor, V: Tensor) -> Tensor:
        quadratic = torch.einsum("...ic,cij,...jc->...", V.conj(), W, V)
        return (quadratic.real + (w * L).sum(-1)).sum()

    return loss


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Difference in the Frobenius norm, relative to ``expected``; in float64, where squares do not overflow.

    Of two that are all zeros, it is 0.
    """
    wide = torch.complex128 if expected.is_complex() else torch.float64
    actual, expected = actual.detach().to(wide), expected.detach().to(wide)
    difference = (actual - expected).norm()
    return 0.0 if difference == 0 else float(difference / expected.norm())


class RuleProperties(NamedTuple):
    """What :func:`check_gradient_rule` found out about a rule that keeps the contract."""

    antisymmetric: bool
    """Whether ``K[j, i] = -K[i, j]``. If so, the gradient of a loss that does not depend on the basis inside a tied
    block is exact at the tie, whatever the weights; if not, it depends on the basis that the solver returned."""


def check_gradient_rule(rule: GradientRule, *, scale_free: bool = True) -> RuleProperties:
    """Check that a gradient rule keeps the contract of :class:`eigengrad.gradients.GradientRule`.

    Args:
        rule: the rule, one of this package's or your own.
        scale_free: require ``K(c L) = K(L)/c``. Switch it off for a rule with an absolute threshold.

    Returns:
        What the contract leaves open, whether the weights are antisymmetric.

    Raises:
        TypeError: if ``rule`` has not the two methods.
        AssertionError: if it breaks a clause, saying which, and for which eigenvalues.

    Example:
        >>> import eigengrad as eg
        >>> eg.testing.check_gradient_rule(eg.Masked(rtol=1e-4))
        RuleProperties(antisymmetric=True)
        >>> eg.testing.check_gradient_rule(eg.PowerIteration(19)).antisymmetric
        False
    """
    check_rule(rule)
    for dtype in (torch.float32, torch.float64):
        for kind in SPECTRA:
            for n in (0, 1, 2, 5):
                L = spectrum(kind, n).to(dtype)
                _check_form(rule, L)
                _check_bound(rule, L)
                if scale_free and kind != "graded":
                    _check_scale(rule, L)
    _check_batches(rule)
    _check_derivative(rule)
    _check_both_modes(rule)
    return RuleProperties(_is_antisymmetric(rule))


def _is_antisymmetric(rule: GradientRule) -> bool:
    for kind in SPECTRA:
        K = rule.kernel(spectrum(kind, 5))
        size = torch.where(K.isfinite(), K.abs(), 0).max()
        sums = torch.where(K.isfinite(), K + K.mT, 0)  # an exact tie may be infinite, of either sign
        if float(sums.abs().max()) > 1e-12 * float(size):
            return False
    return True


def _check_form(rule: GradientRule, L: Tensor) -> None:
    K, n = rule.kernel(L), L.shape[-1]
    _require(K.shape == (n, n), f"kernel must have shape {(n, n)}, got {tuple(K.shape)}", rule, L)
    _require(K.dtype == L.dtype, f"kernel must have dtype {L.dtype}, got {K.dtype}", rule, L)
    _require(bool((K.diagonal() == 0).all()), "the diagonal of the kernel must be zero", rule, L)


def _check_bound(rule: GradientRule, L: Tensor) -> None:
    if L.shape[-1] == 0:
        return
    magnitude = L.abs()
    bound = rule.bound(float(magnitude.min()), float(magnitude.max()))
    if bound < torch.finfo(L.dtype).max:
        largest = float(rule.kernel(L).abs().max())
        allowed = bound * (1 + 100 * torch.finfo(L.dtype).eps)
        _require(largest <= allowed, f"abs(K) must be at most bound() = {bound:.3g}, got {largest:.3g}", rule, L)


def _check_scale(rule: GradientRule, L: Tensor) -> None:
    K = rule.kernel(L)
    for factor in (2.0**-40, 2.0**40):
        difference = (rule.kernel(L * factor) * factor - K).nan_to_num().abs()
        close = difference <= 1e3 * torch.finfo(L.dtype).eps * K.abs().nan_to_num()
        _require(bool(close.all()), f"K(c L) must be K(L)/c, and is not for c = {factor:.3g}", rule, L)


def _check_batches(rule: GradientRule) -> None:
    L = torch.stack([spectrum(kind, 4) for kind in ("separated", "indefinite", "geometric")])
    one_by_one = torch.stack([rule.kernel(row) for row in L])
    same = torch.allclose(rule.kernel(L), one_by_one, rtol=1e-12, atol=0)
    _require(same, "a batch must give what its rows give", rule, L)
    mapped = torch.func.vmap(rule.kernel)(L)
    _require(torch.allclose(mapped, one_by_one, rtol=1e-12, atol=0), "vmap must give what a batch gives", rule, L)
    empty = rule.kernel(L[:0])
    _require(empty.shape == (0, 4, 4), f"an empty batch must give (0, 4, 4), got {tuple(empty.shape)}", rule, L[:0])
    L = torch.cat([L, torch.full((1, 4), torch.nan).double()])
    _require(bool(rule.kernel(L)[:3].isfinite().all()), "one bad matrix must not spoil the others", rule, L)


def _check_derivative(rule: GradientRule) -> None:
    for kind in ("separated", "indefinite"):
        L = spectrum(kind, 4).requires_grad_()
        right = torch.autograd.gradcheck(rule.kernel, L, raise_exception=False)
        _require(right, "the kernel's derivative must be that of finite differences", rule, L)
    for kind in ("identity", "tie"):
        L = spectrum(kind, 4).requires_grad_()
        K = rule.kernel(L)
        if bool(K.isfinite().all()):
            derivative = torch.autograd.grad(K.sum(), L)[0]
            _require(bool(derivative.isfinite().all()), "a finite kernel must have a finite derivative", rule, L)


def _check_both_modes(rule: GradientRule) -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.complex128):
        A, dA = (hermitian(spectrum("separated", 4), dtype=dtype, generator=generator) for _ in range(2))
        weigh = invariant_loss(4, dtype, generator)

        def loss(A: Tensor, weigh: Callable[[Tensor, Tensor], Tensor] = weigh) -> Tensor:
            return weigh(*eigh(A, gradient=rule))

        gA = torch.func.grad(loss)(A)
        tangent = torch.func.jvp(loss, (A,), (dA,))[1]
        forward, reverse = float(tangent), float(torch.linalg.vecdot(gA.flatten(), dA.flatten()).real)
        agree = abs(forward - reverse) <= 1e-9 * float(gA.norm() * dA.norm())
        _require(agree, f"forward mode must agree with reverse, got {forward} and {reverse}", rule, A)


def _require(holds: bool, clause: str, rule: GradientRule, where: Tensor) -> None:
    if not holds:
        raise AssertionError(f"{rule!r}: {clause}; at {where.detach().tolist()} in {where.dtype}")
