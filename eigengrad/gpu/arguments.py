"""What kernels are handed, as ``native/gpu/arguments.hpp`` has it; pointers of every dtype are integers."""

import ctypes
from ctypes import c_bool, c_double, c_int, c_long, c_void_p

__all__ = ["DecomposeArguments", "DerivativeArguments", "PullBack", "RecomposeArguments", "RefineArguments"]


class _Scalar(ctypes.Structure):
    _fields_ = (("kind", c_int), ("parameter", c_double))


class PullBack(ctypes.Structure):
    """One derivative, with pointers to what its first matrix has."""

    _fields_ = (
        ("kind", c_int),
        ("vectors", c_void_p),
        ("cotangent", c_void_p),
        ("transposed", c_bool),
        ("weights", c_void_p),
        ("terms", c_int * 2),
        ("diagonal", c_void_p),
        ("result", c_void_p),
        ("parameter", c_double),
    )


class DecomposeArguments(ctypes.Structure):
    """Of ``eigh``, ``root`` and ``function``."""

    _fields_ = (
        ("matrices", c_void_p),
        ("result", c_void_p),
        ("values", c_void_p),
        ("vectors", c_void_p),
        ("count", c_long),
        ("n", c_int),
        ("refined", c_int),
        ("f", _Scalar),
    )


class RefineArguments(ctypes.Structure):
    """Of ``refine``."""

    _fields_ = (
        ("matrices", c_void_p),
        ("vectors", c_void_p),
        ("values", c_void_p),
        ("count", c_long),
        ("n", c_int),
    )


class RecomposeArguments(ctypes.Structure):
    """Of ``recompose``."""

    _fields_ = (
        ("vectors", c_void_p),
        ("values", c_void_p),
        ("result", c_void_p),
        ("count", c_long),
        ("n", c_int),
    )


class DerivativeArguments(ctypes.Structure):
    """Of ``pull_back``."""

    _fields_ = (("of", PullBack), ("count", c_long), ("n", c_int))
