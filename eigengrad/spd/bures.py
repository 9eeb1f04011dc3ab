r"""The geometry of optimal transport between centred Gaussians: Bures, Wasserstein, Fréchet.

With :math:`A = G G^H` and :math:`C = (G^H B G)^{1/2}`,

    tr C                            fidelity: the distance squared is tr A + tr B - 2 tr C,
    T G = B G C^+,   T = T^H        the map that carries A to B, T A T = B, and half of the fidelity's gradient in A,
    G C^+ G^H                       the map that carries B to A, and half of the gradient in B.

Two eigendecompositions give all. Where A is singular, the gradient in A is right for a factor of A (for the data of a
covariance, that is): T is determined on A's range, which takes no more. The derivative of T solves Lyapunov's equation,

    A T Q + Q T A = gT,

whose derivative is another such equation: every order, exact where eigenvalues meet, and where A = B.

Source: Bhatia, Jain, Lim, *On the Bures-Wasserstein distance between positive definite matrices*, 2019; Dowson and
Landau, 1982; Heusel et al., NeurIPS 2017 (FID); Peyré and Cuturi, *Computational Optimal Transport*, 2019, remark 2.31.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from eigengrad import solvers
from eigengrad.autograd import Function, hermitian_part, is_traced, public, save
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.eigh import mirrored
from eigengrad.spd.affine_invariant import check_pair

__all__ = ["bures_distance", "frechet_distance", "optimal_transport_map", "transport_map"]

LARGE = 256
"""From this size on it is worth a look whether Cholesky's factor will do, and whether anyone wants a gradient."""


@public
def bures_distance(A: Tensor, B: Tensor, *, squared: bool = False) -> Tensor:
    r"""The Bures-Wasserstein distance, :math:`d^2 = \mathrm{tr}\,(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})`.

    Computed as :math:`\min_U \| A^{1/2} - B^{1/2} U \|_F`, it is exact to rounding near equality, where the difference
    of the traces would lose half of the digits.

    Args:
        A: Hermitian positive semidefinite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read. Eigenvalues within rounding of zero are zero.
        B: the same.
        squared: the square, which is smooth for positive definite matrices. The distance itself has a kink at equal
            arguments: its gradient is 0 where the value is, and rounding's own where that leaves 1e-15 of it.

    Returns:
        Real distances. Toward a null space the distance has no derivative (its square falls like a root), and the
        gradient is that for a factor of the matrix, or for moves that keep its range; between null vectors it means
        nothing.
        Second derivatives ask for a positive definite A: of a singular one they leave out how its range turns.

    Shape:
        ``(*, n, n)`` each, to ``(*)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.bures_distance(torch.eye(4), 4 * torch.eye(4))
        tensor(2.)
    """
    check_pair(A, B)
    A, B = _broadcast(mirrored(A, "L"), mirrored(B, "L"))
    value = _SquaredDistance.call(A, B, *_nearby(A.detach(), B.detach()))
    if squared:
        return value
    apart = value > 0
    return torch.where(apart, torch.where(apart, value, 1.0).sqrt(), 0.0)


@public
def frechet_distance(mean1: Tensor, A: Tensor, mean2: Tensor, B: Tensor) -> Tensor:
    r"""The squared 2-Wasserstein distance of two Gaussians, :math:`\|m_1 - m_2\|^2 + d^2(A, B)`: of features, the FID.

    Its gradient is right for covariances of fewer samples than features, too; its second derivatives are where A is
    positive definite (exchange the two Gaussians where only the other one is).

    Args:
        mean1: real or complex vectors.
        A: their covariances, Hermitian positive semidefinite. The lower triangle is read.
        mean2: of the other Gaussian.
        B: the same.

    Returns:
        Real squared distances, without the cure of ``+ eps`` on a diagonal, by two eigendecompositions.

    Shape:
        Means ``(*, n)``, covariances ``(*, n, n)``, to ``(*)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments of shapes or dtypes that do not fit.
        torch.linalg.LinAlgError: on NaN or infinity.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.frechet_distance(torch.zeros(2), torch.eye(2), torch.ones(2), 4 * torch.eye(2))
        tensor(4.)
    """
    check_pair(A, B)
    for name, mean in (("mean1", mean1), ("mean2", mean2)):
        if not isinstance(mean, Tensor) or mean.dtype != A.dtype or mean.shape[-1:] != A.shape[-1:]:
            got = f"{tuple(mean.shape)} of {mean.dtype}" if isinstance(mean, Tensor) else type(mean).__name__
            raise ValueError(f"{name} must be vectors (*, {A.shape[-1]}) of {A.dtype}, as the covariances, got {got}")
    apart = mean1 - mean2
    of_means = (apart.conj() * apart).real.sum(-1)
    A, B = _broadcast(mirrored(A, "L"), mirrored(B, "L"))
    traces = _trace(A.detach()) + _trace(B.detach())
    if A.shape[-1] >= LARGE and A.dim() == 2 and not _is_transformed():
        large = _of_large(A, B, traces)
        if large is not None:
            return of_means + large
    factors = _factors(A.detach(), B.detach())
    return of_means + _SquaredDistance.call(A, B, traces - 2 * factors.c.sum(-1), *factors)


def _is_transformed() -> bool:
    """Whether values are not there to look at, or tangents not to be lost."""
    return is_traced() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _trace(A: Tensor) -> Tensor:
    return A.diagonal(dim1=-2, dim2=-1).real.sum(-1)


@public
def optimal_transport_map(A: Tensor, B: Tensor) -> Tensor:
    r"""The matrix T of the optimal map between centred Gaussians: Hermitian with :math:`T A T = B`; it is
    :math:`A^{-1} \# B`.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read. Of a singular one, the map is determined on its range, and zero between null vectors.
        B: Hermitian positive semidefinite ones.

    Returns:
        T, Hermitian, with every derivative for definite A and B. (In B, toward its null space, there is none.)

    Shape:
        ``(*, n, n)`` each; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.optimal_transport_map(torch.eye(2), 4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_pair(A, B)
    return transport_map(*_broadcast(mirrored(A, "L"), mirrored(B, "L")))


def transport_map(A: Tensor, B: Tensor) -> Tensor:
    """:func:`optimal_transport_map` of Hermitian matrices of one batch shape."""
    return _Map.call(A, B, *_nearby(A.detach(), B.detach())[1:])


def _broadcast(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
    return A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:])


class _Factors(NamedTuple):
    """Of ``A = G G^H`` and ``C = W diag(c) W^H``."""

    G: Tensor
    inverse: Tensor
    """``G^+``."""
    c: Tensor
    W: Tensor


def _factors(A: Tensor, B: Tensor) -> _Factors:
    root, G, V = _factor(A)
    c, W = Eigenbasis.for_function(hermitian_part(G.mH @ B @ G), solvers.resolve("auto"))
    return _Factors(G, _reciprocal(root).unsqueeze(-1) * V.mH, _positive(c).sqrt(), W)


def _of_large(A: Tensor, B: Tensor, traces: Tensor) -> Tensor | None:
    """The squared distance of one large A and B, if A is so definite that Cholesky's factor will do."""
    gradient = torch.is_grad_enabled() and (A.requires_grad or B.requires_grad)
    G, failed = torch.linalg.cholesky_ex(A.detach())
    pivots = G.diagonal().real ** 2
    rounding = len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max()
    if bool(failed) or not bool(pivots.min() > 1e3 * rounding):
        return None
    product = _lower_congruence(G, B.detach())
    if not gradient:
        return traces - 2 * _positive(torch.linalg.eigvalsh(product)).sqrt().sum()
    c, W = torch.linalg.eigh(product)
    c = _positive(c).sqrt()
    return _LargeDistance.call(A, B, traces - 2 * c.sum(), G, c, W)


def _lower_congruence(G: Tensor, B: Tensor) -> Tensor:
    """The lower triangle of ``G^H B G`` for a lower triangular G, by a quarter of the products; above, anything."""
    result = torch.empty_like(B)
    starts = range(0, len(B), LARGE)
    for j in starts:
        image = B[j:, j:] @ G[j:, j : j + LARGE]
        for i in starts[j // LARGE :]:
            result[i : i + LARGE, j : j + LARGE] = G[i:, i : i + LARGE].mH @ image[i - j :]
    return result


def _nearby(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The squared distance without a difference of traces, and the factors, all to full accuracy, by an SVD."""
    root, G, V = _factor(A)
    _, H, _ = _factor(B)
    P, c, Wh = torch.linalg.svd(H.mH @ G)
    rounding = c.shape[-1] * torch.finfo(c.dtype).eps * c[..., :1]
    factors = _Factors(
        G, _reciprocal(root).unsqueeze(-1) * V.mH, torch.where(c > rounding, c, 0.0), Wh.mH
    )  # fmt: skip
    return torch.linalg.vector_norm(G - H @ (P @ Wh), dim=(-2, -1)) ** 2, *factors


def _factor(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Roots of the eigenvalues, ``G = V diag(root)`` and V, in descending order."""
    l, V = Eigenbasis.for_function(A, solvers.resolve("auto"))  # noqa: E741
    root, V = _positive(l).sqrt().flip(-1), V.flip(-1)
    return root, V * root.unsqueeze(-2), V


def _positive(l: Tensor) -> Tensor:  # noqa: E741
    """Eigenvalues of a semidefinite matrix: those within rounding of zero are zero."""
    if l.numel() == 0:
        return l
    rounding = l.shape[-1] * torch.finfo(l.dtype).eps * l[..., -1:]
    return torch.where(l > rounding, l, 0.0)


def _reciprocal(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1 / torch.where(x > 0, x, 1.0), 0.0)


class _SquaredDistance(Function):
    """``A, B -> d^2``, whose value is given, with the factors of A and B."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, value: Tensor, G: Tensor, inverse: Tensor, c: Tensor, W: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, B, _, *factors = inputs
        save(ctx, A, B, *factors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gA, gB = _gradient(*ctx.saved_tensors)
        g = g[..., None, None]
        return g * gA, g * gB, None, None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dB: Tensor, *_: None) -> Tensor:
        gA, gB = _gradient(*ctx.saved_tensors)
        return ((gA.conj() * dA).sum((-2, -1)) + (gB.conj() * dB).sum((-2, -1))).real


class _LargeDistance(Function):
    """``A, B -> d^2``, whose value is given, with ``A = G G^H``, G triangular, and the factors of ``G^H B G``."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, value: Tensor, G: Tensor, c: Tensor, W: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, B, _, *factors = inputs
        save(ctx, A, B, *factors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, B, G, c, W = ctx.saved_tensors
        again = torch.is_grad_enabled()  # to be differentiated in turn
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        gA = gB = None
        if ctx.needs_input_grad[0]:
            half = torch.linalg.solve_triangular(G.mH, W, upper=True)
            gA = g * (identity - (transport_map(A, B) if again else (half * c) @ half.mH))  # G^-H C G^-1
        if ctx.needs_input_grad[1]:
            half = G @ W
            gB = g * (identity - (transport_map(B, A) if again else (half * _reciprocal(c)) @ half.mH))
        return gA, gB, None, None, None, None


def _gradient(A: Tensor, B: Tensor, G: Tensor, inverse: Tensor, c: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    forth = _Map.call(A, B, G, inverse, c, W)
    if torch.is_grad_enabled():  # to be differentiated in turn
        return identity - forth, identity - transport_map(B, A)
    half = G @ W
    return identity - forth, identity - hermitian_part(half * _reciprocal(c).unsqueeze(-2) @ half.mH)


class _Map(Function):
    """``A, B -> T`` with ``T A T = B``."""

    @staticmethod
    def forward(A: Tensor, B: Tensor, G: Tensor, inverse: Tensor, c: Tensor, W: Tensor) -> Tensor:
        on_range = B @ (((G @ W) * _reciprocal(c).unsqueeze(-2)) @ (W.mH @ inverse))
        return hermitian_part(on_range + on_range.mH - G @ (inverse @ on_range))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, _, *factors = inputs
        save(ctx, A, output, *factors)

    @staticmethod
    def backward(ctx: Any, gT: Tensor) -> tuple[Tensor | None, ...]:
        A, T, *factors = ctx.saved_tensors
        Q = _Equation.call(A, T, hermitian_part(gT), False, *factors)
        return -T @ Q @ T, Q, None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor, dB: Tensor, *_: None) -> Tensor:
        A, T, *factors = ctx.saved_tensors
        return _Equation.call(T, A, hermitian_part(dB - T @ dA @ T), True, *factors)


class _Equation(Function):
    """``X, Y, R -> Q`` with ``X Y Q + Q Y X = R``, for A and T in this order, or swapped, by the factors."""

    @staticmethod
    def forward(
        X: Tensor, Y: Tensor, R: Tensor, swapped: bool, G: Tensor, inverse: Tensor, c: Tensor, W: Tensor
    ) -> Tensor:
        unit = c.amax(-1, keepdim=True) if c.shape[-1] else c.sum(-1, keepdim=True)
        unit = torch.where(unit > 0, unit, 1.0)  # which nothing depends on but the range of numbers
        c = c / unit
        of_G, of_inverse = (G @ W) * unit.rsqrt().unsqueeze(-1), inverse.mH @ W
        into, out = (of_G, of_inverse) if swapped else (of_inverse, of_G)
        return out @ (_reciprocal(c.unsqueeze(-1) + c.unsqueeze(-2)) * (into.mH @ R @ into)) @ out.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        X, Y, _, ctx.swapped, *factors = inputs
        save(ctx, X, Y, output, *factors)

    @staticmethod
    def backward(ctx: Any, gQ: Tensor) -> tuple[Tensor | None, ...]:
        X, Y, Q, *factors = ctx.saved_tensors
        S = _Equation.call(Y, X, hermitian_part(gQ), not ctx.swapped, *factors)
        gX, gY = S @ Q @ Y, X @ S @ Q
        return -(gX + gX.mH), -(gY + gY.mH), S, None, None, None, None, None

    @staticmethod
    def push_forward(ctx: Any, dX: Tensor, dY: Tensor, dR: Tensor, *_: None) -> Tensor:
        X, Y, Q, *factors = ctx.saved_tensors
        half = (dX @ Y + X @ dY) @ Q
        return _Equation.call(X, Y, dR - half - half.mH, ctx.swapped, *factors)
