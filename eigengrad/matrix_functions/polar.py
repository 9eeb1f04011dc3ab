"""The nearest unitary matrix and the nearest rotation, with derivatives that need no rule.

A polar decomposition ``A = R H`` with unitary R and Hermitian H satisfies, for ``omega = R^H dR``, which is skew,

    H omega + omega H = R^H dA - dA^H R,

a Lyapunov equation whose solution divides by ``s_i + s_j``. The nearest rotation of Kabsch's problem is the same
decomposition with the smallest singular value negated where that of A would be a reflection; then H is indefinite and
nothing else changes. Every derivative follows, of any order, as for the square root.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad.arguments import check_matrices
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.matrix_functions.lyapunov import Lyapunov

__all__ = ["Polar", "Procrustes", "polar", "procrustes"]


class Polar(NamedTuple):
    """The factors of :func:`polar`."""

    unitary: Tensor
    hermitian: Tensor


class Procrustes(NamedTuple):
    """The fit of :func:`procrustes`: ``y = scale * rotation @ x + translation``."""

    rotation: Tensor
    translation: Tensor
    scale: Tensor


@public
def polar(A: Tensor, *, side: str = "right") -> Polar:
    r"""The polar decomposition ``A = U H``: a unitary factor, nearest to A of all, and a positive semidefinite one.

    The derivative of U divides by :math:`s_i + s_j`: exact where singular values meet, to every order. Two singular
    values that both vanish leave a part of U undetermined, which gets no gradient.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        side: ``"right"`` for ``A = U H``, ``"left"`` for ``A = H U``. U is the same.

    Returns:
        A named tuple ``(unitary, hermitian)``. Where A is not square, U has orthonormal columns or rows. Where its rank
        is deficient, one of the nearest unitary matrices, as the SVD finds it.

    Shape:
        ``A (*, m, n)``, U ``(*, m, n)``, H ``(*, n, n)`` for the right side, ``(*, m, m)`` for the left. Empty input is
        legal.

    Raises:
        TypeError: if ``A`` is no tensor, or of another dtype.
        ValueError: for another ``side``; if ``A`` is no batch of matrices.
        torch.linalg.LinAlgError: if the SVD does not converge, for example on NaN.

    Source: Higham, *Functions of Matrices*, 2008, chapter 8.

    Example:
        >>> import torch, eigengrad as eg
        >>> U, H = eg.polar(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))
        >>> U
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    check_matrices(A)
    U = _nearest_unitary(A.mH).mH if A.shape[-2] < A.shape[-1] else _nearest_unitary(A)
    return Polar(U, hermitian_part(U.mH @ A if side == "right" else A @ U.mH))


@public
def procrustes(
    X: Tensor, Y: Tensor, *, weights: Tensor | None = None, scaling: bool = False, reflection: bool = False
) -> Procrustes:
    r"""The rigid motion that takes points X nearest to points Y: Kabsch's problem, differentiable.

    Minimises :math:`\sum_i w_i \| c R x_i + t - y_i \|^2` over rotations R, translations t and, on request, scales
    c. The derivative divides by :math:`s_i + s_j`, with the smallest singular value negated where the best orthogonal
    matrix would be a reflection: no gap between positive ones matters. Where the points leave a part of the rotation
    undetermined (those on a line, say), it gets no gradient.

    Args:
        X: points ``(*, N, d)``, float32 or float64.
        Y: the points they correspond to, ``(*, N, d)``.
        weights: nonnegative weights ``(*, N)``, such as a mask of booleans; equal by default. Not all may be zero.
        scaling: fit the scale c, too (Umeyama's problem). Otherwise it is 1, as it is for points X in one place.
        reflection: allow R to be a reflection (the orthogonal Procrustes problem).

    Returns:
        A named tuple ``(rotation, translation, scale)``.

    Shape:
        Rotation ``(*, d, d)``, to be used as ``X @ rotation.mT``; translation ``(*, d)``; scale ``(*)``.

    Raises:
        TypeError: for points of two dtypes or another one.
        ValueError: if the shapes of X, Y and weights do not fit.
        torch.linalg.LinAlgError: if the SVD does not converge, for example on NaN.

    Source: Kabsch, Acta Cryst. A32, 1976; Umeyama, TPAMI 13, 1991.

    Example:
        >>> import torch, eigengrad as eg
        >>> X = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> Y = X @ torch.tensor([[0.0, -1.0], [1.0, 0.0]]).T + 5
        >>> rotation, translation, _ = eg.procrustes(X, Y)
        >>> torch.allclose(X @ rotation.T + translation, Y, atol=1e-5)
        True
    """
    check_matrices(X, "X")
    check_matrices(Y, "Y")
    if X.dtype != Y.dtype or X.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"X and Y must both be of float32 or both of float64, got {X.dtype} and {Y.dtype}")
    if X.shape != Y.shape:
        raise ValueError(f"X and Y must be points (*, N, d) of one shape, got {tuple(X.shape)} and {tuple(Y.shape)}")
    if weights is None:
        weights = X.new_ones(X.shape[:-1])
    elif weights.shape != X.shape[:-1]:
        raise ValueError(
            f"weights must have shape {tuple(X.shape[:-1])}, one for each point, got {tuple(weights.shape)}"
        )
    weights = weights.to(X.dtype)
    w = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    x_mean, y_mean = (w * X).sum(-2), (w * Y).sum(-2)
    x, y = X - x_mean.unsqueeze(-2), Y - y_mean.unsqueeze(-2)
    correlation = y.mT @ (w * x)
    R = _nearest_unitary(correlation, proper=not reflection)
    scale = X.new_ones(X.shape[:-2])
    if scaling:
        spread = (w * x * x).sum((-2, -1))
        undetermined = spread == 0
        scale = (R * correlation).sum((-2, -1)) / spread.masked_fill(undetermined, 1.0)
        scale = scale.masked_fill(undetermined, 1.0)
    translation = y_mean - scale.unsqueeze(-1) * (R @ x_mean.unsqueeze(-1)).squeeze(-1)
    return Procrustes(R, translation, scale)


def _nearest_unitary(A: Tensor, *, proper: bool = False) -> Tensor:
    """The unitary factor of ``A (*, m, n)``, m >= n; with ``proper``, the nearest rotation to a real square A."""
    R, _, _ = _NearestUnitary.call(A, proper)
    return R


def _inverse(H: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """The inverse of H, which solves ``H Y + Y H = 2 I``; where W leaves out a singular value, so does it."""
    return Lyapunov.call(H, 2 * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device).expand(H.shape), W, V)


class _NearestUnitary(Function):
    """``A -> R``; also, as constants, weights W and eigenvectors V of ``H = R^H A`` for its Lyapunov equation."""

    @staticmethod
    def forward(A: Tensor, proper: bool) -> tuple[Tensor, Tensor, Tensor]:
        U, s, Vh = torch.linalg.svd(A, full_matrices=False)
        threshold = torch.finfo(s.dtype).eps * s.shape[-1] * s[..., :1].unsqueeze(-1)
        if proper:
            last = torch.linalg.det(U @ Vh).sign().unsqueeze(-1)
            signs = torch.cat([torch.ones_like(s[..., 1:]), last[..., : s.shape[-1]]], dim=-1)
            U, s = U * signs.unsqueeze(-2), s * signs
        total = s.unsqueeze(-1) + s.unsqueeze(-2)
        W = torch.where(total > threshold, total, torch.inf).reciprocal()
        return U @ Vh, W, Vh.mH.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        R, W, V = output
        ctx.set_materialize_grads(False)
        save(ctx, inputs[0], R, W, V)

    @staticmethod
    def backward(ctx: Any, gR: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        if gR is None:
            return None, None
        A, R, W, V = ctx.saved_tensors
        H = R.mH @ A
        inside = R.mH @ gR
        omega = Lyapunov.call(H, inside, W, V)
        gA = R @ (omega - omega.mH)
        if A.shape[-2] > A.shape[-1]:
            gA = gA + (gR - R @ inside) @ _inverse(H, W, V)
        return gA, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        A, R, W, V = ctx.saved_tensors
        H = R.mH @ A
        inside = R.mH @ dA
        dR = R @ Lyapunov.call(H, inside - inside.mH, W, V)
        if A.shape[-2] > A.shape[-1]:
            dR = dR + (dA - R @ inside) @ _inverse(H, W, V)
        return dR, *constant(W, V)
