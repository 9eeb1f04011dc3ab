"""What is done to a covariance before it is inverted: shrinkage for few observations, and a floor for its spectrum.

Both are linear maps of the covariance to itself and leave a group of one channel as batch normalisation has it:

    shrinkage toward the diagonal:   C -> (1 - s) C + s diag(C)
    the floor of the spectrum:       C -> (1 - r) C + (r t + eps) I,     t = tr(C) / d, r = relative_eps
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["AS_OBSERVED", "Conditioned", "Conditioning", "check_relative_eps", "check_shrinkage", "floored", "shrunk"]


class Conditioning(NamedTuple):
    """Both, as numbers; by default nothing is done."""

    shrinkage: float = 0.0
    """A share, or a negative number for ``"auto"``."""
    eps: float = 0.0
    relative_eps: float = 0.0

    @staticmethod
    def of(shrinkage: float | str, eps: float, relative_eps: float) -> "Conditioning":
        """As the layers are told."""
        return Conditioning(-1.0 if isinstance(shrinkage, str) else float(shrinkage), float(eps), float(relative_eps))

    def apply(self, mean: Tensor, covariance: Tensor, observations: int | Tensor) -> "Conditioned":
        """To the moments of so many observations."""
        finite = covariance.isfinite().flatten(1).all(dim=1)
        which = finite[..., None, None]
        smaller = shrunk(covariance, "auto" if self.shrinkage < 0 else self.shrinkage, observations)
        identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        A = torch.where(which, floored(smaller, self.eps, self.relative_eps), identity)
        smaller = smaller.clone() if smaller is covariance else smaller  # no operator returns one tensor twice
        return Conditioned(torch.where(which, mean, torch.nan), covariance, smaller, A, finite)

    def pull_back(self, covariance: Tensor, g: Tensor, observations: int) -> Tensor:
        """The cotangent of the covariance from that of A, differentiable."""
        finite = covariance.isfinite().flatten(1).all(dim=1)[..., None, None]
        covariance = torch.where(finite, covariance, 0.0)
        trace = g.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None]
        diagonal = (1.0 - self.relative_eps) * g.diagonal(dim1=-2, dim2=-1) + self.relative_eps / g.shape[-1] * trace
        apart = (1.0 - self.relative_eps) * g
        apart = apart - torch.diag_embed(apart.diagonal(dim1=-2, dim2=-1))
        if self.shrinkage >= 0:
            return (1.0 - self.shrinkage) * apart + torch.diag_embed(diagonal)
        spread = _Spread(covariance, observations)
        of_share = -(apart * covariance).sum(dim=(-2, -1), keepdim=True)
        return (1.0 - spread.share) * apart + torch.diag_embed(diagonal) + spread.pull_back(of_share)

    def push_forward(self, covariance: Tensor, tangent: Tensor, observations: int) -> Tensor:
        """The tangent of A from that of the covariance: the transpose of a linear pull-back."""
        pull_back: Any = torch.func.vjp(lambda g: self.pull_back(covariance, g, observations), tangent)[1]
        return pull_back(tangent)[0]


AS_OBSERVED = Conditioning()


class Conditioned(NamedTuple):
    """Moments of G groups, and what is made of them. Where a covariance is not finite, the mean is NaN."""

    mean: Tensor
    """``(G, d, 1)``."""
    covariance: Tensor
    """``(G, d, d)``, biased, as observed."""
    shrunk: Tensor
    """After shrinkage: what enters running estimates."""
    A: Tensor
    """After the floor as well: what is decomposed. The identity where it would not be finite."""
    finite: Tensor
    """``(G,)``."""


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
    s = _Spread(covariance, observations).share if isinstance(shrinkage, str) else shrinkage
    return covariance + s * (torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)) - covariance)


class _Spread:
    """What the best share is made of, in units of the mean variance, so that no fourth power leaves the range."""

    def __init__(self, covariance: Tensor, observations: int | Tensor) -> None:
        unit = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None].detach()
        self.unit = torch.where(unit > 0, unit, 1.0)
        relative = covariance / self.unit
        variances = relative.diagonal(dim1=-2, dim2=-1)
        self.apart = relative - torch.diag_embed(variances)
        apart = 1.0 - torch.eye(variances.shape[-1], dtype=relative.dtype, device=relative.device)
        self.others = (variances.unsqueeze(-2) * apart).sum(dim=-1)  # no difference, in which small ones would vanish
        off, cross = (self.apart**2).sum(dim=(-2, -1)), (variances * self.others).sum(dim=-1)
        self.count = observations + 1
        wrong = (off + cross) / self.count
        self.found = (wrong < off)[..., None, None]
        self.cross = cross[..., None, None]
        self.off = torch.where(self.found, off[..., None, None], 1.0)
        self.share = torch.where(self.found, wrong[..., None, None] / self.off, 1.0)

    def pull_back(self, g: Tensor) -> Tensor:
        """The covariance's cotangent from that of the share."""
        g = torch.where(self.found, g / self.count, 0.0) / self.unit
        return 2 * g / self.off * (torch.diag_embed(self.others) - self.cross / self.off * self.apart)


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
    if not 0 <= relative_eps <= 1:  # NaN is not, either
        raise ValueError(
            f"relative_eps must lie between 0 and 1, got {relative_eps}: it is a share of the mean variance"
        )
