"""What the layers compute, as functions of data and running estimates, as ``torch.nn.functional`` is behind ``nn``."""

from eigengrad.nn.functional.denoising import denoise
from eigengrad.nn.functional.features import FeatureStatistics, colour_features, feature_statistics, whiten_features
from eigengrad.nn.functional.pooling import pool_covariance
from eigengrad.nn.functional.whitening import whiten

__all__ = [
    "FeatureStatistics",
    "colour_features",
    "denoise",
    "feature_statistics",
    "pool_covariance",
    "whiten",
    "whiten_features",
]
