"""The idea of this package: an eigenvector gradient is a choice of one matrix K.

For Hermitian ``A = V diag(L) V^H`` with ascending eigenvalues, perturbation theory gives

    dL = diag(B),    dV = V (K o B),    B = V^H dA V,

where ``o`` is the elementwise product and ``K[i, j]`` is the weight of ``v_i`` in ``dv_j``. The exact weight
``1 / (L[j] - L[i])`` grows without bound as two eigenvalues meet. Every stable gradient in the literature
replaces it by another function of the eigenvalues alone. Each class below is one such choice: a frozen value
object with a method ``kernel`` that returns K, and a method ``bound`` that says how large K can become.

All of them are stated for one pair of eigenvalues, in these letters:

    a   the eigenvalue of larger magnitude (the *major*; of two equal magnitudes, the one with the larger index)
    b   the other one (the *minor*)
    r   the ratio b / a, in [-1, 1]

A rule of your own is any object with these two methods; it need not inherit from anything here.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from eigengrad.gradients.gaps import diagonal, gaps, lorentzian_kernel, pairs, scale
from eigengrad.gradients.series import FEW_TERMS, series_kernel

__all__ = ["Clipped", "Exact", "GradientRule", "Lorentzian", "Masked", "PowerIteration", "Taylor", "Unrolled"]


@runtime_checkable
class GradientRule(Protocol):
    """What :func:`eigengrad.eigh` asks of a gradient rule."""

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        """Weights ``K (*, n, n)`` of ``v_i`` in ``dv_j`` for ascending real ``eigenvalues (*, n)``.

        The diagonal is zero. Written in differentiable torch operations, so that second derivatives follow.
        """
        ...

    def bound(self, smallest: float, largest: float) -> float:
        """Upper bound of ``abs(K)`` over all spectra with magnitudes between ``smallest`` and ``largest``."""
        ...


@dataclass(frozen=True)
class Exact:
    """The true derivative, ``K = 1/(a-b)`` for the major and ``-1/(a-b)`` for the minor.

    Bound: none. Two equal nonzero eigenvalues give an infinite weight and NaN gradients, as in torch.
    Bias: none. Two zero eigenvalues: weight 0, the basis of a null space being arbitrary.

    Use it when the gaps are known to be large, or to reproduce what ``torch.linalg.eigh`` does.

    Source: Ionescu, Vantzos, Sminchisescu, *Matrix Backpropagation for Deep Networks*, ICCV 2015.
    """

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        row, column = pairs(eigenvalues)
        dropped = diagonal(eigenvalues) | ((row == 0) & (column == 0))
        return _reciprocal_except(column - row, dropped)

    def bound(self, smallest: float, largest: float) -> float:
        return math.inf


@dataclass(frozen=True)
class PowerIteration:
    """The derivative of power iteration with deflation, ``iterations`` steps from a converged start.

    ``K = (1/a) sum_{k<T} r^k`` for the major, ``-(1/a) sum_{k<T-1} r^k`` for the minor, ``T = iterations``.
    The weights equal what autograd computes through the paper's n-stage procedure, at the cost of one product.

    Bound: ``T/abs(a)``, reached at a tie. Bias: a share ``r^T`` of the exact weight is left out (5% at
    ``r = 0.85`` and 19 iterations). Zero eigenvalues: where ``a`` is so small that ``T/abs(a)`` overflows the
    dtype, zero included, the weight is 0.

    The weights of a pair are not antisymmetric: between the T and the T - 1 terms lies ``r^(T-1)/a``. Inside a tied
    block this makes the gradient depend on the basis that the solver happened to return, even of a loss that does not
    (by 0.6 to 10 times its size in ``results/gaps.md``), and more iterations do not help.

    Use it to regularise training as the paper does: a gradient that stays smooth whatever the spectrum does, with
    ``iterations`` as the choice between fidelity and bound. It is no derivative. The default of 19 is the paper's.

    Args:
        iterations: T, the number of terms for the major, at least 1. The paper's equation (2) has T = K terms.

    Source: Wang, Dang, Hu, Fua, Salzmann, *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019.
    """

    iterations: int = 19

    def __post_init__(self) -> None:
        _check_count("PowerIteration", "iterations", self.iterations, least=1)

    @property
    def terms(self) -> tuple[int, int]:
        """Of the series, for the major and for the minor."""
        return self.iterations, self.iterations - 1

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return series_kernel(eigenvalues, self.terms)

    def bound(self, smallest: float, largest: float) -> float:
        return _divide(self.iterations, smallest)


@dataclass(frozen=True)
class Taylor:
    """The Taylor polynomial of the exact weight, ``K = (1/a) sum_{k<=T} r^k`` and its negative, ``T = degree``.

    Bound: ``(T+1)/abs(a)``, reached at a tie. Bias: a share ``r^(T+1)`` of the exact weight is left out.
    Zero eigenvalues: as for :class:`PowerIteration`.

    Use it where the weights of a pair must be antisymmetric, as a true rotation's are.

    Args:
        degree: T, at least 0. The default of 9 is the authors'.

    Source: Wang, Dang, Hu, Fua, Salzmann, *Robust Differentiable SVD*, TPAMI 2021, arXiv 2104.03821.
    """

    degree: int = 9

    def __post_init__(self) -> None:
        _check_count("Taylor", "degree", self.degree, least=0)

    @property
    def terms(self) -> tuple[int, int]:
        """Of the series, for the major and for the minor."""
        return self.degree + 1, self.degree + 1

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return series_kernel(eigenvalues, self.terms)

    def bound(self, smallest: float, largest: float) -> float:
        return _divide(self.degree + 1, smallest)


@dataclass(frozen=True)
class Clipped:
    """The exact weight, clamped: ``K = 1/(a-b)`` with ``abs(K) <= max_magnitude``, and its negative.

    Bound: ``max_magnitude``. Bias: none while the gap exceeds ``1/max_magnitude``; a tie gets the full magnitude,
    with the sign of a gap that closes. Zero eigenvalues: ties like any other. The only rule with an absolute
    threshold, which is how it was published: it does not follow a change of the matrix's scale.

    Use it to compare with published work; the default lets gradients of 1e10 through.

    Args:
        max_magnitude: c, positive and finite.

    Source: the "Trunc" baseline of Song, Sebe, Wang, *Why Approximate Matrix Square Root Outperforms Accurate SVD
    in Global Covariance Pooling?*, ICCV 2021, arXiv 2105.02498, which uses c = 1e10.
    """

    max_magnitude: float = 1e10

    def __post_init__(self) -> None:
        _check_positive("Clipped", "max_magnitude", self.max_magnitude)

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        gap = gaps(eigenvalues)
        limit = min(self.max_magnitude, torch.finfo(eigenvalues.dtype).max)
        clamped = (gap * limit).abs() <= 1.0
        above = gap.new_ones(gap.shape[-1], gap.shape[-1]).triu(1)
        return torch.where(clamped, limit * (above - above.mT), _reciprocal_except(gap, clamped))

    def bound(self, smallest: float, largest: float) -> float:
        return self.max_magnitude


@dataclass(frozen=True)
class Lorentzian:
    """The exact weight broadened, ``K = d/(d^2 + w^2)`` with ``d = a-b``, and its negative; ``w`` relative to scale.

    Bound: ``1/(2w)``, reached at ``d = w``; a tie gives 0. Bias: a share ``w^2/(d^2 + w^2)`` of the exact weight
    is left out. Zero eigenvalues: weight 0, as for any tie.

    Use it by default. For a loss that does not depend on the basis inside a tied block, the weights inside the block
    must cancel, and antisymmetric ones do: the gradient is exact at ties, and for every gap within the block its error
    is at most about the square root of the machine epsilon (``results/gaps.md``). Of pairs that do count the share left
    out is, at the default width, ``eps/d^2`` with d relative to the largest magnitude: in float32 1e-5 at a tenth, 1e-3
    at a hundredth and 0.1 at a thousandth; in float64 2e-12 at a hundredth, 2e-8 at 1e-4. :class:`Exact` errs by
    ``eps/d`` there: take it for narrow gaps that are known to be open.

    Args:
        width: w as a fraction of ``max abs(L)``, positive; None, the default, for the square root of the dtype's
            machine epsilon, 1.5e-8 in float64 and 3.5e-4 in float32. The authors' 1e-12, which is absolute, only
            removes the pole; widths around 1e-3 regularise. Widths below 1e-18 are taken to be that.

    Source: Liao, Liu, Wang, Xiang, *Differentiable Programming Tensor Networks*, 2019, arXiv 1903.09650.
    """

    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            _check_positive("Lorentzian", "width", self.width)

    def relative_width(self, dtype: torch.dtype) -> float:
        """w as a fraction of ``max abs(L)``, for eigenvalues of this dtype."""
        return torch.finfo(dtype).eps ** 0.5 if self.width is None else self.width

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return lorentzian_kernel(eigenvalues, self.relative_width(eigenvalues.dtype))

    def bound(self, smallest: float, largest: float) -> float:
        return _divide(0.5 / self.relative_width(torch.float64), largest)


@dataclass(frozen=True)
class Masked:
    """The exact weight, left out for eigenvalues that count as equal: 0 where ``abs(a-b) <= t max abs(L)``.

    Bound: ``1/(t max abs(L))``. Bias: none outside the mask, everything inside it, which is right at a tie when the
    loss depends on the span of the tied vectors alone. A loss that weights them by functions of their eigenvalues,
    ``V f(L) V^H``, loses its share between them, under this rule as under any: use a function of the matrix. Zero
    eigenvalues: weight 0, as for any tie.

    Use it in physics, where degeneracy is a symmetry and the loss respects it.

    Args:
        rtol: t, positive. The default of 1e-6 lies above the rounding error of float32 eigenvalues.

    Source: Kasim, *Derivatives of Partial Eigendecomposition of a Real Symmetric Matrix for Degenerate Cases*, 2020,
    arXiv 2011.04366.
    """

    rtol: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive("Masked", "rtol", self.rtol)

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        gap = gaps(eigenvalues)
        return _reciprocal_except(gap, gap.abs() <= self.rtol * scale(eigenvalues))

    def bound(self, smallest: float, largest: float) -> float:
        return _divide(1.0 / self.rtol, largest)


@dataclass(frozen=True)
class Unrolled:
    """No rule: autograd walks the solver's own steps.

    Bound and bias are those of the procedure, and the gradient lies in the triangle of A that it reads. Needs a
    solver written in differentiable steps (:class:`eigengrad.solvers.PowerIteration`); with any other,
    :func:`eigengrad.eigh` raises ``ValueError``.

    Use it to reproduce the paper's PI baseline; memory and time grow with the number of steps.
    """


_RULES = frozenset((Exact, PowerIteration, Taylor, Clipped, Lorentzian, Masked))


def check_rule(gradient: object) -> None:
    """Raise ``TypeError`` unless ``gradient`` is a rule."""
    if type(gradient) in _RULES:  # quickly, as a rule: asking a protocol takes 5 us
        return
    if isinstance(gradient, type) or not isinstance(gradient, GradientRule):
        raise TypeError(f"gradient must be a rule such as eigengrad.Lorentzian(), got {gradient!r}")


def in_kernel(gradient: GradientRule, dtype: torch.dtype) -> tuple[float, int, int] | None:
    """The width of a Lorentzian (0 for a series) and the terms of a short series (0 for a Lorentzian), whose weights
    the compiled kernel makes by itself; None for other rules."""
    if type(gradient) is Lorentzian:
        return gradient.relative_width(dtype), 0, 0
    if type(gradient) in (PowerIteration, Taylor) and max(gradient.terms) <= FEW_TERMS:  # type: ignore[attr-defined]
        return 0.0, *gradient.terms  # type: ignore[attr-defined]
    return None


def _reciprocal_except(gap: Tensor, dropped: Tensor) -> Tensor:
    """``1/gap``, and 0 (with zero derivative) where ``dropped``."""
    return torch.where(dropped, torch.inf, gap).reciprocal()


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf


def _check_count(rule: str, name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{rule}: {name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{rule}: {name} must be at least {least}, got {value}")


def _check_positive(rule: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{rule}: {name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{rule}: {name} must be positive and finite, got {value}")
