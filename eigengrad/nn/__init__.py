"""Layers: a module holds the parameters and running estimates, the function of the same name does the work.

``normalization`` is what whitening and denoising share with ``nn.BatchNorm2d``, ``kept`` what they derive for
evaluation; ``conversion`` swaps layers into a network, ``folding`` folds them away, ``statistics`` estimates anew.
"""

from eigengrad.nn import functional
from eigengrad.nn.conversion import convert, convert_sync
from eigengrad.nn.denoising import PCADenoising
from eigengrad.nn.folding import fold
from eigengrad.nn.pooling import CovariancePooling
from eigengrad.nn.statistics import update_statistics
from eigengrad.nn.whitening import ZCAWhitening

__all__ = [
    "CovariancePooling",
    "PCADenoising",
    "ZCAWhitening",
    "convert",
    "convert_sync",
    "fold",
    "functional",
    "update_statistics",
]
