"""A look at a spectrum before it is differentiated."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from eigengrad.analysis.pairs import PairInspection, inspect_pairs
from eigengrad.arguments import as_threshold, check_square
from eigengrad.gradients import Clipped, Exact, GradientRule, Lorentzian, Masked, PowerIteration, Taylor, check_rule
from eigengrad.native.reference import check_finite

__all__ = ["Inspection", "inspect"]

SHELF: tuple[GradientRule, ...] = (Exact(), PowerIteration(), Taylor(), Clipped(), Lorentzian(), Masked())


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found; ``print`` shows it as a small table."""

    eigenvalues: Tensor
    """``(*, n)``, ascending."""
    gaps: Tensor
    """``(*, n-1)``, differences of neighbours divided by the matrix's largest eigenvalue magnitude."""
    clusters: Tensor
    """``(*, n)``, the number of each eigenvalue's cluster, counted from 0."""
    condition: Tensor
    """``(*)``, the largest magnitude divided by the smallest; infinite if that is zero."""
    amplification: dict[GradientRule, Tensor]
    """For each rule the largest ``abs(K)``, ``(*)``, times the largest magnitude, which is how much it amplifies."""
    advice: str
    """One sentence about the worst matrix of the batch."""

    def __str__(self) -> str:
        """Extremes over the batch."""
        lines = [
            f"matrices      {tuple(self.eigenvalues.shape[:-1]) or 'one'}, n = {self.eigenvalues.shape[-1]}",
            f"smallest gap  {_extreme(self.gaps, smallest=True):.3g} of the largest magnitude",
            f"condition     {_extreme(self.condition):.3g}",
            f"clusters      up to {_largest_cluster(self.clusters)} eigenvalues in one",
            "amplification",
            *(f"    {rule!r:36} {_extreme(values):.3g}" for rule, values in self.amplification.items()),
            self.advice,
        ]
        return "\n".join(lines)


@overload
def inspect(
    A: Tensor, k: None = None, *, rtol: float | None = None, rules: Iterable[GradientRule] = SHELF
) -> Inspection: ...


@overload
def inspect(A: Tensor | Callable[..., Tensor], k: int, **options: Any) -> PairInspection: ...


def inspect(
    A: Tensor | Callable[..., Tensor],
    k: int | None = None,
    *,
    rtol: float | None = None,
    rules: Iterable[GradientRule] = SHELF,
    **options: Any,
) -> Inspection | PairInspection:
    """Gaps, clusters, condition, the amplification that each rule would give, and advice.

    A diagnosis for the desk, not for the training loop: it waits for the device. With ``k``, of the few pairs of a
    large operator that :func:`eigengrad.eigsh` would find: their residuals, and the gap at the cut, on which its
    gradient depends.

    Args:
        A: Hermitian matrices ``(*, n, n)``. The lower triangle is read. With ``k``, an operator as of
            :func:`eigengrad.eigsh`.
        k: how many pairs, at least 1; by default the whole spectrum.
        rtol: neighbours whose gap is at most this share of the largest magnitude belong to one cluster. By default
            ``n`` units of rounding, the error of computed eigenvalues.
        rules: the rules to compare; by default all of the shelf, with their defaults.
        options: with ``k``, those of :func:`eigengrad.eigsh`: which, B, preconditioner, start, tol, max_iterations,
            generator, n, dtype, device, params.

    Returns:
        An :class:`Inspection`; with ``k``, a :class:`PairInspection`.

    Raises:
        TypeError: if one of ``rules`` is none; if ``A`` is no tensor, or of another dtype than LAPACK has; for options
            that do not belong together.
        ValueError: if ``A`` is no batch of square matrices; if ``rtol`` is negative; as of :func:`eigengrad.eigsh`.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.analysis.inspect(torch.tensor([1.0, 2.0, 2.0]).diag()).advice[:47]
        '2 eigenvalues are tied, so that Exact() has no '
        >>> print(eg.analysis.inspect(torch.tensor([1.0, 2.0, 2.0, 3.0]).diag(), 2).advice)
        k = 2 cuts a multiplet of 2: take k = 3, or k = 1.
    """
    if k is not None:
        if rtol is not None or rules is not SHELF:
            raise TypeError("rtol and rules are of a whole spectrum: they do not go with k")
        return inspect_pairs(A, k, **options)
    if options:
        raise TypeError(f"inspect: {', '.join(options)} go with k, the number of pairs of an operator")
    if callable(A) or (isinstance(A, Tensor) and A.layout != torch.strided):
        raise TypeError("A is no dense tensor, of which the whole spectrum can be seen: say of how many pairs, by k=")
    check_square(A)
    rtol = None if rtol is None else as_threshold(rtol, "rtol")
    if not isinstance(rules, Iterable):
        raise TypeError(f"rules must be several gradient rules, got {rules!r}; write rules=[rule]")
    check_finite(A.tril())
    L = torch.linalg.eigvalsh(A.detach())
    n, unit = L.shape[-1], torch.finfo(L.dtype).eps
    magnitude = L.abs()
    if n:
        largest, smallest = magnitude.amax(-1, keepdim=True), magnitude.amin(-1, keepdim=True)
    else:
        largest = smallest = L.new_zeros(*L.shape[:-1], 1)
    scale = torch.where(largest > 0, largest, 1.0)
    gaps = L.diff(dim=-1) / scale
    rounding = n * unit if rtol is None else rtol
    clusters = torch.cat([torch.zeros_like(L[..., :1]), gaps > rounding], dim=-1).cumsum(-1).long()
    amplification = {}
    for rule in rules:
        check_rule(rule)
        weights = (rule.kernel(L).abs() * scale.unsqueeze(-1)).flatten(-2)
        amplification[rule] = weights.amax(-1) if n else weights.sum(-1)
    ratio = torch.where(smallest > 0, largest / smallest, torch.inf)
    condition = ratio.squeeze(-1) if n else torch.ones_like(largest.squeeze(-1))
    advice = _advice(gaps, clusters, smallest / scale, rounding, unit)
    return Inspection(L, gaps, clusters, condition, amplification, advice)


def _advice(gaps: Tensor, clusters: Tensor, smallest: Tensor, rounding: float, unit: float) -> str:
    instead = "use a function of the matrix or a projector if the loss is one, a bounded rule otherwise"
    if gaps.numel() == 0:
        return "There is no pair of eigenvalues: every rule gives the exact gradient."
    gap = _extreme(gaps, smallest=True)
    if gap <= rounding:
        tied = f"{_largest_cluster(clusters)} eigenvalues are tied"
        if _extreme(smallest, smallest=True) <= rounding:
            return f"{tied} and the rank is deficient, which leaves no scale for a bound: add eps * I, then {instead}."
        return f"{tied}, so that Exact() has no gradient: {instead}."
    if gap < unit**0.25:
        lost, all_digits = math.log10(1 / gap), math.log10(1 / unit)
        return f"The smallest gap costs Exact() {lost:.0f} of {all_digits:.0f} digits: {instead}."
    return "All gaps are wide: Exact() is accurate, and torch.linalg.eigh will do."


def _extreme(values: Tensor, *, smallest: bool = False) -> float:
    if values.numel() == 0:
        return math.nan
    return float(values.min() if smallest else values.max())


def _largest_cluster(clusters: Tensor) -> int:
    if clusters.numel() == 0:
        return 0
    return int(torch.nn.functional.one_hot(clusters).sum(-2).max())
