"""What ``benchmarks/gpu.py`` measures on: a CUDA device, its clock, its memory, and rivals that are not torch's."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.cusolver import CuSolver, CuSolverError

__all__ = ["CUPY", "SYEVJ", "XSYEV", "Candidate", "Candidates", "Cuda", "Device", "first_line"]

SYEVJ, XSYEV, CUPY = "syevjBatched", "XsyevBatched", "cupy"

Candidate = Callable[[], Any]
Candidates = dict[str, Candidate | str]
"""By name, what to time; or why it is not there."""


class Device(Protocol):
    """What is measured on. The tests have one of their own."""

    where: torch.device

    def describe(self) -> dict[str, Any]:
        """Its provenance."""
        ...

    def free(self) -> int:
        """Bytes, after giving back what torch keeps."""
        ...

    def milliseconds(self, call: Candidate) -> float:
        """Of one call."""
        ...

    def direct(self, A: Tensor) -> Candidates:
        """Rivals that are not torch's, for a batch of symmetric matrices."""
        ...


class Cuda:
    """The current CUDA device."""

    where = torch.device("cuda")

    def __init__(self) -> None:
        torch.linalg.eigh(torch.eye(2, device=self.where))  # loads the libraries that are looked for next
        try:
            self._cusolver: CuSolver | str = CuSolver()
        except CuSolverError as error:
            self._cusolver = str(error)

    def describe(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(self.where)
        return {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30),
            "cuda": torch.version.cuda,
        }

    def free(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def milliseconds(self, call: Candidate) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def direct(self, A: Tensor) -> Candidates:
        return {
            SYEVJ: self._routine("syevj", A),
            XSYEV: self._routine("xsyev", A),
            CUPY: _cupy(A),
        }

    def _routine(self, name: str, A: Tensor) -> Candidate | str:
        if isinstance(self._cusolver, str):
            return self._cusolver
        try:
            return getattr(self._cusolver, name)(A)
        except (CuSolverError, torch.OutOfMemoryError) as error:
            return first_line(error)


def _cupy(A: Tensor) -> Candidate | str:
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    matrices = cupy.from_dlpack(A)
    return lambda: [torch.from_dlpack(result) for result in cupy.linalg.eigh(matrices)]


def first_line(error: Exception) -> str:
    """What it says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
