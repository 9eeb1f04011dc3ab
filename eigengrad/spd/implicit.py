"""The root of an equation, by whatever found it, with derivatives by the equation, in every mode.

Where the gradient ``F(M, A, w)`` of what a mean M minimises vanishes, ``dM = -H^-1 dF`` with the Hessian H, a Hermitian
operator, positive definite in the metric at M, for which conjugate gradients take a few iterations. H acts through
derivatives of F, so one more derivative of the same functions gives the root's second derivative.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from eigengrad.autograd import Function, along, hermitian_part, save
from eigengrad.matrix_functions.scales import or_one, power_of_two

__all__ = ["Equation", "conjugate_gradients", "root"]

SOLVES = 200
"""Iterations, at most, of conjugate gradients for the derivative. A dozen is usual."""


class Equation(NamedTuple):
    """``F(M, A, w) = 0``, for M ``(*, n, n)``, A ``(*, m, n, n)`` and w ``(*, m)``."""

    find: Callable[[Tensor, Tensor], Tensor]
    """``A, w -> M``; it may look at values."""
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    """F, Hermitian, differentiable twice in reverse."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def root(equation: Equation, A: Tensor, w: Tensor) -> Tensor:
    """M, as a differentiable function of A and w. Found by looking at values, which no compiler's graph can hold."""
    M: Tensor = _Root.call(equation, A, w)
    return M


class _Batched(Function):
    """A Function whose arguments take batches: ``vmap`` is one dimension more of them, and the values are there."""

    generate_vmap_rule = False

    @classmethod
    def vmap(
        cls, info: Any, in_dims: tuple[int | None, ...], equation: Equation, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        batched = (
            X.expand(info.batch_size, *X.shape) if dim is None else X.movedim(dim, 0)
            for X, dim in zip(tensors, in_dims[1:], strict=True)
        )
        return cls.call(equation, *batched), 0


class _Root(_Batched):
    """``A, w -> M``."""

    @staticmethod
    def forward(equation: Equation, A: Tensor, w: Tensor) -> Tensor:
        with torch.no_grad():
            return equation.find(A, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.equation, A, w = inputs
        save(ctx, output, A, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        M, A, w = ctx.saved_tensors
        Z = _Solve.call(ctx.equation, M, A, w, hermitian_part(g))
        pull_back: Any = torch.func.vjp(lambda A, w: ctx.equation.gradient(M, A, w), A, w)[1]
        return None, *pull_back(-Z)

    @staticmethod
    def push_forward(ctx: Any, _: None, dA: Tensor, dw: Tensor) -> Tensor:
        M, A, w = ctx.saved_tensors
        change = along(lambda A, w: ctx.equation.gradient(M, A, w), (A, w), (dA, dw))
        return _Solve.call(ctx.equation, M, A, w, hermitian_part(-change))


class _Solve(_Batched):
    """``M, A, w, R -> Z`` with ``H Z = R``, by conjugate gradients."""

    @staticmethod
    def forward(equation: Equation, M: Tensor, A: Tensor, w: Tensor, R: Tensor) -> Tensor:
        pull_back: Any = torch.func.vjp(lambda M: equation.gradient(M, A, w), M)[1]
        if 0 in R.shape:
            return R.clone()
        unit = power_of_two(or_one(R.abs().amax((-2, -1), keepdim=True)))  # whose square is out of range
        return unit * conjugate_gradients(lambda Z: hermitian_part(pull_back(Z)[0]), R / unit, lambda X: M @ X @ M)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.equation, M, A, w, _ = inputs
        save(ctx, M, A, w, output)

    @staticmethod
    def backward(ctx: Any, gZ: Tensor) -> tuple[Any, ...]:
        M, A, w, Z = ctx.saved_tensors
        Y = _Solve.call(ctx.equation, M, A, w, hermitian_part(gZ))
        pull_back: Any = torch.func.vjp(lambda M, A, w: _hessian(ctx.equation, M, A, w, Z), M, A, w)[1]
        return None, *pull_back(-Y), Y

    @staticmethod
    def push_forward(ctx: Any, _: None, dM: Tensor, dA: Tensor, dw: Tensor, dR: Tensor) -> Tensor:
        M, A, w, Z = ctx.saved_tensors
        change = along(lambda M, A, w: _hessian(ctx.equation, M, A, w, Z), (M, A, w), (dM, dA, dw))
        return _Solve.call(ctx.equation, M, A, w, hermitian_part(dR - change))


def _hessian(equation: Equation, M: Tensor, A: Tensor, w: Tensor, Z: Tensor) -> Tensor:
    """The derivative of F in M, which is Hermitian, times Z."""
    pull_back: Any = torch.func.vjp(lambda M: equation.gradient(M, A, w), M)[1]
    return hermitian_part(pull_back(Z)[0])


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    R: Tensor,
    metric: Callable[[Tensor], Tensor] = lambda X: X,
    *,
    tol: float | Tensor = 0.0,
) -> Tensor:
    """``product(Z) = R`` for a batch of matrices, preconditioned by a metric, to a share tol of R, or to rounding."""

    def inner(X: Tensor, Y: Tensor) -> Tensor:
        return (X.conj() * Y).real.sum((-2, -1), keepdim=True)

    Z, residual = torch.zeros_like(R), R
    preconditioned = metric(residual)
    direction, rho = preconditioned, inner(residual, preconditioned)
    enough = torch.clamp(torch.as_tensor(tol, dtype=rho.dtype), min=torch.finfo(R.dtype).eps) ** 2 * rho
    visible = not is_legacy_batchedtensor(R)  # of torch.autograd.grad(is_grads_batched=True): all iterations, then
    for _ in range(SOLVES):
        going = rho > enough
        if visible and not bool(going.any()):
            break
        image = product(direction)
        curvature = inner(direction, image)
        going = going & (curvature > 0)
        step = torch.where(going, rho / torch.where(going, curvature, 1.0), 0.0)
        Z, residual = Z + step * direction, residual - step * image
        preconditioned = metric(residual)
        rho_before, rho = rho, inner(residual, preconditioned)
        turn = torch.where(rho_before > 0, rho / torch.where(rho_before > 0, rho_before, 1.0), 0.0)
        direction = preconditioned + turn * direction
    return Z
