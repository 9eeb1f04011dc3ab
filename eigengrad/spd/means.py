"""Means of positive definite matrices: roots of an equation, found by iteration, differentiated by the equation.

The mean M of matrices ``A_i`` with weights ``w_i`` minimises the sum of squared distances. Where its gradient

    F(M, A, w) = sum w_i F_i(M, A_i) = 0

vanishes, ``dM = -H^-1 dF`` with the Hessian H, a Hermitian operator, positive definite in the metric at M, for which
conjugate gradients take a few iterations. H acts through derivatives of F, so one more derivative of the same functions
gives the mean's second derivative.

Source: Karcher, CPAM 30, 1977; Bini and Iannazzo, *Computing the Karcher mean of symmetric positive definite
matrices*, LAA 438, 2013 (the step); Álvarez-Esteban et al., JMAA 441, 2016 (the barycentre's iteration).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import check_square
from eigengrad.autograd import Function, hermitian_part, public
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.eigh import mirrored
from eigengrad.matrix_functions import expm, logm
from eigengrad.spd.bures import transport_map

__all__ = ["bures_barycenter", "karcher_mean"]

Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]

UNITS = 32.0
"""Of rounding, that a mean's residual may have; times the root of the size. Where it falls no more, times the condition
of the matrices as seen from the mean, too, by which rounding grows on the way."""
SOLVES = 200
"""Iterations, at most, of conjugate gradients for the derivative. A dozen is usual."""


@public
def karcher_mean(A: Tensor, weights: Tensor | None = None, *, max_iterations: int = 100) -> Tensor:
    r"""The Karcher mean, the geometric one: the minimiser of :math:`\sum_i w_i\, \delta(M, A_i)^2` in the
    affine-invariant distance.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        weights: positive weights, equal by default, of any sum; differentiated, too.
        max_iterations: of the fixed point iteration, with the step of Bini and Iannazzo; ten to thirty is usual.

    Returns:
        The mean, with first and second derivatives by the equation :math:`\sum_i w_i \log(M^{-1/2} A_i M^{-1/2}) = 0`,
        which it satisfies to rounding. It iterates until it does, so neither ``torch.func.vmap`` nor forward mode nor
        compilers and tracers take it: batches are an argument, and derivatives are those of ``backward`` and
        ``torch.autograd.grad``.

    Shape:
        ``A (*, m, n, n)``, weights ``(*, m)``, to ``(*, n, n)``.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices or weights.
        torch.linalg.LinAlgError: if a matrix is not positive definite, or the iteration has not converged, with the
            residual.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.karcher_mean(torch.stack([torch.eye(2), 4 * torch.eye(2)]))
        tensor([[2., 0.],
                [0., 2.]])
    """
    A, w = _checked(A, weights)
    with torch.no_grad():
        M = _iterate(_karcher_step, A, w, max_iterations, "karcher_mean")
    return _Mean.apply(_karcher_gradient, M, A, w)


@public
def bures_barycenter(A: Tensor, weights: Tensor | None = None, *, max_iterations: int = 1000) -> Tensor:
    r"""The Bures-Wasserstein barycentre: the minimiser of :math:`\sum_i w_i\, d(M, A_i)^2` in :func:`bures_distance`.

    Args, Shape, Raises:
        As for :func:`karcher_mean`.

    Returns:
        The barycentre, with first and second derivatives by the equation :math:`\sum_i w_i T_{M \to A_i} = I`, in the
        same modes.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.bures_barycenter(torch.stack([torch.eye(2), 9 * torch.eye(2)]))
        tensor([[4., 0.],
                [0., 4.]])
    """
    A, w = _checked(A, weights)
    with torch.no_grad():
        M = _iterate(_barycenter_step, A, w, max_iterations, "bures_barycenter")
    return _Mean.apply(_barycenter_gradient, M, A, w)


def _checked(A: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    check_square(A)
    if A.dim() < 3 or A.shape[-3] == 0:
        raise ValueError(f"A must be at least one matrix for each mean, (*, m, n, n), got shape {tuple(A.shape)}")
    if weights is None:
        weights = A.real.new_ones(A.shape[:-2])
    elif weights.shape != A.shape[:-2]:
        raise ValueError(
            f"weights must have shape {tuple(A.shape[:-2])}, one for each matrix, got {tuple(weights.shape)}"
        )
    weights = weights.to(A.real.dtype)
    if not bool((weights.detach() > 0).all()):
        raise ValueError("weights must be positive; leave out matrices that have none")
    return mirrored(A, "L"), weights / weights.sum(-1, keepdim=True)


def _over(X: Tensor, w: Tensor) -> Tensor:
    """The weighted mean ``(*, n, n)`` of matrices ``(*, m, n, n)``."""
    return (w[..., None, None] * X).sum(-3)


def _whitened(M: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """``M = G G^H`` and ``G^-1 A_i G^-H``."""
    G = torch.linalg.cholesky(M).unsqueeze(-3)
    half = torch.linalg.solve_triangular(G, A, upper=False)
    return G.squeeze(-3), hermitian_part(torch.linalg.solve_triangular(G, half.mH, upper=False))


def _karcher_gradient(M: Tensor, A: Tensor, w: Tensor) -> Tensor:
    """Of half of the sum of squared distances: ``-G^-H sum w_i log(G^-1 A_i G^-H) G^-1``."""
    G, X = _whitened(M, A)
    half = torch.linalg.solve_triangular(G.mH, -_over(logm(X), w), upper=True)
    return hermitian_part(torch.linalg.solve_triangular(G.mH, half.mH, upper=True))


def _karcher_step(M: Tensor, A: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    G, X = _whitened(M, A)
    l, V = Eigenbasis.for_function(X, solvers.resolve("auto"))  # noqa: E741
    logs = l.log()
    S = _over((V * logs.unsqueeze(-2)) @ V.mH, w)
    spread = logs.amax(-1) - logs.amin(-1)  # the step that is best for Hessians between 1 and (x/2) coth(x/2)
    steepest = torch.where(spread > 1e-3, spread / 2 / torch.tanh(spread / 2), 1.0)
    step = 2 / (1 + (w * steepest).sum(-1))
    residual = torch.linalg.vector_norm(S, dim=(-2, -1))
    return hermitian_part(G @ expm(step[..., None, None] * S) @ G.mH), residual, spread.exp().amax(-1)


def _barycenter_gradient(M: Tensor, A: Tensor, w: Tensor) -> Tensor:
    """Of half of the sum of squared distances: ``I - sum w_i T_i``."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return identity - _over(transport_map(M.unsqueeze(-3).expand(A.shape), A), w)


def _barycenter_step(M: Tensor, A: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    T = hermitian_part(_over(transport_map(M.unsqueeze(-3).expand(A.shape), A), w))
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    L = torch.linalg.eigvalsh(M)
    residual = torch.linalg.vector_norm(identity - T, dim=(-2, -1))
    return hermitian_part(T @ M @ T), residual, L[..., -1] / L[..., 0]


def _iterate(
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    A: Tensor,
    w: Tensor,
    max_iterations: int,
    name: str,
) -> Tensor:
    """Until the residual, which has no unit, is rounding; or is that times the condition, and no longer falls."""
    M, rounding = _over(A, w), UNITS * A.shape[-1] ** 0.5 * torch.finfo(A.dtype).eps
    if A.numel() == 0:
        return M
    least = torch.full_like(w[..., 0], torch.inf)
    for _ in range(max_iterations):
        following, residual, condition = step(M, A, w)
        stalled = (residual > 0.7 * least) & (residual <= rounding * condition.clamp_min(100))
        done = (residual <= rounding) | stalled
        if bool(done.all()):
            return M
        M, least = following, torch.minimum(least, residual)
    bad = int((~done).flatten().nonzero()[0])
    raise torch.linalg.LinAlgError(
        f"{name}: no convergence in max_iterations = {max_iterations} for mean {bad} of the batch: the residual is "
        f"{float(residual.flatten()[bad]):.1e}, to be at most {rounding:.1e}. Raise max_iterations, or look at "
        "matrices that are nearly singular"
    )


class _Mean(Function):
    """``A, w -> M``, whose value is given, by the gradient that vanishes there."""

    @staticmethod
    def forward(gradient: Gradient, M: Tensor, A: Tensor, w: Tensor) -> Tensor:
        return M.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.gradient, _, A, w = inputs
        ctx.save_for_backward(output, A, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        M, A, w = ctx.saved_tensors
        Z = _Solve.apply(ctx.gradient, M, A, w, hermitian_part(g))
        _, gA, gw = torch.func.vjp(ctx.gradient, M, A, w)[1](-Z)
        return None, None, gA, gw


def _hessian(gradient: Gradient, M: Tensor, A: Tensor, w: Tensor, Z: Tensor) -> Tensor:
    """The derivative of the gradient in M, which is Hermitian, times Z."""
    pull_back: Any = torch.func.vjp(lambda M: gradient(M, A, w), M)[1]
    return hermitian_part(pull_back(Z)[0])


class _Solve(Function):
    """``M, A, w, R -> Z`` with ``H Z = R``, H the derivative of the gradient in M, by conjugate gradients."""

    @staticmethod
    def forward(gradient: Gradient, M: Tensor, A: Tensor, w: Tensor, R: Tensor) -> Tensor:
        pull_back: Any = torch.func.vjp(lambda M: gradient(M, A, w), M)[1]
        return _conjugate_gradients(lambda Z: hermitian_part(pull_back(Z)[0]), lambda X: M @ X @ M, R)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.gradient, M, A, w, _ = inputs
        ctx.save_for_backward(M, A, w, output)

    @staticmethod
    def backward(ctx: Any, gZ: Tensor) -> tuple[Any, ...]:
        M, A, w, Z = ctx.saved_tensors
        Y = _Solve.apply(ctx.gradient, M, A, w, hermitian_part(gZ))
        product = torch.func.vjp(lambda M, A, w: _hessian(ctx.gradient, M, A, w, Z), M, A, w)[1]
        return None, *product(-Y), Y


def _conjugate_gradients(product: Callable[[Tensor], Tensor], metric: Callable[[Tensor], Tensor], R: Tensor) -> Tensor:
    """``product(Z) = R`` for a batch of matrices, preconditioned by the metric at the mean."""

    def inner(X: Tensor, Y: Tensor) -> Tensor:
        return (X.conj() * Y).real.sum((-2, -1), keepdim=True)

    Z, residual = torch.zeros_like(R), R
    preconditioned = metric(residual)
    direction, rho = preconditioned, inner(residual, preconditioned)
    first, unit = rho, torch.finfo(R.dtype).eps
    for _ in range(SOLVES):
        if bool((rho <= unit**2 * first).all()):
            break
        image = product(direction)
        curvature = inner(direction, image)
        step = torch.where(curvature > 0, rho / torch.where(curvature > 0, curvature, 1.0), 0.0)
        Z, residual = Z + step * direction, residual - step * image
        preconditioned = metric(residual)
        rho_before, rho = rho, inner(residual, preconditioned)
        turn = torch.where(rho_before > 0, rho / torch.where(rho_before > 0, rho_before, 1.0), 0.0)
        direction = preconditioned + turn * direction
    return Z
