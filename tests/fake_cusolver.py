"""cuSOLVER, as its header declares it, on a CPU: what the calls hand over must be of these types and mean this."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch

DTYPES = {0: torch.float32, 1: torch.float64, 4: torch.complex64, 5: torch.complex128}
POINTER, INT, LONG, SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t


class FakeCuSolver:
    """The routines that are called; LAPACK does the work, on memory that is written by columns."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        """Of each call of XsyevBatched."""
        self.fails = 0
        """The matrix that is said not to have converged, counted from 1."""
        self.cusolverDnCreate = self._declared(self._create, POINTER)
        self.cusolverDnSetStream = self._declared(lambda handle, stream: int(handle != 77), POINTER, POINTER)
        self.cusolverDnCreateSyevjInfo = self._declared(self._create, POINTER)
        self.cusolverDnCreateParams = self._declared(self._create, POINTER)
        jacobi = (POINTER, INT, INT, INT, POINTER, INT, POINTER)
        self.cusolverDnDsyevjBatched_bufferSize = self._declared(
            self._jacobi_size, *jacobi, ctypes.POINTER(INT), POINTER, INT
        )
        self.cusolverDnDsyevjBatched = self._declared(self._jacobi, *jacobi, POINTER, INT, POINTER, POINTER, INT)
        generic = (POINTER, POINTER, INT, INT, LONG, INT, POINTER, LONG, INT, POINTER, INT)
        sizes = (ctypes.POINTER(SIZE), ctypes.POINTER(SIZE), LONG)
        self.cusolverDnXsyevBatched_bufferSize = self._declared(self._generic_size, *generic, *sizes)
        self.cusolverDnXsyevBatched = self._declared(
            self._generic, *generic, POINTER, SIZE, POINTER, SIZE, POINTER, LONG
        )

    @staticmethod
    def _declared(function: Callable[..., int], *types: Any) -> Any:
        return ctypes.CFUNCTYPE(INT, *types)(function)

    @staticmethod
    def _create(where: int) -> int:
        POINTER.from_address(where).value = 77
        return 0

    @staticmethod
    def _jacobi_size(handle, vectors, uplo, n, A, lda, W, size, settings, batch) -> int:
        size[0] = batch * n * n
        return int((handle, vectors, uplo, lda, settings) != (77, 1, 0, n, 77))

    def _jacobi(self, handle, vectors, uplo, n, A, lda, W, work, size, info, settings, batch) -> int:
        ctypes.memset(work, 1, size * 8)
        return int(size != batch * n * n) or self._decompose(A, W, n, batch)

    @staticmethod
    def _generic_size(handle, settings, vectors, uplo, n, kind, A, lda, w_kind, W, c_kind, device, host, batch) -> int:
        device[0], host[0] = 8 * batch * n, 32
        right = (handle, settings, vectors, uplo, lda, c_kind, w_kind) == (77, 77, 1, 0, n, kind, kind % 4)
        return int(not right or kind not in DTYPES)

    def _generic(self, *arguments: int) -> int:
        _, _, _, _, n, kind, A, _, _, W, _, device, on_device, host, on_host, info, batch = arguments
        self.batches.append(batch)
        ctypes.memset(device, 1, on_device)
        ctypes.memset(host, 1, on_host)
        if self.fails:
            ctypes.c_int32.from_address(info + 4 * (self.fails - 1)).value = 3
        return int((on_device, on_host) != (8 * batch * n, 32)) or self._decompose(A, W, n, batch, DTYPES[kind])

    @staticmethod
    def _decompose(A: int, W: int, n: int, batch: int, dtype: torch.dtype = torch.float64) -> int:
        def view(at: int, count: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(at), dtype=dtype)

        columns = view(A, batch * n * n, dtype).view(batch, n, n)
        L, V = torch.linalg.eigh(columns.mT.contiguous())
        view(W, batch * n, dtype.to_real()).copy_(L.flatten())
        columns.copy_(V.mT)
        return 0
