"""Layers: a module holds the parameters and running estimates, the function of the same name does the work.

``normalization`` is what whitening and denoising share with ``nn.BatchNorm2d``; ``conversion`` swaps layers into a
network, and folds them away.
"""

from eigengrad.nn.conversion import convert, fold
from eigengrad.nn.denoising import PCADenoising
from eigengrad.nn.pooling import CovariancePooling
from eigengrad.nn.whitening import ZCAWhitening

__all__ = ["CovariancePooling", "PCADenoising", "ZCAWhitening", "convert", "fold"]
