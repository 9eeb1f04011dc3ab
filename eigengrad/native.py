"""The compiled kernel: many small matrices at once on a CPU, one in each lane of the vector registers, on every core.

``torch.linalg.eigh`` hands a batch to LAPACK one matrix after the other. The kernel (folder ``native``) decomposes 8 to
32 at once by the same methods, Householder's reduction and implicit QL (Jacobi rotations up to 4 x 4), with residual,
orthogonality and eigenvalues as accurate as LAPACK's. A matrix has the same bits whatever its place in a batch, the
batch's size and the number of threads. A matrix with NaN or infinity gives NaN, and leaves its neighbours alone.

The library is loaded by its plain C interface. Where it was not built, everything works on LAPACK:
:func:`show_config` says which it is, and why.
"""

import ctypes
import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from eigengrad.native_wins import smallest_batch

__all__ = [
    "available",
    "chosen",
    "decompose",
    "eager",
    "empty_pairs",
    "instructions",
    "library",
    "possible",
    "run",
    "show_config",
    "sizes",
]

SUFFIX = {torch.float32: "float32", torch.float64: "float64"}
"""Of the library's functions, by the real dtype that they compute with."""

_ARGUMENTS = {
    "eigh": "ppplii",
    "matrix_function": "idiipppplii",
    "apply": "idppl",
    "refine": "ippplii",
    "recompose": "ippplii",
    "pull_back": "iidiippippplii",
    "moments": "ppipppi",
    "affine": "ppippppii",
    "affine_backward": "ppippppppi",
}
"""Pointers, int, long and double; threads at the end."""

_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, and the instruction set it uses; or None, and why there is none."""
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
    for dtype, suffix in SUFFIX.items():
        kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_long, "d": ctypes.c_double}
        for name, arguments in _ARGUMENTS.items():
            if function := getattr(library, f"eigengrad_{name}_{suffix}", None):
                function.argtypes = [kinds[letter] for letter in arguments]
    library.eigengrad_chunks.argtypes, library.eigengrad_chunks.restype = (
        (ctypes.c_void_p, ctypes.c_long),
        ctypes.c_long,
    )
    library.eigengrad_instructions.restype = ctypes.c_char_p
    return library, library.eigengrad_instructions().decode()


_LIBRARY, _DETAIL = _load()  # at import: a compiler that traces what follows sees constants


def available() -> bool:
    """Whether the kernel was built and loads."""
    return _LIBRARY is not None


def instructions() -> str | None:
    """The instruction set for this processor: ``"avx512"``, ``"avx2"`` or ``"baseline"``; None without a kernel."""
    return _DETAIL if available() else None


def show_config() -> None:
    """Print what this installation computes with: torch, threads, and whether the compiled kernel is there.

    Example:
        >>> import eigengrad as eg
        >>> eg.show_config()  # doctest: +ELLIPSIS
        torch ...
        threads ...
        native kernel: ...
    """
    print(f"torch {torch.__version__}")
    print(f"threads {torch.get_num_threads()}")
    print(f"native kernel: {'built, instructions ' + _DETAIL if available() else _DETAIL}")


def possible(A: Tensor) -> bool:
    """Whether the kernel is there and could decompose ``A``: square matrices, real, on a CPU."""
    return A.dtype in SUFFIX and A.is_cpu and A.dim() > 1 and A.shape[-1] == A.shape[-2] and available()


def chosen(A: Tensor) -> bool:
    """Whether ``"auto"`` decomposes ``A (*, n, n)`` with the kernel rather than with LAPACK."""
    if not possible(A):
        return False
    n = A.shape[-1]
    return n > 0 and A.numel() >= n * n * smallest_batch(n, A.dtype, torch.get_num_threads())


compiling, transforming = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active
"""Whether a compiler traces what is called; whether a transform may hide a batch dimension."""


def eager(*tensors: Tensor) -> bool:
    """Whether tensors are what they seem: no compiler tracing, no transform hiding a batch dimension."""
    if compiling() or transforming():
        return False
    # A subclass may have no memory (torch's fake tensors); autograd's own is_grads_batched is no functorch transform.
    return _PLAIN.issuperset(map(type, tensors)) and all(map(torch._C._has_storage, tensors))


def library() -> ctypes.CDLL:
    """The library itself.

    Raises:
        RuntimeError: where there is none.
    """
    if _LIBRARY is None:
        raise RuntimeError(
            f"eigengrad's native kernel: {_DETAIL}; use solver='eigh', or 'auto', which falls back on it"
        )
    return _LIBRARY


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    return getattr(library(), f"eigengrad_{name}_{SUFFIX[dtype]}")


def run(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the library, with the number of threads at the end. The interpreter's lock is released.

    Raises:
        MemoryError: if there was none for the workspace.
    """
    if _function(name, dtype)(*arguments, torch.get_num_threads()):
        raise MemoryError("eigengrad's native kernel: no memory for its workspace")


def empty_pairs(A: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for eigenvalues and eigenvectors, which are contiguous each, as ``torch.linalg.eigh`` returns them."""
    return A.new_empty(A.shape[:-1]), torch.empty_like(A, memory_format=torch.contiguous_format).mT


def sizes(A: Tensor) -> tuple[int, int]:
    """How many matrices, and of which size."""
    n = A.shape[-1]
    return A.numel() // n**2, n


def decompose(A: Tensor, *, always: bool) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)`` of symmetric ``A (*, n, n)``.

    Of float32 or float64, by the lower triangle, without a derivative.

    Args:
        A: the matrices. One with NaN or infinity gives NaN.
        always: whether to use the kernel where LAPACK was measured to be faster.

    Raises:
        RuntimeError: without a kernel, if ``always``.
        torch.linalg.LinAlgError: if LAPACK is used and does not converge.
    """
    return _decompose(A, always) if eager(A) else _operator(A, always)


def _decompose(A: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    if not always and not chosen(A):
        L, V = torch.linalg.eigh(A)
        return L, V
    A = A.contiguous()
    L, V = empty_pairs(A)
    if A.numel():
        run("eigh", A.dtype, A.data_ptr(), L.data_ptr(), V.data_ptr(), *sizes(A))
    return L, V


@torch.library.custom_op("eigengrad::eigh", mutates_args=(), device_types="cpu")
def _operator(A: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    # For tracing: the choice of solver, which depends on the size of the batch, is made when the operator runs.
    return _decompose(A, always)


@_operator.register_fake
def _(A: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    return empty_pairs(A)


@_operator.register_vmap
def _(_: Any, in_dims: tuple[int, None], A: Tensor, always: bool) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return _operator(A.movedim(in_dims[0], 0), always), (0, 0)
