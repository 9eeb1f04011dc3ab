"""Sums over a spectrum, ``sum f(l_i)``: log-determinants, entropies, nuclear norms and their like.

The gradient is ``f'(A) = V f'(L) V^H``, a function of the matrix, whose own derivative is that of Daleckii and Krein:
the Hessian is right where eigenvalues meet, as it is not through ``f(eigh(A).eigenvalues).sum()``.

Source: Lewis, *Derivatives of Spectral Functions*, Math. Oper. Res. 21, 1996; Lewis and Sendov, SIAM J. Matrix Anal.
Appl. 23, 2001.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import Function, hermitian_part, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.daleckii_krein import apply_in_basis, spectrum_of
from eigengrad.matrix_functions.divided_differences import Custom, mean_slope

__all__ = ["spectral_sum"]


@public
def spectral_sum(
    A: Tensor,
    f: Callable[[Tensor], Tensor],
    *,
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    """``sum f(l_i)`` over the eigenvalues of Hermitian matrices, with right gradients and Hessians at ties.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        f: elementwise function of a real tensor, in torch operations, with real values; for the gradient it is
            differentiated once by autograd, for the Hessian twice.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        The sums.

    Shape:
        ``(*, n, n)`` to ``(*)``. Empty batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``f`` cannot be called or has complex values; if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices; if f depends on a tensor that wants a gradient; for an
            unknown solver.
        NotImplementedError: for a third derivative.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        The entropy of a density matrix, at its maximum:

        >>> import torch, eigengrad as eg
        >>> rho = (torch.eye(2) / 2).requires_grad_()
        >>> entropy = eg.spectral_sum(rho, lambda x: -torch.special.xlogy(x, x))
        >>> torch.autograd.grad(entropy, rho)[0]
        tensor([[-0.3069,  0.0000],
                [ 0.0000, -0.3069]])
    """
    check_square(A)
    if not callable(f):
        raise TypeError(f"f must be a function of tensors, got {f!r}")
    probe = f(A.real[..., :0].detach())
    if probe.is_complex():
        raise TypeError(f"f must have real values, got {probe.dtype}")
    if probe.requires_grad:
        raise ValueError(
            "f depends on a tensor that wants a gradient and would get none; use eigengrad.eigh, or detach it"
        )
    total: Tensor = _Sum.call(A, f, *spectrum_of(A, solvers.resolve(solver, errors)))
    return total


def _derivative(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(x: Tensor) -> Tensor:
        of_x: Any = torch.func.vjp(f, x)
        at: Tensor = of_x[1](torch.ones_like(of_x[0]))[0]
        return at

    return slope


class _Sum(Function):
    @staticmethod
    def forward(A: Tensor, f: Callable[[Tensor], Tensor], L: Tensor, V: Tensor) -> Tensor:
        return f(L).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, f, L, V = inputs
        slope = _derivative(f)
        ctx.slope = Custom(slope, mean_slope(slope, _derivative(slope)))
        save(ctx, A, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        A, L, V = ctx.saved_tensors
        return g[..., None, None] * apply_in_basis(A, ctx.slope, Eigenbasis(L, V)), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: Any) -> Tensor:
        A, L, V = ctx.saved_tensors
        slope = apply_in_basis(A, ctx.slope, Eigenbasis(L, V))
        return (slope.conj() * hermitian_part(dA)).sum((-2, -1)).real
