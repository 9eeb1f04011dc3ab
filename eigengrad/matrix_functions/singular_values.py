"""Functions of singular values, ``U f(S) V^H`` with odd f: exact where singular values meet and where they vanish.

The Hermitian dilation ``[[0, A], [A^H, 0]]`` has eigenvalues ``s_i``, ``-s_i`` and, for A that is not square, 0. An odd
function of it is ``[[0, F], [F^H, 0]]`` with ``F = U f(S) V^H``. So in the bases U and V the derivative of F has the
divided differences ``f[s_i, s_j]`` for the Hermitian part of ``U^H dA V``, ``f[s_i, -s_j]`` for the skew part, and
``f[s_j, 0] = f(s_j)/s_j`` toward the null space. The second derivative is that of the dilation.

Source: Hawkins and Ben-Israel, Linear Multilinear Algebra 1, 1973; Noferini, *A Formula for the Frechet Derivative of a
Generalized Matrix Function*, SIAM J. Matrix Anal. Appl. 38, 2017.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad.arguments import Errors, as_integer, as_threshold, check_errors, check_matrices, check_not_negative
from eigengrad.autograd import Function, constant, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.matrix_functions.daleckii_krein import Last, second_derivative
from eigengrad.matrix_functions.divided_differences import Custom, ScalarFunction
from eigengrad.matrix_functions.odd_functions import Identity, Reciprocal, SoftThreshold
from eigengrad.matrix_functions.scales import power_of_two, size_of
from eigengrad.svd import decompose

__all__ = ["low_rank", "pinv", "singular_value_function", "soft_threshold"]


@public
def singular_value_function(
    A: Tensor,
    f: Callable[[Tensor], Tensor],
    divided_difference: Callable[[Tensor, Tensor], Tensor],
    *,
    errors: Errors = "raise",
) -> Tensor:
    """``U f(S) V^H`` for an odd function f, with its exact derivative at ties and at zero.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        f: elementwise odd function of a real tensor, ``f(-x) = -f(x)``, so that ``f(0) = 0``.
        divided_difference: ``f[x, y] = (f(x) - f(y))/(x - y)`` of two real tensors that broadcast, of either sign, in a
            form that does not cancel and gives ``f'`` where they are equal. For second derivatives, write it in torch
            operations whose derivative where ``x == y`` is right, ``f''/2`` in each argument; that of a
            ``torch.where`` between a quotient and ``f'`` is not.
        errors: ``"raise"``, or ``"nan"``: a matrix with NaN or infinity in it gives NaN, its neighbours what they are.

    Returns:
        The function of A.

    Shape:
        ``(*, m, n)`` to ``(*, m, n)``. Empty input is legal.

    Raises:
        TypeError: if ``f`` or ``divided_difference`` cannot be called or return no tensor, or complex values; if ``A``
            is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of matrices; if f is not elementwise, or depends on a tensor that wants a
            gradient.
        NotImplementedError: for a third derivative.
        torch.linalg.LinAlgError: if the SVD does not converge, for example on NaN.

    Example:
        The identity, whose gradient is the cotangent, at any tie:

        >>> import torch, eigengrad as eg
        >>> A = torch.eye(3, 2, requires_grad=True)
        >>> F = eg.singular_value_function(A, lambda s: s, lambda x, y: torch.ones_like(x - y))
        >>> torch.autograd.grad(F[0, 1], A)[0]
        tensor([[0., 1.],
                [0., 0.],
                [0., 0.]])
    """
    check_matrices(A)
    for name, value in (("f", f), ("divided_difference", divided_difference)):
        if not callable(value):
            raise TypeError(f"{name} must be a function of tensors, got {value!r}")
    function = Custom(f, divided_difference)
    probe = function(A.real[..., :0].detach())
    if probe.is_complex():
        raise TypeError(f"f must have real values, got {probe.dtype}")
    if probe.requires_grad:
        raise ValueError("f depends on a tensor that wants a gradient and would get none; detach it")
    return _apply(A, function, errors)


@public
def low_rank(A: Tensor, k: int, *, errors: Errors = "raise") -> Tensor:
    """The nearest matrices of rank k: the k largest singular values, and 0 for the others.

    Only the gap between the values kept and dropped matters to the derivative, which is unbounded as it closes.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        k: the rank, from 0 to ``min(m, n)``. Values equal, to the last bit, to the largest of those to be dropped are
            dropped, too.
        errors: as for :func:`singular_value_function`.

    Returns:
        The matrices of Eckart, Young and Mirsky.

    Shape, Raises:
        As for :func:`singular_value_function`; besides, ``TypeError`` if ``k`` is no integer, and ``ValueError`` if it
        does not lie between 0 and ``min(m, n)``.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.low_rank(torch.tensor([3.0, 2.0, 2.0, 1.0]).diag(), 3).diagonal()
        tensor([3., 2., 2., 0.])
    """
    check_matrices(A)
    k, most = as_integer(k, "k"), min(A.shape[-2:])
    if not 0 <= k <= most:
        raise ValueError(f"k must lie between 0 and min(m, n) = {most}, got {k}")
    return A.clone() if k == most else _apply(A, Identity(), errors, keep=k)


@public
def pinv(A: Tensor, *, rtol: float | None = None, errors: Errors = "raise") -> Tensor:
    """The pseudo-inverse of Moore and Penrose, with derivatives of the rank that is found.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        rtol: singular values up to this share of the largest are taken to be 0; by default ``max(m, n)`` units of
            rounding, as in torch.
        errors: as for :func:`singular_value_function`.

    Returns:
        The pseudo-inverse.

    Shape, Raises:
        ``(*, m, n)`` to ``(*, n, m)``. As for :func:`singular_value_function`; besides, ``ValueError`` if ``rtol`` is
        negative.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.pinv(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    check_matrices(A)
    share = max(A.shape[-2:]) * torch.finfo(A.dtype).eps if rtol is None else as_threshold(rtol, "rtol")
    unit = power_of_two(size_of(A, (-2, -1)))  # the derivative has the square of a reciprocal
    return _apply(A / unit, Reciprocal(), errors, share=share).mH / unit


@public
def soft_threshold(A: Tensor, t: float | Tensor, *, errors: Errors = "raise") -> Tensor:
    """Singular values less t, and 0 for those below: the proximal map of t times the nuclear norm.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        t: the threshold, a number that is not negative, or a tensor of such that broadcasts to the batch ``(*)`` and is
            differentiated where it is positive.
        errors: as for :func:`singular_value_function`.

    Returns:
        ``argmin_X t |X|_* + |X - A|^2 / 2``.

    Shape, Raises:
        As for :func:`singular_value_function`; besides, ``TypeError`` if ``t`` is neither a number nor a real tensor,
        and ``ValueError`` if it is negative (of a tensor, on a CPU), or does not broadcast.

    Source: Cai, Candes, Shen, *A Singular Value Thresholding Algorithm for Matrix Completion*, SIAM J. Optim. 20, 2010.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.soft_threshold(torch.tensor([3.0, 1.0]).diag(), 2.0).diagonal()
        tensor([1., 0.])
    """
    check_matrices(A)
    if not isinstance(t, Tensor):
        t = A.real.new_full((), as_threshold(t, "t", "a number or a real tensor"))
    if t.is_complex():
        raise TypeError(f"t must be a number or a real tensor, got {t.dtype}")
    check_not_negative(t, "t")
    try:
        t = t.to(A.real.dtype).expand(A.shape[:-2])[..., None, None]
    except RuntimeError:
        raise ValueError(f"t must broadcast to the batch {tuple(A.shape[:-2])}, got {tuple(t.shape)}") from None
    unit = torch.where(t > 0, t, 1.0)  # f(x; t) = t f(x/t; 1)
    beneath = torch.where(t.isnan(), A * t, A)  # of no t, nothing
    return torch.where(t > 0, unit * _apply(A / unit, SoftThreshold(), errors), beneath)


def _apply(
    A: Tensor, f: ScalarFunction, errors: Errors, *, keep: int | None = None, share: float | None = None
) -> Tensor:
    """``f(A)``; with ``keep``, or ``share``, f has a threshold as its parameter: a singular value, or one's share."""
    if A.shape[-2] < A.shape[-1]:
        return _apply(A.mH, f, errors, keep=keep, share=share).mH
    check_errors(errors)
    F: Tensor = _Value.call(A, f, keep, share, errors)[0]
    return F


class _Value(Function):
    """``A -> F``, and as constants U, S, V and the threshold ``(*, 1)``, for A with at least as many rows."""

    @staticmethod
    def forward(
        A: Tensor, f: ScalarFunction, keep: int | None, share: float | None, errors: Errors
    ) -> tuple[Tensor, ...]:
        U, S, Vh = decompose(A, errors)
        threshold = S.new_zeros(*S.shape[:-1], 1)
        if S.shape[-1] and keep is not None:
            threshold = S[..., keep : keep + 1].clone()
        elif S.shape[-1] and share is not None:
            threshold = share * S[..., :1]
        V = Vh.mH.clone(memory_format=torch.contiguous_format)
        return (U * f(S, *_given(f, threshold)).unsqueeze(-2)) @ Vh, U, S, V, threshold

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        A, ctx.f, *_ = inputs
        ctx.set_materialize_grads(False)
        save(ctx, A, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        A, *basis = ctx.saved_tensors
        return None if g is None else _Derivative.call(A, g, ctx.f, *basis), None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: Any) -> tuple[Tensor, ...]:
        A, *basis = ctx.saved_tensors
        return _Derivative.call(A, dA, ctx.f, *basis), *constant(*basis)


class _Derivative(Function):
    """``A, E -> DF(A)[E]``, its own adjoint in E."""

    @staticmethod
    def forward(A: Tensor, E: Tensor, f: ScalarFunction, U: Tensor, S: Tensor, V: Tensor, threshold: Tensor) -> Tensor:
        x, y = S.unsqueeze(-1), S.unsqueeze(-2)
        t = [one.unsqueeze(-1) for one in _given(f, threshold)]
        image = E @ V
        P = U.mH @ image
        half = P / 2
        inside = f.first(x, y, *t) * (half + half.mH) + f.first(x, -y, *t) * (half - half.mH)
        left = U @ inside
        if U.shape[-2] > U.shape[-1]:
            left = left + (image - U @ P) * f.first(y, torch.zeros_like(y), *t)
        return left @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, E, ctx.f, *basis = inputs
        save(ctx, A, E, *basis)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, E, *basis = ctx.saved_tensors
        gA = _SecondDerivative.call(A, E, g, ctx.f, *basis)
        return gA, _Derivative.call(A, g, ctx.f, *basis), None, None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dE: Tensor, *_: Any) -> Tensor:
        A, E, *basis = ctx.saved_tensors
        return _SecondDerivative.call(A, E, dA, ctx.f, *basis) + _Derivative.call(A, dE, ctx.f, *basis)


def _given(f: ScalarFunction, threshold: Tensor) -> list[Tensor]:
    return [threshold] if isinstance(f, (Identity, Reciprocal)) else []


class _SecondDerivative(Last):
    """``A, E, H -> D2F(A)[E, H]``: that of the dilation, in the space of the columns of U, E and H."""

    @staticmethod
    def forward(
        A: Tensor, E: Tensor, H: Tensor, f: ScalarFunction, U: Tensor, S: Tensor, V: Tensor, threshold: Tensor
    ) -> Tensor:
        n = V.shape[-1]
        if U.shape[-2] > 3 * n:
            Q = torch.linalg.qr(torch.cat([U, E, H], dim=-1))[0]
            return Q @ _of_dilation(Q.mH @ E, Q.mH @ H, f, Q.mH @ U, S, V, threshold)
        return _of_dilation(E, H, f, U, S, V, threshold)


def _of_dilation(E: Tensor, H: Tensor, f: ScalarFunction, U: Tensor, S: Tensor, V: Tensor, threshold: Tensor) -> Tensor:
    m, n = E.shape[-2:]
    null = torch.linalg.qr(U, mode="complete")[0][..., n:]  # the rest of a basis
    half = 0.5**0.5
    above = torch.cat([half * U, half * U, null], dim=-1)
    below = torch.cat([half * V, -half * V, V.new_zeros(*V.shape[:-2], n, m - n)], dim=-1)
    L = torch.cat([S, -S, S.new_zeros(*S.shape[:-1], m - n)], dim=-1)
    basis = Eigenbasis(L, torch.cat([above, below], dim=-2))
    t = threshold if _given(f, threshold) else threshold[..., :0]
    return second_derivative(f, basis, t, _dilation(E), _dilation(H))[..., :m, m:]


def _dilation(A: Tensor) -> Tensor:
    """``[[0, 2 A], [0, 0]]``, whose Hermitian part is that of A."""
    return torch.nn.functional.pad(2 * A, (A.shape[-2], 0, 0, A.shape[-1]))
