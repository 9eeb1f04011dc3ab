"""Kernels of a GPU on a CPU: CUDA's driver and NVRTC as Python objects that record what they are asked for, and run it.

What NVRTC would compile is compiled by the C++ compiler instead (``emulate.hpp``), once for all tests. The way there is
the one of a GPU: operator, arguments, cache, launch.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from eigengrad import native
from eigengrad.gpu import kernels, operators, sources
from eigengrad.gpu.compiler import Compiler
from eigengrad.gpu.driver import Driver

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
HERE = Path(__file__).parent
STREAM = 0x5EED
SIZES = (1, 2, 3, 4, 5, 7, 8)
"""Of matrices that a thread has to itself."""
LARGE = (9, 16, 31, 64)
"""Of those that a block has."""
DTYPES = (torch.float32, torch.float64)


def emulated(header: str) -> list[kernels.Kernel]:
    """The kernels of one header that tests run."""
    found = [
        kernels.kernel(name, n, dtype)
        for name in ("decompose", "refine", "recompose", "pull_back")
        for n in (*SIZES, *LARGE)
        for dtype in DTYPES
    ]
    for dtype in (*DTYPES, torch.float16, torch.bfloat16):
        for name in ("moments", "moments_backward", "affine", "affine_backward"):
            found.append(kernels.of_pass(f"{name}_of_chunks", 4, dtype))
        for name in ("moments_of_groups", "affine_backward_of_groups", "update_of_groups"):
            found.append(kernels.of_pass(name, 4, dtype))
    return [kernel for kernel in found if kernel.header == header]


def fused() -> bool:
    """Whether the native kernel rounds a multiply-add once."""
    return native.instructions() != "baseline" or os.uname().machine == "aarch64"


@functools.cache
def library(header: str, fused: bool) -> ctypes.CDLL:
    """The kernels of one header, compiled for this processor; processes that run tests side by side share it."""
    entries = {}
    for kernel in emulated(header):
        T = "float" if kernel.dtype == torch.float32 else "double"
        arguments = f"eigengrad::{kernel.arguments}"
        call = f"with_untyped<{arguments}, {T}, {kernel.function}>"
        entries[kernel.function] = f'{{"{kernel.function}", {call}}},'
    code = f"""#include "gpu/{header}.hpp"
#include "emulate.hpp"
using namespace eigengrad::emulation;
using namespace eigengrad::gpu;
static const Named kernels[] = {{
{os.linesep.join(entries.values())}
}};
extern "C" int emulate(const char* name, const void* arguments, long blocks, int threads, long shared, unsigned seed) {{
    for (const Named& each : kernels)
        if (std::strcmp(each.name, name) == 0) return run(each.kernel, arguments, blocks, threads, shared, seed);
    return -1;
}}
extern "C" long phases() {{ return eigengrad::emulation::phases; }}
"""
    command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-DEIGENGRAD_ISA=gpu"]
    command += ["-DEIGENGRAD_SCALAR", f"-I{sources.folder()}", f"-I{HERE}", *(["-mfma"] if fused else [])]
    if os.uname().machine != "x86_64":
        command.remove("-mfma")
    known = (code, command, sorted(sources.headers().items()), (HERE / "emulate.hpp").read_text())
    folder = Path(tempfile.gettempdir()) / f"eigengrad-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{header}-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}.so"
    with _locked(path.with_suffix(".lock")):
        if not path.exists():
            source, unfinished = path.with_suffix(".cpp"), path.with_suffix(".part")
            source.write_text(code)
            subprocess.run([*command, str(source), "-o", str(unfinished)], check=True)
            unfinished.replace(path)
    return ctypes.CDLL(str(path))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class FakeNvrtc:
    """NVRTC, whose machine code is the source."""

    def __init__(self) -> None:
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.fails = ""
        self._code = b""

    def nvrtcVersion(self, major: Any, minor: Any) -> int:  # noqa: N802
        major._obj.value, minor._obj.value = 13, 5
        return 0

    def nvrtcCreateProgram(self, program: Any, code: bytes, name: bytes, count: int, texts: Any, names: Any) -> int:  # noqa: N802
        assert len(texts) == len(names) == count
        program._obj.value = 1
        self._code = code
        return 0

    def nvrtcCompileProgram(self, program: Any, count: int, options: Any) -> int:  # noqa: N802
        self.compiled.append((self._code.decode(), tuple(option.decode() for option in options)))
        return 6 if self.fails else 0

    def nvrtcDestroyProgram(self, program: Any) -> int:  # noqa: N802
        return 0

    def __getattr__(self, name: str) -> Any:
        text = self.fails.encode() + b"\0" if "ProgramLog" in name else self._code

        def size(program: Any, into: Any) -> int:
            into._obj.value = len(text)
            return 0

        def content(program: Any, into: Any) -> int:
            ctypes.memmove(into, text, len(text))
            return 0

        return size if name.endswith("Size") else content


class FakeCuda:
    """CUDA's driver, which runs a launch before it returns."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []
        """Function, blocks, threads, bytes of shared memory, stream."""
        self.shared: dict[str, int] = {}
        self._allowed: dict[int, int] = {}
        self.loaded: list[str] = []
        self.phases: Any = None
        """Calling it gives the phases of the last launch, of all its blocks."""
        self.fails = ""
        self.seed = 17
        """Of the order of threads; 0 for their own order."""
        self.context: int | None = None

    def cuCtxGetCurrent(self, context: Any) -> int:  # noqa: N802
        context._obj.value = self.context
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:  # noqa: N802
        context._obj.value = 0xC0 + device
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        self.context = context.value
        return 0

    def cuModuleLoadData(self, module: Any, binary: Any) -> int:  # noqa: N802
        assert self.context
        if self.fails == "load":
            return 209
        (name,) = re.findall(r"    (\w+<.*>)\(arguments,", binary.value.decode())
        (header,) = re.findall(r'"gpu/(\w+).hpp"', binary.value.decode())
        self.loaded.append(name)
        self._headers = {**getattr(self, "_headers", {}), name: header}
        module._obj.value = len(self.loaded)
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:  # noqa: N802
        assert name == b"kernel"
        function._obj.value = module.value
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:  # noqa: N802
        assert attribute == 8
        self.shared[self.loaded[function.value - 1]] = self._allowed[function.value] = value
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"no kernel image is available for execution on the device"
        return 0

    def cuLaunchKernel(self, function: Any, *given: Any) -> int:  # noqa: N802
        blocks, one, two, threads, three, four, shared, stream, parameters, extra = given
        assert (one, two, three, four, extra) == (1, 1, 1, 1, None)
        assert self.context
        if self.fails == "launch":
            return 700
        name = self.loaded[function.value - 1]
        assert shared <= self._allowed.get(function.value, 48 * 1024)
        self.launches.append((name, blocks, threads, shared, stream.value))
        emulate = library(self._headers[name], fused()).emulate
        emulate.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_long, ctypes.c_uint)
        self.phases = library(self._headers[name], fused()).phases
        code = emulate(name.encode(), parameters[0], blocks, threads, shared, self.seed)
        assert code == 0, f"{name}: {('not among those that are emulated', '', 'waits', 'memory')[code + 1]}"
        return 0


class FakeDevice:
    """The two libraries, and the launcher over them."""

    def __init__(self) -> None:
        self.nvrtc, self.cuda = FakeNvrtc(), FakeCuda()
        self.launcher = kernels.Launcher(Compiler(self.nvrtc), Driver(self.cuda))


@contextlib.contextmanager
def fake_device(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeDevice]:
    """Our CUDA implementations on tensors of a CPU, with a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(kernels, "on", lambda device: contextlib.nullcontext(STREAM))
    monkeypatch.setattr(kernels, "capability", lambda device: (9, 0))
    monkeypatch.setattr(operators, "is_capturing", lambda: False)
    device = FakeDevice()
    monkeypatch.setattr(kernels, "launcher", lambda: device.launcher)
    yield device
