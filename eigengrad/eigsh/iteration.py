"""A block Davidson iteration with thick restart, expanded by Chebyshev polynomials of the operator or a preconditioner.

A basis V, with ``V^H B V = I``, and the projected matrix ``V^H A V`` are all that is kept. Each round finds the Ritz
pairs, measures the residuals of those wanted, and adds to V a block of new directions for the first that lack:

* ``p(A) x`` for their Ritz vectors x, with the Chebyshev polynomial p that is at most 1 on the unwanted part of the
  spectrum and grows as fast as possible beyond it: many products with A, and no orthogonalisation between them;
* ``M (A x - l B x)``, where a preconditioner M, or B, is given.

The first basis is a block Krylov space, whose Ritz values show where the spectrum ends. Before pairs count as found,
new random directions must not bring a better one: a block finds no more copies of an eigenvalue than it has columns.

Source: Davidson, J. Comput. Phys. 17, 1975; Zhou and Saad, *A Chebyshev-Davidson algorithm for large symmetric
eigenproblems*, SIMAX 29, 2007; Stathopoulos and Wu, SISC 23, 2002 (the orthogonalisation).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Found", "Problem", "find_pairs"]

Product = Callable[[Tensor], Tensor]

GROWTH, GROWTH_OF_RANDOM = 4.0, 12.0
"""Logarithms of the growth that a filter's degree is chosen for: of Ritz vectors, where more would leave the directions
nearly parallel, and of random columns, from which nothing but wanted directions must remain."""
DEGREES = 8, 200
"""Of filters. Shorter ones spend more on orthogonalisation than on products; longer ones use old bounds for long."""
COMPLETION = 20
"""Expansions, at most, for the rest of a multiplet that k cuts: its copies may be more than the basis has room for."""


class Problem(NamedTuple):
    """``A x = l B x``, and how its pairs are looked for."""

    A: Product
    B: Product | None
    preconditioner: Product | None
    n: int
    k: int
    which: str
    """``"smallest"``, ``"largest"`` or ``"magnitude"``."""
    tol: float
    """Of residuals, as a share of the largest Ritz value's magnitude."""
    tie: float
    """Eigenvalues no further apart, measured alike, belong to one multiplet."""
    max_iterations: int
    block: int
    """Columns of an expansion."""

    @property
    def kept(self) -> int:
        """Columns after a restart."""
        return self.k + max(self.k, self.block)

    @property
    def capacity(self) -> int:
        """Columns of the basis."""
        return self.kept + max(self.k, 4 * self.block)

    def order(self, values: Tensor) -> Tensor:
        """Indices of ascending ``values``, the most wanted first."""
        keys = {"smallest": lambda: values, "largest": lambda: -values, "magnitude": lambda: -values.abs()}
        return keys[self.which]().argsort(stable=True)


class Found(NamedTuple):
    """Pairs in the order of ``which``: those wanted, then the rest of a multiplet that the last of them belongs to."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    following: float
    """The Ritz value after these."""
    scale: float
    """The largest magnitude of a Ritz value."""
    products: int
    """Of A with a vector."""


def find_pairs(problem: Problem, start: Tensor, random: Callable[[int], Tensor]) -> Found:
    """The first k pairs, for a capacity below n.

    Args:
        problem: what to solve.
        start: columns to begin with ``(n, c)``, at most ``capacity``.
        random: ``c -> (n, c)``, new random columns.

    Raises:
        torch.linalg.LinAlgError: if products are not finite, or pairs do not converge.
        ValueError: if A is not Hermitian, or B not positive definite.
    """
    basis = _Basis(problem, start, random)
    basis.fill_with_krylov_space()
    wanted, verified, far, cut, expansions = problem.k, False, basis.far_end(), math.nan, 0
    since, scale = None, torch.finfo(start.dtype).tiny
    while True:
        theta, Y = basis.ritz_pairs()
        values, in_order = basis.in_order(theta)
        scale = max(scale, *map(abs, values))
        gap, tie = abs(values[wanted] - values[wanted - 1]), problem.tie * scale
        looked_at = wanted + 1  # the last to see whether k cuts a multiplet; if so its other copies, to keep them apart
        while looked_at < problem.kept and abs(values[looked_at] - values[wanted - 1]) <= tie:
            looked_at += 1
        alike = [j for j in range(looked_at) if abs(values[j] - values[wanted - 1]) <= tie]
        of_one = slice(alike[0], alike[-1] + 1)
        in_order[of_one] = sorted(in_order[of_one], key=lambda i: i >= basis.locked)
        active = [i - basis.locked for i in in_order[:looked_at] if i >= basis.locked]  # which are 0, 1, ...
        X = basis.combine(Y[:, : len(active)])
        R = basis.residuals(X, theta[: len(active)])
        sizes = torch.linalg.vector_norm(R, dim=0).tolist()
        if converged := [i for i in active if sizes[i] <= problem.tol * scale]:
            basis.lock(converged, theta, Y, sizes)
            continue

        if all(i < basis.locked for i in in_order[: problem.k]):
            since = expansions if since is None else since
            if looked_at >= problem.kept or (wanted > problem.k and expansions - since > COMPLETION):
                return basis.found(in_order[: problem.k], values[problem.k], scale)
        settled = all(i < basis.locked for i in in_order[:wanted])
        if settled and gap <= tie and wanted + 1 < problem.kept:
            wanted += 1
            continue
        in_doubt = settled and bool(active) and sizes[0] > max(gap / 10, tie)  # whether the next is of this multiplet
        lacking = [] if settled and not in_doubt else active if gap <= tie else active[:-1] or active
        if not lacking and (verified or gap <= tie):
            return basis.found(in_order[:wanted], values[wanted], scale)
        if expansions == problem.max_iterations:
            raise torch.linalg.LinAlgError(_complaint(problem, [(float(theta[i]), sizes[i] / scale) for i in lacking]))

        expansions, verified = expansions + 1, not lacking
        far = _outer(problem.which, far, values)
        apart = 100 * problem.tie * scale
        outside = (value for value in values[problem.kept :] if abs(value - values[wanted - 1]) > apart)
        cut = _inner(problem.which, cut, next(outside, math.nan))
        chosen = lacking[: problem.block]
        if basis.size + problem.block > problem.capacity:
            basis.restart(theta, Y)
        if problem.preconditioner is not None:
            new = problem.preconditioner(random(problem.block) if verified else R[:, chosen])
        elif problem.B is not None or math.isnan(cut):
            new = random(problem.block) if verified else R[:, chosen]
        else:
            new = basis.filtered(
                random(problem.block) if verified else X[:, chosen],
                (cut, far),
                values[wanted - 1],
                values[0],
                GROWTH_OF_RANDOM if verified else GROWTH,
            )
        basis.append(new)


class _Basis:
    """V ``(n, size)`` and ``H = V^H A V``. Its first columns are locked: pairs that converged, which stay as they are.

    In the projected problem rounding would mix them with every other copy of their eigenvalue that is still on its way.
    """

    def __init__(self, problem: Problem, start: Tensor, random: Callable[[int], Tensor]) -> None:
        self.problem, self.random, self.size, self.locked, self.products = problem, random, 0, 0, 0
        self.locked_values: list[float] = []
        self.locked_residuals: list[float] = []
        self.columns = start.new_empty(problem.n, problem.capacity)
        self.H = start.new_zeros(problem.capacity, problem.capacity)
        self.image = self.append(start)

    @property
    def V(self) -> Tensor:  # noqa: N802
        return self.columns[:, : self.size]

    def A(self, X: Tensor) -> Tensor:  # noqa: N802
        self.products += X.shape[1]
        return self.problem.A(X)

    def B(self, X: Tensor) -> Tensor:  # noqa: N802
        return X if self.problem.B is None else self.problem.B(X)

    def append(self, new: Tensor) -> Tensor:
        """The part of ``new`` that lies outside of V joins it; its image under A is returned."""
        new = self._orthonormal(new[:, : self.problem.capacity - self.size])
        image = self.A(new)
        at = slice(self.size, self.size + new.shape[1])
        self.columns[:, at] = new
        self.size = at.stop
        self.H[: self.size, at] = self.V.mH @ image
        within = self.H[at, at]
        asymmetry, magnitude = float((within - within.mH).abs().sum()), float(within.abs().sum())
        if not math.isfinite(magnitude):
            raise torch.linalg.LinAlgError("eigsh: the products with A contain NaN or infinity; look at A, B and start")
        if asymmetry > 1e-2 * magnitude and asymmetry > 1e-2 * float(image.abs().max()):
            raise ValueError("A must be Hermitian, got x^H A y and y^H A x that differ; make it (A + A^H)/2")
        return image

    def fill_with_krylov_space(self) -> None:
        """Block Arnoldi from what is there, to the capacity."""
        while self.size < self.problem.capacity:
            image = self.image if self.image.shape[1] else self.random(self.problem.block)
            self.image = self.append(image)
        del self.image

    def ritz_pairs(self) -> tuple[Tensor, Tensor]:
        """Of the columns that are not locked: Ritz values and their coordinates, the most wanted first."""
        H = self.H[self.locked : self.size, self.locked : self.size]
        theta, Y = torch.linalg.eigh(H.triu() + H.triu(1).mH)
        order = self.problem.order(theta)
        return theta[order], Y[:, order]

    def in_order(self, theta: Tensor) -> tuple[list[float], list[int]]:
        """The values of all, locked and Ritz values, the most wanted first, and which column each belongs to."""
        values = theta.new_tensor(self.locked_values + theta.tolist())
        order = self.problem.order(values)
        return values[order].tolist(), order.tolist()

    def combine(self, Y: Tensor) -> Tensor:
        return self.columns[:, self.locked : self.size] @ Y

    def residuals(self, X: Tensor, theta: Tensor) -> Tensor:
        """``A X - B X diag(theta)``."""
        return self.A(X) - self.B(X) * theta

    def lock(self, converged: list[int], theta: Tensor, Y: Tensor, sizes: list[float]) -> None:
        """Ritz pairs become the columns; those that converged come first, and are locked."""
        order = converged + [i for i in range(len(theta)) if i not in converged]
        self._turn(theta[order], Y[:, order])
        self.locked_values += theta[converged].tolist()
        self.locked_residuals += [sizes[i] for i in converged]
        self.locked += len(converged)

    def restart(self, theta: Tensor, Y: Tensor) -> None:
        """The first Ritz pairs become the columns that are not locked."""
        kept = max(self.problem.kept - self.locked, self.problem.block)
        self._turn(theta[:kept], Y[:, :kept])

    def _turn(self, theta: Tensor, Y: Tensor) -> None:
        V = self.combine(Y)
        self.size = self.locked + len(theta)
        self.columns[:, self.locked : self.size] = V
        self.H.zero_()
        self.H.diagonal()[self.locked : self.size] = theta.to(self.H.dtype)

    def found(self, columns: list[int], following: float, scale: float) -> Found:
        values, residuals = (
            self.H.new_tensor([of[i] for i in columns]).real for of in (self.locked_values, self.locked_residuals)
        )
        return Found(values, self.columns[:, columns], residuals, following, scale, self.products)

    def far_end(self) -> float:
        """A bound of the spectrum's other end: a Ritz value and the size of its residual."""
        theta, Y = self.ritz_pairs()
        last = {"smallest": int(theta.argmax()), "largest": int(theta.argmin()), "magnitude": 0}[self.problem.which]
        X = self.combine(Y[:, last : last + 1])
        size = float(torch.linalg.vector_norm(self.residuals(X, theta[last : last + 1])))
        return float(theta[last]) + (-size if self.problem.which == "largest" else size)

    def filtered(self, X: Tensor, unwanted: tuple[float, float], target: float, first: float, growth: float) -> Tensor:
        """``p(A) X``, scaled to 1 at ``first``, with a degree for which p grows by ``exp(growth)`` at ``target``."""
        cut, far = unwanted
        low, high = (-abs(cut), abs(cut)) if self.problem.which == "magnitude" else (min(cut, far), max(cut, far))
        center, radius = (low + high) / 2, (high - low) / 2
        radius = max(radius, 1e-6 * abs(first - center), torch.finfo(X.dtype).tiny ** 0.5)
        degree = math.ceil(growth / math.acosh(max(abs(target - center) / radius, 1 + 1e-12)))
        degree = min(max(degree, DEGREES[0]), int(DEGREES[1] * growth / GROWTH))
        sigma = sigma_1 = radius / (first - center) if abs(first - center) > radius else 1.0
        before, X = X, torch.sub(self.A(X), X, alpha=center).mul_(sigma / radius)
        for _ in range(degree - 1):
            sigma_2 = 1 / (2 / sigma_1 - sigma)
            after = torch.sub(self.A(X), X, alpha=center).mul_(2 * sigma_2 / radius)
            before, X, sigma = X, after.sub_(before, alpha=sigma * sigma_2), sigma_2
        return X

    def _orthonormal(self, X: Tensor) -> Tensor:
        """The part of X outside of V, B-orthonormal, without columns that depend on others."""
        eps = torch.finfo(X.dtype).eps
        for _ in range(4):
            X = X / torch.linalg.vector_norm(X, dim=0).clamp_min(torch.finfo(X.dtype).tiny)
            if self.size:
                X = X - self.V @ (self.V.mH @ self.B(X))
            gram = X.mH @ self.B(X)
            squares = gram.diagonal().real
            if self.problem.B is not None:
                least, most = float(squares.min()), float(squares.abs().max())
                if least < -1e-3 * most or (not self.size and not least > 0):
                    raise ValueError(f"B must be positive definite, got x^H B x = {least:.3g} for an x of length 1")
            scale = squares.clamp_min(torch.finfo(X.dtype).tiny).rsqrt()
            values, U = torch.linalg.eigh(scale[:, None] * gram * scale)
            kept = values > 100 * eps * X.shape[1]
            X = X @ ((scale[:, None] * U) / values.clamp_min(eps).sqrt())[:, kept]
            if X.shape[1] == 0 or (float(values.min()) > 0.5 and float(gram.diagonal().real.min()) > 0.5):
                break
        return X


def _inner(which: str, a: float, b: float) -> float:
    """The bound of the unwanted part that leaves less of it; either may be NaN."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return {"smallest": min, "largest": max}.get(which, lambda a, b: max(abs(a), abs(b)))(a, b)


def _outer(which: str, far: float, values: list[float]) -> float:
    return min(far, *values) if which == "largest" else max(far, *values)


def _complaint(problem: Problem, lacking: list[tuple[float, float]]) -> str:
    shown = ", ".join(f"eigenvalue {value:.6g}: {size:.1e}" for value, size in lacking[:5])
    return (
        f"eigsh: {len(lacking)} of {problem.k} pairs did not converge to tol = {problem.tol:.1e} in "
        f"max_iterations = {problem.max_iterations}; their residuals, as shares of the largest eigenvalue, are "
        f"{shown}{', ...' if len(lacking) > 5 else ''}. Raise max_iterations or tol, or give a preconditioner or a "
        "start"
    )
