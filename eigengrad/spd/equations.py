"""Lyapunov's and Sylvester's equations for Hermitian matrices, with every derivative.

In the eigenbases the solution of ``A X + X B = C`` divides by ``a_i + b_j``, never by a difference. It is linear in C,
with itself as its adjoint, and differentiating the equation in A or B gives it again: so there is a derivative of
every order, right where eigenvalues meet.
"""

from typing import Any

import torch
from torch import Tensor

from eigengrad.arguments import check_matrices, check_square
from eigengrad.autograd import Function, has_values, public, save
from eigengrad.eigh import mirrored
from eigengrad.spd.arguments import check_batches

__all__ = ["lyapunov", "sylvester"]


@public
def lyapunov(A: Tensor, C: Tensor) -> Tensor:
    """The solution X of ``A X + X A = C`` for Hermitian positive semidefinite A.

    The directional derivative of the square root of ``A^2``, say, or of an optimal transport map.

    Args:
        A: Hermitian positive semidefinite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read. (Indefinite ones do, too, as long as no two eigenvalues sum to zero.)
        C: any matrices of their dtype.

    Returns:
        X, Hermitian where C is. Of a singular A, the part of X between null vectors, which the equation leaves open, is
        zero.

    Shape:
        ``A (*, n, n)``, ``C (*, n, n)``, ``X (*, n, n)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity in A.

    Source: Bhatia, *Positive Definite Matrices*, 2007, chapter 1.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.lyapunov(torch.diag(torch.tensor([1.0, 3.0])), torch.ones(2, 2))
        tensor([[0.5000, 0.2500],
                [0.2500, 0.1667]])
    """
    return sylvester(A, A, C)


@public
def sylvester(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The solution X of ``A X + X B = C`` for Hermitian positive semidefinite A and B.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        B: Hermitian matrices of the same dtype, whose eigenvalues are not those of ``-A``.
        C: any matrices of that dtype.

    Returns:
        X. Where an eigenvalue of A and one of B sum to zero, as those of null vectors do, its part between them is
        zero.

    Shape:
        ``A (*, m, m)``, ``B (*, n, n)``, ``C (*, m, n)``, ``X (*, m, n)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity in A or B.

    Source: Bhatia and Rosenthal, *How and why to solve the operator equation AX - XB = Y*, 1997.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.sylvester(torch.eye(2), 3 * torch.eye(1), torch.ones(2, 1))
        tensor([[0.2500],
                [0.2500]])
    """
    check_square(A)
    check_square(B, "B")
    check_matrices(C, "C")
    if not A.dtype == B.dtype == C.dtype:
        raise TypeError(f"A, B and C must be of one dtype, got {A.dtype}, {B.dtype} and {C.dtype}")
    if C.shape[-2:] != (A.shape[-1], B.shape[-1]):
        raise ValueError(f"C must be (*, {A.shape[-1]}, {B.shape[-1]}) to fit A and B, got shape {tuple(C.shape)}")
    same = A is B
    check_batches({"A": (A, 2), "C": (C, 2)} if same else {"A": (A, 2), "B": (B, 2), "C": (C, 2)})
    for name, X in (("A", A), ("B", B)):
        if has_values(X) and not bool(X.isfinite().all()):
            raise torch.linalg.LinAlgError(f"{name} must be finite, got NaN or infinity in it")
    A = mirrored(A, "L")
    B = A if same else mirrored(B, "L")
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2], C.shape[:-2])
    a, U = torch.linalg.eigh(A.detach())
    b, V = (a, U) if same else torch.linalg.eigh(B.detach())
    sums = a.unsqueeze(-1) + b.unsqueeze(-2)
    if sums.numel():
        scale = a.abs().amax(-1)[..., None, None] + b.abs().amax(-1)[..., None, None]
        open_ = sums.abs() <= max(sums.shape[-2:]) * torch.finfo(a.dtype).eps * scale
        sums = torch.where(open_, torch.inf, sums)
    A, B, C, U, V, sums = (X.expand(*batch, *X.shape[-2:]) for X in (A, B, C, U, V, sums))
    return _Sylvester.call(A, B, C, sums, U, V)


class _Sylvester(Function):
    """``A, B, C -> X``. What solves the equation, the sums of eigenvalues and the eigenvectors, carries no
    derivative."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, C: Tensor, sums: Tensor, U: Tensor, V: Tensor) -> Tensor:
        return U @ ((U.mH @ C @ V) / sums) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, B, _, *solver = inputs
        save(ctx, A, B, output, *solver)

    @staticmethod
    def backward(ctx: Any, gX: Tensor) -> tuple[Tensor | None, ...]:
        A, B, X, *solver = ctx.saved_tensors
        gC = _Sylvester.call(A, B, gX, *solver)
        return -gC @ X.mH, -X.mH @ gC, gC, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dB: Tensor, dC: Tensor, *_: None) -> Tensor:
        A, B, X, *solver = ctx.saved_tensors
        return _Sylvester.call(A, B, dC - dA @ X - X @ dB, *solver)
