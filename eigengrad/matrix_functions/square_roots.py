"""Square roots: every derivative, of any order, by the equation that defines them.

The square root ``S`` of a positive definite matrix satisfies ``S S = A``, hence

    S dS + dS S = dA,

a Lyapunov equation whose solution in the eigenbasis divides by ``s_i + s_j``, never by a difference. The adjoint of
that solve is the same solve. A function whose derivative is composed of such solves and of products therefore has
every derivative right where eigenvalues meet.

Source: Higham, *Functions of Matrices*, 2008, chapter 6.
"""

from typing import Any

from torch import Tensor

from eigengrad import solvers
from eigengrad.function import Function, hermitian_part

__all__ = ["inv_sqrtm", "lyapunov", "sqrtm"]


def sqrtm(A: Tensor, *, floor: float = 0.0, solver: str | solvers.Solver = "auto") -> Tensor:
    r"""The square root ``A^(1/2)`` of Hermitian positive definite matrices.

    In the eigenbasis, with ``s = sqrt(L)``, the derivative is a product with :math:`1/(s_i + s_j)`: exact at repeated
    eigenvalues, to every order. Two zero eigenvalues have no derivative and give NaN gradients.

    Args:
        A: Hermitian positive semidefinite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        floor: eigenvalues below are taken to be ``floor``. Set it where a positive lower bound of the spectrum is
            known, as ``eps`` is for a covariance plus ``eps * I``, whose computed eigenvalues rounding can push below
            zero. The default of 0 takes negative ones for zero.
        solver: as for :func:`eigengrad.eigh`.

    Returns:
        ``A^(1/2)``, Hermitian positive semidefinite.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty batches and ``n = 0`` are legal.

    Raises:
        ValueError: if ``floor`` is negative; for an unknown solver.
        torch.linalg.LinAlgError: if the solver does not converge, for example on NaN.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.sqrtm(4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    root, _ = _square_roots(A, floor, solver)
    return root


def inv_sqrtm(A: Tensor, *, floor: float = 0.0, solver: str | solvers.Solver = "auto") -> Tensor:
    r"""The inverse square root ``A^(-1/2)`` of Hermitian positive definite matrices.

    In the eigenbasis, with ``s = sqrt(L)``, the derivative is a product with :math:`-1/(s_i s_j (s_i + s_j))`: exact at
    repeated eigenvalues, to every order.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        floor: as for :func:`sqrtm`; its inverse square root bounds the result.
        solver: as for :func:`eigengrad.eigh`.

    Returns:
        ``A^(-1/2)``, Hermitian. A zero eigenvalue (with ``floor=0``) gives infinities and NaN, as ``0 ** -0.5`` does.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty batches and ``n = 0`` are legal.

    Raises:
        ValueError: if ``floor`` is negative; for an unknown solver.
        torch.linalg.LinAlgError: if the solver does not converge, for example on NaN.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.inv_sqrtm(4 * torch.eye(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    _, inverse_root = _square_roots(A, floor, solver)
    return inverse_root


def lyapunov(S: Tensor, B: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """The solution Y of ``S Y + Y S = B`` for Hermitian S, differentiable in S and B.

    ``V`` are the eigenvectors of S and ``W[i, j] = 1/(s_i + s_j)``; both count as constants.
    """
    return _Lyapunov.call(S, B, W, V)


def _square_roots(A: Tensor, floor: float, solver: str | solvers.Solver) -> tuple[Tensor, Tensor]:
    """``A^(1/2)`` and ``A^(-1/2)``: one decomposition, and each one's derivative is written in terms of both."""
    if not floor >= 0:
        raise ValueError(f"floor must not be negative, got {floor}")
    root, inverse_root, _, _ = _SquareRoots.call(A, floor, solvers.resolve(solver))
    return root, inverse_root


class _SquareRoots(Function):
    """``A -> S, X`` with ``S S = A``, ``X S = I``; also W and V of :func:`lyapunov`, as constants."""

    @staticmethod
    def forward(A: Tensor, floor: float, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        L, V = solver(A)
        s = L.clamp_min(floor).sqrt()
        W = (s.unsqueeze(-1) + s.unsqueeze(-2)).reciprocal()
        return (V * s.unsqueeze(-2)) @ V.mH, (V / s.unsqueeze(-2)) @ V.mH, W, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, W, V = output
        ctx.mark_non_differentiable(W, V)
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gS: Tensor | None, gX: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        S, X, W, V = ctx.saved_tensors
        # dX = -X dS X, so a cotangent of X is a cotangent of S.
        if gX is not None:
            gS = -X @ gX @ X if gS is None else gS - X @ gX @ X
        return (None if gS is None else lyapunov(S, hermitian_part(gS), W, V)), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor, None, None]:
        S, X, W, V = ctx.saved_tensors
        dS = lyapunov(S, hermitian_part(dA), W, V)
        return dS, -X @ dS @ X, None, None


class _Lyapunov(Function):
    """``S, B -> Y`` with ``S Y + Y S = B``. ``W`` and ``V`` solve it and carry no derivative."""

    @staticmethod
    def forward(S: Tensor, B: Tensor, W: Tensor, V: Tensor) -> Tensor:
        return V @ (W * (V.mH @ B @ V)) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        S, _, W, V = inputs
        ctx.save_for_backward(S, output, W, V)
        ctx.save_for_forward(S, output, W, V)

    @staticmethod
    def backward(ctx: Any, gY: Tensor) -> tuple[Tensor, Tensor, None, None]:
        S, Y, W, V = ctx.saved_tensors
        gB = lyapunov(S, gY, W, V)
        return -(gB @ Y.mH + Y.mH @ gB), gB, None, None

    @staticmethod
    def push_forward(ctx: Any, dS: Tensor, dB: Tensor, *_: None) -> Tensor:
        S, Y, W, V = ctx.saved_tensors
        return lyapunov(S, dB - dS @ Y - Y @ dS, W, V)
