"""Kernels through NVRTC, for three generations of devices, with limits on registers and on what spills from them.

NVRTC is a library of NVIDIA's that needs no GPU: ``pip install nvidia-cuda-nvrtc`` (58 MB).
"""

import os
import re

import pytest
import torch

from eigengrad.gpu import kernels
from eigengrad.gpu.compiler import OPTIONS, Compiler, CompilerError

try:
    COMPILER = Compiler()
except CompilerError:
    pytest.skip("there is no NVRTC", allow_module_level=True)

SINGLE, DOUBLE = torch.float32, torch.float64
LIMITS = [
    ("decompose", 2, SINGLE, 48),
    ("decompose", 3, SINGLE, 64),
    ("decompose", 4, SINGLE, 80),
    ("decompose", 8, SINGLE, 80),
    ("decompose", 3, DOUBLE, 128),
    ("refine", 3, SINGLE, 64),
    ("recompose", 4, SINGLE, 48),
    ("pull_back", 3, SINGLE, 80),
    ("pull_back", 8, DOUBLE, 96),
    ("decompose", 64, SINGLE, 64),
    ("decompose", 64, DOUBLE, 96),
    ("pull_back", 64, SINGLE, 64),
    ("pull_back", 64, DOUBLE, 80),
]
"""Operation, n, dtype, and the registers of a thread at most."""
SPILLED = 320
"""Bytes of a thread at most. Arrays that are more than the registers hold lie in its own memory and are no spills."""


def usage(kernel: kernels.Kernel, architecture: str) -> tuple[int, int, int]:
    """Registers, bytes that spill, bytes of a thread's own memory."""
    binary, log = COMPILER.compile(kernel.code, (f"--gpu-architecture={architecture}", *OPTIONS, "--ptxas-options=-v"))
    assert binary[:4] == b"\x7fELF"
    (registers,) = re.findall(r"Used (\d+) registers", log)
    stack, spilled = (re.findall(rf"(\d+) bytes {what}", log)[0] for what in ("stack frame", "spill stores"))
    return int(registers), int(spilled), int(stack)


@pytest.mark.parametrize(("name", "n", "dtype", "most"), LIMITS)
def test_registers(name: str, n: int, dtype: torch.dtype, most: int) -> None:
    for architecture in ("sm_80", "sm_90", "sm_100") if n in (3, 64) and dtype == SINGLE else ("sm_90",):
        registers, spilled, stack = usage(kernels.kernel(name, n, dtype), architecture)
        assert registers <= most
        assert spilled <= SPILLED
        if name == "decompose" and n <= 4:
            assert stack == 0  # every number is in a register


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("moments_of_chunks", SINGLE, 80),
        ("moments_of_groups", SINGLE, 48),
        ("affine_of_chunks", torch.bfloat16, 72),
        ("affine_backward_of_chunks", torch.float16, 120),
        ("affine_backward_of_chunks", DOUBLE, 128),
        ("affine_backward_of_groups", SINGLE, 64),
        ("moments_backward_of_chunks", torch.bfloat16, 80),
        ("update_of_groups", SINGLE, 40),
    ],
)
def test_registers_of_passes(name: str, dtype: torch.dtype, most: int) -> None:
    for architecture in ("sm_80", "sm_90", "sm_100"):
        registers, spilled, _ = usage(kernels.of_pass(name, 64, dtype), architecture)
        assert registers <= most
        assert spilled <= 40


def everything() -> list[kernels.Kernel]:
    """Every kernel whose code differs."""
    sizes, floats = (1, 2, 3, 4, 8, 16, 32, 64), (SINGLE, DOUBLE)
    of_matrices = ("eigh", "decompose", "refine", "recompose", "pull_back")
    found = [kernels.kernel(name, n, dtype) for name in of_matrices for n in sizes for dtype in floats]
    for name in ("moments", "moments_backward", "affine", "affine_backward"):
        found += [kernels.of_pass(f"{name}_of_chunks", 64, dtype) for dtype in (*floats, torch.float16, torch.bfloat16)]
    for name in ("moments", "affine_backward", "update"):
        found += [kernels.of_pass(f"{name}_of_groups", 64, dtype) for dtype in floats]
    return list({kernel.code: kernel for kernel in found}.values())


@pytest.mark.skipif("EIGENGRAD_EVERY_KERNEL" not in os.environ, reason="EIGENGRAD_EVERY_KERNEL is not set")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("kernel", everything(), ids=lambda kernel: f"{kernel.function}-{kernel.threads}")
def test_every_kernel_compiles(kernel: kernels.Kernel, architecture: str) -> None:
    """Within the same limit on what spills. Minutes on a machine of its own: asked for by that variable."""
    registers, spilled, _ = usage(kernel, architecture)
    print(f"{architecture} {kernel.function} {kernel.threads} threads: {registers} registers, {spilled} bytes spilled")
    assert spilled <= SPILLED
