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

from eigengrad.native_wins import smallest_batch, smallest_batch_of_products

__all__ = [
    "available",
    "chosen",
    "decompose",
    "eager",
    "instructions",
    "multiplies",
    "possible",
    "pull_back",
    "root",
    "show_config",
]

_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
REAL = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


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
    pointer, whole, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
    for dtype, suffix in _SUFFIX.items():
        getattr(library, f"eigengrad_eigh_{suffix}").argtypes = (*[pointer] * 3, size, whole, whole)
        root_types = (whole, pointer, REAL[dtype], *[pointer] * 3, size, whole, whole)
        getattr(library, f"eigengrad_root_{suffix}").argtypes = root_types
        pull_back_types = (whole, pointer, pointer, whole, *[pointer] * 3, size, whole, whole)
        getattr(library, f"eigengrad_pull_back_{suffix}").argtypes = pull_back_types
        getattr(library, f"eigengrad_moments_{suffix}").argtypes = (pointer, pointer, whole, *[pointer] * 3, whole)
        affine_types = (pointer, pointer, whole, *[pointer] * 4, whole, whole)
        getattr(library, f"eigengrad_affine_{suffix}").argtypes = affine_types
        getattr(library, f"eigengrad_affine_backward_{suffix}").argtypes = (
            pointer,
            pointer,
            whole,
            *[pointer] * 6,
            whole,
        )
    library.eigengrad_chunks.argtypes, library.eigengrad_chunks.restype = (pointer, size), size
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
    return A.dtype in _SUFFIX and A.is_cpu and A.dim() > 1 and A.shape[-1] == A.shape[-2] and available()


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


def multiplies(V: Tensor, *others: Tensor) -> bool:
    """Whether products of the eigenvectors ``V (*, n, n)`` with ``others`` go through the kernel rather than torch."""
    if not (possible(V) and eager(V, *others)):
        return False
    n = V.shape[-1]
    return V.numel() >= n * n * smallest_batch_of_products(n)


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
    return getattr(library(), f"eigengrad_{name}_{_SUFFIX[dtype]}")


def run(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    # ctypes releases the interpreter's lock for the call.
    if _function(name, dtype)(*arguments, torch.get_num_threads()):
        raise MemoryError("eigengrad's native kernel: no memory for its workspace")


def _empty(A: Tensor) -> tuple[Tensor, Tensor]:
    # Eigenvectors are contiguous each, as torch.linalg.eigh returns them.
    return A.new_empty(A.shape[:-1]), torch.empty_like(A, memory_format=torch.contiguous_format).mT


def _batch(A: Tensor) -> int:
    return A.numel() // A.shape[-1] ** 2


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
    L, V = _empty(A)
    if A.numel():
        run("eigh", A.dtype, A.data_ptr(), L.data_ptr(), V.data_ptr(), _batch(A), A.shape[-1])
    return L, V


@torch.library.custom_op("eigengrad::eigh", mutates_args=(), device_types="cpu")
def _operator(A: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    # For tracing: the choice of solver, which depends on the size of the batch, is made when the operator runs.
    return _decompose(A, always)


@_operator.register_fake
def _(A: Tensor, always: bool) -> tuple[Tensor, Tensor]:
    return _empty(A)


@_operator.register_vmap
def _(_: Any, in_dims: tuple[int, None], A: Tensor, always: bool) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return _operator(A.movedim(in_dims[0], 0), always), (0, 0)


def root(A: Tensor, floor: float, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``A^(1/2)`` or ``A^(-1/2)``, its eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``, in one pass.

    Eigenvalues of ``A`` below ``floor`` are taken to be ``floor``. Eager tensors only (:func:`eager`).
    """
    A = A.contiguous()
    X, (x, V) = torch.empty_like(A), _empty(A)
    if A.numel():
        pointers = (X.data_ptr(), x.data_ptr(), V.data_ptr())
        run("root", A.dtype, int(inverse), A.data_ptr(), floor, *pointers, _batch(A), A.shape[-1])
    return X, x, V


def pull_back(
    V: Tensor, cotangent: Tensor, weights: Tensor, *, kind: str = "eigenvectors", diagonal: Tensor | None = None
) -> Tensor:
    """A cotangent of ``A``, or a tangent of a function of it, through the eigenvectors, in one pass over the batch.

    Args:
        V: eigenvectors ``(*, n, n)``.
        cotangent: G ``(*, n, n)``.
        weights: as ``kind`` has it.
        kind: ``"eigenvectors"`` gives the symmetric part of ``V (K o (V^T G) + diag(diagonal)) V^T`` with ``weights``
            K ``(*, n, n)``; ``"function"`` gives ``V (W o (V^T sym(G) V)) V^T`` with symmetric ``weights`` W
            ``(*, n, n)``; ``"inverse_square_root"`` the same with the W of that function, made from ``weights (*, n)``,
            the eigenvalues of the inverse root.
        diagonal: ``(*, n)``, or None for zeros.

    Eager tensors only (:func:`eager`).
    """
    kinds = ("eigenvectors", "function", "inverse_square_root")
    rows, weights = V.mT.contiguous(), weights.contiguous()
    transposed = cotangent.mT.is_contiguous()
    G = cotangent.mT if transposed else cotangent.contiguous()
    diagonal = None if diagonal is None else diagonal.contiguous()
    result = torch.empty_like(rows)
    if V.numel():
        inputs = (rows.data_ptr(), G.data_ptr(), int(transposed), weights.data_ptr())
        beside = None if diagonal is None else diagonal.data_ptr()
        run("pull_back", V.dtype, kinds.index(kind), *inputs, beside, result.data_ptr(), _batch(V), V.shape[-1])
    return result
