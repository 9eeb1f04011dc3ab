"""Second-order pooling: the function behind :class:`eigengrad.nn.CovariancePooling`.

Average pooling describes an image by the mean of its features; second-order pooling by their covariance, a positive
definite matrix. A function of that matrix, its square root above all, tames the spectrum; no eigenvector is needed.
"""

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.matrix_functions import logm, powm
from eigengrad.matrix_functions.square_roots import root_of_bounded
from eigengrad.nn.functional.batch_statistics import check_settings
from eigengrad.nn.functional.finite_check import FiniteCheck
from eigengrad.nn.functional.moments import full_precision, working_dtype

ROUNDING = 16
"""Units in the last place of the largest eigenvalue by which a zero one may be negative (6 in 300 float32 trials)."""

__all__ = ["check_function", "pool_covariance"]


def pool_covariance(
    x: Tensor,
    function: str | float = "sqrtm",
    eps: float = 1e-4,
    *,
    solver: solvers.Name | solvers.Solver = "auto",
    errors: str = "raise",
) -> Tensor:
    r"""A function of each sample's covariance over its positions, as a vector.

    .. math:: y = \mathrm{triu}(F), \quad F = f(C + \epsilon I), \quad C = \frac1m \sum (x - \mu)(x - \mu)^T

    Entries off the diagonal are multiplied by :math:`\sqrt 2`, so that inner products of vectors are those of matrices.
    Computed in float32 for half precision input, also under autocast.

    Args:
        x: the input, ``(N, C, *)``.
        function: ``"sqrtm"``, ``"logm"``, or the exponent of a power.
        eps: added to the diagonal, together with what keeps rounding from making an eigenvalue negative.
        solver: as for :func:`eigengrad.eigh`.
        errors: what becomes of a sample whose covariance is not finite: ``"raise"``, or ``"skip"``, by which its
            vector and its gradient are zero. Either way no sample spoils another.

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
    if x.dim() < 3 or x.shape[1] == 0 or x[0:1, 0:1].numel() == 0 < x.shape[0]:
        raise ValueError(f"x must be (N, C, *) with at least one channel and position, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be real and floating point, got {x.dtype}")
    check_settings(eps, errors)
    check_function(function)
    channels = x.shape[1]
    with full_precision(x.device):
        data = x.flatten(2).to(working_dtype(x))
        if errors == "skip":  # before anything is multiplied: backward, zero times NaN would be NaN
            finite = data.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
            data = torch.where(finite, data, 0.0)
        centred = data - data.mean(dim=-1, keepdim=True)
        covariance = centred @ centred.mT / data.shape[-1]
        identity = torch.eye(channels, dtype=data.dtype, device=x.device)
        if errors == "skip":
            valid = finite & covariance.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
            covariance = torch.where(valid, covariance, identity)
        else:
            check = FiniteCheck(lambda sample: f"sample {sample}")
            covariance = check.ask(covariance)
        largest = covariance.detach().abs().sum(dim=-1).amax(dim=-1)  # at least the largest eigenvalue
        rounding = ROUNDING * torch.finfo(data.dtype).eps * largest
        F = _apply(covariance + (eps + rounding)[..., None, None] * identity, function, eps, solver)
        F = torch.where(valid, F, 0.0) if errors == "skip" else check.finish(F)
        row, column = torch.triu_indices(channels, channels, device=x.device)
        weight = torch.where(row == column, 1.0, 2.0**0.5).to(F.dtype)
        return (F[..., row, column] * weight).to(x.dtype)


def check_function(function: str | float) -> None:
    """Whether ``function`` is one."""
    if function not in ("sqrtm", "logm") and (isinstance(function, (str, bool)) or not abs(function) < float("inf")):
        raise ValueError(f"function must be 'sqrtm', 'logm' or a finite exponent, got {function!r}")


def _apply(A: Tensor, function: str | float, floor: float, solver: solvers.Name | solvers.Solver) -> Tensor:
    if function == "logm":
        return logm(A, solver=solver)
    if isinstance(function, str):
        return root_of_bounded(A, floor, inverse=False, solver=solver)
    return powm(A, function, solver=solver)
