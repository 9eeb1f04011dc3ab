"""What is done to a covariance before it is inverted: shrinkage for few observations, and a floor for its spectrum.

Both are linear maps of the covariance to itself and leave a group of one channel as batch normalisation has it:

    shrinkage toward the diagonal:   C -> (1 - s) C + s diag(C)
    the floor of the spectrum:       C -> (1 - r) C + (r t + eps) I,     t = tr(C) / d, r = relative_eps
"""

import math

import torch
from torch import Tensor

__all__ = ["check_relative_eps", "check_shrinkage", "floored", "shrunk"]


def shrunk(covariance: Tensor, shrinkage: float | str, observations: int | Tensor) -> Tensor:
    r"""``covariance (G, d, d)`` of so many observations with its entries off the diagonal multiplied by ``1 - s``.

    ``"auto"`` is the s of least expected squared error, with the moments that Gaussian observations have:

    .. math:: s = \min\Big(1, \frac{\sum_{i \ne j} (c_{ij}^2 + c_{ii} c_{jj})}{(m + 1) \sum_{i \ne j} c_{ij}^2}\Big)

    Source: Ledoit and Wolf, *A well-conditioned estimator for large-dimensional covariance matrices*, 2004, for the
    principle; Schäfer and Strimmer 2005 for the diagonal as target; Chen, Wiesel, Eldar and Hero, *Shrinkage algorithms
    for MMSE covariance estimation*, 2010, for Gaussian moments.
    """
    if shrinkage == 0.0 or covariance.shape[-1] == 1:
        return covariance
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    s: float | Tensor
    if isinstance(shrinkage, str):
        # In units of the mean variance, so that no fourth power overflows or vanishes.
        unit = variances.mean(dim=-1)[..., None, None].detach()
        relative = covariance / torch.where(unit > 0, unit, 1.0)
        variance = relative.diagonal(dim1=-2, dim2=-1)
        own = (variance**2).sum(dim=-1)
        off_diagonal = (relative**2).sum(dim=(-2, -1)) - own
        wrong = (off_diagonal + variance.sum(dim=-1) ** 2 - own) / (observations + 1)
        partly = wrong < off_diagonal
        s = torch.where(partly, wrong / torch.where(partly, off_diagonal, 1.0), 1.0)[..., None, None]
    else:
        s = shrinkage
    return covariance + s * (torch.diag_embed(variances) - covariance)


def floored(covariance: Tensor, eps: float, relative_eps: float) -> Tensor:
    """``(1 - r) C + (r t + eps) I`` for ``C (G, d, d)`` of mean variance t."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    if relative_eps == 0.0:
        return covariance + eps * identity
    mean_variance = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    return (1.0 - relative_eps) * covariance + (relative_eps * mean_variance + eps) * identity


def check_shrinkage(shrinkage: float | str) -> None:
    """Whether it is ``"auto"`` or a share."""
    if shrinkage != "auto" and (isinstance(shrinkage, str) or not 0 <= shrinkage <= 1):
        raise ValueError(f"shrinkage must be 'auto' or lie between 0 and 1, got {shrinkage!r}")


def check_relative_eps(relative_eps: float) -> None:
    """Whether it is a share."""
    if not 0 <= relative_eps <= 1 or math.isnan(relative_eps):
        raise ValueError(
            f"relative_eps must lie between 0 and 1, got {relative_eps}: it is a share of the mean variance"
        )
