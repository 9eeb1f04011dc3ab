"""The geometry of positive definite matrices: distances, maps and means, each exact at equal arguments.

``affine_invariant`` (and log-Euclidean), ``bures`` (optimal transport between Gaussians, with its
derivatives in ``transport``) and ``frechet`` (FID), ``means`` of both, and the ``equations`` of Lyapunov and Sylvester.
"""

from eigengrad.spd.affine_invariant import (
    affine_invariant_distance,
    exp_map,
    geometric_mean,
    log_euclidean_distance,
    log_map,
    parallel_transport,
)
from eigengrad.spd.bures import bures_distance, optimal_transport_map
from eigengrad.spd.equations import lyapunov, sylvester
from eigengrad.spd.frechet import frechet_distance
from eigengrad.spd.means import bures_barycenter, karcher_mean

__all__ = [
    "affine_invariant_distance",
    "bures_barycenter",
    "bures_distance",
    "exp_map",
    "frechet_distance",
    "geometric_mean",
    "karcher_mean",
    "log_euclidean_distance",
    "log_map",
    "lyapunov",
    "optimal_transport_map",
    "parallel_transport",
    "sylvester",
]
