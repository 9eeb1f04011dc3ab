"""Square roots: every derivative, of any order, by the equation that defines them.

The square root ``S`` of a positive definite matrix satisfies ``S S = A``, hence

    S dS + dS S = dA,

a Lyapunov equation whose solution in the eigenbasis divides by ``s_i + s_j``, never by a difference. The adjoint of
that solve is the same solve. A function whose derivative is composed of such solves and of products therefore has
every derivative right where eigenvalues meet. For the inverse square root ``X`` the equation is

    X dX + dX X = -X X dA X X,

solved in one step with the weights ``-1/(s_i s_j (s_i + s_j))``; products with X would lose digits.

Source: Higham, *Functions of Matrices*, 2008, chapter 6.
"""

from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import check_square
from eigengrad.autograd import Function, hermitian_part, in_full_precision
from eigengrad.matrix_functions.decomposition import root
from eigengrad.matrix_functions.embedding import embed, embeds, extract
from eigengrad.native import products

__all__ = ["inv_sqrtm", "lyapunov", "sqrtm"]


@in_full_precision
def sqrtm(A: Tensor, *, floor: float = 0.0, solver: str | solvers.Solver = "auto") -> Tensor:
    r"""The square root ``A^(1/2)`` of Hermitian positive definite matrices.

    In the eigenbasis, with ``s = sqrt(L)``, the derivative is a product with :math:`1/(s_i + s_j)`: exact at repeated
    eigenvalues, to every order. At a zero eigenvalue, where the root has no derivative, the gradient is infinite and
    NaN, unless a ``floor`` is set.

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
        TypeError: if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices; if ``floor`` is negative; for an unknown solver.
        torch.linalg.LinAlgError: if LAPACK does not converge, for example on NaN. (The compiled kernel gives NaN.)

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.sqrtm(4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_square(A)
    if embeds(A, solver):
        return extract(sqrtm(embed(A), floor=floor, solver=solver))
    S, _, _ = _SquareRoot.call(A, _checked(floor), solvers.resolve(solver))
    return S


@in_full_precision
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
        TypeError: if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices; if ``floor`` is negative; for an unknown solver.
        torch.linalg.LinAlgError: if LAPACK does not converge, for example on NaN. (The compiled kernel gives NaN.)

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.inv_sqrtm(4 * torch.eye(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    check_square(A)
    if embeds(A, solver):
        return extract(inv_sqrtm(embed(A), floor=floor, solver=solver))
    X, _, _ = _InverseSquareRoot.call(A, _checked(floor), solvers.resolve(solver))
    return X


def lyapunov(S: Tensor, B: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """The solution Y of ``S Y + Y S = B`` for Hermitian S, differentiable in S and B.

    ``V`` are the eigenvectors of S and ``W[i, j] = 1/(s_i + s_j)``; both count as constants.
    """
    return _Lyapunov.call(S, B, W, V)


def _checked(floor: float) -> float:
    if not floor >= 0:
        raise ValueError(f"floor must not be negative, got {floor}")
    return floor


def _reciprocal_sums(s: Tensor) -> Tensor:
    return (s.unsqueeze(-1) + s.unsqueeze(-2)).reciprocal()


class _SquareRoot(Function):
    """``A -> S`` with ``S S = A``; also ``s``, the eigenvalues of S, and V, as constants."""

    @staticmethod
    def forward(A: Tensor, floor: float, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor]:
        return root(A, floor, solver, inverse=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        S, s, V = output
        ctx.mark_non_differentiable(s, V)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(S, s, V)
        ctx.save_for_forward(S, s, V)

    @staticmethod
    def backward(ctx: Any, gS: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if gS is None:
            return None, None, None
        S, s, V = ctx.saved_tensors
        if torch.is_grad_enabled():
            return lyapunov(S, hermitian_part(gS), _reciprocal_sums(s), V), None, None
        if products.multiplies(V, gS):
            return products.pull_back(V, gS, s, kind="square_root"), None, None
        return _Lyapunov.forward(S, hermitian_part(gS), _reciprocal_sums(s), V), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, None, None]:
        S, s, V = ctx.saved_tensors
        return lyapunov(S, hermitian_part(dA), _reciprocal_sums(s), V), None, None


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


class _InverseSquareRoot(Function):
    """``A -> X`` with ``X A X = I``; also ``x``, the eigenvalues of X, and V, as constants."""

    @staticmethod
    def forward(A: Tensor, floor: float, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor]:
        return root(A, floor, solver, inverse=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        X, x, V = output
        ctx.mark_non_differentiable(x, V)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(X, x, V)
        ctx.save_for_forward(X, x, V)

    @staticmethod
    def backward(ctx: Any, gX: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if gX is None:
            return None, None, None
        X, x, V = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _InverseRootDerivative.call(X, hermitian_part(gX), x, V), None, None
        if products.multiplies(V, gX):
            return products.pull_back(V, gX, x, kind="inverse_square_root"), None, None
        return _InverseRootDerivative.forward(X, hermitian_part(gX), x, V), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, None, None]:
        X, x, V = ctx.saved_tensors
        return _InverseRootDerivative.call(X, hermitian_part(dA), x, V), None, None


class _InverseRootDerivative(Function):
    """``X, B -> Y`` with ``X Y + Y X = -X X B X X``, all Hermitian. ``x`` and ``V`` solve it, without a derivative."""

    @staticmethod
    def forward(X: Tensor, B: Tensor, x: Tensor, V: Tensor) -> Tensor:
        if products.multiplies(V, B):
            return products.pull_back(V, B, x, kind="inverse_square_root")
        scaled = V * x.unsqueeze(-2)  # the weights are -x_i x_j/(s_i + s_j), s = 1/x: no factor leaves the range early
        return V @ (_reciprocal_sums(-1 / x) * (scaled.mH @ B @ scaled)) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        X, B, x, V = inputs
        ctx.save_for_backward(X, B, output, x, V)
        ctx.save_for_forward(X, B, output, x, V)

    @staticmethod
    def backward(ctx: Any, gY: Tensor) -> tuple[Tensor, Tensor, None, None]:
        X, B, Y, x, V = ctx.saved_tensors
        gY = hermitian_part(gY)
        Z = lyapunov(X, gY, _reciprocal_sums(x), V)
        half = Z @ Y + Z @ X @ X @ B @ X + X @ Z @ X @ X @ B
        return -(half + half.mH), _InverseRootDerivative.call(X, gY, x, V), None, None

    @staticmethod
    def push_forward(ctx: Any, dX: Tensor, dB: Tensor, *_: None) -> Tensor:
        X, B, Y, x, V = ctx.saved_tensors
        half = dX @ Y + (dX @ X + X @ dX) @ B @ X @ X
        dY = lyapunov(X, half + half.mH, _reciprocal_sums(x), V)
        return _InverseRootDerivative.call(X, dB, x, V) - dY
