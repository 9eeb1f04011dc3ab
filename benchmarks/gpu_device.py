"""What the benchmarks on a GPU share: the device with its clock, its memory and its own rivals; results that resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.cusolver import CuSolver, CuSolverError
from benchmarks.timing import write

__all__ = [
    "CUPY",
    "NO_GPU",
    "SYEVJ",
    "XSYEV",
    "Candidate",
    "Candidates",
    "Cuda",
    "Device",
    "first_line",
    "store",
    "stored",
]

NO_GPU = "benchmarks.{}: there is no GPU that torch can use; nothing was measured"
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
            XSYEV: self._routine("in_one_call", A),
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


def store(path: Path, origin: dict[str, Any], cases: dict[str, Any]) -> None:
    """All cases so far, with their provenance."""
    write(path, json.dumps({"provenance": origin, "cases": cases}, indent=1) + "\n")


def stored(path: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """The cases in a file, none if there is no file.

    Raises:
        SystemExit: if it is no such file, or of another device or version: figures of two would be compared.
    """
    if not path.exists():
        return {}
    try:
        contents = json.loads(path.read_text())
        there, cases = dict(contents["provenance"]), dict(contents["cases"])
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no result of this benchmark ({error!r}); move it away") from error
    for key in ("command", "device", "torch", "cuda", "eigengrad", "dtype", "images"):
        if there.get(key) != origin.get(key):
            raise SystemExit(f"{path} is of {key} {there.get(key)}, not {origin.get(key)}; move it away and start anew")
    return cases
