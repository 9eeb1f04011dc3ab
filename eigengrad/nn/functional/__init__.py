"""What the layers compute, as functions of data and running estimates, as ``torch.nn.functional`` is behind ``nn``."""

from eigengrad.nn.functional.denoising import denoise
from eigengrad.nn.functional.pooling import pool_covariance
from eigengrad.nn.functional.whitening import whiten

__all__ = ["denoise", "pool_covariance", "whiten"]
