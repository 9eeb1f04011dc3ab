"""Sums over a spectrum, ``sum f(l_i)``: log-determinants, entropies, nuclear norms and their like.

Each is the trace of ``f(A)``. So the gradient is ``f'(A) = V f'(L) V^H``, and the derivatives are those of Daleckii and
Krein: the Hessian is right where eigenvalues meet, as it is not through ``f(eigh(A).eigenvalues).sum()``.

Source: Lewis, *Derivatives of Spectral Functions*, Math. Oper. Res. 21, 1996; Lewis and Sendov, SIAM J. Matrix Anal.
Appl. 23, 2001.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import public
from eigengrad.matrix_functions.daleckii_krein import apply
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
        TypeError: if ``f`` cannot be called, returns no tensor or complex values; if ``A`` is no tensor, or of
            another dtype.
        ValueError: if ``A`` is no batch of square matrices; if f is not elementwise, or depends on a tensor that wants
            a gradient; for an unknown solver.
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
    function = Custom(f, mean_slope(f, _derivative(f)))
    probe = function(A.real[..., :0].detach())
    if probe.is_complex():
        raise TypeError(f"f must have real values, got {probe.dtype}")
    if probe.requires_grad:
        raise ValueError(
            "f depends on a tensor that wants a gradient and would get none; use eigengrad.eigh, or detach it"
        )
    whole = apply(A, function, solvers.resolve(solver, errors))
    return whole.diagonal(dim1=-2, dim2=-1).real.sum(-1)


def _derivative(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(x: Tensor) -> Tensor:
        of_x: Any = torch.func.vjp(f, x)
        at: Tensor = of_x[1](torch.ones_like(of_x[0]))[0]
        return at

    return slope
