"""MINRES for the equations of eigenvector gradients: shifted, singular, one for each eigenvector, all at once.

For a pair ``(l, x)`` the share of an eigenvector's derivative outside of the known eigenvectors X solves

    P^H (A - l B) P w = P^H r,    P = I - X X^H B,

a Hermitian system, definite where X is an end of the spectrum, as well conditioned as the gap behind X is wide. Each
column has its own shift and its own three-term recurrence; the products are shared.

Source: Paige and Saunders, SIAM J. Numer. Anal. 12, 1975; Choi, Paige, Saunders, SISC 33, 2011 (singular systems).
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["minres"]

Product = Callable[[Tensor], Tensor]

_LOOK = 10
"""Iterations between two looks at the residuals, for which the device is waited for."""
_REFINEMENTS = 5
"""Restarts from the true residual: the recurrence of an ill-conditioned system loses touch with it."""
_ACCURACY = 16.0
"""Units of rounding that a residual may have, relative to the right side and to the operator times the solution."""


def minres(
    product: Product,
    right: Tensor,
    scale: float,
    sizes: Tensor | None = None,
    *,
    preconditioner: Product | None = None,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solutions of ``product(w) = right``, column by column.

    Args:
        product: a Hermitian operator on blocks ``(n, b)``, each column its own.
        right: right sides ``(n, b)``, in the operator's range.
        scale: its norm, about.
        sizes: norms ``(b,)`` that the right sides' rounding errors are relative to; by default their own.
        preconditioner: a Hermitian positive definite operator on that range, near the inverse.
        max_iterations: in total.

    Returns:
        The solutions ``(n, b)``, and for each column its residual as a share of what is asked for ``(b,)``: at most 1
        where it was reached.
    """
    unit = _ACCURACY * torch.finfo(right.dtype).eps
    sizes = _sizes(right) if sizes is None else sizes
    solution, residual = torch.zeros_like(right), right
    left = max_iterations
    share = torch.zeros_like(right[0].real)
    for _ in range(_REFINEMENTS + 1):
        allowed = unit * (sizes + scale * _sizes(solution))
        left_over = _sizes(residual)
        share = torch.where(left_over > 0, left_over / allowed, 0.0)
        lacking = share > 1
        if left <= 0 or not bool(lacking.any()):
            break
        step, used = _run(product, residual, allowed, scale * unit, preconditioner, left)
        left -= used
        solution = solution + torch.where(lacking, step, 0.0)
        residual = right - product(solution)
    return solution, share


def _sizes(X: Tensor) -> Tensor:
    return torch.linalg.vector_norm(X, dim=0)


def _run(
    product: Product, right: Tensor, allowed: Tensor, growth: float, preconditioner: Product | None, max_iterations: int
) -> tuple[Tensor, int]:
    """From zero, until the recurrence says that the residual is at most ``allowed + growth * norm(w)``."""
    w = torch.zeros_like(right)
    r_before = r = right
    y = right if preconditioner is None else preconditioner(right)
    beta = _root((r.conj() * y).sum(0).real)
    ratio = _over(_sizes(right), beta)  # of the norm that allowed is in to the preconditioner's
    c, s, phi = -torch.ones_like(beta), torch.zeros_like(beta), beta
    beta_before, delta_bar, epsilon = torch.ones_like(beta), torch.zeros_like(beta), torch.zeros_like(beta)
    d, d_before = torch.zeros_like(right), torch.zeros_like(right)
    norm, breakdown = torch.zeros_like(beta), torch.finfo(beta.dtype).eps ** 0.75
    for done in range(1, max_iterations + 1):
        v = y * _over(torch.ones_like(beta), beta)
        y = product(v)
        if done > 1:
            y = y - r_before * _over(beta, beta_before)
        alpha = (v.conj() * y).sum(0).real
        y = y - r * _over(alpha, beta)
        r_before, r = r, y
        y = r if preconditioner is None else preconditioner(r)
        beta_before, beta = beta, _root((r.conj() * y).sum(0).real)
        norm = torch.maximum(norm, torch.maximum(alpha.abs(), beta))
        beta = torch.where(beta > breakdown * norm, beta, 0.0)  # solved: what is left is noise, outside of the range
        delta, gamma_bar = c * delta_bar + s * alpha, s * delta_bar - c * alpha
        epsilon_before, epsilon, delta_bar = epsilon, s * beta, -c * beta
        gamma = torch.hypot(gamma_bar, beta)
        c, s = _over(gamma_bar, gamma), _over(beta, gamma)
        tau, phi = c * phi, s * phi
        d_before, d = d, (v - d_before * epsilon_before - d * delta) * _over(torch.ones_like(gamma), gamma)
        w = w + d * tau
        if done % _LOOK == 0:
            small = phi * ratio <= 0.5 * (allowed + growth * _sizes(w))
            if bool((small | (beta == 0)).all()):
                return w, done
    return w, max_iterations


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(0).sqrt()


def _over(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``, and 0 where y is: of columns that are solved."""
    return torch.where(y > 0, x / torch.where(y > 0, y, 1.0), 0.0)
