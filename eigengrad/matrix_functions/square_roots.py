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

from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import check_square
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.lyapunov import Lyapunov
from eigengrad.native import operators
from eigengrad.native.operators import KINDS

__all__ = ["inv_sqrtm", "sqrtm"]


@public
def sqrtm(A: Tensor, *, floor: float = 0.0, solver: solvers.Name | solvers.Solver = "auto") -> Tensor:
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
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.sqrtm(4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_square(A)
    S, _, _ = _Root.call(A, False, _checked(floor), solvers.resolve(solver))
    return S


@public
def inv_sqrtm(A: Tensor, *, floor: float = 0.0, solver: solvers.Name | solvers.Solver = "auto") -> Tensor:
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
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.inv_sqrtm(4 * torch.eye(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    check_square(A)
    X, _, _ = _Root.call(A, True, _checked(floor), solvers.resolve(solver))
    return X


def _checked(floor: float) -> float:
    if not floor >= 0:
        raise ValueError(f"floor must not be negative, got {floor}")
    return floor


class _Root(Function):
    """``A -> S`` with ``S S = A`` or, inverse, ``S A S = I``; also ``s``, the eigenvalues of S, and V, as constants."""

    @staticmethod
    def forward(A: Tensor, inverse: bool, floor: float, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(solver, solvers.Fused):
            return operators.root(A, inverse, floor, solver.kernel_always, solver.strict)
        L, V = solver(A)
        L = L.clamp_min(floor)
        s = L.rsqrt() if inverse else L.sqrt()
        return Eigenbasis(s, V).recompose(s), s, V

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.derivative = _InverseRootDerivative if inputs[1] else Lyapunov
        ctx.set_materialize_grads(False)
        save(ctx, *output)

    @staticmethod
    def backward(ctx: Any, gS: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None]:
        if gS is None:
            return None, None, None, None
        S, s, V = ctx.saved_tensors
        return ctx.derivative.call(S, gS, s, V), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        S, s, V = ctx.saved_tensors
        return ctx.derivative.call(S, dA, s, V), *constant(s, V)


class _InverseRootDerivative(Function):
    """``X, B -> Y`` with ``X Y + Y X = -X X herm(B) X X``. ``x`` and ``V`` solve it, without a derivative."""

    @staticmethod
    def forward(X: Tensor, B: Tensor, x: Tensor, V: Tensor) -> Tensor:
        return operators.pull_back(V, B, x, None, KINDS["inverse_square_root"])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        X, B, x, V = inputs
        save(ctx, X, B, output, x, V)

    @staticmethod
    def backward(ctx: Any, gY: Tensor) -> tuple[Tensor, Tensor, None, None]:
        X, B, Y, x, V = ctx.saved_tensors
        B, Z = hermitian_part(B), Lyapunov.call(X, gY, x, V)
        half = Z @ Y + Z @ X @ X @ B @ X + X @ Z @ X @ X @ B
        return -(half + half.mH), _InverseRootDerivative.call(X, gY, x, V), None, None

    @staticmethod
    def push_forward(ctx: Any, dX: Tensor, dB: Tensor, *_: None) -> Tensor:
        X, B, Y, x, V = ctx.saved_tensors
        half = dX @ Y + (dX @ X + X @ dX) @ hermitian_part(B) @ X @ X
        dY = Lyapunov.call(X, half + half.mH, x, V)
        return _InverseRootDerivative.call(X, dB, x, V) - dY
