"""Singular value decomposition with a gradient of the user's choice."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad.arguments import check_matrices
from eigengrad.autograd import Function, public, save
from eigengrad.gradients import GradientRule, PowerIteration, check_rule

__all__ = ["SVDResult", "svd"]


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
    gradient: GradientRule = PowerIteration(),  # noqa: B008 (a frozen value)
) -> SVDResult:
    r"""``A = U diag(S) V^H``, differentiable where singular values meet or vanish.

    As :func:`torch.linalg.svd`, with the rules of :func:`eigengrad.eigh`: singular vectors are eigenvectors of
    ``A^H A`` and ``A A^H``, so the rule's weights are those of the eigenvalues ``S^2``, zeros of a matrix that is not
    square included. They are taken relative to the largest, which matters to :class:`eigengrad.Clipped` alone.

    Singular vectors are defined up to a sign (or phase, for complex input) that u and v share; a loss must not depend
    on it. For the unitary factor ``U V^H``, prefer :func:`eigengrad.matrix_functions.polar`, which needs no rule.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        full_matrices: return square U and V. The vectors that are added span a null space in an arbitrary basis, on
            which a loss must not depend.
        gradient: a rule.

    Returns:
        A named tuple ``(U, S, Vh)``, as torch's.

    Shape:
        ``A (*, m, n)``, with ``k = min(m, n)``: U ``(*, m, k)``, S ``(*, k)``, real and descending, Vh ``(*, k, n)``.
        With ``full_matrices``, U ``(*, m, m)`` and Vh ``(*, n, n)``. Empty input is legal.

    Raises:
        TypeError: if ``gradient`` is no rule; if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of matrices.
        torch.linalg.LinAlgError: if the algorithm does not converge, for example on NaN.

    Source: Ionescu et al., ICCV 2015, for the exact derivative; the weights as in :mod:`eigengrad.gradients`.

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
    if A.shape[-2] < A.shape[-1]:
        V, S, U = _TallSVD.call(A.mH, full_matrices, gradient)
    else:
        U, S, V = _TallSVD.call(A, full_matrices, gradient)
    return SVDResult(U, S, V.mH)


class _TallSVD(Function):
    """``A -> U, S, V`` for A with at least as many rows as columns.

    With ``dP = U^H dA V``, the Gram matrices change in the bases U and V by ``dP S + S dP^H`` and ``dP^H S + S dP``.
    """

    @staticmethod
    def forward(A: Tensor, full_matrices: bool, gradient: GradientRule) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(A, full_matrices)
        return U, S, Vh.mH.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, ctx.gradient = inputs
        save(ctx, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gU: Tensor | None, gS: Tensor | None, gV: Tensor | None) -> tuple[Tensor | None, None, None]:
        U, S, V = ctx.saved_tensors
        U, null = _split(U, S.shape[-1])
        s, K, from_null, to_null = _weights(ctx.gradient, S)
        gP = torch.zeros_like(V)
        outside = None
        if gS is not None:
            gP = gP + torch.diag_embed(gS)
        if gV is not None:
            H = K * (V.mH @ gV)
            gP = gP + s.mT * (H + H.mH)
        if gU is not None:
            gU, gN = _split(gU, S.shape[-1])
            B = U.mH @ gU
            G = K * B
            gP = gP + (G + G.mH) * s
            if B.is_complex():
                phase = B.diagonal(dim1=-2, dim2=-1).imag * from_null
                gP = gP + torch.diag_embed(torch.complex(torch.zeros_like(phase), phase))
            if U.shape[-2] > U.shape[-1]:
                outside = (gU - U @ B) * from_null.unsqueeze(-2)
                if null.shape[-1]:
                    outside = outside + null @ (gN.mH @ U) * to_null.unsqueeze(-2)
        gA = U @ gP
        return (gA if outside is None else gA + outside) @ V.mH, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor]:
        U, S, V = ctx.saved_tensors
        U, null = _split(U, S.shape[-1])
        s, K, from_null, to_null = _weights(ctx.gradient, S)
        image = dA @ V
        dP = U.mH @ image
        diagonal = dP.diagonal(dim1=-2, dim2=-1)
        dV = V @ (K * (dP.mH * s + s.mT * dP))
        inside = K * (dP * s + s.mT * dP.mH)
        if dP.is_complex():
            phase = diagonal.imag * from_null
            inside = inside + torch.diag_embed(torch.complex(torch.zeros_like(phase), phase))
        dU = U @ inside
        if U.shape[-2] > U.shape[-1]:
            dU = dU + (image - U @ dP) * from_null.unsqueeze(-2)
            dN = U @ (to_null.unsqueeze(-1) * (image.mH @ null))
            dU = torch.cat([dU, dN], dim=-1)
        return dU, diagonal.real.clone(), dV


def _split(U: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k columns that belong to singular values, and those that belong to none."""
    of_values, of_none = U.split([k, U.shape[-1] - k], dim=-1)
    return of_values, of_none


def _weights(gradient: GradientRule, S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Relative singular values ``s (*, 1, k)``, and the rule's weights for the eigenvalues ``S^2``.

    First those among the singular vectors ``K (*, k, k)``, then those of a null vector in each and of each in a null
    vector, ``(*, k)``, multiplied by s. All are divided once by the scale that s leaves out: its square would overflow.
    """
    if S.shape[-1] == 0:
        return S.unsqueeze(-2), S.new_zeros(*S.shape, 0), S, S
    largest = S.detach().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    s = S / scale
    ascending = torch.cat([torch.zeros_like(s[..., :1]), s.flip(-1).square()], dim=-1)
    kernel = gradient.kernel(ascending)
    K = kernel[..., 1:, 1:].flip(-1, -2) / scale.unsqueeze(-1)
    from_null, to_null = kernel[..., 0, 1:].flip(-1) * s / scale, kernel[..., 1:, 0].flip(-1) * s / scale
    return s.unsqueeze(-2), K, from_null, to_null
