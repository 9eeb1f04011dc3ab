"""The compiled kernel, and the operators ``torch.ops.eigengrad`` that it implements on a CPU.

``torch.linalg.eigh`` hands a batch to LAPACK one matrix after the other. The kernel (folder ``native`` of the sources)
decomposes 8 to 32 at once, one in each lane of the vector registers, by LAPACK's own methods: Householder's reduction
and implicit QL (Jacobi rotations up to 4 x 4), with residual, orthogonality and eigenvalues as accurate as LAPACK's. A
matrix has the same bits whatever its place in a batch, the batch's size and the number of threads.

Where the kernel was not built, the same operators work on LAPACK (``reference.py``): :func:`eigengrad.show_config` says
which it is, and why. The environment variable ``EIGENGRAD_INSTRUCTIONS`` chooses, when eigengrad is imported, another
instruction set than the best one: ``baseline``, ``avx2``, ``avx512``, or ``none`` for no kernel at all.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

import torch

from eigengrad.native import operators, thresholds

__all__ = ["available", "describe", "instructions", "operators", "thresholds"]

VARIABLE = "EIGENGRAD_INSTRUCTIONS"
SETS = ("baseline", "avx2", "avx512")


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, and the instruction set it uses; or None, and why there is none."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "none", *SETS):
        raise ValueError(f"{VARIABLE} must be one of {', '.join(SETS)} or none, got {wanted!r}")
    if wanted == "none":
        return None, f"not wanted ({VARIABLE}=none)"
    try:
        spec = importlib.util.find_spec("eigengrad._native")
    except ImportError as error:
        return None, f"not found ({error})"
    if spec is None or spec.origin is None:
        return None, "not built; installing eigengrad with CMake and GCC or Clang at hand builds it"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        return None, f"built, but does not load ({error})"
    library.eigengrad_instructions.restype = ctypes.c_char_p
    if wanted and not library.eigengrad_choose_instructions(wanted.encode()):
        raise ValueError(
            f"{VARIABLE}={wanted}: this processor, or the kernel as it was built, has no such instructions"
        )
    if not library.eigengrad_start(_torch_library().encode()):
        return None, f"built, but torch {torch.__version__} lacks its C interface (of 2.11) or LAPACK's symbols"
    for name, values in zip(("kernel", "single"), thresholds.table(), strict=True):
        array = (ctypes.c_int64 * len(values))(*values)
        if getattr(library, f"eigengrad_set_{name}_table")(array, len(values)):
            raise AssertionError("the kernel is of another version than its table; install eigengrad again")
    return library, library.eigengrad_instructions().decode()


def _torch_library() -> str:
    """The path of the shared object that has torch's C interface."""
    name = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"
    return str(Path(torch.__file__).parent / "lib" / name)


_LIBRARY, _DETAIL = _load()


def available() -> bool:
    """Whether the kernel was built, loads and is wanted."""
    return _LIBRARY is not None


def instructions() -> str | None:
    """The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``; None without a kernel."""
    return _LIBRARY.eigengrad_instructions().decode() if _LIBRARY is not None else None


def describe() -> str:
    """What :func:`eigengrad.show_config` says about the kernel."""
    return f"built, instructions {instructions()}" if available() else _DETAIL


def choose_instructions(name: str) -> bool:
    """Use another instruction set from now on, for tests. Returns whether this processor and this build have it."""
    return _LIBRARY is not None and bool(_LIBRARY.eigengrad_choose_instructions(name.encode()))
