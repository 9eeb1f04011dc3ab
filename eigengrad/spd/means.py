"""Means of positive definite matrices: roots of an equation, found by iteration, differentiated by the equation.

The mean M of matrices ``A_i`` with weights ``w_i`` minimises the sum of squared distances: it is where the gradient of
that vanishes. ``implicit`` has the derivatives.

Source: Karcher, CPAM 30, 1977; Bini and Iannazzo, *Computing the Karcher mean of symmetric positive definite
matrices*, LAA 438, 2013; Álvarez-Esteban et al., JMAA 441, 2016 (the barycentre's iteration).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import as_integer, check_square
from eigengrad.autograd import hermitian_part, public
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.eigh import mirrored
from eigengrad.matrix_functions import expm, logm
from eigengrad.matrix_functions.scales import power_of_two, size_of
from eigengrad.spd.bures import transport_map
from eigengrad.spd.implicit import Equation, conjugate_gradients, root

__all__ = ["bures_barycenter", "karcher_mean"]

UNITS = 32.0
"""Of rounding, that a mean's residual may have; times the root of the size. Where it falls no more, times the condition
of the matrices as seen from the mean, too, by which rounding grows on the way."""
INEXACT = 0.1
"""Of Newton's equation, the residual that is left at first. It falls with that of the mean."""


@public
def karcher_mean(A: Tensor, weights: Tensor | None = None, *, max_iterations: int = 100) -> Tensor:
    r"""The Karcher mean, the geometric one: the minimiser of :math:`\sum_i w_i\, \delta(M, A_i)^2` in the
    affine-invariant distance.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        weights: weights of at least 0, equal by default, of any positive sum; differentiated, too.
        max_iterations: of Newton's method; five to ten is usual.

    Returns:
        The mean, with first and second derivatives by the equation :math:`\sum_i w_i \log(M^{-1/2} A_i M^{-1/2}) = 0`,
        which it satisfies to rounding, in reverse and forward mode and under ``vmap``. It iterates until it does, so
        that a compiler's graph breaks here.

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
    A, w = _checked(A, weights, max_iterations)
    find = partial(_iterate, _karcher_step, max_iterations=max_iterations, name="karcher_mean")
    return _without_scale(Equation(lambda A, w: find(_definite(A), w), _karcher_gradient), A, w)


@public
def bures_barycenter(A: Tensor, weights: Tensor | None = None, *, max_iterations: int = 1000) -> Tensor:
    r"""The Bures-Wasserstein barycentre: the minimiser of :math:`\sum_i w_i\, d(M, A_i)^2` in :func:`bures_distance`.

    Args, Shape, Raises:
        As for :func:`karcher_mean`, but for matrices that are semidefinite: one that is definite, and has a weight, is
        enough. The iteration is one of fixed points, some dozen of them.

    Returns:
        The barycentre, with first and second derivatives by the equation :math:`\sum_i w_i T_{M \to A_i} = I`, in the
        same modes.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.bures_barycenter(torch.stack([torch.eye(2), 9 * torch.eye(2)]))
        tensor([[4., 0.],
                [0., 4.]])
    """
    A, w = _checked(A, weights, max_iterations)
    find = partial(_iterate, _barycenter_step, max_iterations=max_iterations, name="bures_barycenter")
    return _without_scale(Equation(find, _barycenter_gradient), A, w)


def _without_scale(mean: Equation, A: Tensor, w: Tensor) -> Tensor:
    """A mean, which is homogeneous, of matrices whose products are within the range."""
    unit = power_of_two(size_of(A, (-3, -2, -1)))
    return unit.squeeze(-3) * root(mean, A / unit, w)


def _checked(A: Tensor, weights: Tensor | None, max_iterations: int) -> tuple[Tensor, Tensor]:
    check_square(A)
    if as_integer(max_iterations, "max_iterations") < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    if A.dim() < 3 or A.shape[-3] == 0:
        raise ValueError(f"A must be at least one matrix for each mean, (*, m, n, n), got shape {tuple(A.shape)}")
    if weights is None:
        return mirrored(A, "L"), A.real.new_ones(A.shape[:-2])
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}; torch.as_tensor makes one")
    if weights.is_complex():
        raise TypeError(f"weights must be real, got {weights.dtype}")
    if weights.shape != A.shape[:-2] or weights.device != A.device:
        raise ValueError(
            f"weights must have shape {tuple(A.shape[:-2])}, one for each matrix, on {A.device}, got "
            f"{tuple(weights.shape)} on {weights.device}"
        )
    return mirrored(A, "L"), weights.to(A.real.dtype)


def _definite(A: Tensor) -> Tensor:
    failed = torch.linalg.cholesky_ex(A).info > 0
    if bool(failed.any()):
        mean, matrix = divmod(int(failed.flatten().nonzero()[0]), A.shape[-3])
        raise torch.linalg.LinAlgError(
            f"karcher_mean: matrix {matrix} of those of mean {mean} of the batch is not positive definite; add a share "
            "of the identity to it"
        )
    return A


def _over(X: Tensor, w: Tensor) -> Tensor:
    """The weighted mean ``(*, n, n)`` of matrices ``(*, m, n, n)``."""
    return ((w / w.sum(-1, keepdim=True))[..., None, None] * X).sum(-3)


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


def _karcher_step(M: Tensor, A: Tensor, w: Tensor, careful: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By Newton's method; where it is to be careful, the step of Bini and Iannazzo, which always gets nearer.

    In the basis of ``G^-1 A_i G^-H = V diag(e^x) V^H`` a Hessian multiplies by ``d / tanh d``, ``d = (x_j - x_k)/2``.
    """
    G, X = _whitened(M, A)
    l, V = Eigenbasis.for_function(X, solvers.resolve("auto"))  # noqa: E741
    x = l.log()
    S = _over((V * x.unsqueeze(-2)) @ V.mH, w)
    residual = torch.linalg.vector_norm(S, dim=(-2, -1))
    d = (x.unsqueeze(-1) - x.unsqueeze(-2)) / 2
    steepness = torch.where(d.abs() > 1e-4, d / torch.tanh(torch.where(d.abs() > 1e-4, d, 1.0)), 1.0)
    tol = torch.maximum(residual, 0.1 * _rounding(A) / residual).clamp(max=INEXACT)

    def hessian(Z: Tensor) -> Tensor:
        return _over(V @ (steepness * (V.mH @ Z.unsqueeze(-3) @ V)) @ V.mH, w)

    newton = conjugate_gradients(hessian, S, tol=tol[..., None, None])
    largest = (w / w.sum(-1, keepdim=True) * steepness[..., 0, -1]).sum(-1)
    step = torch.where(careful[..., None, None], S * (2 / (1 + largest))[..., None, None], newton)
    return hermitian_part(G @ expm(step) @ G.mH), residual, (l[..., -1] / l[..., 0]).amax(-1)


def _barycenter_gradient(M: Tensor, A: Tensor, w: Tensor) -> Tensor:
    """Of half of the sum of squared distances: ``I - sum w_i T_i``."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return identity - _over(transport_map(M.unsqueeze(-3).expand(A.shape), A), w)


def _barycenter_step(M: Tensor, A: Tensor, w: Tensor, careful: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    T = hermitian_part(_over(transport_map(M.unsqueeze(-3).expand(A.shape), A), w))
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    L = torch.linalg.eigvalsh(M)
    residual = torch.linalg.vector_norm(identity - T, dim=(-2, -1))
    return hermitian_part(T @ M @ T), residual, L[..., -1] / L[..., 0]


def _rounding(A: Tensor) -> float:
    return UNITS * A.shape[-1] ** 0.5 * torch.finfo(A.dtype).eps


def _iterate(
    step: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    A: Tensor,
    w: Tensor,
    *,
    max_iterations: int,
    name: str,
) -> Tensor:
    """Until the residual, which has no unit, is rounding; or is that times the condition, and no longer falls."""
    if not bool((w >= 0).all()) or not bool((w.sum(-1) > 0).all()):
        raise ValueError(
            f"weights must be at least 0, with a positive sum for each mean, got {float(w.min()):.3g} among them, and "
            f"{float(w.sum(-1).min()):.3g} for a sum; leave out matrices that are to have none"
        )
    M, rounding = _over(A, w), _rounding(A)
    if A.numel() == 0:
        return M
    least = torch.full_like(w[..., 0], torch.inf)
    careful = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(max_iterations):
        following, residual, condition = step(M, A, w, careful)
        stalled = (residual > 0.7 * least) & (residual <= rounding * condition.clamp_min(100))
        done = (residual <= rounding) | stalled
        if bool(done.all()):
            return M
        careful = residual > least
        M, least = torch.where(done[..., None, None], M, following), torch.minimum(least, residual)
    bad = int((~done).flatten().nonzero()[0])
    raise torch.linalg.LinAlgError(
        f"{name}: no convergence in max_iterations = {max_iterations} for mean {bad} of the batch: the residual is "
        f"{float(residual.flatten()[bad]):.1e}, to be at most {rounding:.1e}. Raise max_iterations, or look at "
        "matrices that are nearly singular"
    )
