"""The kernels: which one a batch takes, how it is laid out on the device, and its launch.

Up to :data:`LARGEST_BY_THREAD` rows a thread has a matrix to itself, up to :data:`LARGEST` a block has; see
``native/gpu``. A kernel is compiled and loaded when a device first wants it.
"""

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch

from eigengrad.gpu import arguments
from eigengrad.gpu.compiler import Compiler, CompilerError
from eigengrad.gpu.driver import Driver, DriverError

__all__ = [
    "LARGEST",
    "LARGEST_BY_THREAD",
    "Kernel",
    "Launcher",
    "give_up",
    "is_given_up",
    "kernel",
    "launcher",
    "of_pass",
    "on",
    "trouble",
]

LARGEST_IN_REGISTERS = 4
LARGEST_BY_THREAD = 8
LARGEST = 64

trouble: list[str] = []
"""Why kernels are not in use, each reason once."""

_BY_THREAD = {"eigh": (2, 1), "decompose": (2, 1), "refine": (2, 1), "recompose": (1, 1), "pull_back": (3, 1)}
_BY_BLOCK = {"eigh": (2, 5), "decompose": (4, 2), "refine": (4, 1), "recompose": (3, 1), "pull_back": (4, 3)}
"""Matrices and vectors that a kernel has in shared memory, of each thread's matrix or of the block's."""
_ARGUMENTS = {
    "eigh": "DecomposeArguments",
    "decompose": "DecomposeArguments",
    "refine": "RefineArguments",
    "recompose": "RecomposeArguments",
    "pull_back": "DerivativeArguments",
}
_FUNCTIONS = {"eigh": "decompose"}
_NAMES = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "BFloat"}


class Kernel(NamedTuple):
    """One kernel, and how it is launched."""

    header: str
    function: str
    arguments: str
    dtype: torch.dtype
    threads: int
    """Of a block."""
    shared: int
    """Bytes of a block."""
    matrices: int
    """Of a block."""

    @property
    def in_registers(self) -> bool:
        """Whether all numbers of a matrix are."""
        return self.header == "thread" and "up_to_8" not in self.function

    @property
    def code(self) -> str:
        """What is compiled."""
        T = _NAMES[self.dtype]
        size = ctypes.sizeof(getattr(arguments, self.arguments.split("<")[0]))
        return (
            f"{'' if self.in_registers else '#define EIGENGRAD_IN_MEMORY' + chr(10)}"
            f'#include "gpu/{self.header}.hpp"\n'
            "using namespace eigengrad::gpu;\n"
            f"static_assert(sizeof(eigengrad::{self.arguments}) == {size});\n"
            f'extern "C" __global__ void __launch_bounds__({self.threads})\n'
            f"kernel(const __grid_constant__ eigengrad::{self.arguments} arguments) {{\n"
            "    extern __shared__ __align__(16) char shared[];\n"
            f"    {self.function}(arguments, reinterpret_cast<{T}*>(shared));\n"
            "}\n"
        )


@functools.cache
def kernel(name: str, n: int, dtype: torch.dtype) -> Kernel:
    """That of an operation on matrices of size n.

    Args:
        name: ``"eigh"``, ``"decompose"`` (with what comes after it), ``"refine"``, ``"recompose"`` or ``"pull_back"``.
        n: from 1 to :data:`LARGEST`.
        dtype: float32 or float64.
    """
    return _by_thread(name, n, dtype) if n <= LARGEST_BY_THREAD else _by_block(name, n, dtype)


def _by_thread(name: str, n: int, dtype: torch.dtype) -> Kernel:
    threads = 32
    matrices, vectors = _BY_THREAD[name]
    numbers = matrices * (n * n | 1) + vectors * (n | 1)
    size = n if n <= LARGEST_IN_REGISTERS else "up_to_8"
    function = f"{_FUNCTIONS.get(name, name)}_by_thread<{size}, {_NAMES[dtype]}>"
    given = f"{_ARGUMENTS[name]}<{_NAMES[dtype]}>"
    return Kernel("thread", function, given, dtype, threads, threads * numbers * dtype.itemsize, threads)


def _by_block(name: str, n: int, dtype: torch.dtype) -> Kernel:
    threads = 64 if n <= 16 else 128 if n <= 32 else 256
    matrices, vectors = _BY_BLOCK[name]
    numbers = matrices * (n * (n | 1) + n) + vectors * (n + 2)
    function = f"{_FUNCTIONS.get(name, name)}_by_block<{_NAMES[dtype]}>"
    given = f"{_ARGUMENTS[name]}<{_NAMES[dtype]}>"
    return Kernel("block", function, given, dtype, threads, numbers * dtype.itemsize, 1)


@functools.cache
def of_pass(name: str, d: int, dtype: torch.dtype) -> Kernel:
    """A pass over the data of groups of d channels, one of each group's chunks to a block, or what adds them up.

    Args:
        name: that of the function in ``native/gpu/passes.hpp``.
        d: from 1 to :data:`LARGEST`.
        dtype: of the data; for what adds up, of the sums.
    """
    working = torch.promote_types(dtype, torch.float32)
    room, tile = -(-d // 4) * 4, 4096
    mapped = room * room + 2 * room + 2 * tile
    numbers, given = {
        "moments_of_chunks": (2 * room + room * room + tile + 64, "MomentsArguments"),
        "moments_of_groups": (3 * room, "MomentsArguments"),
        "moments_backward_of_chunks": (mapped, "MomentsBackwardArguments"),
        "affine_of_chunks": (mapped, "AffineArguments"),
        "affine_backward_of_chunks": (room * room + room + 3 * tile, "AffineBackwardArguments"),
        "affine_backward_of_groups": (room * room + room, "AffineBackwardArguments"),
        "update_of_groups": (2, "UpdateArguments"),
    }[name]
    of_data = name.endswith("_of_chunks")
    types = f"<{_NAMES[dtype]}, {_NAMES[working]}>" if of_data else f"<{_NAMES[working]}>"
    return Kernel("passes", name + types, given, working, 256, numbers * working.itemsize, 1)


class Launcher:
    """Kernels of this process, by device.

    Args:
        compiler: NVRTC.
        driver: CUDA's.
    """

    def __init__(self, compiler: Compiler, driver: Driver) -> None:
        self._compiler, self._driver = compiler, driver
        self._functions: dict[tuple[torch.device, Kernel], int | None] = {}
        self._lock = threading.Lock()

    def has(self, kernel: Kernel, device: torch.device) -> bool:
        """Whether the kernel is there, which it is from the first call on, unless it does not compile or load."""
        found = self._functions.get((device, kernel), 0)
        return (self._load(kernel, device) if found == 0 else found) is not None

    def launch(self, kernel: Kernel, count: int, of: ctypes.Structure, device: torch.device) -> None:
        """Queue a kernel that is there for ``count`` matrices on the device's current stream.

        Raises:
            DriverError: if it cannot be launched.
        """
        function = self._functions[device, kernel]
        assert function is not None
        with on(device) as stream:
            self._driver.bind(device.index or 0)
            blocks = -(-count // kernel.matrices)
            self._driver.launch(function, blocks, kernel.threads, kernel.shared, stream, of)

    def _load(self, kernel: Kernel, device: torch.device) -> int | None:
        with self._lock:
            if (device, kernel) not in self._functions:
                function = None
                try:
                    with on(device):
                        self._driver.bind(device.index or 0)
                        binary = self._compiler.binary(kernel.code, capability(device))
                        function = self._driver.load(binary, kernel.shared)
                except (CompilerError, DriverError) as error:
                    _warn(str(error))
                self._functions[device, kernel] = function
            return self._functions[device, kernel]


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability."""
    return torch.cuda.get_device_capability(device)


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[int]:
    """The device as the current one, and its current stream."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


@functools.cache
def launcher() -> Launcher | None:
    """What launches; or None, after a warning, where compiler or driver is missing."""
    try:
        return Launcher(Compiler(), Driver())
    except (CompilerError, DriverError) as error:
        _warn(str(error))
        return None


_given_up: set[str] = set()


def give_up(what: str, reason: str) -> None:
    """Not to try again what has failed in this process; the first reason is a warning."""
    _given_up.add(what)
    _warn(reason)


def is_given_up(what: str) -> bool:
    """Whether it has failed."""
    return what in _given_up


def _warn(reason: str) -> None:
    if reason not in trouble:
        trouble.append(reason)
        warnings.warn(
            f"eigengrad works through torch.linalg on this GPU, which is slower: {reason}. With EIGENGRAD_GPU=0 it "
            "does so without saying",
            RuntimeWarning,
            stacklevel=2,
        )
