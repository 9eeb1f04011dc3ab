"""cuSOLVER's ``XsyevBatched``, a batch in one call, for torch that does not use it: before 2.12.

There ``torch.linalg.eigh`` decomposes matrices of more than 32 rows one after the other (pytorch#175585). Called by its
C interface, from the library that ships beside torch. Signatures as in ``cusolverDn.h`` of CUDA 12 and 13.
"""

import ctypes
import functools
import importlib.util
import threading
from pathlib import Path

import torch
from torch import Tensor

from eigengrad.gpu import kernels
from eigengrad.native import reference
from eigengrad.native.operators import values_like, vectors_like

__all__ = ["CuSolver", "CuSolverError", "eigh", "library", "takes"]

EIGENVECTORS, LOWER = 1, 0  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER
KINDS = {torch.float32: 0, torch.float64: 1, torch.complex64: 4, torch.complex128: 5}
"""CUDA_R_32F, CUDA_R_64F, CUDA_C_32F, CUDA_C_64F."""
LARGEST_OF_TORCH = 32
"""Rows of a matrix up to which torch 2.11 hands over a batch at once."""


class CuSolverError(RuntimeError):
    """A routine is missing, or returned an error."""


def library() -> Path | None:
    """Where the library is: the one that torch has loaded, else one that lies beside it."""
    maps = Path("/proc/self/maps")
    loaded = maps.read_text().splitlines() if maps.exists() else []
    for line in loaded:
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libcusolver.so"):
            return path
    spec = importlib.util.find_spec("nvidia")
    folders = [*(spec.submodule_search_locations or [])] if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*/lib/libcusolver.so.*"))), None)


class CuSolver:
    """A handle on the current stream of the current device.

    Raises:
        CuSolverError: if there is no library, or no device.
    """

    def __init__(self) -> None:
        path = library()
        if path is None:
            raise CuSolverError("libcusolver was found neither in this process nor beside torch")
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise CuSolverError(f"{path.name} does not load: {error}") from error
        self._handle = self._object("cusolverDnCreate")
        self._settings = self._object("cusolverDnCreateParams")
        self.to_current_stream()

    def to_current_stream(self) -> None:
        """What is called from now on is queued there."""
        self._call("cusolverDnSetStream", self._handle, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))

    def xsyev(self, L: Tensor, V: Tensor) -> Tensor:
        """``XsyevBatched``: eigenvalues ``L (B, n)`` and eigenvectors of the Hermitian ``V (B, n, n)``, in their place.

        Matrices lie by columns, and by their lower triangle. The host does not wait.

        Returns:
            Error codes, ``(B,)``.
        """
        batch, n = L.shape
        name, kind, of_values, whole = "cusolverDnXsyevBatched", KINDS[V.dtype], KINDS[L.dtype], ctypes.c_int64
        info = torch.zeros(batch, dtype=torch.int32, device=V.device)
        on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
        shape = (self._handle, self._settings, EIGENVECTORS, LOWER, whole(n), kind, _pointer(V), whole(n), of_values)
        sizes = (ctypes.byref(on_device), ctypes.byref(on_host))
        self._call(f"{name}_bufferSize", *shape, _pointer(L), kind, *sizes, whole(batch))
        work = torch.empty(max(on_device.value, 1), dtype=torch.uint8, device=V.device)
        host = ctypes.create_string_buffer(max(on_host.value, 1))
        buffers = (_pointer(work), on_device, ctypes.cast(host, ctypes.c_void_p), on_host)
        self._call(name, *shape, _pointer(L), kind, *buffers, _pointer(info), whole(batch))
        return info

    def _object(self, name: str) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made))
        return made

    def _call(self, name: str, *arguments: object) -> None:
        """Plain Python integers are passed as C ints; pointers and larger integers come as what they are."""
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise CuSolverError(f"this cuSOLVER has no {name}") from error
        if status := function(*arguments):
            raise CuSolverError(f"{name} returned status {status}")


def takes(A: Tensor) -> bool:
    """Whether torch would take the matrices of this batch one by one, and cuSOLVER is there to take it at once."""
    *batch, n, _ = A.shape
    return (
        not torch_hands_over_batches()
        and n > LARGEST_OF_TORCH
        and torch.Size(batch).numel() > 1
        and A.dtype in KINDS
        and not kernels.is_given_up(_WHAT)
    )


def torch_hands_over_batches() -> bool:
    """Whether ``torch.linalg.eigh`` calls ``XsyevBatched`` itself."""
    return torch.torch_version.__version__ >= "2.12"


def eigh(A: Tensor, strict: bool) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues and eigenvectors of what :func:`takes` takes, NaN for bad matrices; or None, after one warning.

    Raises:
        torch.linalg.LinAlgError: if ``strict``, which waits, for a bad matrix.
    """
    finite = A.tril().isfinite().flatten(-2).all(dim=-1)
    L, V = values_like(A), vectors_like(A).copy_(torch.where(finite[..., None, None], A, 0.0))
    of_all, own = L.flatten(0, -2), V.mT.flatten(0, -3).mT
    try:
        with kernels.on(A.device):
            solver = _solver(threading.get_ident(), A.device)
            solver.to_current_stream()
            pieces = zip(of_all.split(reference.PIECE), own.split(reference.PIECE), strict=True)
            codes = torch.cat([solver.xsyev(*piece) for piece in pieces])
    except CuSolverError as error:
        kernels.give_up(_WHAT, str(error))
        return None
    finite = finite & (codes == 0).view(finite.shape)
    if strict and not finite.all():
        raise torch.linalg.LinAlgError(reference.not_finite(int(finite.logical_not().flatten().nonzero()[0])))
    return torch.where(finite[..., None], L, torch.nan), torch.where(finite[..., None, None], V.mT, torch.nan).mT


_WHAT = "XsyevBatched"


@functools.cache
def _solver(thread: int, device: torch.device) -> CuSolver:
    """A handle for each thread, as cuSOLVER wants it."""
    return CuSolver()


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
