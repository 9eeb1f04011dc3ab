"""Whitening and colouring of each sample's features by its own statistics over positions, as style transfer does it.

    style = feature_statistics(features_of_style)
    transferred = colour_features(whiten_features(features_of_content), *style)

Source: Li, Fang, Yang, Wang, Lu and Yang, *Universal Style Transfer via Feature Transforms*, NeurIPS 2017.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eigengrad.conditioning import check_relative_eps, floored
from eigengrad.matrix_functions.square_roots import root_of_bounded
from eigengrad.nn.functional.moments import full_precision, working_dtype

__all__ = ["FeatureStatistics", "colour_features", "feature_statistics", "whiten_features"]

EPS, RELATIVE_EPS = 1e-5, 1e-4


class FeatureStatistics(NamedTuple):
    """Of each sample."""

    mean: Tensor
    """``(N, C)``."""
    covariance: Tensor
    """``(N, C, C)``, biased."""


def feature_statistics(x: Tensor) -> FeatureStatistics:
    """Mean and covariance of each sample's channels over its positions, in float32 for half precision input.

    Args:
        x: features, ``(N, C, *)``.

    Raises:
        ValueError: for an input of fewer than three dimensions, or without positions.
        TypeError: for an input that is not floating point.
    """
    _check(x)
    with full_precision(x.device):
        data = x.flatten(2).to(working_dtype(x))
        mean = data.mean(dim=-1)
        centred = data - mean.unsqueeze(-1)
        return FeatureStatistics(mean, centred @ centred.mT / data.shape[-1])


def whiten_features(x: Tensor, eps: float = EPS, *, relative_eps: float = RELATIVE_EPS) -> Tensor:
    """Each sample's features with mean zero and, where they vary, the identity as covariance: instance whitening.

    Args:
        x: features, ``(N, C, *)``.
        eps, relative_eps: added to each covariance, as in :func:`eigengrad.whiten`.

    Returns:
        Of the shape and dtype of ``x``.

    Raises:
        ValueError, TypeError: as :func:`feature_statistics`.
        torch.linalg.LinAlgError: if a covariance is not finite.

    Example:
        >>> import torch, eigengrad as eg
        >>> y = eg.nn.functional.whiten_features(torch.randn(2, 4, 16, 16))
        >>> torch.allclose(y[0].flatten(1).cov(correction=0), torch.eye(4), atol=1e-3)
        True
    """
    mean, covariance = feature_statistics(x)
    check_relative_eps(relative_eps)
    return _mapped(x, root_of_bounded(floored(covariance, eps, relative_eps), eps, inverse=True), before=mean)


def colour_features(
    x: Tensor, mean: Tensor, covariance: Tensor, eps: float = EPS, *, relative_eps: float = RELATIVE_EPS
) -> Tensor:
    """Whitened features with another's mean and covariance; with their own, the inverse of :func:`whiten_features`.

    Args:
        x: whitened features, ``(N, C, *)``.
        mean: ``(N, C)``, or ``(1, C)`` for all samples.
        covariance: ``(N, C, C)`` or ``(1, C, C)``.
        eps, relative_eps: as in :func:`whiten_features`.

    Returns:
        Of the shape and dtype of ``x``.

    Raises:
        ValueError, TypeError: as :func:`feature_statistics`; for statistics of other shapes.

    Example:
        >>> import torch, eigengrad as eg
        >>> F, x = eg.nn.functional, torch.randn(2, 4, 16, 16)
        >>> torch.allclose(F.colour_features(F.whiten_features(x), *F.feature_statistics(x)), x, atol=1e-4)
        True
    """
    _check(x)
    check_relative_eps(relative_eps)
    N, C = x.shape[:2]
    if mean.shape not in ((N, C), (1, C)) or covariance.shape not in ((N, C, C), (1, C, C)):
        raise ValueError(
            f"mean and covariance must be (N, C) and (N, C, C) for x {tuple(x.shape)}, got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}"
        )
    return _mapped(x, root_of_bounded(floored(covariance, eps, relative_eps), eps, inverse=False), after=mean)


def _mapped(x: Tensor, T: Tensor, *, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
    """``T (x - before) + after`` at each position."""
    with full_precision(x.device):
        data = x.flatten(2).to(T.dtype)
        y = T @ (data if before is None else data - before.unsqueeze(-1))
        return (y if after is None else y + after.to(T.dtype).unsqueeze(-1)).reshape(x.shape).to(x.dtype)


def _check(x: Tensor) -> None:
    if x.dim() < 3 or x.shape[1] == 0 or x[0:1, 0:1].numel() == 0 < x.shape[0]:
        raise ValueError(f"x must be (N, C, *) with at least one channel and position, got shape {tuple(x.shape)}")
    if not torch.is_floating_point(x):
        raise TypeError(f"x must be real and floating point, got {x.dtype}")
