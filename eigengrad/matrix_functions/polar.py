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

from eigengrad.arguments import Errors, check_errors, check_matrices, check_not_negative, check_square, check_tensor
from eigengrad.autograd import Function, constant, hermitian_part, public, save
from eigengrad.matrix_functions.lyapunov import Lyapunov
from eigengrad.matrix_functions.scales import or_one, power_of_two, size_of
from eigengrad.svd import decompose

__all__ = ["Polar", "Procrustes", "nearest_rotation", "polar", "procrustes"]


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
def polar(A: Tensor, *, side: str = "right", errors: Errors = "raise") -> Polar:
    r"""The polar decomposition ``A = U H``: a unitary factor, nearest to A of all, and a positive semidefinite one.

    The derivative of U divides by :math:`s_i + s_j`: exact where singular values meet, to every order. Two singular
    values that both vanish leave a part of U undetermined, which gets no gradient.

    Args:
        A: matrices, of float32, float64, complex64 or complex128.
        side: ``"right"`` for ``A = U H``, ``"left"`` for ``A = H U``. U is the same.
        errors: ``"raise"``, or ``"nan"``: a matrix with NaN or infinity in it gives NaN, its neighbours what they are.

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
    U = _nearest_unitary(A.mH, errors).mH if A.shape[-2] < A.shape[-1] else _nearest_unitary(A, errors)
    return Polar(U, hermitian_part(U.mH @ A if side == "right" else A @ U.mH))


@public
def nearest_rotation(A: Tensor, *, errors: Errors = "raise") -> Tensor:
    r"""The rotation nearest to a real square matrix: the special orthogonal Procrustes problem.

    The orthogonal factor of :func:`polar`, with the smallest singular value negated where that would be a reflection.
    The derivative divides by :math:`s_i + s_j`: exact where positive singular values meet, to every order. What A
    leaves undetermined gets no gradient.

    Args:
        A: matrices, of float32 or float64.
        errors: ``"raise"``, or ``"nan"``: a matrix with NaN or infinity in it gives NaN, its neighbours what they are.

    Returns:
        ``argmin_R |R - A|`` over orthogonal R of determinant 1.

    Shape:
        ``(*, n, n)`` to ``(*, n, n)``. Empty input is legal.

    Raises:
        TypeError: if ``A`` is no tensor, or of another dtype.
        ValueError: if ``A`` is no batch of square matrices.
        torch.linalg.LinAlgError: if the SVD does not converge, for example on NaN.

    Source: Kabsch, Acta Cryst. A32, 1976; Levinson et al., *An Analysis of SVD for Deep Rotation Estimation*, NeurIPS
    2020.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.nearest_rotation(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).det() > 0
        tensor(True)
    """
    check_square(A)
    if A.is_complex():
        raise TypeError(f"A must be of float32 or float64, got {A.dtype}; for the nearest unitary matrix use polar")
    return _nearest_unitary(A, errors, proper=True)


@public
def procrustes(
    X: Tensor,
    Y: Tensor,
    *,
    weights: Tensor | None = None,
    scaling: bool = False,
    reflection: bool = False,
    errors: Errors = "raise",
) -> Procrustes:
    r"""The rigid motion that takes points X nearest to points Y: Kabsch's problem, differentiable.

    Minimises :math:`\sum_i w_i \| c R x_i + t - y_i \|^2` over rotations R, translations t and, on request, scales
    c. The derivative divides by :math:`s_i + s_j`, with the smallest singular value negated where the best orthogonal
    matrix would be a reflection: no gap between positive ones matters. Where the points leave a part of the rotation
    undetermined (those on a line, say), it gets no gradient. Nothing depends on the units of the points or weights.

    Args:
        X: points ``(*, N, d)``, float32 or float64.
        Y: the points they correspond to, ``(*, N, d)``; batch dimensions broadcast, so that one template ``(N, d)``
            fits many.
        weights: nonnegative weights, such as a mask of booleans, that broadcast to ``(*, N)``; equal by default. Where
            all are zero, or the points in one place, the rotation is the identity (or what the rank leaves of it), and
            the gradient through it 0.
        scaling: fit the scale c, too (Umeyama's problem). Otherwise it is 1, as it is for points X in one place.
        reflection: allow R to be a reflection (the orthogonal Procrustes problem).
        errors: ``"raise"``, or ``"nan"``: a fit of points with NaN or infinity gives NaN, its neighbours what they are.

    Returns:
        A named tuple ``(rotation, translation, scale)``.

    Shape:
        Rotation ``(*, d, d)``, to be used as ``X @ rotation.mT``; translation ``(*, d)``; scale ``(*)``.

    Raises:
        TypeError: for points of two dtypes or another one; for weights that are no tensor.
        ValueError: if the shapes of X, Y and weights do not fit, or a weight is negative (on a CPU).
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
    if X.shape[-2:] != Y.shape[-2:]:
        raise ValueError(f"X and Y must be as many points (*, N, d), got {tuple(X.shape)} and {tuple(Y.shape)}")
    points = X.shape[-2]
    if weights is None:
        weights = X.new_ones(points)
    check_tensor(weights, "weights")
    check_not_negative(weights, "weights")
    try:
        batch = torch.broadcast_shapes(X.shape[:-2], Y.shape[:-2], weights.shape[:-1])
        X, Y = X.expand(*batch, -1, -1), Y.expand(*batch, -1, -1)
        weights = weights.to(X.dtype).expand(*batch, points)
    except RuntimeError:
        raise ValueError(
            f"X, Y and weights must broadcast to (*, {points}, d) and (*, {points}), got {tuple(X.shape)}, "
            f"{tuple(Y.shape)} and {tuple(weights.shape)}"
        ) from None
    weights = weights / size_of(weights, (-1,))
    w = (weights / or_one(weights.sum(-1, keepdim=True))).unsqueeze(-1)
    x, x_mean, x_size = _centred(X, w)
    y, y_mean, y_size = _centred(Y, w)
    correlation = y.mT @ (w * x)
    R = _nearest_unitary(correlation, errors, proper=not reflection)
    scale = X.new_ones(batch)
    if scaling:
        spread = (w * x * x).sum((-2, -1))
        fitted = (R * correlation).sum((-2, -1)) / or_one(spread) * (y_size / x_size).squeeze((-2, -1))
        scale = torch.where(spread == 0, 1.0, fitted)
    translation = y_mean - scale.unsqueeze(-1) * (R @ x_mean.unsqueeze(-1)).squeeze(-1)
    return Procrustes(R, translation, scale)


def _centred(X: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points about their mean and divided by their size, the mean, and the size ``(*, 1, 1)``, a constant.

    Points no further apart than their mean is rounded are in one place.
    """
    unit = power_of_two(size_of(X * (w != 0), (-2, -1)))  # division by another would round points far from the origin
    mean = (w * (X / unit)).sum(-2)  # of huge points the sum would overflow
    x = X / unit - mean.unsqueeze(-2)
    x = torch.where(size_of(x * (w != 0), (-2, -1)) <= 16 * torch.finfo(X.dtype).eps, 0.0, x)
    extent = size_of(x * (w != 0), (-2, -1))
    return x / extent, mean * unit.squeeze(-1), unit * extent


def _nearest_unitary(A: Tensor, errors: Errors, *, proper: bool = False) -> Tensor:
    """The unitary factor of ``A (*, m, n)``, m >= n; with ``proper``, the nearest rotation to a real square A."""
    check_errors(errors)
    R, _, _ = _NearestUnitary.call(A, proper, errors)
    return R


def _inverse(H: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """The inverse of H, which solves ``H Y + Y H = 2 I``; where W leaves out a singular value, so does it."""
    return Lyapunov.call(H, 2 * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device).expand(H.shape), W, V)


class _NearestUnitary(Function):
    """``A -> R``; also, as constants, weights W and eigenvectors V of ``H = R^H A`` for its Lyapunov equation."""

    @staticmethod
    def forward(A: Tensor, proper: bool, errors: Errors) -> tuple[Tensor, Tensor, Tensor]:
        U, s, Vh = decompose(A, errors)
        limits = torch.finfo(s.dtype)
        threshold = (limits.eps * s.shape[-1] * s[..., :1].unsqueeze(-1)).clamp_min(limits.tiny)  # has a reciprocal
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
    def backward(ctx: Any, gR: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if gR is None:
            return None, None, None
        A, R, W, V = ctx.saved_tensors
        H = R.mH @ A
        inside = R.mH @ gR
        omega = Lyapunov.call(H, inside, W, V)
        gA = R @ (omega - omega.mH)
        if A.shape[-2] > A.shape[-1]:
            gA = gA + (gR - R @ inside) @ _inverse(H, W, V)
        return gA, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, *_: None) -> tuple[Tensor, ...]:
        A, R, W, V = ctx.saved_tensors
        H = R.mH @ A
        inside = R.mH @ dA
        dR = R @ Lyapunov.call(H, inside - inside.mH, W, V)
        if A.shape[-2] > A.shape[-1]:
            dR = dR + (dA - R @ inside) @ _inverse(H, W, V)
        return dR, *constant(W, V)
