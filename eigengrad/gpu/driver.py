"""CUDA's driver, by its C interface: kernels loaded from their binaries, and launched on torch's current stream."""

import ctypes
from typing import Any

__all__ = ["Driver", "DriverError"]

_MOST_SHARED_WITHOUT_ASKING = 48 * 1024
_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class DriverError(RuntimeError):
    """A call of the driver failed."""


class Driver:
    """The driver, in whose current context torch works.

    Args:
        library: the shared object, as ctypes loads it.

    Raises:
        DriverError: if there is none.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL("libcuda.so.1")
            except OSError as error:
                raise DriverError(f"CUDA's driver was not found ({error})") from error
        self._library = library

    def bind(self, device: int) -> None:
        """Make torch's context of a device current, in a thread where torch itself has not had to yet.

        A thread of autograd's may have allocated from torch's cache and launched nothing.
        """
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._call("cuCtxSetCurrent", context)

    def load(self, binary: bytes, shared: int) -> int:
        """The function ``kernel`` of a binary, allowed ``shared`` bytes of dynamic shared memory."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(binary))
        self._call("cuModuleGetFunction", ctypes.byref(function), module, b"kernel")
        if shared > _MOST_SHARED_WITHOUT_ASKING:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_SIZE, shared)
        assert function.value is not None
        return function.value

    def launch(
        self, function: int, blocks: int, threads: int, shared: int, stream: int, arguments: ctypes.Structure
    ) -> None:
        """Queue one launch; ``arguments`` are copied."""
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        self._call(
            "cuLaunchKernel",
            ctypes.c_void_p(function),
            *(blocks, 1, 1),
            *(threads, 1, 1),
            shared,
            ctypes.c_void_p(stream),
            parameters,
            None,
        )

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise DriverError(f"{name} failed: {(text.value or b'unknown error').decode()} (error {code})")
