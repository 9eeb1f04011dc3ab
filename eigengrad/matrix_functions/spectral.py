"""Functions of a matrix through functions of its eigenvalues: the theorem of Daleckii and Krein, to second order.

For ``A = V diag(L) V^H`` and Hermitian directions E and H, in the eigenbasis (a hat for ``V^H . V``),

    f(A)           = V diag(f(L)) V^H,
    Df(A)[E]       = V (f[l_i, l_j] E^_ij) V^H,
    D2f(A)[E, H]   = V (sum_k f[l_i, l_k, l_j] (E^_ik H^_kj + H^_ik E^_kj)) V^H,

with the divided differences of :mod:`eigengrad.matrix_functions.divided_differences`. Each line is the derivative of
the one above, and each is its own adjoint in every direction, so that one function apiece serves backward, double
backward and forward mode alike.

Source: Daleckii and Krein, 1951; Higham, *Functions of Matrices*, 2008, chapter 3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import check_square
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.eigh import mirrored
from eigengrad.matrix_functions.divided_differences import Custom, Exponential, Logarithm, Power, ScalarFunction
from eigengrad.matrix_functions.square_roots import inv_sqrtm, sqrtm
from eigengrad.native import operators

__all__ = ["expm", "logm", "matrix_function", "powm"]


@public
def expm(A: Tensor, *, solver: solvers.Name | solvers.Solver = "auto") -> Tensor:
    r"""The exponential of Hermitian matrices, which is positive definite.

    In the eigenbasis the derivative is a product with
    :math:`e^{(l_i + l_j)/2}\,\mathrm{sinhc}((l_i - l_j)/2)`: exact at repeated eigenvalues, as is the second.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        solver: as for :func:`eigengrad.eigh`.

    Returns:
        ``exp(A)``, Hermitian.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty batches and ``n = 0`` are legal. The second derivative needs memory for
        ``(*, n, n, n)`` numbers.

    Raises:
        TypeError: if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices; for an unknown solver.
        NotImplementedError: for a third derivative.
        torch.linalg.LinAlgError: if a matrix has no eigendecomposition, by NaN or infinity in it.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.expm(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return _apply(A, Exponential(), solver)


@public
def logm(A: Tensor, *, solver: solvers.Name | solvers.Solver = "auto") -> Tensor:
    r"""The logarithm of Hermitian positive definite matrices.

    In the eigenbasis the derivative is a product with :math:`\log(l_i/l_j)/(l_i - l_j)`, evaluated without
    cancellation: exact at repeated eigenvalues, as is the second.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        solver: as for :func:`eigengrad.eigh`.

    Returns:
        ``log(A)``, Hermitian. An eigenvalue that is not positive gives NaN or infinities, as ``torch.log`` does.

    Shape, Raises:
        As for :func:`expm`.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.logm(torch.eye(2))
        tensor([[0., 0.],
                [0., 0.]])
    """
    return _apply(A, Logarithm(), solver)


@public
def powm(A: Tensor, exponent: float, *, solver: solvers.Name | solvers.Solver = "auto") -> Tensor:
    r"""The power ``A^p`` of Hermitian matrices.

    In the eigenbasis, with :math:`t = \log(l_i/l_j)`, the derivative is a product with
    :math:`(l_i l_j)^{(p-1)/2} \sinh(pt/2) / \sinh(t/2)`, evaluated without cancellation: exact at repeated eigenvalues,
    as is the second. Integer powers are products of matrices, and those of 1/2 and -1/2 are :func:`sqrtm` and
    :func:`inv_sqrtm`: these have every derivative.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128; positive definite unless ``exponent`` is an
            integer. The lower triangle is read.
        exponent: p, a number. (For a power that is learned, take ``expm(p * logm(A))``.)
        solver: as for :func:`eigengrad.eigh`; integer powers do not use it.

    Returns:
        ``A^p``, Hermitian. For other than integer powers, a negative eigenvalue gives NaN; and for negative ones a zero
        eigenvalue gives infinities and NaN, as ``0 ** p`` does.

    Shape, Raises:
        As for :func:`expm`; besides, ``TypeError`` if ``exponent`` is no number, ``ValueError`` if it is not finite,
        and ``LinAlgError`` if it is a negative integer and a matrix of the batch is singular.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.powm(8 * torch.eye(2), 1 / 3)
        tensor([[2., 0.],
                [0., 2.]])
    """
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)):
        raise TypeError(
            f"exponent must be a number, got {exponent!r} of type {type(exponent).__name__}; "
            "for a power that is learned use expm(p * logm(A))"
        )
    if not -torch.inf < exponent < torch.inf:
        raise ValueError(f"exponent must be finite, got {exponent}")
    if float(exponent).is_integer():
        check_square(A)
        return torch.linalg.matrix_power(mirrored(A, "L"), int(exponent))
    if exponent == 0.5:
        return sqrtm(A, solver=solver)
    if exponent == -0.5:
        return inv_sqrtm(A, solver=solver)
    return _apply(A, Power(float(exponent)), solver)


@public
def matrix_function(
    A: Tensor,
    f: Callable[[Tensor], Tensor],
    divided_difference: Callable[[Tensor, Tensor], Tensor],
    *,
    solver: solvers.Name | solvers.Solver = "auto",
) -> Tensor:
    """A function of your own of Hermitian matrices, ``V f(L) V^H``, with its exact derivative.

    The derivative is a product with ``f[l_i, l_j] = (f(l_i) - f(l_j))/(l_i - l_j)`` in the eigenbasis. That quotient
    cancels where eigenvalues are close, so you state it in a form that does not, and that gives ``f'`` where they are
    equal. It is as accurate as your form is.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        f: elementwise function of a real tensor.
        divided_difference: ``f[x, y]`` of two real tensors that broadcast. For second derivatives, write it in torch
            operations with a finite derivative where ``x == y``.
        solver: as for :func:`eigengrad.eigh`.

    Returns:
        ``f(A)``, Hermitian.

    Shape, Raises:
        As for :func:`expm`; besides, ``TypeError`` if ``f`` or ``divided_difference`` cannot be called.

    Example:
        The inverse, whose divided difference is ``-1/(x y)``:

        >>> import torch, eigengrad as eg
        >>> eg.matrix_function(4 * torch.eye(2), lambda x: 1 / x, lambda x, y: -1 / (x * y))
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    for name, value in (("f", f), ("divided_difference", divided_difference)):
        if not callable(value):
            raise TypeError(f"{name} must be a function of tensors, got {value!r}")
    return _apply(A, Custom(f, divided_difference), solver)


def _apply(A: Tensor, f: ScalarFunction, solver: solvers.Name | solvers.Solver) -> Tensor:
    check_square(A)
    value, _, _ = _Value.call(A, f, solvers.resolve(solver))
    return value


def _second_derivative(A: Tensor, E: Tensor, H: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
    return _SecondDerivative.call(A, E, H, f, L, V)


def _derivative(A: Tensor, E: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
    return _Derivative.call(A, E, f, L, V)


class _Value(Function):
    """``A -> f(A)``; also L and V, as constants."""

    @staticmethod
    def forward(A: Tensor, f: ScalarFunction, solver: solvers.Solver) -> tuple[Tensor, Tensor, Tensor]:
        if f.kind is not None and isinstance(solver, solvers.Fused):
            return operators.function(A, f.kind, f.parameter, solver.kernel_always, solver.strict)
        basis = Eigenbasis.for_function(A, solver)
        return basis.recompose(f(basis.L)), *basis

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        A, ctx.f, _ = inputs
        _, L, V = output
        ctx.set_materialize_grads(False)
        save(ctx, A, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if g is None:
            return None, None, None
        A, L, V = ctx.saved_tensors
        return _derivative(A, g, ctx.f, L, V), None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        A, L, V = ctx.saved_tensors
        return _derivative(A, dA, ctx.f, L, V), *constant(L, V)


class _Derivative(Function):
    """``A, E -> Df(A)[E]`` for the Hermitian part of E."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        if f.kind is not None:
            return operators.pull_back(V, E, L, None, f.kind, f.parameter)
        return Eigenbasis(L, V).conjugate(f.first(L.unsqueeze(-1), L.unsqueeze(-2)), E)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, E, ctx.f, L, V = inputs
        save(ctx, A, E, L, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        A, E, L, V = ctx.saved_tensors
        return _second_derivative(A, E, g, ctx.f, L, V), _derivative(A, g, ctx.f, L, V), None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dE: Tensor, *_: None) -> Tensor:
        A, E, L, V = ctx.saved_tensors
        return _second_derivative(A, E, dA, ctx.f, L, V) + _derivative(A, dE, ctx.f, L, V)


class _SecondDerivative(Function):
    """``A, E, H -> D2f(A)[E, H]`` for the Hermitian parts of E and H."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, H: Tensor, f: ScalarFunction, L: Tensor, V: Tensor) -> Tensor:
        second = f.second(L[..., :, None, None], L[..., None, :, None], L[..., None, None, :])  # (*, i, k, j)
        E, H = V.mH @ hermitian_part(E) @ V, V.mH @ hermitian_part(H) @ V
        half = (E.unsqueeze(-2) @ (second * H.unsqueeze(-3))).squeeze(-2)
        return V @ (half + half.mH) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        raise NotImplementedError(_THIRD_ORDER)

    @staticmethod
    def push_forward(ctx: Any, *tangents: Tensor) -> Any:
        raise NotImplementedError(_THIRD_ORDER)


_THIRD_ORDER = "matrix functions have first and second derivatives; of any order: sqrtm, inv_sqrtm, integer powers"
