r"""The geometry of optimal transport between centred Gaussians: Bures, Wasserstein.

With :math:`A = G G^H` and :math:`B = H H^H`, the fidelity is the sum of the singular values of :math:`H^H G`, and the
distance squared is :math:`\mathrm{tr} A + \mathrm{tr} B - 2` times that. Its derivatives are in ``transport``.

Source: Bhatia, Jain, Lim, *On the Bures-Wasserstein distance between positive definite matrices*, 2019.
"""

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.autograd import public
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.spd.arguments import broadcast, check_pair, differ, positive
from eigengrad.spd.transport import Pairs, SquaredDistance, Transport

__all__ = ["bures_distance", "factor", "optimal_transport_map", "transport_map"]


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
            arguments, of the same numbers: it is 0 there, and its gradient is.

    Returns:
        Real distances. Their derivatives, of every order, are right for all moves of A and B that do not raise the rank
        of ``A B``: all moves of both where both are definite; all moves of A, and those of a factor of B (of data,
        whose covariance it is), where A alone is definite, or of larger rank than B; and the other way round. Along
        others the square falls like a root, without a derivative; what is returned leaves that root out. First ones are
        right at any scale; second ones where the squares of A and B are within the range (at 1e-25 or 1e20 in float32,
        divide both by one number, and multiply the square by it).

    Shape:
        ``(*, n, n)`` each, to ``(*)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity, and of matrices that are not semidefinite.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.bures_distance(torch.eye(4), 4 * torch.eye(4))
        tensor(2.)
    """
    check_pair(A, B)
    A, B = broadcast(A, B)
    value, pairs = _nearby(A.detach(), B.detach())
    value = SquaredDistance.call(A, B, value, *pairs)
    if squared:
        return value
    apart = (value > 0) & differ(A, B)
    return torch.where(apart, torch.where(apart, value, 1.0).sqrt(), 0.0)


@public
def optimal_transport_map(A: Tensor, B: Tensor) -> Tensor:
    r"""The matrix T of the optimal map between centred Gaussians: Hermitian with :math:`T A T = B`; it is
    :math:`A^{-1} \# B`.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read. For a singular one the map is determined on its range, and taken of the least rank.
        B: Hermitian positive semidefinite ones.

    Returns:
        T, Hermitian positive semidefinite, with the derivatives that :func:`bures_distance` has, of which it is a part.
        Where A's range does not reach that of B, :math:`T A T` is the part of B that it does reach. It does not
        depend on the scale of A and B together: for second derivatives keep the squares of both within the range.

    Shape:
        ``(*, n, n)`` each; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity, and of matrices that are not semidefinite.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.optimal_transport_map(torch.eye(2), 4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_pair(A, B)
    return transport_map(*broadcast(A, B))


def transport_map(A: Tensor, B: Tensor) -> Tensor:
    """:func:`optimal_transport_map` of Hermitian matrices of one batch shape."""
    return Transport.call(A, B, *_nearby(A.detach(), B.detach())[1])


def _nearby(A: Tensor, B: Tensor) -> tuple[Tensor, Pairs]:
    """The squared distance without a difference of traces, and the pairs, all to full accuracy."""
    G, H = factor(A, "A"), factor(B, "B")
    P, c, Wh = torch.linalg.svd(H.mH @ G)
    value = torch.linalg.vector_norm(G - H @ (P @ Wh), dim=(-2, -1)) ** 2
    c = torch.where(c > c.shape[-1] * torch.finfo(c.dtype).eps * c[..., :1], c, 0.0)
    return value, Pairs(G @ Wh.mH, H @ P, c)


def factor(A: Tensor, name: str) -> Tensor:
    """G of A, called ``name``, with ``A = G G^H``, orthogonal columns in descending order."""
    l, V = Eigenbasis.for_function(A, solvers.resolve("auto"))  # noqa: E741
    return (V * positive(l, name).sqrt().unsqueeze(-2)).flip(-1)
