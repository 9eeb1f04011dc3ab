"""What kernels are handed, as ``native/gpu/arguments.hpp`` has it; pointers of every dtype are integers."""

import ctypes
from ctypes import c_bool, c_double, c_int, c_long, c_void_p

__all__ = [
    "AffineArguments",
    "AffineBackwardArguments",
    "DecomposeArguments",
    "DerivativeArguments",
    "MomentsArguments",
    "MomentsBackwardArguments",
    "PassArray",
    "PassSize",
    "PullBack",
    "RecomposeArguments",
    "RefineArguments",
    "UpdateArguments",
]


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


class PassArray(ctypes.Structure):
    """Data ``(B, G, d, M)`` by its pointer and strides."""

    _fields_ = (
        ("data", c_void_p),
        ("image", c_long),
        ("group", c_long),
        ("channel", c_long),
        ("column", c_long),
    )


class PassSize(ctypes.Structure):
    """The size of data, and the blocks that share a group."""

    _fields_ = (("images", c_long), ("columns", c_long), ("channels", c_int), ("chunks", c_int))


class MomentsArguments(ctypes.Structure):
    """Of ``moments``."""

    _fields_ = (
        ("size", PassSize),
        ("data", PassArray),
        ("partial", c_void_p),
        ("mean", c_void_p),
        ("covariance", c_void_p),
        ("shrunk", c_void_p),
        ("conditioned", c_void_p),
        ("finite", c_void_p),
        ("shrinkage", c_double),
        ("eps", c_double),
        ("relative_eps", c_double),
    )


class MomentsBackwardArguments(ctypes.Structure):
    """Of ``moments_backward``."""

    _fields_ = (
        ("size", PassSize),
        ("data", PassArray),
        ("gx", PassArray),
        ("covariance", c_void_p),
        ("g_covariance", c_void_p),
        ("g_conditioned", c_void_p),
        ("mean", c_void_p),
        ("g_mean", c_void_p),
        ("shrinkage", c_double),
        ("relative_eps", c_double),
    )


class AffineArguments(ctypes.Structure):
    """Of ``affine``."""

    _fields_ = (
        ("size", PassSize),
        ("data", PassArray),
        ("y", PassArray),
        ("matrix", c_void_p),
        ("centre", c_void_p),
        ("scale", c_void_p),
        ("offset", c_void_p),
    )


class AffineBackwardArguments(ctypes.Structure):
    """Of ``affine_backward``."""

    _fields_ = (
        ("size", PassSize),
        ("data", PassArray),
        ("g", PassArray),
        ("gx", PassArray),
        ("matrix", c_void_p),
        ("centre", c_void_p),
        ("scale", c_void_p),
        ("partial", c_void_p),
        ("g_matrix", c_void_p),
        ("g_centre", c_void_p),
        ("g_scale", c_void_p),
        ("g_offset", c_void_p),
    )


class UpdateArguments(ctypes.Structure):
    """Of ``update``."""

    _fields_ = (
        ("running_mean", c_void_p),
        ("running_covariance", c_void_p),
        ("count", c_void_p),
        ("before", c_void_p),
        ("mean", c_void_p),
        ("covariance", c_void_p),
        ("valid", c_void_p),
        ("flags", c_long),
        ("first", c_long),
        ("row", c_long),
        ("momentum", c_double),
        ("channels", c_int),
        ("together", c_int),
    )
