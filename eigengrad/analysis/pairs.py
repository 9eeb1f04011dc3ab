"""A look at a few eigenpairs of a large operator before they are differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eigengrad.eigsh import Product, Which, search

__all__ = ["PairInspection", "inspect_pairs"]


@dataclass(frozen=True)
class PairInspection:
    """What :func:`inspect` found of an operator; ``print`` shows it as a small table."""

    eigenvalues: Tensor
    """``(p,)``, in the order of ``which``, the k asked for, and the rest of a multiplet that k cuts."""
    eigenvectors: Tensor
    """``(n, p)``."""
    residuals: Tensor
    """``(p,)``, ``norm(A v - l B v)`` divided by the largest eigenvalue's magnitude."""
    gaps: Tensor
    """``(k,)``, from each of the k to the next in this order, divided alike; the last is the gap at the cut."""
    condition: float
    """Condition of the gradient's linear equations, twice the largest magnitude, which bounds the spectrum, over the
    cut's gap."""
    cut: bool
    """Whether k takes some of a group of equal eigenvalues and leaves others."""
    products: int
    """Of A with a vector, that the search took."""
    advice: str
    """One sentence."""

    def __str__(self) -> str:
        """The pairs, one a line."""
        k = len(self.gaps)
        lines = [f"{'eigenvalue':>16}  {'residual':>8}  {'gap to the next':>15}"]
        for i, (value, residual) in enumerate(zip(self.eigenvalues.tolist(), self.residuals.tolist(), strict=True)):
            gap = f"{float(self.gaps[i]):15.2g}" if i < k else f"{'not asked for':>15}"
            lines.append(f"{value:16.9g}  {residual:8.1e}  {gap}")
        lines += [f"products of A with a vector: {self.products}", self.advice]
        return "\n".join(lines)


def inspect_pairs(
    A: Tensor | Callable[..., Tensor],
    k: int,
    *,
    which: Which = "largest",
    B: Tensor | Product | None = None,
    preconditioner: Tensor | Product | None = None,
    start: Tensor | None = None,
    tol: float | None = None,
    max_iterations: int | None = None,
    generator: torch.Generator | None = None,
    n: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    params: Sequence[Tensor] = (),
) -> PairInspection:
    """The pairs that :func:`eigengrad.eigsh` would find, their residuals, and the gap at the cut, on which its gradient
    depends.

    Args, Raises:
        As for :func:`eigengrad.eigsh`; besides, ``ValueError`` for ``k = 0``.
    """
    if k == 0:
        raise ValueError("k must be at least 1, got 0: there is no cut to look at")
    found = search(
        A, k, which=which, B=B, preconditioner=preconditioner, start=start, tol=tol, max_iterations=max_iterations,
        generator=generator, n=n, dtype=dtype, device=device, params=params,
    )  # fmt: skip
    values, scale = found.pairs.values, found.pairs.scale
    following = torch.cat([values, values.new_tensor([found.pairs.following])])
    gaps = following.diff().abs()[:k] / scale
    gap = float(gaps[-1])
    condition = 2 / gap if gap > 0 else float("inf")
    if gap != gap:  # k = n
        condition = 1.0
    return PairInspection(
        values,
        found.pairs.vectors,
        found.pairs.residuals / scale,
        gaps,
        condition,
        found.cut,
        found.pairs.products,
        _advice(found.cut, k, values, gaps, condition),
    )


def _advice(cut: bool, k: int, values: Tensor, gaps: Tensor, condition: float) -> str:
    if cut:
        below = k - 1
        while below > 0 and float(gaps[below - 1]) < 1e3 * torch.finfo(gaps.dtype).eps:
            below -= 1
        if len(values) == k:
            return (
                f"k = {k} cuts a multiplet that is longer still: take k = {below}."
                if below
                else (f"k = {k} cuts a multiplet that is longer still: no vectors of it have a derivative.")
            )
        return f"k = {k} cuts a multiplet of {len(values) - below}: take k = {len(values)}, or k = {below}."
    if condition > 1e6:
        return f"The gap behind pair {k} is narrow: the gradient needs a preconditioner, or a k with a wider one."
    return (
        f"The gap behind pair {k} is wide enough: the gradient takes some {5 * condition**0.5:.0f} products a vector."
    )
