"""Eigendecomposition that networks can be trained through.

Reading order: gradients (the idea), eigh, matrix_functions, whitening, denoising, pooling, nn.
"""

from eigengrad import analysis, gradients, native, nn, solvers, testing
from eigengrad.denoising import denoise
from eigengrad.eigh import eigh, topk_eigh
from eigengrad.gradients import Clipped, Exact, Lorentzian, Masked, PowerIteration, Taylor, Unrolled
from eigengrad.matrix_functions import expm, inv_sqrtm, logm, matrix_function, powm, projector, sqrtm
from eigengrad.native import show_config
from eigengrad.polar import polar, procrustes
from eigengrad.pooling import pool_covariance
from eigengrad.svd import svd
from eigengrad.whitening import whiten

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
    "sqrtm",
    "svd",
    "testing",
    "topk_eigh",
    "whiten",
]
