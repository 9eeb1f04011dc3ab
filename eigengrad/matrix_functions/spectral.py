"""The exponential, the logarithm, powers, and functions of a caller's own, of Hermitian matrices.

Their derivatives, first and second, are those of :mod:`eigengrad.matrix_functions.daleckii_krein`; what becomes of
small eigenvalues is said in :mod:`eigengrad.matrix_functions.rank`.
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import public
from eigengrad.matrix_functions.daleckii_krein import apply
from eigengrad.matrix_functions.divided_differences import (
    Custom,
    Exponential,
    Logarithm,
    Power,
    PowerOfParameter,
    ScalarFunction,
)
from eigengrad.matrix_functions.integer_powers import integer_power
from eigengrad.matrix_functions.rank import Below, Deficiency
from eigengrad.matrix_functions.square_roots import inv_sqrtm, sqrtm

__all__ = ["expm", "logm", "matrix_function", "powm"]


@public
def expm(A: Tensor, *, solver: solvers.Name | solvers.Solver = "auto", errors: Errors = "raise") -> Tensor:
    r"""The exponential of Hermitian matrices, which is positive definite.

    In the eigenbasis the derivative is a product with
    :math:`e^{(l_i + l_j)/2}\,\mathrm{sinhc}((l_i - l_j)/2)`: exact at repeated eigenvalues, as is the second.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        ``exp(A)``, Hermitian. Where the exponential of the largest eigenvalue overflows, infinities and NaN.

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
    check_square(A)
    return apply(A, Exponential(), solvers.resolve(solver, errors))


@public
def logm(
    A: Tensor,
    *,
    floor: float | Tensor = 0.0,
    rtol: float | None = None,
    below: Below = "lift",
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    r"""The logarithm of Hermitian positive definite matrices.

    In the eigenbasis the derivative is a product with :math:`\log(l_i/l_j)/(l_i - l_j)`, evaluated without
    cancellation: exact at repeated eigenvalues, as is the second.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        floor, rtol, below: what becomes of small eigenvalues, as for :func:`sqrtm`.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        ``log(A)``, Hermitian. Without ``floor`` and ``rtol``, an eigenvalue that is not positive gives NaN or
        infinities, as ``torch.log`` does; the cure is ``rtol=1e-6``, say, or ``below="drop"`` with it.

    Shape, Raises:
        As for :func:`expm`; besides, as :func:`sqrtm` for ``floor``, ``rtol`` and ``below``.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.logm(torch.eye(2))
        tensor([[0., 0.],
                [0., 0.]])
    """
    return _apply(A, Logarithm(), Deficiency.of(floor, rtol, below), solvers.resolve(solver, errors))


@public
def powm(
    A: Tensor,
    exponent: float | Tensor,
    *,
    floor: float | Tensor = 0.0,
    rtol: float | None = None,
    below: Below = "lift",
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    r"""The power ``A^p`` of Hermitian matrices.

    In the eigenbasis, with :math:`t = \log(l_i/l_j)`, the derivative is a product with
    :math:`(l_i l_j)^{(p-1)/2} \sinh(pt/2) / \sinh(t/2)`, evaluated without cancellation: exact at repeated eigenvalues,
    as is the second. Integer powers are products of matrices, and those of 1/2 and -1/2 are :func:`sqrtm` and
    :func:`inv_sqrtm`: these have every derivative.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128; positive definite unless ``exponent`` is an
            integer. The lower triangle is read.
        exponent: p, a number (of Python or NumPy), or a real tensor that broadcasts to the batch ``(*)`` and is
            differentiated, for matrices that are positive definite.
        floor, rtol, below: what becomes of small eigenvalues, as for :func:`sqrtm`.
        solver, errors: as for :func:`eigengrad.eigh`; integer powers need no solver, and a singular matrix has no
            negative one, which ``errors="nan"`` makes NaN of it alone.

    Returns:
        ``A^p``, Hermitian. For other than integer powers, a negative eigenvalue gives NaN (but for the numbers 1/2 and
        -1/2, which take it for zero, as :func:`sqrtm` does); and for negative ones a zero
        eigenvalue gives infinities and NaN, as ``0 ** p`` does. The cure is ``rtol=1e-6``, say, or ``below="drop"``
        with it.

    Shape, Raises:
        As for :func:`expm`; besides, ``TypeError`` if ``exponent`` is no real number or tensor, ``ValueError`` if it is
        not finite or does not broadcast, ``LinAlgError`` if it is a negative integer and a matrix of the batch is
        singular; and as :func:`sqrtm` for ``floor``, ``rtol`` and ``below``.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.powm(8 * torch.eye(2), 1 / 3)
        tensor([[2., 0.],
                [0., 2.]])
        >>> p = torch.tensor(0.5, requires_grad=True)
        >>> torch.autograd.grad(eg.powm(4 * torch.eye(2), p).trace(), p)[0]      # 2 * 4^p log(4)
        tensor(5.5452)
    """
    deficiency, algorithm = Deficiency.of(floor, rtol, below), solvers.resolve(solver, errors)
    if isinstance(exponent, Tensor):
        return _apply(A, PowerOfParameter(), deficiency, algorithm, exponent=exponent)
    number: Any = exponent
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"exponent must be a real number or tensor, got {exponent!r} of type {type(exponent).__name__}")
    try:
        p = float(exponent)
    except OverflowError:
        p = torch.inf
    if not -torch.inf < p < torch.inf:
        raise ValueError(f"exponent must be finite, got {exponent}")
    if deficiency.is_possible or not (p.is_integer() or abs(p) == 0.5):
        return _apply(A, Power(p), deficiency, algorithm)
    if p.is_integer():
        return integer_power(A, int(p), errors)
    return sqrtm(A, solver=algorithm) if p > 0 else inv_sqrtm(A, solver=algorithm)


@public
def matrix_function(
    A: Tensor,
    f: Callable[..., Tensor],
    divided_difference: Callable[..., Tensor],
    *,
    parameters: Sequence[Tensor] = (),
    floor: float | Tensor = 0.0,
    rtol: float | None = None,
    below: Below = "lift",
    solver: solvers.Name | solvers.Solver = "auto",
    errors: Errors = "raise",
) -> Tensor:
    """A function of your own of Hermitian matrices, ``V f(L) V^H``, with its exact derivative.

    The derivative is a product with ``f[l_i, l_j] = (f(l_i) - f(l_j))/(l_i - l_j)`` in the eigenbasis. That quotient
    cancels where eigenvalues are close, so you state it in a form that does not, and that gives ``f'`` where they are
    equal. It is as accurate as your form is.

    Args:
        A: Hermitian matrices, of float32, float64, complex64 or complex128. The lower triangle is read.
        f: elementwise function of a real tensor x, and of the ``parameters``; its values may be complex.
        divided_difference: ``f[x, y]`` of two real tensors that broadcast, and of the ``parameters``. For second
            derivatives, write it in torch operations whose derivative where ``x == y`` is right, ``f''/2`` in each
            argument; that of a ``torch.where`` between a quotient and ``f'`` is not.
        parameters: real tensors that f depends on and that want a gradient, one number for each matrix: each must
            broadcast to the batch ``(*)``. ``f(x, *parameters)`` gets them so that they broadcast to x.
        floor, rtol, below: what becomes of small eigenvalues, as for :func:`sqrtm`.
        solver, errors: as for :func:`eigengrad.eigh`.

    Returns:
        ``f(A)``; Hermitian if f is real, else normal and complex, of complex64 for A in half precision.

    Shape, Raises:
        As for :func:`expm`; besides, ``TypeError`` if ``f`` or ``divided_difference`` cannot be called or returns no
        tensor, or a parameter is no real tensor; ``ValueError`` if one does not broadcast, if f or
        ``divided_difference`` is not elementwise, or if f depends on a tensor that wants a gradient and is not among
        them; and as :func:`sqrtm` for ``floor``, ``rtol`` and ``below``.

    Example:
        The inverse, whose divided difference is ``-1/(x y)``, and Green's function ``(A + i t)^-1`` with a broadening t
        that is learned:

        >>> import torch, eigengrad as eg
        >>> eg.matrix_function(4 * torch.eye(2), lambda x: 1 / x, lambda x, y: -1 / (x * y))
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
        >>> def green(x, t):
        ...     return 1 / (x + 1j * t)
        >>> def difference(x, y, t):
        ...     return -green(x, t) * green(y, t)
        >>> t = torch.tensor(0.5, requires_grad=True)
        >>> G = eg.matrix_function(torch.zeros(2, 2), green, difference, parameters=[t])
        >>> torch.autograd.grad(G[0, 0].imag, t)[0]  # of -1/t
        tensor(4.)
    """
    for name, value in (("f", f), ("divided_difference", divided_difference)):
        if not callable(value):
            raise TypeError(f"{name} must be a function of tensors, got {value!r}")
    given: object = parameters
    if isinstance(given, Tensor):
        raise TypeError("parameters must be a sequence of tensors, got one tensor; write parameters=[tensor]")
    if not isinstance(given, Sequence):
        raise TypeError(f"parameters must be a sequence of tensors, got {given!r}")
    named = {f"parameters[{index}]": value for index, value in enumerate(parameters)}
    return _apply(
        A, Custom(f, divided_difference), Deficiency.of(floor, rtol, below), solvers.resolve(solver, errors), **named
    )


def _apply(A: Tensor, f: ScalarFunction, deficiency: Deficiency, solver: solvers.Solver, **parameters: Any) -> Tensor:
    check_square(A)
    t = [_of_each_matrix(name, value, A) for name, value in parameters.items()]
    if isinstance(f, Custom) and _is_complex(f, A, t):
        u, w = deficiency.apply(A, f.real_and_imaginary(), solver, *t)
        return u + 1j * w if u.is_complex() else torch.complex(u, w)
    if t or deficiency.is_possible:
        return deficiency.apply(A, (f,), solver, *t)[0]
    return apply(A, f, solver)


def _is_complex(f: Custom, A: Tensor, t: list[Tensor]) -> bool:
    """Whether values of f are; and a look at what f depends on."""
    nothing = A.new_empty(*A.shape[:-2], 0, dtype=A.real.dtype)
    value = f(nothing, *(parameter.detach().unsqueeze(-1) for parameter in t))
    if value.requires_grad:
        raise ValueError(
            "f depends on a tensor that wants a gradient and would get none: pass it as one of parameters=, and let f "
            "and divided_difference take it as an argument"
        )
    return value.is_complex()


def _of_each_matrix(name: str, value: Any, A: Tensor) -> Tensor:
    """A parameter as ``(*)``, in the precision of A."""
    if not isinstance(value, Tensor) or value.is_complex():
        raise TypeError(f"{name} must be a real tensor, got {value!r}")
    try:
        return value.to(A.real.dtype).expand(A.shape[:-2])
    except RuntimeError:
        batch = tuple(A.shape[:-2])
        raise ValueError(f"{name} must broadcast to the batch {batch}, got shape {tuple(value.shape)}") from None
