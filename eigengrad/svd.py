"""Singular value decomposition with a gradient of the user's choice."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad.arguments import Errors, check_errors, check_matrices
from eigengrad.autograd import Function, hermitian_part, public, save
from eigengrad.gradients import GradientRule, Lorentzian, check_rule
from eigengrad.native.reference import check_finite
from eigengrad.phase import check_phase

__all__ = ["SVDResult", "decompose", "svd"]


class SVDResult(NamedTuple):
    """Of :func:`svd`."""

    U: Tensor
    S: Tensor
    Vh: Tensor


@public
def svd(
    A: Tensor,
    *,
    full_matrices: bool = False,
    gradient: GradientRule = Lorentzian(),  # noqa: B008 (a frozen value)
    errors: Errors = "raise",
) -> SVDResult:
    r"""``A = U diag(S) V^H``, differentiable where singular values meet or vanish.

    As :func:`torch.linalg.svd`, with the rules of :func:`eigengrad.eigh`: singular vectors are eigenvectors of
    the Hermitian dilation ``[[0, A], [A^H, 0]]``, whose eigenvalues are those of S, their negatives and, for a matrix
    that is not square, zeros. The rule's weights are those of this spectrum, in which small singular values are near
    their negatives: at the default, the gradient toward one of a share d of the largest lacks ``eps/(2 d)^2``, or
    ``eps/d^2`` toward a null space, in float32 a tenth at a thousandth. ``gradient=Exact()`` lacks nothing while none
    is zero.

    Singular vectors are defined up to a sign (or phase, for complex input) that u and v share; a loss must not depend
    on it, as :func:`eigengrad.eigh` has it. For the unitary factor ``U V^H``, prefer :func:`eigengrad.polar`, and for
    others, :func:`eigengrad.singular_value_function`, which need no rule: where singular values are tied, no rule has
    the share of the gradient between vectors that a loss weights by functions of them.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        full_matrices: return square U and V. The vectors that are added span a null space in an arbitrary basis, on
            which a loss must not depend.
        gradient: a rule.
        errors: ``"raise"``, or ``"nan"``: a matrix with NaN or infinity in it gives NaN, its neighbours what they are.

    Returns:
        A named tuple ``(U, S, Vh)``, as torch's.

    Shape:
        ``A (*, m, n)``, with ``k = min(m, n)``: U ``(*, m, k)``, S ``(*, k)``, real and descending, Vh ``(*, k, n)``.
        With ``full_matrices``, U ``(*, m, m)`` and Vh ``(*, n, n)``. Empty input is legal.

    Raises:
        TypeError: if ``gradient`` is no rule; if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of matrices.
        torch.linalg.LinAlgError: if the algorithm does not converge, for example on NaN.

    Source: Ionescu et al., ICCV 2015, for the exact derivative; Noferini, SIAM J. Matrix Anal. Appl. 38, 2017, for the
    dilation.

    Example:
        >>> import torch, eigengrad as eg
        >>> A = torch.eye(3, 2, requires_grad=True)
        >>> U, S, Vh = eg.svd(A)
        >>> (U[0] ** 2 @ S).backward()
        >>> bool(A.grad.isfinite().all())
        True
    """
    check_matrices(A)
    check_rule(gradient)
    check_errors(errors)
    if A.shape[-2] < A.shape[-1]:
        V, S, U = _TallSVD.call(A.mH, full_matrices, gradient, errors)
    else:
        U, S, V = _TallSVD.call(A, full_matrices, gradient, errors)
    return SVDResult(U, S, V.mH)


def decompose(A: Tensor, errors: Errors, *, full_matrices: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """torch's, or NaN for a matrix that is not finite."""
    if errors == "raise":
        check_finite(A)  # of infinity torch would make NaN
        U, S, Vh = torch.linalg.svd(A, full_matrices)
        return U, S, Vh
    finite = A.isfinite().all(-1).all(-1)[..., None, None]
    U, S, Vh = torch.linalg.svd(torch.where(finite, A, 0.0), full_matrices)
    U, S, Vh = (torch.where(finite, part, torch.nan) for part in (U, S.unsqueeze(-2), Vh))
    return U, S.squeeze(-2), Vh


class _TallSVD(Function):
    """``A -> U, S, V`` for A with at least as many rows as columns.

    Of ``dP = U^H dA V``, the Hermitian part turns u and v alike, with weights for ``1/(s_j - s_i)``, and the skew part
    turns them apart, with weights for ``1/(s_j + s_i)``.
    """

    @staticmethod
    def forward(
        A: Tensor, full_matrices: bool, gradient: GradientRule, errors: Errors
    ) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = decompose(A, errors, full_matrices=full_matrices)
        return U, S, Vh.mH.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, ctx.gradient, _ = inputs
        save(ctx, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gU: Tensor | None, gS: Tensor | None, gV: Tensor | None) -> tuple[Tensor | None, ...]:
        U, S, V = ctx.saved_tensors
        U, null = _split(U, S.shape[-1])
        check_phase("svd", (U, None if gU is None else _split(gU, S.shape[-1])[0]), (V, gV))
        of_difference, of_sum, from_null, to_null = _weights(ctx.gradient, S)
        gP = torch.zeros_like(V) if gS is None else torch.diag_embed(gS).to(V.dtype)
        outside = None
        if gU is not None:
            gU, gN = _split(gU, S.shape[-1])
            B = U.mH @ gU
            gP = gP + hermitian_part(of_difference * B) + _skew_part(of_sum * B)
            if U.shape[-2] > U.shape[-1]:
                outside = (gU - U @ B) * from_null
                if null.shape[-1]:
                    outside = outside + null @ (gN.mH @ U) * to_null
        if gV is not None:
            C = V.mH @ gV
            gP = gP + hermitian_part(of_difference * C) - _skew_part(of_sum * C)
        gA = U @ gP
        return (gA if outside is None else gA + outside) @ V.mH, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor]:
        U, S, V = ctx.saved_tensors
        U, null = _split(U, S.shape[-1])
        of_difference, of_sum, from_null, to_null = _weights(ctx.gradient, S)
        image = dA @ V
        dP = U.mH @ image
        alike, apart = of_difference * hermitian_part(dP), of_sum * _skew_part(dP)
        dU, dV = U @ (alike + apart), V @ (alike - apart)
        if U.shape[-2] > U.shape[-1]:
            dU = dU + (image - U @ dP) * from_null
            dN = U @ (to_null.mT * (image.mH @ null))
            dU = torch.cat([dU, dN], dim=-1)
        return dU, dP.diagonal(dim1=-2, dim2=-1).real.clone(), dV


def _skew_part(X: Tensor) -> Tensor:
    return (X - X.mH) / 2


def _split(U: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k columns that belong to singular values, and those that belong to none."""
    of_values, of_none = U.split([k, U.shape[-1] - k], dim=-1)
    return of_values, of_none


def _weights(gradient: GradientRule, S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rule's weights for the eigenvalues ``-S``, 0 and ``S`` of the dilation.

    For ``1/(s_j - s_i)`` and ``1/(s_j + s_i)``, ``(*, k, k)``; of a null vector in each vector and of each in a null
    vector, ``(*, 1, k)``.
    """
    k = S.shape[-1]
    kernel = gradient.kernel(torch.cat([-S, S.new_zeros(*S.shape[:-1], 1), S.flip(-1)], dim=-1))  # ascending
    minus, plus = kernel[..., : k + 1, :], kernel[..., k + 1 :, :].flip(-2)
    of_difference, of_sum = plus[..., k + 1 :].flip(-1), minus[..., :k, k + 1 :].flip(-1)
    from_null, to_null = minus[..., k:, k + 1 :].flip(-1), (plus[..., k] - minus[..., :k, k]).unsqueeze(-2) / 2
    return of_difference, of_sum, from_null, to_null
