"""NVRTC, NVIDIA's compiler as a library, by its C interface; and what it has compiled, kept on disk.

Torch for CUDA brings the library along. A kernel is compiled when it is first used, in one to seven seconds, and lies
from then on in ``$XDG_CACHE_HOME/eigengrad/gpu`` (``~/.cache`` without that variable) under a hash of its sources, the
options, the device's architecture and the compiler's version. A file appears there whole or not at all, whoever else
writes it.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eigengrad.gpu import sources

__all__ = ["Compiler", "CompilerError", "cache_folder"]

OPTIONS = (
    "-std=c++17",
    "-fmad=false",  # a multiply-add is fused where the source says so: the bits of the CPU
    "-default-device",
    "-DEIGENGRAD_ISA=gpu",
    "-DEIGENGRAD_SCALAR",
)


class CompilerError(RuntimeError):
    """NVRTC is not there, or does not compile a kernel."""


def cache_folder() -> Path:
    """Where compiled kernels lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eigengrad" / "gpu"


class Compiler:
    """NVRTC.

    Args:
        library: the shared object, as ctypes loads it; by default the one of torch's own version of CUDA.

    Raises:
        CompilerError: if it is not there.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library or _load()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = f"{major.value}.{minor.value}"

    def binary(self, code: str, capability: tuple[int, int]) -> bytes:
        """The kernel of ``code`` for devices of this compute capability: from disk, or compiled and kept there."""
        options = (f"--gpu-architecture=sm_{capability[0]}{capability[1]}", *OPTIONS)
        name = hashlib.sha256(
            repr((self.version, options, code, sorted(sources.headers().items()))).encode()
        ).hexdigest()
        path = cache_folder() / f"{name}.cubin"
        with contextlib.suppress(OSError):
            return path.read_bytes()
        binary, _ = self.compile(code, options)
        with contextlib.suppress(OSError):  # a full disk, say: the next process compiles again
            _write(path, binary)
        return binary

    def compile(self, code: str, options: tuple[str, ...]) -> tuple[bytes, str]:
        """A device's own code, and what the compiler said."""
        headers = sources.headers()
        text, names = ([item.encode() for item in items] for items in (headers.values(), headers.keys()))
        program = ctypes.c_void_p()
        strings = ctypes.c_char_p * len(headers)
        self._call(
            "CreateProgram",
            ctypes.byref(program),
            code.encode(),
            b"kernel.cu",
            len(headers),
            strings(*text),
            strings(*names),
        )
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), given)
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            if failed:
                raise CompilerError(f"NVRTC {self.version} does not compile a kernel: {log or f'error {failed}'}")
            return self._text(program, "CUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, text)
        return text.raw

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(getattr(self._library, f"nvrtc{name}")(*arguments), f"nvrtc{name}")

    def _check(self, code: int, name: str) -> None:
        if code:
            raise CompilerError(f"{name} failed with error {code}")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _load() -> ctypes.CDLL:
    major = (torch.version.cuda or "").split(".")[0]
    for path in _candidates(major):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(path)
    raise CompilerError(
        f"libnvrtc of CUDA {major or '(torch was built without)'} was not found; it comes with torch for CUDA, "
        f"or by `pip install {'nvidia-cuda-nvrtc-cu12' if major == '12' else 'nvidia-cuda-nvrtc'}`"
    )


def _candidates(major: str) -> Iterator[str]:
    """Of torch's version of CUDA, or of any where torch was built without: NVIDIA's wheels, then the system's."""
    wanted = re.compile(rf"libnvrtc\.so\.{major or '[0-9]+'}$")
    for folder in sys.path:
        for path in sorted((Path(folder) / "nvidia").glob("*/lib/libnvrtc.so.*")):
            if wanted.search(path.name):
                yield str(path)
    if major:
        yield f"libnvrtc.so.{major}"
