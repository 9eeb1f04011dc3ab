"""The operators in torch's own: on every device but a CPU, and there where the kernel was not built."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from eigengrad.autograd import has_values, hermitian_part, is_traced
from eigengrad.gradients.gaps import lorentzian_kernel, pairs
from eigengrad.gradients.series import series_kernel
from eigengrad.native.thresholds import plan

__all__ = [
    "KINDS",
    "check_finite",
    "eigh",
    "function",
    "lifted_weights",
    "pull_back",
    "recompose",
    "refine",
    "root",
]

KINDS = {
    name: number
    for number, name in enumerate(
        (
            "eigenvectors",
            "function",
            "square_root",
            "inverse_square_root",
            "rule",
            "exponential",
            "logarithm",
            "power",
            "projector",
        )
    )
}
"""What ``pull_back(V, G, weights, diagonal, kind, ...)`` makes of a cotangent G, and its ``weights`` by kind:

* ``eigenvectors``: the Hermitian part of ``V (K o (V^H G) + diag(diagonal)) V^H``; K ``(*, n, n)``
* ``rule``: the same with the K of a Lorentzian whose relative width is ``parameter``, or, where that is 0, of a series
  of ``major_terms`` and ``minor_terms`` (:mod:`eigengrad.gradients`); eigenvalues ``(*, n)``
* ``function``: ``V (W o (V^H herm(G) V)) V^H``; symmetric W ``(*, n, n)``
* ``square_root``, ``inverse_square_root``: the same with the W of the root; its eigenvalues ``(*, n)``
* ``exponential``, ``logarithm``, ``power``: the same with the W of the function; eigenvalues ``(*, n)``. Where a
  ``diagonal`` is given, a threshold for each matrix, n times, of the function of ``max(eigenvalue, threshold)``
* ``projector``: the same with the W of the projector on the eigenvectors for which ``diagonal`` is 1, and not 0: by the
  rule, exact without width and terms; eigenvalues ``(*, n)``
"""
_NAMES = tuple(KINDS)

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}

PIECE = 32_768
"""Matrices in one call of cuSOLVER, which from torch 2.12 on gets a batch at once and fails above about 65,000: half of
that, since its workspace grows with them."""

_WIDEST = 2.0**-13
"""The largest angle by which eigenvectors are turned, whose square is lost."""


def eigh(A: Tensor, kernel_always: bool, for_function: bool, strict: bool) -> tuple[Tensor, Tensor]:
    """By LAPACK or cuSOLVER."""
    purpose = "function" if for_function and A.is_cpu else "eigenvectors"
    batch, n = math.prod(A.shape[:-2]), A.shape[-1]
    precision = plan(purpose, n, batch, A.dtype, torch.get_num_threads(), kernel=False).precision
    if precision == "in_double":
        L, V = _eigh(A.to(_WIDER[A.dtype]), strict)
        return L.to(A.dtype.to_real()), V.to(A.dtype)
    L, V = _eigh(A, strict)
    return refine(A, V) if precision == "refined" else (L, V)


def _eigh(A: Tensor, strict: bool) -> tuple[Tensor, Tensor]:
    if strict and not A.is_cpu:  # torch raises by itself, once it has waited for the device
        return _in_pieces(A)
    finite = A.tril().isfinite().flatten(-2).all(dim=-1)
    if strict:
        if not finite.all():
            raise torch.linalg.LinAlgError(not_finite(int(finite.logical_not().flatten().nonzero()[0])))
        return _in_pieces(A)
    L, V = _in_pieces(torch.where(finite[..., None, None], A, 0.0))
    return torch.where(finite[..., None], L, torch.nan), torch.where(finite[..., None, None], V.mT, torch.nan).mT


def not_finite(index: int | str) -> str:
    """The message about a matrix without eigendecomposition, as the kernel has it (``native/operators.cpp``)."""
    return (
        f"eigengrad: matrix {index} of the batch has no eigendecomposition: it holds NaN or infinity, "
        "or the algorithm did not converge"
    )


def check_finite(A: Tensor) -> None:
    """Raise for the first matrix with NaN or infinity in it; on a CPU only, where looking is no waiting, and where
    there are values to look at."""
    if is_traced():
        return
    value = A
    while functorch.is_functorch_wrapped_tensor(value):
        value = functorch.get_unwrapped(value)
    if not has_values(value):
        return
    finite = value.detach().isfinite()
    if not bool(finite.all()):
        index = int(finite.flatten(-2).all(-1).flatten().logical_not().nonzero()[0]) if value is A else "?"
        raise torch.linalg.LinAlgError(not_finite(index))


def too_many_for_cusolver(A: Tensor) -> bool:
    """Whether a batch, which torch hands over whole from 2.12 on, must be cut into pieces."""
    return A.is_cuda and math.prod(A.shape[:-2]) > PIECE and torch.torch_version.__version__ >= "2.12"


def _in_pieces(A: Tensor) -> tuple[Tensor, Tensor]:
    if not too_many_for_cusolver(A):
        L, V = torch.linalg.eigh(A)
        return L, V
    pieces = [torch.linalg.eigh(piece) for piece in A.flatten(0, -3).split(PIECE)]
    L = torch.cat([values for values, _ in pieces])
    V = torch.cat([vectors.mT for _, vectors in pieces]).mT  # eigenvectors stay contiguous each
    return L.unflatten(0, A.shape[:-2]), V.unflatten(0, A.shape[:-2])


def root(A: Tensor, inverse: bool, floor: float, kernel_always: bool, strict: bool) -> tuple[Tensor, Tensor, Tensor]:
    """By the eigenvectors."""
    return root_of(*eigh(A, kernel_always, True, strict), inverse, floor)


def root_of(L: Tensor, V: Tensor, inverse: bool, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """From eigenvalues and eigenvectors."""
    L = L.clamp_min(floor)
    x = L.rsqrt() if inverse else L.sqrt()
    return recompose(V, x), x, V


def function(
    A: Tensor, kind: int, parameter: float, kernel_always: bool, strict: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """By the eigenvectors."""
    return function_of(*eigh(A, kernel_always, True, strict), kind, parameter)


def function_of(L: Tensor, V: Tensor, kind: int, parameter: float) -> tuple[Tensor, Tensor, Tensor]:
    """From eigenvalues and eigenvectors."""
    name = _NAMES[kind]
    f = L.exp() if name == "exponential" else L.log() if name == "logarithm" else L**parameter
    return recompose(V, f), L, V


def refine(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """With ``R = I - V^H V`` and ``S = V^H A V``, to errors of the second order,

        l_i <- s_ii / (1 - r_ii),    V <- V (I + R/2 + K),    k_ij = (s_ij + (l_i + l_j) r_ij / 2) / (l_j - l_i).

    Between eigenvalues too close for that the solver's error stays (the kernel rotates there).
    """
    half = A.tril()  # A by its lower triangle: this, with half of the diagonal, and its adjoint
    half.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    S, W = V.mH @ (half @ V), V.mH @ V
    S = S + S.mH
    lengths = W.diagonal(dim1=-2, dim2=-1).real
    L = S.diagonal(dim1=-2, dim2=-1).real / lengths
    row, column = pairs(L)
    F = S - (row + column) / 2 * W
    gaps = column - row
    K = torch.where(F.abs() < _WIDEST * gaps.abs(), F / gaps, 0)
    change = K - W / 2
    change.diagonal(dim1=-2, dim2=-1).add_(0.5)
    return L, V + V @ change


def recompose(V: Tensor, x: Tensor) -> Tensor:
    """``V diag(x) V^H``."""
    return (V * x.unsqueeze(-2)) @ V.mH


def pull_back(
    V: Tensor,
    G: Tensor,
    weights: Tensor,
    diagonal: Tensor | None,
    kind: int,
    parameter: float = 0.0,
    major_terms: int = 0,
    minor_terms: int = 0,
) -> Tensor:
    """As :data:`KINDS` has it."""
    name = _NAMES[kind]
    if name not in ("eigenvectors", "rule"):
        G = hermitian_part(G)
        if name == "inverse_square_root":  # no factor of -x_i x_j/(1/x_i + 1/x_j) x_i x_j leaves the range early
            scaled = V * weights.unsqueeze(-2)
            return V @ (_reciprocal_sums(-1 / weights) * (scaled.mH @ G @ scaled)) @ V.mH
        if name == "projector":
            assert diagonal is not None
            W = projector_weights(weights, diagonal, parameter, (major_terms, minor_terms))
        elif name == "function":
            W = weights
        else:
            lift = None if name == "square_root" else diagonal
            at = weights if lift is None else torch.maximum(weights, lift)
            W = _DIVIDED_DIFFERENCES[name](*pairs(at), parameter)
            W = W if lift is None else lifted_weights(W, *pairs(weights), lift.unsqueeze(-1))
        return V @ (W * (V.mH @ G @ V)) @ V.mH
    K = rule_weights(weights, parameter, (major_terms, minor_terms)) if name == "rule" else weights
    rotated = V @ (K * (V.mH @ G))
    if diagonal is not None:
        rotated = torch.addcmul(rotated, V, diagonal.unsqueeze(-2).to(V.dtype))
    return hermitian_part(rotated @ V.mH)


def _reciprocal_sums(s: Tensor) -> Tensor:
    row, column = pairs(s)
    return (row + column).reciprocal()


def rule_weights(L: Tensor, width: float, terms: tuple[int, int]) -> Tensor:
    """Of a Lorentzian or, without width, of a series."""
    return lorentzian_kernel(L, width) if width else series_kernel(L, terms)


def projector_weights(L: Tensor, kept: Tensor, width: float, terms: tuple[int, int]) -> Tensor:
    """``1/(l_kept - l_other)`` or, with width or terms, a rule for it; symmetric, and 0 within either."""
    row, column = pairs(L)
    K = rule_weights(L, width, terms) if width or any(terms) else (column - row).reciprocal()
    row, column = pairs(kept)
    W = torch.where(column > row, K, 0.0)
    return W + W.mT


def lifted_weights(W: Tensor, x: Tensor, y: Tensor, threshold: Tensor) -> Tensor:
    """The divided difference of ``f(max(., threshold))`` at x and y; W is that of f at these maxima."""
    tied = x == y
    share = (torch.maximum(x, threshold) - torch.maximum(y, threshold)) / torch.where(tied, 1.0, x - y)
    share = torch.where(tied, (x > threshold).to(x.dtype), share)
    return torch.where(share == 0, 0.0, share * W)


def of_exponential(x: Tensor, y: Tensor, _: float = 0.0) -> Tensor:
    """``exp(high) (1 - exp(-d))/d``, d being the distance of x and y. Differentiable at ties, as those below."""
    high, distance, tied = torch.maximum(x, y), (x - y).abs(), x == y
    return high.exp() * torch.where(tied, 1.0, -torch.expm1(-distance) / torch.where(tied, 1.0, distance))


def of_logarithm(x: Tensor, y: Tensor, _: float = 0.0) -> Tensor:
    """``log1p(d/low)/d``."""
    distance, tied = (x - y).abs(), x == y
    return torch.where(tied, 1 / x, _log_ratio(x, y) / torch.where(tied, 1.0, distance))


def of_power(x: Tensor, y: Tensor, exponent: float | Tensor) -> Tensor:
    """``low^p (exp(p t) - 1)/d`` with ``t = log(high/low)``."""
    p = exponent
    if isinstance(p, float) and p == 1:
        return torch.ones_like(x + y)
    low, high, distance, tied = torch.minimum(x, y), torch.maximum(x, y), (x - y).abs(), x == y
    logarithm = p * _log_ratio(x, y)
    difference = torch.where(logarithm.abs() < 1, low**p * torch.expm1(logarithm), high**p - low**p)
    return torch.where(tied, p * x ** (p - 1), difference / torch.where(tied, 1.0, distance))


def _log_ratio(x: Tensor, y: Tensor) -> Tensor:
    """``log(high/low)`` for positive x and y; by way of square roots, whose ratio does not overflow."""
    low, high = torch.minimum(x, y).sqrt(), torch.maximum(x, y).sqrt()
    return 2 * torch.log1p((x - y).abs() / (low + high) / low)


_DIVIDED_DIFFERENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "square_root": lambda x, y, _: (x + y).reciprocal(),
    "exponential": of_exponential,
    "logarithm": of_logarithm,
    "power": of_power,
}
