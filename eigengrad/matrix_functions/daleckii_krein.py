"""Functions of a matrix through functions of its eigenvalues: the theorem of Daleckii and Krein, to second order.

For ``A = V diag(L) V^H`` and Hermitian directions E and H, in the eigenbasis (a hat for ``V^H . V``),

    f(A)           = V diag(f(L)) V^H,
    Df(A)[E]       = V (f[l_i, l_j] E^_ij) V^H,
    D2f(A)[E, H]   = V (sum_k f[l_i, l_k, l_j] (E^_ik H^_kj + H^_ik E^_kj)) V^H,

with the divided differences of :mod:`eigengrad.matrix_functions.divided_differences`. Each line is the derivative of
the one above, and each is its own adjoint in every direction, so that one function apiece serves backward, double
backward and forward mode alike.

f may have parameters t, one number for each matrix, such as the exponent of a power. Its derivative in the direction h
of t is a function of x again (:class:`Direction`), with the parameters t and h: what holds of f holds of that.

Source: Daleckii and Krein, 1951; Higham, *Functions of Matrices*, 2008, chapter 3.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.autograd import Function, constant, hermitian_part, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.divided_differences import ScalarFunction
from eigengrad.native import operators

__all__ = ["Last", "apply", "apply_in_basis", "derivative_in_basis", "second_derivative", "spectrum_of"]


def apply(A: Tensor, f: ScalarFunction, solver: solvers.Solver) -> Tensor:
    """``f(A)`` for a function without parameters."""
    value, _, _ = _Value.call(A, f, solver)
    return value


def spectrum_of(A: Tensor, solver: solvers.Solver) -> Eigenbasis:
    """L and V, which :func:`apply_in_basis` needs, as constants."""
    return Eigenbasis(*_Constants.call(A, solver))


def apply_in_basis(A: Tensor, f: ScalarFunction, basis: Eigenbasis, *parameters: Tensor) -> Tensor:
    """``f(A)``, with parameters ``(*)`` each, whose eigenvalues and eigenvectors are known."""
    return _ValueInBasis.call(A, _stacked(parameters, basis), f, *basis)


def derivative_in_basis(A: Tensor, E: Tensor, f: ScalarFunction, basis: Eigenbasis, *parameters: Tensor) -> Tensor:
    """``Df(A)[E]`` for the Hermitian part of E, its own adjoint; otherwise as :func:`apply_in_basis`."""
    return _Derivative.call(A, E, _stacked(parameters, basis), f, *basis)


def _stacked(parameters: tuple[Tensor, ...], basis: Eigenbasis) -> Tensor:
    return torch.stack(parameters, dim=-1) if parameters else basis.L[..., :0]


class Direction:
    """The derivative of a scalar function in its parameters: of parameters ``(*t, *h)``, at t in the direction h."""

    kind: ClassVar[int | None] = None
    parameter: ClassVar[float] = 0.0

    def __init__(self, f: ScalarFunction) -> None:
        self._f = f

    def __call__(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return _slope(self._f, (x,), parameters)

    def first(self, x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        return _slope(self._f.first, (x, y), parameters)

    def second(self, x: Tensor, y: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
        return _slope(self._f.second, (x, y, z), parameters)


def _slope(function: Any, arguments: tuple[Tensor, ...], parameters: tuple[Tensor, ...]) -> Tensor:
    """By the pull-back of the pull-back, which is linear: torch has no forward mode within dual numbers."""
    count = len(parameters) // 2
    at, direction = parameters[:count], parameters[count:]
    of_t: Any = torch.func.vjp(lambda *t: function(*arguments, *t), *at)
    slope: Tensor = torch.func.vjp(of_t[1], torch.zeros_like(of_t[0]))[1](direction)[0]
    return slope


def _spread(x: Tensor, t: Tensor) -> list[Tensor]:
    """Of parameters ``(*, m)`` each one as it broadcasts to ``x (*, n, ...)``."""
    return [one[(..., *(None,) * (x.dim() - one.dim()))] for one in t.unbind(-1)]


class _Constants(Function):
    @staticmethod
    def forward(A: Tensor, solver: solvers.Solver) -> tuple[Tensor, Tensor]:
        L, V = Eigenbasis.for_function(A, solver)
        return L, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        save(ctx, *output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def push_forward(ctx: Any, *_: Any) -> tuple[Tensor, ...]:
        return constant(*ctx.saved_tensors)


class _Value(Function):
    """``A -> f(A)``; also L and V, as constants."""

    @staticmethod
    def forward(A: Tensor, f: ScalarFunction, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor]:
        if f.kind is not None and isinstance(solver, solvers.Fused):
            return operators.function(A, f.kind, f.parameter, solver.kernel_always, solver.strict)
        basis = Eigenbasis.for_function(A, solver)
        return basis.recompose(f(basis.L)), *basis

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        A, ctx.f, _ = inputs
        _, L, V = output
        ctx.set_materialize_grads(False)
        save(ctx, A, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if g is None:
            return None, None, None
        A, L, V = ctx.saved_tensors
        return _Derivative.call(A, g, L[..., :0], ctx.f, L, V), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor]:
        A, L, V = ctx.saved_tensors
        return _Derivative.call(A, dA, L[..., :0], ctx.f, L, V), *constant(L, V)


class _ValueInBasis(Function):
    """``A, t -> f(A)`` for parameters ``t (*, m)``."""

    @staticmethod
    def forward(A: Tensor, t: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        return Eigenbasis(L, V).recompose(_value(f, L, t))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, t, ctx.f, L, V = inputs
        save(ctx, A, t, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, t, L, V = ctx.saved_tensors
        gt = _InParameters.call(A, g, t, ctx.f, L, V) if t.shape[-1] and ctx.needs_input_grad[1] else None
        return _Derivative.call(A, g, t, ctx.f, L, V), gt, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dt: Tensor, *_: None) -> Tensor:
        A, t, L, V = ctx.saved_tensors
        change = _Derivative.call(A, dA, t, ctx.f, L, V)
        return change + _ValueInBasis.call(A, _along(t, dt), Direction(ctx.f), L, V) if t.shape[-1] else change


class _InParameters(Function):
    """``A, G, t -> d<G, f(A)>/dt``, ``(*, m)``."""

    @staticmethod
    def forward(A: Tensor, G: Tensor, t: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        if slope := getattr(f, "slope", None):
            change = operators.recompose(V, slope(L, *_spread(L, t)))
            return (change.conj() * G).sum((-2, -1)).real.unsqueeze(-1)
        diagonal = (V.conj() * (G @ V)).sum(-2).real  # that of the Hermitian part
        return _pull_back(lambda t: _value(f, L, t), t, diagonal)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, G, t, ctx.f, L, V = inputs
        save(ctx, A, G, t, L, V)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        A, G, t, L, V = ctx.saved_tensors
        f, th = Direction(ctx.f), _along(t, h)
        gt = _InParameters.call(A, G, th, f, L, V)[..., : t.shape[-1]]
        return _Derivative.call(A, G, th, f, L, V), _ValueInBasis.call(A, th, f, L, V), gt, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dG: Tensor, dt: Tensor, *_: None) -> Tensor:
        A, G, t, L, V = ctx.saved_tensors
        change = _Mixed.call(A, G, dA, t, ctx.f, L, V) + _InParameters.call(A, dG, t, ctx.f, L, V)
        return change + _InParameters.call(A, G, _along(t, dt), Direction(ctx.f), L, V)[..., : t.shape[-1]]


class _Derivative(Function):
    """``A, E, t -> Df(A)[E]`` for the Hermitian part of E."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, t: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        if f.kind is not None:
            lifted_to = t.expand(L.shape) if t.shape[-1] else None
            return operators.pull_back(V, E, L, lifted_to, f.kind, f.parameter)
        return Eigenbasis(L, V).conjugate(_first(f, L, t), E)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, E, t, ctx.f, L, V = inputs
        save(ctx, A, E, t, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, E, t, L, V = ctx.saved_tensors
        of_A, _, of_t, *_ = ctx.needs_input_grad
        gA = _SecondDerivative.call(A, E, g, t, ctx.f, L, V) if of_A else None
        gt = _Mixed.call(A, E, g, t, ctx.f, L, V) if t.shape[-1] and of_t else None
        return gA, _Derivative.call(A, g, t, ctx.f, L, V), gt, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dE: Tensor, dt: Tensor, *_: None) -> Tensor:
        A, E, t, L, V = ctx.saved_tensors
        change = _SecondDerivative.call(A, E, dA, t, ctx.f, L, V) + _Derivative.call(A, dE, t, ctx.f, L, V)
        return change + _Derivative.call(A, E, _along(t, dt), Direction(ctx.f), L, V) if t.shape[-1] else change


class Last(Function):
    """Of second order; there is no third."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(_THIRD_ORDER)

    @staticmethod
    def push_forward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(_THIRD_ORDER)


class _SecondDerivative(Last):
    """``A, E, H, t -> D2f(A)[E, H]`` for the Hermitian parts of E and H."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, H: Tensor, t: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        return second_derivative(f, Eigenbasis(L, V), t, E, H)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, E, H, t, ctx.f, L, V = inputs
        save(ctx, A, E, H, t, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """In E and H, in which it is linear."""
        A, E, H, t, L, V = ctx.saved_tensors
        of_A, of_E, of_H, of_t, *_ = ctx.needs_input_grad
        if of_A or of_t:
            raise NotImplementedError(_THIRD_ORDER)
        gE = _SecondDerivative.call(A, g, H, t, ctx.f, L, V) if of_E else None
        gH = _SecondDerivative.call(A, E, g, t, ctx.f, L, V) if of_H else None
        return None, gE, gH, None, None, None, None


class _Mixed(Last):
    """``A, E, G, t -> d<G, Df(A)[E]>/dt`` for the Hermitian parts of E and G, ``(*, m)``."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, G: Tensor, t: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        E, G = V.mH @ hermitian_part(E) @ V, V.mH @ hermitian_part(G) @ V
        return _pull_back(lambda t: _first(f, L, t).expand(V.shape), t, (G.conj() * E).real)


def second_derivative(f: ScalarFunction, basis: Eigenbasis, t: Tensor, E: Tensor, H: Tensor) -> Tensor:
    """``D2f(A)[E, H]`` for the Hermitian parts of E and H."""
    L, V = basis
    x, y, z = L[..., :, None, None], L[..., None, :, None], L[..., None, None, :]  # (*, i, k, j)
    second = f.second(x, y, z, *_spread(x, t))
    E, H = V.mH @ hermitian_part(E) @ V, V.mH @ hermitian_part(H) @ V
    half = (E.unsqueeze(-2) @ (second * H.unsqueeze(-3))).squeeze(-2)
    return V @ (half + half.mH) @ V.mH


def _value(f: ScalarFunction, L: Tensor, t: Tensor) -> Tensor:
    return f(L, *_spread(L, t)).expand(L.shape)


def _first(f: ScalarFunction, L: Tensor, t: Tensor) -> Tensor:
    x, y = L.unsqueeze(-1), L.unsqueeze(-2)
    return f.first(x, y, *_spread(x, t))


def _pull_back(function: Callable[[Tensor], Tensor], t: Tensor, cotangent: Tensor) -> Tensor:
    g: Tensor = torch.func.vjp(function, t)[1](cotangent)[0]
    return g


def _along(t: Tensor, h: Tensor | None) -> Tensor:
    """Parameters of a :class:`Direction`."""
    return torch.cat([t, torch.zeros_like(t) if h is None else h], dim=-1)


_THIRD_ORDER = "matrix functions have first and second derivatives; of any order: sqrtm, inv_sqrtm, integer powers"
