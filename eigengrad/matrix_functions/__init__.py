"""Functions of a Hermitian matrix, with derivatives that are exact where eigenvalues meet.

``f(A) = V f(L) V^H`` is smooth in ``A`` even where ``V`` is not, so these need no eigenvector gradient. Two mechanisms
decide what happens at a tie, both by algebra:

* an equation that the function satisfies, solved for its derivative: of every order (``square_roots``, ``projectors``,
  ``polar``);
* divided differences that do not cancel (``spectral``, ``spectral_sums``, ``singular_values``): first and second order.
"""

from eigengrad.matrix_functions.polar import nearest_rotation, polar, procrustes
from eigengrad.matrix_functions.projectors import projector
from eigengrad.matrix_functions.singular_values import low_rank, pinv, singular_value_function, soft_threshold
from eigengrad.matrix_functions.spectral import expm, logm, matrix_function, powm
from eigengrad.matrix_functions.spectral_sums import spectral_sum
from eigengrad.matrix_functions.square_roots import inv_sqrtm, sqrtm

__all__ = [
    "expm",
    "inv_sqrtm",
    "logm",
    "low_rank",
    "matrix_function",
    "nearest_rotation",
    "pinv",
    "polar",
    "powm",
    "procrustes",
    "projector",
    "singular_value_function",
    "soft_threshold",
    "spectral_sum",
    "sqrtm",
]
