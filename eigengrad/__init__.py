"""Eigendecomposition that networks can be trained through.

Reading order: gradients (the idea), eigenbasis, eigh, matrix_functions, nn.functional, nn.
"""

from eigengrad import analysis, gradients, native, nn, solvers, spd, testing
from eigengrad.eigh import eigh, topk_eigh
from eigengrad.eigsh import eigsh
from eigengrad.gradients import Clipped, Exact, Lorentzian, Masked, PowerIteration, Taylor, Unrolled
from eigengrad.matrix_functions import (
    expm,
    inv_sqrtm,
    logm,
    matrix_function,
    polar,
    powm,
    procrustes,
    projector,
    sqrtm,
)
from eigengrad.native import show_config
from eigengrad.nn.functional import denoise, pool_covariance, whiten
from eigengrad.svd import svd

__version__ = "0.1.0"

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
    "gradients",
    "inv_sqrtm",
    "logm",
    "matrix_function",
    "native",
    "nn",
    "polar",
    "pool_covariance",
    "powm",
    "procrustes",
    "projector",
    "show_config",
    "solvers",
    "spd",
    "sqrtm",
    "svd",
    "testing",
    "topk_eigh",
    "whiten",
]
