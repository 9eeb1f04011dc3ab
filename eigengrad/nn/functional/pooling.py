"""Second-order pooling: the function behind :class:`eigengrad.nn.CovariancePooling`.

Average pooling describes an image by the mean of its features; second-order pooling by their covariance, a positive
definite matrix. A function of that matrix, its square root above all, tames the spectrum; no eigenvector is needed.
"""

from typing import Literal

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.matrix_functions import logm, powm
from eigengrad.matrix_functions.square_roots import root_of_bounded
from eigengrad.nn.functional.batch_statistics import check_settings
from eigengrad.nn.functional.finite_check import FiniteCheck, unchecked
from eigengrad.nn.functional.moments import full_precision, working_dtype

Solver = solvers.Name | solvers.Solver | Literal["newton_schulz"]
ITERATIONS = 24
"""Of Newton and Schulz: an eigenvalue of a share s of the trace is there after ``log(s^(-1/2)) / log(1.5) + 5``."""
ROUNDING = 16
"""Units in the last place of the largest eigenvalue by which a zero one may be negative (6 in 300 float32 trials)."""

__all__ = ["check_function", "check_solver", "pool_covariance"]


def pool_covariance(
    x: Tensor,
    function: str | float = "sqrtm",
    eps: float = 1e-4,
    *,
    solver: Solver = "auto",
    errors: str = "raise",
    dim: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""A function of each sample's covariance over its positions, as a vector.

    .. math:: y = \mathrm{triu}(F), \quad F = f(C + \epsilon I), \quad C = \frac1m \sum (x - \mu)(x - \mu)^T

    Entries off the diagonal are multiplied by :math:`\sqrt 2`, so that inner products of vectors are those of matrices.
    Computed in float32 for half precision input, also under autocast.

    Args:
        x: the input, ``(N, C, *)``; or with its channels in dimension ``dim``, as tokens ``(N, L, C)`` have.
        function: ``"sqrtm"``, ``"logm"``, or the exponent of a power.
        eps: added to the diagonal, together with what keeps rounding from making an eigenvalue negative.
        solver: as for :func:`eigengrad.eigh`; or ``"newton_schulz"``, for ``"sqrtm"`` alone: matrix products and no
            decomposition, so that it exports (``torch.export``, and ONNX by it). Its error is at most 2e-3 of the
            root's largest eigenvalue in float32: eigenvalues below 1e-6 of the trace come out too small, by up to
            themselves, and what keeps rounding from making an eigenvalue negative lifts those of a tiny ``eps``.
        errors: what becomes of a sample whose covariance is not finite: ``"raise"``, or ``"skip"``, by which its
            vector and its gradient are zero. Either way no sample spoils another.
        dim: dimension of the channels.
        mask: which positions count, ``(N, *)`` of bool, for samples of different lengths; all by default. What is in
            the others, NaN included, has no effect.

    Returns:
        ``(N, C (C + 1) / 2)``, in the dtype of ``x``: rows of the upper triangle, one after the other.

    Raises:
        ValueError: for an input of fewer than three dimensions, without channels or without positions; for an unknown
            function.
        torch.linalg.LinAlgError: if a covariance is not finite, with ``errors="raise"``.

    Source: Li, Xie, Wang, Zuo, *Is Second-order Information Helpful for Large-scale Visual Recognition?*, ICCV 2017
    (power); Ionescu, Vantzos, Sminchisescu, *Matrix Backpropagation for Deep Networks*, ICCV 2015 (logarithm).

    Example:
        >>> import torch, eigengrad as eg
        >>> eg.pool_covariance(torch.randn(8, 16, 7, 7)).shape
        torch.Size([8, 136])
    """
    if x.dim() < 3 or not -x.dim() < dim < x.dim() or dim == 0:
        raise ValueError(f"x must be (N, C, *), with its channels in dimension dim={dim}, got shape {tuple(x.shape)}")
    x = x if dim == 1 else x.movedim(dim, 1)
    if x.shape[1] == 0 or x[0:1, 0:1].numel() == 0 < x.shape[0]:
        raise ValueError(f"x must be (N, C, *) with at least one channel and position, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real and floating point, got {x.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (x.shape[0], *x.shape[2:])):
        expected = (x.shape[0], *x.shape[2:])
        raise ValueError(f"mask must be of bool, of shape {expected}, got {mask.dtype}, {tuple(mask.shape)}")
    check_settings(eps, errors, positive=True)
    check_function(function)
    check_solver(function, solver)
    channels = x.shape[1]
    with full_precision(x.device):
        data = x.flatten(2).to(working_dtype(x))
        counted = None if mask is None else mask.flatten(1).unsqueeze(1)
        if counted is not None:  # before anything is multiplied
            data = torch.where(counted, data, 0.0)
        if errors == "skip":  # before anything is multiplied: backward, zero times NaN would be NaN
            finite = data.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
            data = torch.where(finite, data, 0.0)
        count: int | Tensor
        if counted is None:
            centred, count = data - data.mean(dim=-1, keepdim=True), data.shape[-1]
        else:
            count = counted.sum(dim=-1, keepdim=True).clamp(min=1)
            centred = torch.where(counted, data - data.sum(dim=-1, keepdim=True) / count, 0.0)
        covariance = centred @ centred.mT / count
        identity = torch.eye(channels, dtype=data.dtype, device=x.device)
        if errors == "skip":
            valid = finite & covariance.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
            covariance = torch.where(valid, covariance, identity)
        else:
            check = FiniteCheck(lambda sample: f"sample {sample}")
            covariance = check.ask_of(covariance)
        largest = covariance.detach().abs().sum(dim=-1).amax(dim=-1)  # at least the largest eigenvalue
        rounding = ROUNDING * torch.finfo(data.dtype).eps * largest
        lifted = covariance + (eps + rounding)[..., None, None] * identity
        F = _apply(lifted, function, eps, unchecked(solver, lifted))
        F = torch.where(valid, F, 0.0) if errors == "skip" else check.finish(F)
        row, column = torch.triu_indices(channels, channels, device=x.device)
        upper = F[..., row, column]
        return torch.where(row == column, upper, 2.0**0.5 * upper).to(x.dtype)


def check_function(function: str | float) -> None:
    """Whether ``function`` is one."""
    if function not in ("sqrtm", "logm") and (isinstance(function, (str, bool)) or not abs(function) < float("inf")):
        raise ValueError(f"function must be 'sqrtm', 'logm' or a finite exponent, got {function!r}")


def check_solver(function: str | float, solver: Solver) -> None:
    """Whether there is one of that name, and for this function."""
    if not isinstance(solver, str) or solver != "newton_schulz":
        solvers.resolve(solver)
    elif function != "sqrtm":
        raise ValueError(f"solver='newton_schulz' computes square roots, function='sqrtm', got function={function!r}")


def newton_schulz(A: Tensor) -> Tensor:
    """``A^(1/2)`` of positive definite matrices, by matrix products.

    Source: Higham, *Stable iterations for the matrix square root*, 1997; Li, Xie, Wang and Gao, *Towards Faster
    Training of Global Covariance Pooling Networks by Iterative Matrix Square Root Normalization*, CVPR 2018.
    """
    trace = A.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    Y, Z = A / trace, identity.expand_as(A)
    for _ in range(ITERATIONS):
        step = 1.5 * identity - 0.5 * (Z @ Y)
        Y, Z = Y @ step, step @ Z
    return Y * trace.sqrt()


def _apply(A: Tensor, function: str | float, floor: float, solver: Solver) -> Tensor:
    if isinstance(solver, str) and solver == "newton_schulz":
        return newton_schulz(A)
    if function == "logm":
        return logm(A, solver=solver)
    if isinstance(function, str):
        return root_of_bounded(A, floor, inverse=False, solver=solver)
    return powm(A, function, solver=solver)
