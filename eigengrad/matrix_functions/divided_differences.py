"""Divided differences of scalar functions, without cancellation.

The derivative of ``f(A) = V f(L) V^H`` is a product with the first divided differences of f at the eigenvalues, and the
second derivative is a sum over the second ones:

    f[x, y] = (f(x) - f(y)) / (x - y),    f[x, y, z] = (f[x, y] - f[y, z]) / (x - z).

Where arguments meet they are derivatives, ``f[x, x] = f'(x)`` and ``f[x, x, x] = f''(x)/2``; near there the quotients
lose digits. Each function below therefore states ``first`` in a form that subtracts nothing but the arguments, which is
exact where they are close, and has ``second`` by its Taylor series where three arguments are close.

Each is equal to itself alone (``eq=False``): before a call, Dynamo of torch 2.11 asks for the hash of an object whose
fields it has not set yet.

Source: Higham, *Functions of Matrices*, 2008, appendix B.16; Daleckii and Krein, 1951.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from eigengrad.native.operators import KINDS
from eigengrad.native.reference import of_exponential, of_logarithm, of_power

__all__ = ["Custom", "Exponential", "Logarithm", "Power", "PowerOfParameter", "ScalarFunction", "mean_slope"]

RADIUS = 0.125
"""Three arguments within this distance of the middle one, relative to the function's own scale, count as close."""


class ScalarFunction(Protocol):
    """A function of one real variable, and of parameters t, with its divided differences; all arguments broadcast."""

    @property
    def kind(self) -> int | None:
        """Of the operators ``function`` and ``pull_back``, which have ``f`` and ``first``; None for others. The one
        parameter that such a function may have is a threshold, to which ``pull_back`` lifts its argument."""
        ...

    @property
    def parameter(self) -> float:
        """Of that kind."""
        ...

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        """``f(x)``."""
        ...

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        """``f[x, y]``, which is ``f'(x)`` where ``x == y``."""
        ...

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        """``f[x, y, z]``, which is ``f''(x)/2`` where all are equal."""
        ...


@dataclass(frozen=True, eq=False)
class Exponential:
    """``exp(x)``."""

    kind: ClassVar[int | None] = KINDS["exponential"]
    parameter: ClassVar[float] = 0.0

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return x.exp()

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        return of_exponential(x, y)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        low, middle, high = _sorted(x, y, z)
        coefficients = [1 / math.factorial(k) for k in range(2, 2 + _terms(x.dtype))]
        series = middle.exp() * _close(coefficients, high - middle, low - middle)
        return torch.where(high - low < RADIUS, series, _quotient(self.first, low, middle, high))


@dataclass(frozen=True, eq=False)
class Logarithm:
    """``log(x)``."""

    kind: ClassVar[int | None] = KINDS["logarithm"]
    parameter: ClassVar[float] = 0.0

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return x.log()

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        return of_logarithm(x, y)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        low, middle, high = _sorted(x, y, z)
        coefficients = [(-1) ** (k + 1) / k for k in range(2, 2 + _terms(x.dtype))]
        series = _close(coefficients, (high - middle) / middle, (low - middle) / middle) / middle / middle
        return torch.where(high - low < RADIUS * middle, series, _quotient(self.first, low, middle, high))


@dataclass(frozen=True, eq=False)
class Power:
    """``x ** p`` for positive x.

    Args:
        exponent: p.
    """

    exponent: float

    kind: ClassVar[int | None] = KINDS["power"]

    @property
    def parameter(self) -> float:
        return self.exponent

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return x**self.exponent

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        return of_power(x, y, self.exponent)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        return _second_of_power(self.first, self.exponent, x, y, z)


@dataclass(frozen=True, eq=False)
class PowerOfParameter:
    """``x ** p`` for positive x, with the exponent p as its parameter."""

    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        (p,) = t
        return x**p

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        (p,) = t
        return of_power(x, y, p)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        (p,) = t
        return _second_of_power(lambda x, y: of_power(x, y, p), p, x, y, z)


def _second_of_power(first: Callable[[Tensor, Tensor], Tensor], p: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    low, middle, high = _sorted(x, y, z)
    coefficients = [p * (p - 1) / 2]
    for k in range(2, 1 + _terms(x.dtype)):  # the binomials "p over k + 1"
        coefficients.append(coefficients[-1] * (p - k) / (k + 1))
    series = middle ** (p - 2) * _close(coefficients, (high - middle) / middle, (low - middle) / middle)
    return torch.where(high - low < RADIUS * middle, series, _quotient(first, low, middle, high))


@dataclass(frozen=True, eq=False)
class Custom:
    """A user's function and its first divided difference; the second is by autograd where the quotient cancels.

    There ``f[x, y, z]`` is the mean of ``df[t, y]/dt`` over t between x and z, by Gauss and Legendre's rule of five
    nodes. It is taken where it differs from the rule of three by less than the rounding error of the quotient: on
    intervals that are short for f, whatever its scale.

    Args:
        function: f, of x and of its parameters.
        divided_difference: ``f[x, y]``, with a derivative that is right where ``x == y``.
    """

    function: Callable[..., Tensor]
    divided_difference: Callable[..., Tensor]

    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        return _elementwise("f", self.function(x, *t), x)

    def first(self, x: Tensor, y: Tensor, *t: Tensor) -> Tensor:
        value = _elementwise("divided_difference", self.divided_difference(x, y, *t), x, y)
        if value.is_complex():
            raise TypeError(f"divided_difference must be real where f is, got values of {value.dtype}")
        return value

    def second(self, x: Tensor, y: Tensor, z: Tensor, *t: Tensor) -> Tensor:
        low, middle, high = _sorted(x, y, z)
        upper, lower = self.first(high, middle, *t), self.first(low, middle, *t)

        def slope(x: Tensor) -> Tensor:
            of_x: Any = torch.func.vjp(lambda x: self.first(x, middle, *t), x)
            at: Tensor = of_x[1](torch.ones_like(of_x[0]))[0]
            return at

        return _mean_or_quotient(slope, lower, upper, low, high)

    def real_and_imaginary(self) -> "tuple[Custom, Custom]":
        """Of a function with complex values: ``f(A) = u(A) + i w(A)`` with real u and w."""

        def part(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def of_value(*arguments: Tensor) -> Tensor:
                value = function(*arguments)
                return getattr(value, name) if value.is_complex() else value if name == "real" else 0 * value

            return of_value

        u, w = (Custom(part(name, self.function), part(name, self.divided_difference)) for name in ("real", "imag"))
        return u, w


def _elementwise(name: str, value: Any, *arguments: Tensor) -> Tensor:
    """What a caller's function has returned, in the precision of its arguments and of their common shape."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must return a tensor, got {type(value).__name__}; a constant is torch.full_like(x, value)"
        )
    shape, dtype = torch.broadcast_shapes(*(argument.shape for argument in arguments)), arguments[0].dtype
    if value.dim() != len(shape) or any(of not in (1, size) for of, size in zip(value.shape, shape, strict=True)):
        of_what = " and ".join(str(tuple(argument.shape)) for argument in arguments)
        raise ValueError(
            f"{name} must be elementwise, a number for each of its arguments': of {of_what} it has made "
            f"{tuple(value.shape)}"
        )
    if value.is_complex():
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return value.to(dtype).expand(shape)


_INNER = math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 3, 0.0, (322 + 13 * math.sqrt(70)) / 900
_OUTER = math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 3, 0.0, (322 - 13 * math.sqrt(70)) / 900
_OF_THREE = math.sqrt(3 / 5), 5 / 9, 0.0
_GAUSS_LEGENDRE = (
    (0.0, 8 / 9, 128 / 225),
    *((sign * node, three, five) for node, three, five in (_INNER, _OUTER, _OF_THREE) for sign in (-1, 1)),
)
"""Nodes in [-1, 1], with their weights in the rules of three and of five nodes (exact to degree five and nine)."""


def mean_slope(f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """``f[x, y]`` of an f whose derivative is known, by the same rule."""
    return lambda x, y: _mean_or_quotient(slope, f(x), f(y), x, y)


def _mean_or_quotient(
    slope: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """``(upper - lower)/(high - low)``, or the mean of the slope where that is as accurate."""
    of_three, of_five = torch.zeros_like(low), torch.zeros_like(low)
    for node, weight_of_three, weight_of_five in _GAUSS_LEGENDRE:
        at = slope(low + (0.5 + 0.5 * node) * (high - low))
        of_three, of_five = of_three + 0.5 * weight_of_three * at, of_five + 0.5 * weight_of_five * at
    distance = high - low
    rounding = torch.finfo(low.dtype).eps * (upper.abs() + lower.abs())
    short = ((of_five - of_three) * distance).abs() < rounding
    quotient = (upper - lower) / torch.where(distance == 0, 1.0, distance)
    return torch.where(short | (distance == 0), of_five, quotient)


def _sorted(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    below, above = torch.minimum(x, y), torch.maximum(x, y)
    return torch.minimum(below, z), torch.maximum(below, torch.minimum(above, z)), torch.maximum(above, z)


def _quotient(first: Callable[[Tensor, Tensor], Tensor], low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
    return (first(high, middle) - first(middle, low)) / torch.where(high == low, 1.0, high - low)


def _terms(dtype: torch.dtype) -> int:
    """Terms of the series below: ``(k+1) RADIUS^k`` falls under the rounding error."""
    return 20 if dtype == torch.float64 else 10


def _close(coefficients: list[Any], above: Tensor, below: Tensor) -> Tensor:
    """``sum_k coefficients[k] h_k``, with ``h_k = sum_i above^i below^(k-i)``: the Taylor series of ``f[x, y, z]``.

    For a center c with ``f(c + u) = sum_k a_k u^k``, each power contributes its own divided difference; that of
    ``u^(k+2)`` at ``above``, 0 and ``below`` is ``h_k``, and ``coefficients[k]`` is ``a_(k+2)``.
    """
    total, homogeneous, power = torch.zeros_like(above), torch.ones_like(above), torch.ones_like(above)
    for coefficient in coefficients:
        total = total + coefficient * homogeneous
        power = power * below
        homogeneous = above * homogeneous + power
    return total
