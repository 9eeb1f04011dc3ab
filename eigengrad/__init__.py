"""Eigendecomposition that networks can be trained through.

Reading order: gradients (the idea), eigenbasis, eigh, matrix_functions, nn.functional, nn.
"""

from eigengrad import analysis, gpu, gradients, native, nn, solvers, spd, testing
from eigengrad.configuration import show_config
from eigengrad.eigh import eigh, topk_eigh
from eigengrad.eigsh import eigsh
from eigengrad.gradients import Clipped, Exact, Lorentzian, Masked, PowerIteration, Taylor, Unrolled
from eigengrad.matrix_functions import (
    expm,
    inv_sqrtm,
    logm,
    low_rank,
    matrix_function,
    nearest_rotation,
    pinv,
    polar,
    powm,
    procrustes,
    projector,
    singular_value_function,
    soft_threshold,
    spectral_sum,
    sqrtm,
)
from eigengrad.nn.functional import denoise, pool_covariance, whiten
from eigengrad.svd import svd

__version__ = "0.2.0"

__all__ = [
    "Clipped",
    "Exact",
    "Lorentzian",
    "Masked",
    "PowerIteration",
    "Taylor",
    "Unrolled",
    "analysis",
    "denoise",
    "eigh",
    "eigsh",
    "expm",
    "gpu",
    "gradients",
    "inv_sqrtm",
    "logm",
    "low_rank",
    "matrix_function",
    "native",
    "nearest_rotation",
    "nn",
    "pinv",
    "polar",
    "pool_covariance",
    "powm",
    "procrustes",
    "projector",
    "show_config",
    "singular_value_function",
    "soft_threshold",
    "solvers",
    "spd",
    "spectral_sum",
    "sqrtm",
    "svd",
    "testing",
    "topk_eigh",
    "whiten",
]
