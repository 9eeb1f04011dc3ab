"""cuSOLVER's batched eigendecompositions without torch between: the rivals of ``benchmarks/gpu.py``.

Called by their C interface, from the library that ships beside torch. Signatures as in ``cusolverDn.h`` of CUDA 13;
those of ``XsyevBatched`` are the same in CUDA 12. Both overwrite their input, so each call begins with a copy;
workspace is allocated once, before.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["CuSolver", "CuSolverError", "library"]

EIGENVECTORS, LOWER = 1, 0  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER
REAL = {torch.float32: 0, torch.float64: 1}  # CUDA_R_32F, CUDA_R_64F
PREFIX = {torch.float32: "S", torch.float64: "D"}

Decomposition = Callable[[], tuple[Tensor, Tensor]]


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
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._call("cusolverDnSetStream", self._handle, stream)

    def syevj(self, A: Tensor) -> Decomposition:
        """``syevjBatched`` of contiguous symmetric ``A (B, n, n)``: Jacobi rotations, all sweeps until it converges."""
        batch, n, V, L, info = self._prepared(A)
        name, size = f"cusolverDn{PREFIX[A.dtype]}syevjBatched", ctypes.c_int()
        settings = self._object("cusolverDnCreateSyevjInfo")
        shape = (self._handle, EIGENVECTORS, LOWER, n, _pointer(V), n, _pointer(L))
        self._call(f"{name}_bufferSize", *shape, ctypes.byref(size), settings, batch)
        work = A.new_empty(max(size.value, 1))

        def decompose() -> tuple[Tensor, Tensor]:
            V.copy_(A)
            self._call(name, *shape, _pointer(work), size, _pointer(info), settings, batch)
            return L, V.mT  # cuSOLVER's matrices are stored by columns

        return decompose

    def xsyev(self, A: Tensor) -> Decomposition:
        """``XsyevBatched`` of contiguous symmetric ``A (B, n, n)``, what torch calls from 2.12 on."""
        batch, n, V, L, info = self._prepared(A)
        name, kind, whole = "cusolverDnXsyevBatched", REAL[A.dtype], ctypes.c_int64
        settings = self._object("cusolverDnCreateParams")
        on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
        shape = (self._handle, settings, EIGENVECTORS, LOWER, whole(n), kind, _pointer(V), whole(n), kind, _pointer(L))
        sizes = (ctypes.byref(on_device), ctypes.byref(on_host))
        self._call(f"{name}_bufferSize", *shape, kind, *sizes, whole(batch))
        work = torch.empty(max(on_device.value, 1), dtype=torch.uint8, device=A.device)
        host = ctypes.create_string_buffer(max(on_host.value, 1))

        def decompose() -> tuple[Tensor, Tensor]:
            V.copy_(A)
            buffers = (_pointer(work), on_device, ctypes.cast(host, ctypes.c_void_p), on_host)
            self._call(name, *shape, kind, *buffers, _pointer(info), whole(batch))
            return L, V.mT

        return decompose

    def _prepared(self, A: Tensor) -> tuple[int, int, Tensor, Tensor, Tensor]:
        """Sizes, and memory for eigenvectors, eigenvalues and error codes."""
        assert A.dtype in REAL and A.dim() == 3 and A.is_contiguous()
        batch, n, _ = A.shape
        return batch, n, torch.empty_like(A), A.new_empty(batch, n), A.new_zeros(batch, dtype=torch.int32)

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


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
