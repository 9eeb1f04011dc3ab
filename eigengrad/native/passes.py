"""The passes over data ``(B, G, d, M)``, and what lies between them, in torch's own operators.

As in ``reference.py``: on every device but a CPU, where no kernel of our own is, and there where none was built.
"""

import torch
from torch import Tensor

from eigengrad.conditioning import Conditioned, Conditioning

__all__ = ["affine", "affine_backward", "moments", "moments_backward", "update"]


def moments(data: Tensor, shrinkage: float, eps: float, relative_eps: float) -> Conditioned:
    """In two passes."""
    count = _observations(data)
    wide = data.to(torch.promote_types(data.dtype, torch.float32))
    mean = wide.sum(dim=(0, 3)).unsqueeze(-1) / count
    centred = wide - mean
    covariance = (centred @ centred.mT).sum(dim=0) / count
    return Conditioning(shrinkage, eps, relative_eps).apply(mean, covariance, count)


def moments_backward(
    gx: Tensor,
    data: Tensor,
    mean: Tensor,
    covariance: Tensor,
    g_mean: Tensor | None,
    g_covariance: Tensor | None,
    g_conditioned: Tensor | None,
    shrinkage: float,
    relative_eps: float,
) -> None:
    """By one product."""
    gx.add_(
        of_moments(
            data, mean, covariance, (g_mean, g_covariance, g_conditioned), Conditioning(shrinkage, 0.0, relative_eps)
        )
    )


def of_moments(
    data: Tensor, mean: Tensor, covariance: Tensor, cotangents: tuple[Tensor | None, ...], by: Conditioning
) -> Tensor:
    """The data's cotangent from those of mean, covariance and what is decomposed; differentiable."""
    S, centre, shift = pulled_back(mean, covariance, cotangents, _observations(data), by)
    return S @ (data.to(S.dtype) - centre) + shift


def pulled_back(
    mean: Tensor, covariance: Tensor, cotangents: tuple[Tensor | None, ...], observations: int, by: Conditioning
) -> tuple[Tensor, Tensor, Tensor]:
    """S, centre and shift, of which the data's cotangent is ``S (data - centre) + shift``."""
    g_mean, g_covariance, g_conditioned = cotangents
    g = torch.zeros_like(covariance) if g_covariance is None else g_covariance
    if g_conditioned is not None:
        g = g + by.pull_back(covariance, g_conditioned, observations)
    shift = torch.zeros_like(mean) if g_mean is None else g_mean / observations
    # NaN in the data of a group that was passed on as it is (S = 0) must not spread by way of the mean.
    return (g + g.mT) / observations, torch.nan_to_num(mean, 0.0, 0.0, 0.0), shift


def affine(
    y: Tensor, data: Tensor, matrix: Tensor, centre: Tensor, scale: Tensor | None, offset: Tensor | None
) -> None:
    """By one product."""
    result = _scaled(matrix, scale) @ (data.to(matrix.dtype) - centre)
    y.copy_(result if offset is None else result + offset)


def affine_backward(
    gx: Tensor | None, data: Tensor, g: Tensor, matrix: Tensor, centre: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By two products."""
    wide, T = g.to(matrix.dtype), _scaled(matrix, scale)
    if gx is not None:
        gx.copy_(T.mT @ wide)
    product = (wide @ (data.to(matrix.dtype) - centre).mT).sum(dim=0)
    return of_sums(product, wide.sum(dim=(0, 3)).unsqueeze(-1), matrix, scale)


def of_sums(
    product: Tensor, g_offset: Tensor, matrix: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cotangents of matrix, centre, scale and offset from the sums of ``g (data - centre)^T`` and g."""
    g_scale = (matrix * product).sum(dim=-1, keepdim=True)
    return _scaled(product, scale), -_scaled(matrix, scale).mT @ g_offset, g_scale, g_offset


def update(
    running_mean: Tensor | None,
    running_covariance: Tensor | None,
    count: Tensor | None,
    before: Tensor | None,
    mean: Tensor,
    covariance: Tensor,
    valid: Tensor | None,
    first: int,
    momentum: float,
    together: bool,
) -> None:
    """``running += momentum (batch - running)``."""
    weight = momentum if before is None else (before + 1).reciprocal()
    may = None if valid is None else valid.all() if together else valid[first : first + len(mean), None, None]
    for running, batch in ((running_mean, mean), (running_covariance, covariance)):
        if running is not None:
            step = weight * (batch.to(running.dtype) - running.view(batch.shape))
            running.add_((step if may is None else torch.where(may, step, 0.0)).view(running.shape))
    if count is not None:
        count.add_(1 if valid is None else valid.all() if together else valid.any())


def _scaled(matrix: Tensor, scale: Tensor | None) -> Tensor:
    return matrix if scale is None else scale * matrix


def _observations(data: Tensor) -> int:
    return max(data.shape[0] * data.shape[3], 1)
