"""The affine-invariant geometry of positive definite matrices, and the log-Euclidean distance.

Everything is a function of ``X = G^-1 B G^-H`` with ``A = G G^H``: by congruence invariance any factor G does, and with
Cholesky's no root of A, and no eigenvector, is differentiated. What is left are functions of X with derivatives that
are exact where eigenvalues meet, as all of them do where ``A = B``.

Source: Bhatia, *Positive Definite Matrices*, 2007, chapters 4 and 6; Pennec, Fillard, Ayache, IJCV 66, 2006; Arsigny
et al., SIMAX 29, 2007 (log-Euclidean); Yair, Ben-Chen, Talmon, IEEE TSP 67, 2019 (parallel transport).
"""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.autograd import has_values, hermitian_part, public
from eigengrad.eigenbasis import Eigenbasis
from eigengrad.eigh import mirrored
from eigengrad.matrix_functions import expm, logm, powm, sqrtm
from eigengrad.matrix_functions.daleckii_krein import apply_in_basis, spectrum_of
from eigengrad.matrix_functions.divided_differences import Power
from eigengrad.matrix_functions.rank import Lifted
from eigengrad.spd.arguments import broadcast, check_batches, check_pair, cholesky, differ, semidefinite

__all__ = [
    "affine_invariant_distance",
    "exp_map",
    "geometric_mean",
    "log_euclidean_distance",
    "log_map",
    "parallel_transport",
]


@public
def geometric_mean(A: Tensor, B: Tensor, t: float | Tensor = 0.5) -> Tensor:
    r"""The weighted geometric mean :math:`A \#_t B = A^{1/2} (A^{-1/2} B A^{-1/2})^t A^{1/2}`, on the geodesic.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        B: the same; for ``t > 0`` semidefinite ones have a value, too, and a derivative for ``t >= 1``. Negative
            eigenvalues within rounding of zero are zero.
        t: 0 for A, 1 for B, a number; or a tensor ``(*)``, differentiated, for definite B.

    Returns:
        Hermitian positive definite matrices. For ``t = 0.5`` with every derivative, otherwise with first and second
        ones.

    Shape:
        ``(*, n, n)`` each; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices, or a t that is not finite.
        torch.linalg.LinAlgError: if a matrix of A is not positive definite, or, unless t is an integer or a tensor, one
            of B not semidefinite.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.geometric_mean(torch.eye(2), 4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    check_pair(A, B)
    G = cholesky(mirrored(A, "L"), "A")
    X = _congruence(G, mirrored(B, "L"))
    power = _power_by_tensor(X, t) if isinstance(t, Tensor) else _power(X, _number(t))
    return hermitian_part(G @ power @ G.mH)


@public
def affine_invariant_distance(A: Tensor, B: Tensor, *, squared: bool = False) -> Tensor:
    r"""The geodesic distance :math:`\| \log(A^{-1/2} B A^{-1/2}) \|_F`, also called Riemannian, or Fisher-Rao's.

    Args:
        A: Hermitian positive definite matrices, of float32, float64, complex64 or complex128. The lower triangle is
            read.
        B: the same.
        squared: the square, which is smooth everywhere. At equal arguments the distance itself has a kink: it is 0
            there, and its gradient is.

    Returns:
        Real distances, exact to rounding near equality.

    Shape:
        ``(*, n, n)`` each, to ``(*)``; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: if a matrix of A is not positive definite. (Of a B that is not, the distance is
            infinite or NaN.)

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.affine_invariant_distance(torch.eye(4), torch.e * torch.eye(4))
        tensor(2.0000)
    """
    check_pair(A, B)
    A, B = broadcast(A, B)
    return _norm(logm(_congruence(cholesky(A, "A"), B)), squared, differ(A, B))


@public
def log_euclidean_distance(A: Tensor, B: Tensor, *, squared: bool = False) -> Tensor:
    r"""The distance :math:`\| \log A - \log B \|_F`.

    Second derivatives are of size ``1 / A^2``, and want matrices whose squares are within the range: at scales of 1e-20
    or 1e25 in float32 divide A and B by one number, on which the distance does not depend.

    Args, Returns, Shape:
        As for :func:`affine_invariant_distance`.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: on NaN or infinity.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.log_euclidean_distance(torch.eye(4), torch.e * torch.eye(4), squared=True)
        tensor(4.0000)
    """
    check_pair(A, B)
    A, B = broadcast(A, B)
    return _norm(logm(A) - logm(B), squared, differ(A, B))


@public
def log_map(base: Tensor, A: Tensor) -> Tensor:
    r"""The tangent vector at ``base`` whose geodesic reaches A: :math:`P^{1/2} \log(P^{-1/2} A P^{-1/2}) P^{1/2}`.

    Args:
        base: Hermitian positive definite matrices P. The lower triangle is read.
        A: the same.

    Returns:
        Hermitian matrices. Its length in the metric at P is :func:`affine_invariant_distance`.

    Shape:
        ``(*, n, n)`` each; batches broadcast.

    Raises:
        TypeError, ValueError: for arguments that are no such matrices.
        torch.linalg.LinAlgError: if a matrix of ``base`` is not positive definite.

    Example:
        >>> import torch, eigengrad as eg
        >>> P, A = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> torch.allclose(eg.spd.exp_map(P, eg.spd.log_map(P, A)), A, atol=1e-6)
        True
    """
    check_pair(base, A, "base", "A")
    G = cholesky(mirrored(base, "L"), "base")
    return hermitian_part(G @ logm(_congruence(G, mirrored(A, "L"))) @ G.mH)


@public
def exp_map(base: Tensor, S: Tensor) -> Tensor:
    r"""Where the geodesic from ``base`` along the tangent vector S is at time 1: the inverse of :func:`log_map`.

    Args:
        base: Hermitian positive definite matrices P. The lower triangle is read.
        S: Hermitian matrices. The lower triangle is read.

    Returns, Shape, Raises:
        As for :func:`log_map`; the result is positive definite.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.exp_map(torch.eye(2), torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_pair(base, S, "base", "S")
    G = cholesky(mirrored(base, "L"), "base")
    return hermitian_part(G @ expm(_congruence(G, mirrored(S, "L"))) @ G.mH)


@public
def parallel_transport(S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    r"""A tangent vector at A carried along the geodesic to B: :math:`E S E^H` with :math:`E = (B A^{-1})^{1/2}`.

    Args:
        S: Hermitian matrices. The lower triangle is read.
        A: Hermitian positive definite matrices. The lower triangle is read.
        B: the same.

    Returns, Shape, Raises:
        As for :func:`log_map`; inner products of two vectors, in the metrics at A and at B, are the same. An indefinite
        B is a ``LinAlgError``, too.

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.spd.parallel_transport(torch.eye(2), torch.eye(2), 4 * torch.eye(2))
        tensor([[4., 0.],
                [0., 4.]])
    """
    check_pair(A, B)
    check_pair(S, A, "S", "A")
    G = cholesky(mirrored(A, "L"), "A")
    root = _power(_congruence(G, mirrored(B, "L")), 0.5)
    E = torch.linalg.solve_triangular(G.mH, root @ G.mH, upper=True).mH  # G root G^-1
    return hermitian_part(E @ mirrored(S, "L") @ E.mH)


def _congruence(G: Tensor, B: Tensor) -> Tensor:
    """``G^-1 B G^-H`` for a lower triangular G."""
    half = torch.linalg.solve_triangular(G, B, upper=False)
    return hermitian_part(torch.linalg.solve_triangular(G, half.mH, upper=False))


def _power(X: Tensor, t: float) -> Tensor:
    """``X^t`` of B as seen from A: unless t is an integer, of a semidefinite one, whose negative eigenvalues are 0."""
    if t == 0.5:
        return _root(X)
    if t.is_integer():
        return powm(X, t)
    basis = spectrum_of(X, solvers.resolve("auto"))
    L = semidefinite(basis.L, "B")
    power = apply_in_basis(X, Lifted(Power(t)), Eigenbasis(L, basis.V), L.new_zeros(L.shape[:-1]))
    return torch.where(L.isnan().any(-1)[..., None, None], torch.nan, power)  # which are lifted, too


def _power_by_tensor(X: Tensor, t: Tensor) -> Tensor:
    if t.is_complex():
        raise TypeError(f"t must be a real number or tensor, got {t.dtype}")
    if has_values(t) and not bool(t.isfinite().all()):
        raise ValueError("t must be finite, got NaN or infinity in it")
    check_batches({"t": (t, 0), "A # B": (X, 2)})
    return expm(t.to(X.real.dtype)[..., None, None] * logm(X))


def _root(X: Tensor) -> Tensor:
    root = sqrtm(X)
    if X.numel() == 0:
        return root
    at, S, eps = X.detach(), root.detach(), torch.finfo(X.dtype).eps
    size, missing = (Y.abs().amax((-2, -1), keepdim=True) for Y in (at, S @ S - at))
    indefinite = missing > max(eps**0.5, X.shape[-1] * eps) * size
    if not has_values(X):
        return torch.where(indefinite, torch.nan, root)
    if bool(indefinite.any()):
        semidefinite(torch.linalg.eigvalsh(at), "B")
    return root


def _number(t: Any) -> float:
    if isinstance(t, bool) or not isinstance(t, Real):
        raise TypeError(f"t must be a real number or tensor, got {t!r} of type {type(t).__name__}")
    number = float(t)
    if not -math.inf < number < math.inf:
        raise ValueError(f"t must be finite, got {t}")
    return number


def _norm(X: Tensor, squared: bool, differ: Tensor) -> Tensor:
    """Of Hermitian matrices, or its square; 0, with its gradient, where their arguments do not differ."""
    if squared:
        return (X.conj() * X).real.sum((-2, -1))
    apart = differ & (X.detach() != 0).flatten(-2).any(-1)
    safe = torch.where(apart[..., None, None], X, 1.0)
    return torch.where(apart, torch.linalg.vector_norm(safe, dim=(-2, -1)), 0.0)
