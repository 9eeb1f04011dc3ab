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
from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.divided_differences import Power
from eigengrad.matrix_functions.lyapunov import Lyapunov
from eigengrad.matrix_functions.rank import Below, Deficiency
from eigengrad.native import operators
from eigengrad.native.operators import KINDS

__all__ = ["inv_sqrtm", "root_of_bounded", "sqrtm"]


@public
def sqrtm(
    A: Tensor,
    *,
    floor: float | Tensor = 0.0,
    rtol: float | None = None,
    below: Below = "lift",
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    r"""The square root ``A^(1/2)`` of Hermitian positive definite matrices.

    In the eigenbasis, with ``s = sqrt(L)``, the derivative is a product with :math:`1/(s_i + s_j)`: exact at repeated
    eigenvalues, to every order (with ``floor``, ``rtol`` or ``below="drop"``, to the second).

    Args:
        A: Hermitian positive semidefinite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        floor: an absolute threshold for eigenvalues, a number or a tensor that broadcasts to the batch ``(*)``.
        rtol: a threshold relative to the largest eigenvalue of each matrix; with both, the larger one counts. That of
            a zero matrix is 0. Where the largest eigenvalue is repeated, this threshold has no derivative, as no
            maximum has: that of one of its eigenvectors is taken.
        below: what becomes of eigenvalues below: ``"lift"`` takes them to be the threshold; ``"drop"`` leaves them out,
            so that the function is one of the rest (the pseudo-inverse, for a negative power) and 0 in their space.
            Gradients are those of what is computed.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        ``A^(1/2)``, Hermitian positive semidefinite. Negative eigenvalues are taken for zero. At a zero eigenvalue,
        where the root has no derivative, the gradient is infinite and NaN; the cure is a threshold, such as
        ``rtol=1e-6``.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty batches and ``n = 0`` are legal.

    Raises:
        TypeError: if ``A`` is no tensor, or of another dtype; for thresholds that are no numbers.
        ValueError: if ``A`` is no batch of square matrices; if ``floor`` or ``rtol`` is negative, or ``floor`` does not
            broadcast; for another ``below``; for an unknown solver.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.sqrtm(4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_square(A)
    deficiency, algorithm = Deficiency.of(floor, rtol, below), solvers.resolve(solver, errors)
    if deficiency.is_possible:
        return deficiency.apply(A, (Power(0.5),), algorithm)[0]
    S, _, _ = _Root.call(A, False, 0.0, algorithm)
    return S


@public
def inv_sqrtm(
    A: Tensor,
    *,
    floor: float | Tensor = 0.0,
    rtol: float | None = None,
    below: Below = "lift",
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    r"""The inverse square root ``A^(-1/2)`` of Hermitian positive definite matrices.

    In the eigenbasis, with ``s = sqrt(L)``, the derivative is a product with :math:`-1/(s_i s_j (s_i + s_j))`: exact at
    repeated eigenvalues, to every order (with ``floor``, ``rtol`` or ``below="drop"``, to the second).

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        floor, rtol, below: as for :func:`sqrtm`.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        ``A^(-1/2)``, Hermitian. Without ``floor`` and ``rtol``, a zero eigenvalue gives infinities and NaN, as
        ``0 ** -0.5`` does; the cure is a threshold, such as ``rtol=1e-6``, or ``below="drop"`` with it.

    Shape, Raises:
        As for :func:`sqrtm`.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.inv_sqrtm(4 * torch.eye(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
        >>> eg.inv_sqrtm(torch.tensor([4.0, 0.0]).diag(), rtol=1e-6, below="drop")
        tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    check_square(A)
    deficiency, algorithm = Deficiency.of(floor, rtol, below), solvers.resolve(solver, errors)
    if deficiency.is_possible:
        return deficiency.apply(A, (Power(-0.5),), algorithm)[0]
    S, _, _ = _Root.call(A, True, 0.0, algorithm)
    return S


@public
def root_of_bounded(
    A: Tensor, bound: float, *, inverse: bool, solver: solvers.Name | solvers.Solver = "auto"
) -> Tensor:
    """The root of matrices whose eigenvalues are known to be at least ``bound``.

    Such as a covariance plus ``bound * I``. Those that were computed to be less are so by rounding, and both the root
    and its derivative take them to be ``bound``: not a function of A with a threshold, but that of the A that was
    meant.
    """
    S, _, _ = _Root.call(A, inverse, bound, solvers.resolve(solver))
    return S


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
