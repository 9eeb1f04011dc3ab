"""cuSOLVER's batched eigendecompositions without torch between: the rivals of ``benchmarks/gpu.py``.

Both overwrite their input, so each call begins with a copy; the workspace of Jacobi's rotations is allocated once,
before, that of ``XsyevBatched`` in torch's cache.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from eigengrad.gpu import cusolver
from eigengrad.gpu.cusolver import EIGENVECTORS, LOWER, CuSolverError

__all__ = ["CuSolver", "CuSolverError"]

PREFIX = {torch.float32: "S", torch.float64: "D"}

Decomposition = Callable[[], tuple[Tensor, Tensor]]


class CuSolver(cusolver.CuSolver):
    """A handle on the current stream of the current device, for contiguous symmetric ``A (B, n, n)``."""

    def syevj(self, A: Tensor) -> Decomposition:
        """``syevjBatched``: Jacobi rotations, all sweeps until it converges."""
        batch, n, _ = A.shape
        V, L, info = torch.empty_like(A), A.new_empty(batch, n), A.new_zeros(batch, dtype=torch.int32)
        name, size = f"cusolverDn{PREFIX[A.dtype]}syevjBatched", ctypes.c_int()
        settings = self._object("cusolverDnCreateSyevjInfo")
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (V, L, info)]
        shape = (self._handle, EIGENVECTORS, LOWER, n, pointers[0], n, pointers[1])
        self._call(f"{name}_bufferSize", *shape, ctypes.byref(size), settings, batch)
        work = A.new_empty(max(size.value, 1))

        def decompose() -> tuple[Tensor, Tensor]:
            V.copy_(A)
            self._call(name, *shape, ctypes.c_void_p(work.data_ptr()), size, pointers[2], settings, batch)
            return L, V.mT  # cuSOLVER's matrices are stored by columns

        return decompose

    def in_one_call(self, A: Tensor) -> Decomposition:
        """``XsyevBatched``, what torch calls from 2.12 on."""
        V, L = torch.empty_like(A), A.new_empty(A.shape[:-1])

        def decompose() -> tuple[Tensor, Tensor]:
            V.copy_(A)
            self.xsyev(L, V.mT)
            return L, V.mT

        return decompose
