"""What every function of this package asks of its arguments, said in one voice."""

import math
import operator
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from eigengrad.autograd import has_values

__all__ = [
    "Errors",
    "as_integer",
    "as_threshold",
    "check_errors",
    "check_matrices",
    "check_not_negative",
    "check_square",
    "check_tensor",
]

Errors = Literal["raise", "nan"]
"""What a matrix without a decomposition, by NaN or infinity in it, is: an error that names it, or NaN for it alone."""

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_matrices(A: Tensor, name: str = "A") -> None:
    """Raise unless ``A``, an argument called ``name``, is a batch of matrices of a dtype that LAPACK has.

    Raises:
        TypeError: if it is no tensor, of another dtype, or sparse.
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


def check_tensor(value: object, name: str) -> None:
    """Raise ``TypeError`` unless it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; torch.as_tensor makes one")


def as_integer(value: Any, name: str, kind: str = "an int") -> int:
    """What counts as an integer in Python: NumPy's and tensors of one integer too, but no booleans.

    Raises:
        TypeError: for anything else, which is told that ``name`` must be ``kind``.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if not isinstance(value, bool) and getattr(value, "dtype", None) != torch.bool:
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be {kind}, got {value!r} of type {type(value).__name__}")


def as_threshold(value: Any, name: str, kind: str = "a number") -> float:
    """A number, of Python or NumPy, that is finite and not negative.

    Raises:
        TypeError: for anything else, which is told that ``name`` must be ``kind``.
        ValueError: for another number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {kind}, got {value!r} of type {type(value).__name__}")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return number


def check_not_negative(value: Tensor, name: str) -> None:
    """Raise for a tensor that is not real, and on a CPU, where looking is no waiting, for a negative number in it.

    Raises:
        TypeError, ValueError: accordingly.
    """
    if value.is_complex():
        raise TypeError(f"{name} must be real, got a tensor of {value.dtype}")
    if has_values(value) and bool((value.detach() < 0).any()):
        raise ValueError(f"{name} must not be negative, got {float(value.detach().amin()):.6g}")


def _check_type(A: Tensor, name: str) -> None:
    check_tensor(A, name)
    if A.dtype not in _DTYPES:
        raise TypeError(f"{name} must be of float32, float64, complex64 or complex128, got {A.dtype}; convert it")
    if A.layout != torch.strided:
        raise TypeError(
            f"{name} must be dense, got {A.layout}; {name}.to_dense() makes it so; eigengrad.eigsh takes it as it is"
        )
