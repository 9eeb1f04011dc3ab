"""Rank deficiency, in one language for all functions of a matrix.

A threshold, ``max(floor, rtol * largest eigenvalue)`` for each matrix, and what becomes of eigenvalues below:

* ``"lift"``: they are taken to be the threshold, ``f(max(x, threshold))``, as optimisers want it;
* ``"drop"``: they are left out, ``f(x)`` above the threshold and 0 elsewhere, as a pseudo-inverse does.

Either is a function of the eigenvalues, and its derivative that of Daleckii and Krein: exact for what is computed, the
threshold's own change included. Where ``m(x) = max(x, threshold)``, the divided difference of ``f(m(x))`` is
``f[m(x), m(y)] m[x, y]``, with ``m[x, y]`` between 0 and 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import as_threshold, check_not_negative
from eigengrad.autograd import Function, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.daleckii_krein import apply_in_basis, derivative_in_basis, spectrum_of
from eigengrad.matrix_functions.divided_differences import ScalarFunction
from eigengrad.native.reference import lifted_weights

__all__ = ["Below", "Deficiency"]

Below = Literal["lift", "drop"]
ScalarSlope = Callable[[Tensor, Tensor], Tensor]


class Deficiency:
    """What a caller said about small eigenvalues, checked.

    Args:
        floor: an absolute threshold, a number or a tensor that broadcasts to the batch ``(*)``.
        rtol: a threshold relative to the largest eigenvalue of each matrix.
        below: ``"lift"`` or ``"drop"``.

    Raises:
        TypeError: if ``floor`` is neither a number nor a real tensor, or ``rtol`` no number.
        ValueError: if one is negative (of a tensor, on a CPU) or not finite; for another ``below``.
    """

    def __init__(self, floor: float | Tensor, rtol: float | None, below: Below) -> None:
        if below not in ("lift", "drop"):
            raise ValueError(f"below must be 'lift' or 'drop', got {below!r}")
        if isinstance(floor, Tensor):
            if floor.is_complex():
                raise TypeError(f"floor must be a number or a real tensor, got {floor.dtype}")
            check_not_negative(floor, "floor")
        self.floor = floor if isinstance(floor, Tensor) else as_threshold(floor, "floor", "a number or a real tensor")
        self.rtol = None if rtol is None else as_threshold(rtol, "rtol")
        self.below = below
        self.is_possible = isinstance(floor, Tensor) or self.floor > 0 or self.rtol is not None or below == "drop"
        """Whether there is anything to do."""

    @classmethod
    def of(cls, floor: float | Tensor, rtol: float | None, below: Below) -> "Deficiency":
        """The same, without the checks where nothing was said."""
        if type(floor) is float and floor == 0 and rtol is None and below == "lift":
            return _IMPOSSIBLE
        return cls(floor, rtol, below)

    def apply(
        self, A: Tensor, functions: Sequence[ScalarFunction], solver: solvers.Solver, *parameters: Tensor
    ) -> list[Tensor]:
        """``f(A)`` for each f, with parameters ``(*)``, and small eigenvalues lifted or dropped if so asked."""
        basis = spectrum_of(A, solver)
        if not self.is_possible:
            return [apply_in_basis(A, f, basis, *parameters) for f in functions]
        threshold = self._threshold(A, basis)
        outside = Lifted if self.below == "lift" else Dropped
        return [apply_in_basis(A, outside(f), basis, threshold, *parameters) for f in functions]

    def _threshold(self, A: Tensor, basis: Eigenbasis) -> Tensor:
        L, batch = basis.L, A.shape[:-2]
        floor = self.floor.to(L) if isinstance(self.floor, Tensor) else L.new_full((), self.floor)
        try:
            floor = floor.expand(batch)
        except RuntimeError:
            shapes = f"{tuple(batch)}, got {tuple(floor.shape)}"
            raise ValueError(f"floor must be a number, or a tensor that broadcasts to the batch {shapes}") from None
        if self.rtol is None or L.shape[-1] == 0:
            return floor
        if self.below == "drop":
            return _larger(floor, self.rtol, L)  # has no derivative
        return _Threshold.call(A, floor, self.rtol, *basis)


_IMPOSSIBLE = Deficiency(0.0, None, "lift")


class Lifted:
    """``f(max(x, threshold))``; the first parameter is the threshold."""

    def __init__(self, f: ScalarFunction) -> None:
        self._f, self.kind, self.parameter = f, f.kind, f.parameter

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        return self._f(_lifted(x, threshold), *parameters)

    @property
    def slope(self) -> ScalarSlope | None:
        """The derivative in the threshold, if that is the only parameter."""
        return self._slope if self.kind is not None else None

    def _slope(self, x: Tensor, threshold: Tensor) -> Tensor:
        return torch.where(x > threshold, 0.0, self._f.first(threshold, threshold))

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        of_both = self._f.first(_lifted(x, threshold), _lifted(y, threshold), *parameters)
        return lifted_weights(of_both, x, y, threshold)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        low = torch.minimum(torch.minimum(x, y), z)
        safe = [_lifted(value, threshold) for value in (x, y, z)]
        above = self._f.second(*safe, *parameters)
        across = _quotient(self, x, y, z, threshold, *parameters)
        high = torch.maximum(torch.maximum(x, y), z)
        return torch.where(low > threshold, above, torch.where(high > threshold, across, 0.0))


def _lifted(x: Tensor, threshold: Tensor) -> Tensor:
    """Their maximum, which where they are equal, as with ``rtol=1``, moves with the threshold alone."""
    return torch.where(x > threshold, x, threshold)


class Dropped:
    """``f(x)`` above the threshold, 0 elsewhere; the first parameter is the threshold."""

    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0

    def __init__(self, f: ScalarFunction) -> None:
        self._f = f

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        kept = x > threshold
        return torch.where(kept, self._f(torch.where(kept, x, 1.0), *parameters), 0.0)

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        kept_x, kept_y = x > threshold, y > threshold
        high, one = torch.maximum(x, y), kept_x ^ kept_y
        both = kept_x & kept_y
        of_both = self._f.first(torch.where(both, x, 1.0), torch.where(both, y, 1.0), *parameters)
        of_one = self._f(torch.where(one, high, 1.0), *parameters) / torch.where(one, (x - y).abs(), 1.0)
        return torch.where(both, of_both, torch.where(one, of_one, 0.0))

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        threshold, *parameters = t
        low, high = torch.minimum(torch.minimum(x, y), z), torch.maximum(torch.maximum(x, y), z)
        all_kept = low > threshold
        safe = [torch.where(all_kept, value, 1.0) for value in (x, y, z)]
        across = _quotient(self, x, y, z, threshold, *parameters)
        return torch.where(all_kept, self._f.second(*safe, *parameters), torch.where(high > threshold, across, 0.0))


class _One:
    """The constant 1."""

    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return torch.ones_like(x)

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        return torch.zeros_like(x - y)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        return torch.zeros_like(x - y - z)


def _larger(floor: Tensor, rtol: float, L: Tensor) -> Tensor:
    """``max(floor, rtol * max(L))``. (Of a number alone, vmap of an empty batch makes no product.)"""
    return torch.maximum(floor.unsqueeze(-1), rtol * L.amax(-1, keepdim=True)).squeeze(-1)


class _Threshold(Function):
    """``A, floor -> max(floor, rtol * max(L))``, whose derivative is that of the larger."""

    @staticmethod
    def forward(A: Tensor, floor: Tensor, rtol: float, L: Tensor, V: Tensor) -> Tensor:
        return _larger(floor, rtol, L)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, floor, ctx.rtol, L, V = inputs
        save(ctx, A, output > floor, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, relative, L, V = ctx.saved_tensors
        gA = _AlongLargest.call(A, torch.where(relative, ctx.rtol * g, 0.0), L, V)
        return gA, torch.where(relative, 0.0, g) if ctx.needs_input_grad[1] else None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dfloor: Tensor | None, *_: None) -> Tensor:
        A, relative, L, V = ctx.saved_tensors
        change = ctx.rtol * (_leading(A, L, V).conj() * dA).sum((-2, -1)).real
        return torch.where(relative, change, 0.0 if dfloor is None else dfloor)


class _AlongLargest(Function):
    """``A, c -> c P/k``, with P the projector on the k eigenvectors of the largest eigenvalue."""

    @staticmethod
    def forward(A: Tensor, c: Tensor, L: Tensor, V: Tensor) -> Tensor:
        largest = L.amax(-1, keepdim=True) == L
        return Eigenbasis(L, V).recompose(torch.where(largest, (c / largest.sum(-1)).unsqueeze(-1), 0.0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, c, L, V = ctx.saved_tensors
        return _turning(A, c, g, L, V), (_leading(A, L, V).conj() * g).sum((-2, -1)).real, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dc: Tensor, *_: None) -> Tensor:
        A, c, L, V = ctx.saved_tensors
        return _AlongLargest.call(A, dc, L, V) + _turning(A, c, dA, L, V)


def _leading(A: Tensor, L: Tensor, V: Tensor) -> Tensor:
    """``P/k`` of :class:`_AlongLargest`, to second order."""
    just_below, count = _about_largest(L)
    return apply_in_basis(A, Dropped(_One()), Eigenbasis(L, V), just_below) / count


def _turning(A: Tensor, c: Tensor, E: Tensor, L: Tensor, V: Tensor) -> Tensor:
    """c times the derivative of ``P/k`` in the direction E."""
    just_below, count = _about_largest(L)
    return c[..., None, None] * derivative_in_basis(A, E, Dropped(_One()), Eigenbasis(L, V), just_below) / count


def _about_largest(L: Tensor) -> tuple[Tensor, Tensor]:
    largest = L.amax(-1)
    just_below = torch.nextafter(largest, torch.full_like(largest, -torch.inf))
    return just_below, (largest.unsqueeze(-1) == L).sum(-1)[..., None, None]


def _quotient(f: Lifted | Dropped, x: Tensor, y: Tensor, z: Tensor, threshold: Tensor, *parameters: Tensor) -> Tensor:
    """``f[x, y, z]`` for arguments on both sides of the threshold, the extreme ones being apart."""
    low, high = torch.minimum(torch.minimum(x, y), z), torch.maximum(torch.maximum(x, y), z)
    middle = torch.maximum(torch.minimum(x, y), torch.minimum(torch.maximum(x, y), z))
    upper, lower = f.first(high, middle, threshold, *parameters), f.first(middle, low, threshold, *parameters)
    return (upper - lower) / torch.where(high == low, 1.0, high - low)
