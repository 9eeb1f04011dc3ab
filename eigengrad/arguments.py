"""What every function of this package asks of a matrix, said in one voice."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Errors", "check_errors", "check_matrices", "check_square"]

Errors = Literal["raise", "nan"]
"""What a matrix without a decomposition, by NaN or infinity in it, is: an error that names it, or NaN for it alone."""

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_matrices(A: Tensor, name: str = "A") -> None:
    """Raise unless ``A``, an argument called ``name``, is a batch of matrices of a dtype that LAPACK has.

    Raises:
        TypeError: if it is no tensor, or of another dtype.
        ValueError: if it has fewer than two dimensions.
    """
    _check_type(A, name)
    if A.dim() < 2:
        raise ValueError(f"{name} must be a batch of matrices (*, m, n), got shape {tuple(A.shape)}")


def check_errors(errors: Errors) -> None:
    """Raise ``ValueError`` unless ``errors`` is ``"raise"`` or ``"nan"``."""
    if errors not in ("raise", "nan"):
        raise ValueError(f"errors must be 'raise' or 'nan', got {errors!r}")


def check_square(A: Tensor, name: str = "A") -> None:
    """The same for a batch of square matrices.

    Raises:
        TypeError, ValueError: as :func:`check_matrices`.
    """
    _check_type(A, name)
    shape = A.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{name} must be a batch of square matrices (*, n, n), got shape {tuple(shape)}")


def _check_type(A: Tensor, name: str) -> None:
    if not isinstance(A, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(A).__name__}; torch.as_tensor makes one")
    if A.dtype not in _DTYPES:
        raise TypeError(f"{name} must be of float32, float64, complex64 or complex128, got {A.dtype}; convert it")
