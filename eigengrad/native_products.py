"""The compiled products with eigenvectors: functions of a matrix, and derivatives that are weights in the eigenbasis.

Real matrices and complex ones. Many small real matrices are taken at once, one in each lane of the vector
registers, others one after the other, with the same bits. Each call stands for about ten of torch's operators, which
for small matrices cost more than the products.
"""

from typing import Any

import torch
from torch import Tensor

from eigengrad import native
from eigengrad.native_wins import LARGEST_OF_PRODUCTS

__all__ = ["multiplies", "pull_back", "recompose", "refine", "refined_root", "root", "takes"]

_PLANES = {torch.float32: 1, torch.float64: 1, torch.complex64: 2, torch.complex128: 2}
_KINDS = ("eigenvectors", "function", "square_root", "inverse_square_root", "series", "exponential", "logarithm", "power")


def multiplies(V: Tensor, *others: Tensor, weights: Tensor | None = None) -> bool:
    """Whether products of the eigenvectors ``V (*, n, n)`` with ``others`` go through the kernel rather than torch.

    Not with ``weights`` that are other than real numbers, one for each eigenvector or for each two: a user's function
    may give anything that torch's operators take.
    """
    if not (takes(V) and native.eager(V, *others)):
        return False
    if weights is None:
        return True
    return weights.dtype == V.dtype.to_real() and weights.shape in (V.shape, V.shape[:-1]) and native.eager(weights)


def takes(V: Tensor) -> bool:
    """Whether the kernel is there and takes matrices such as ``V``: on a CPU, square, not too large."""
    if not (V.is_cpu and V.dtype in _PLANES and V.dim() > 1 and native.available()):
        return False
    return V.shape[-1] == V.shape[-2] and V.shape[-1] <= LARGEST_OF_PRODUCTS


def _plain(X: Tensor) -> Tensor:
    """``X`` as it lies in memory: contiguous, and not the lazy conjugate of what lies there."""
    return (X.resolve_conj() if X.is_complex() else X).contiguous()


def matrix_function(
    A: Tensor, kind: str, parameter: float = 0.0, *, V: Tensor | None = None, through_double: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``f(A)``, eigenvalues ``(*, n)`` (of a root its own, else those of ``A``) and eigenvectors, in one pass.

    Roots take eigenvalues of ``A`` below ``parameter`` to be that; a power has it as the exponent. What lies between
    float32 input and output may be in double precision. Eigenvectors ``V`` that are given are refined, in place.
    Eager tensors only (:func:`eigengrad.native.eager`).
    """
    A = _plain(A)
    X, x = torch.empty_like(A), A.new_empty(A.shape[:-1], dtype=A.dtype.to_real())
    which = 2 if through_double else 0 if V is None else 1
    V = native.empty_pairs(A)[1] if V is None else V
    assert V.mT.is_contiguous()
    if A.numel():
        pointers = (A.data_ptr(), X.data_ptr(), x.data_ptr(), V.mT.data_ptr())
        how = (_KINDS.index(kind), parameter, which, _PLANES[A.dtype])
        native.run("matrix_function", A.dtype.to_real(), *how, *pointers, *native.sizes(A))
    return X, x, V


def root(A: Tensor, floor: float, *, inverse: bool, through_double: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """``A^(1/2)`` or ``A^(-1/2)``, its eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``, in one pass."""
    kind = "inverse_square_root" if inverse else "square_root"
    return matrix_function(A, kind, floor, through_double=through_double)


def refine(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors without their errors of first order, in an order that these may have spoilt.

    See :mod:`eigengrad.matrix_functions.decomposition`.

    Args:
        A: Hermitian matrices ``(*, n, n)``, by the lower triangle.
        V: their eigenvectors ``(*, n, n)``, in columns that are contiguous; eager ones are overwritten.
    """
    return _refine(A, V) if native.eager(A, V) else _operator(A, V)


def _refine(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    A, rows = _plain(A), V.mT
    assert rows.is_contiguous()
    L = A.new_empty(A.shape[:-1], dtype=A.dtype.to_real())
    if A.numel():
        pointers = (A.data_ptr(), rows.data_ptr(), L.data_ptr())
        native.run("refine", A.dtype.to_real(), _PLANES[A.dtype], *pointers, *native.sizes(A))
    return L, V


@torch.library.custom_op("eigengrad::refine", mutates_args=(), device_types="cpu")
def _operator(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    return _refine(A, V.mT.clone(memory_format=torch.contiguous_format).mT)


@_operator.register_fake
def _(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape[:-1], dtype=A.dtype.to_real()), torch.empty_like(
        V.mT, memory_format=torch.contiguous_format
    ).mT


@_operator.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, int | None], A: Tensor, V: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    A, V = (
        X.expand(info.batch_size, *X.shape) if dim is None else X.movedim(dim, 0)
        for X, dim in zip((A, V), in_dims, strict=True)
    )
    return _operator(A, V), (0, 0)


def refined_root(A: Tensor, V: Tensor, floor: float, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`refine`, and :func:`root` with the eigenvectors that it gives, in one pass. ``A`` may be complex."""
    return matrix_function(A, "inverse_square_root" if inverse else "square_root", floor, V=V)


def recompose(V: Tensor, x: Tensor) -> Tensor:
    """``V diag(x) V^H`` for ``V (*, n, n)`` and real ``x (*, n)``.

    Eager tensors only (:func:`eigengrad.native.eager`).
    """
    rows, x = _plain(V.mT), x.contiguous()
    result = torch.empty_like(rows)
    if V.numel():
        pointers = (rows.data_ptr(), x.data_ptr(), result.data_ptr())
        native.run("recompose", V.dtype.to_real(), _PLANES[V.dtype], *pointers, *native.sizes(V))
    return result


def pull_back(
    V: Tensor,
    cotangent: Tensor,
    weights: Tensor,
    *,
    kind: str = "eigenvectors",
    exponent: float = 0.0,
    terms: tuple[int, int] = (0, 0),
    diagonal: Tensor | None = None,
) -> Tensor:
    """A cotangent of ``A``, or a tangent of a function of it, through the eigenvectors, in one pass over the batch.

    Args:
        V: eigenvectors ``(*, n, n)``.
        cotangent: G ``(*, n, n)``.
        weights: real, as ``kind`` has it.
        kind: ``"eigenvectors"`` gives the Hermitian part of ``V (K o (V^H G) + diag(diagonal)) V^H`` with ``weights``
            K ``(*, n, n)``; ``"series"`` the same with the K of a geometric series, made from ``weights (*, n)``, the
            eigenvalues, and the numbers of ``terms``; ``"function"`` gives ``V (W o (V^H herm(G) V)) V^H`` with
            symmetric ``weights`` W ``(*, n, n)``; ``"square_root"`` and ``"inverse_square_root"`` the same with the W
            of these functions, made from ``weights (*, n)``, the eigenvalues of the root.
        terms: as for :func:`eigengrad.geometric_series.series_kernel`.
        diagonal: ``(*, n)``, real, or None for zeros.

    Eager tensors only (:func:`eigengrad.native.eager`).
    """
    rows, weights = _plain(V.mT), weights.contiguous()
    transposed = not cotangent.is_contiguous() and cotangent.mT.is_contiguous()
    G = _plain(cotangent.mT if transposed else cotangent)
    diagonal = None if diagonal is None else diagonal.contiguous()
    result = torch.empty_like(rows)
    if V.numel():
        inputs = (rows.data_ptr(), G.data_ptr(), int(transposed), weights.data_ptr())
        outputs = (None if diagonal is None else diagonal.data_ptr(), result.data_ptr())
        how = (_PLANES[V.dtype], _KINDS.index(kind), exponent, *terms)
        native.run("pull_back", V.dtype.to_real(), *how, *inputs, *outputs, *native.sizes(V))
    return result
