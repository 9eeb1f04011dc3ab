"""What can be said of the GPU's kernels without a GPU: what each takes of an H100, and how long it should take.

    python -m benchmarks.gpu_forecast

Registers are those of NVRTC's code for sm_90. Phases are counted on a CPU that emulates a block. The time is the
longest of four: bytes at 3.0 TB/s; operations at 60 TFLOP/s; accesses of shared or a thread's own memory at 32 a cycle
on 132 multiprocessors of 1.7 GHz; and phases one after the other, of 150 cycles, in as many waves as occupancy makes of
the batch. Launches take 5 us each and are not in it.

Writes ``results/gpu-forecast.md``. Needs NVRTC (``pip install nvidia-cuda-nvrtc``) and a C++ compiler, and no GPU.
"""

import functools
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from emulation import FakeDevice, fake_device

import eigengrad as eg
from benchmarks.timing import RESULTS, write
from eigengrad import native
from eigengrad.gpu import kernels, operators, passes
from eigengrad.gpu.compiler import OPTIONS, Compiler
from eigengrad.nn.functional import moments

BANDWIDTH, FLOPS, CLOCK, PROCESSORS = 3.0e12, 60e12, 1.7e9, 132
REGISTERS, SHARED, THREADS, BLOCKS = 65_536, 227 * 1024, 2048, 32
"""Of a multiprocessor; and the blocks it holds."""
PHASE = 150
"""Cycles of a phase at least: a wait, a chain of loads and multiplications, and in the mean half a division."""


@dataclass(frozen=True)
class Row:
    """A kernel at work on a batch: ``count`` matrices, or groups of channels; the rest is for one."""

    name: str
    kernel: kernels.Kernel
    count: int
    bytes: float
    flops: float
    accesses: float
    phases: int


@functools.cache
def usage(compiler: Compiler, kernel: kernels.Kernel) -> tuple[int, int]:
    """Registers, and bytes that spill."""
    _, log = compiler.compile(kernel.code, ("--gpu-architecture=sm_90", *OPTIONS, "--ptxas-options=-v"))
    return int(re.findall(r"Used (\d+) registers", log)[0]), int(re.findall(r"(\d+) bytes spill stores", log)[0])


def resident(kernel: kernels.Kernel, registers: int) -> int:
    """Blocks that a multiprocessor holds at once."""
    warps = -(-kernel.threads // 32)
    of_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    return min(of_registers, SHARED // (kernel.shared + 1024), THREADS // kernel.threads, BLOCKS)


def seconds(row: Row, blocks: int) -> dict[str, float]:
    """By what bounds it."""
    waves = -(-row.count // (row.kernel.matrices * blocks * PROCESSORS))
    return {
        "bandwidth": row.count * row.bytes / BANDWIDTH,
        "arithmetic": row.count * row.flops / FLOPS,
        "shared memory": row.count * row.accesses / (32 * PROCESSORS * CLOCK),
        "latency": waves * row.phases * PHASE / CLOCK,
    }


def counted(device: FakeDevice, call: Callable[[], object]) -> int:
    """Phases of one block."""
    call()
    return device.cuda.phases()


def of_matrices(device: FakeDevice, batches: tuple[tuple[int, int], ...]) -> list[Row]:
    """Decompositions, roots and gradients of so many matrices of a size, in single precision."""
    rows = []
    for n, count in batches:
        X = torch.randn(1, n, n, generator=torch.Generator().manual_seed(n))
        A = X @ X.mT + torch.eye(n)
        L, V = torch.linalg.eigh(A)
        eigh = counted(device, lambda A=A: operators.eigh(A, True, False, False))  # type: ignore[misc]
        root = counted(device, lambda A=A: operators.root(A, True, 0.0, True, False))  # type: ignore[misc]
        back = counted(device, lambda V=V, L=L: operators.pull_back(V, V, L, None, 3))  # type: ignore[misc]
        if n <= kernels.LARGEST_BY_THREAD:  # a thread's own work is one long phase: about 8 and 20 n^3 operations
            chain = {"eigh": 12 * n**3 // 10, "root": 22 * n**3 // 10, "back": 8 * n**3 // 10}
            solve, accesses = 9 * n**3, 0 if n <= 4 else 20 * n**3
        else:
            sweeps = (eigh - 6) / (2 * n + 2)
            chain = {"eigh": eigh, "root": root, "back": back}
            solve, accesses = 6 * sweeps * n**3, sweeps * n * (8 * n**2 / 4 + 6 * n**2 / 2)
        square, products = 4 * n * n, 2 * n**3
        for name, kernel, moved, flops, extra in (
            ("eigh", "eigh", 2 * square + 4 * n, solve, 0),
            ("root", "decompose", 3 * square + 4 * n, solve + 6 * products, 6 * n**3),
            ("back", "pull_back", 3 * square + 4 * n, 4 * products, 4 * n**3),
        ):
            label = {"eigh": "eigh", "root": "inv_sqrtm", "back": "its gradient"}[name]
            at_work = (accesses if name != "back" else 0) + (extra if n > 4 else 0)
            on = kernels.kernel(kernel, n, torch.float32)
            rows.append(Row(f"{label}, n = {n}", on, count, moved, flops, at_work, chain[name]))
    return rows


def of_passes(channels: int = 64, observations: int = 128 * 32 * 32) -> list[Row]:
    """Of a layer at batch 128 on 32 x 32 images, 64 channels."""
    rows = []
    for d in (4, 16, 64):
        groups = channels // d
        chunks = max(1, min(observations // passes.CHUNK, passes.MOST_BLOCKS // groups))
        numbers = d * observations / chunks
        tiles = -(-observations // chunks // (4096 // (-(-d // 4) * 4)))
        for name, arrays, products, phases in (
            ("moments_of_chunks", 1, 1, 3),
            ("affine_of_chunks", 2, 1, 3),
            ("affine_backward_of_chunks", 3, 2, 4),
            ("moments_backward_of_chunks", 3, 1, 3),
        ):
            kernel = kernels.of_pass(name, d, torch.float32)
            accesses = numbers * (2 * arrays + products * d / 2)
            label = f"{name.removesuffix('_of_chunks')}, d = {d}"
            moved, flops = 4 * arrays * numbers, 2 * products * d * numbers
            rows.append(Row(label, kernel, groups * chunks, moved, flops, accesses, tiles * phases * 3))
    return rows


def steps(device: FakeDevice, patch: pytest.MonkeyPatch) -> dict[int, int]:
    """Launches of a layer's training step, counted, by the size of its groups."""
    for name, implementation in (operators.IMPLEMENTATIONS | passes.IMPLEMENTATIONS).items():
        patch.setattr(native.operators, name, implementation)
    patch.setattr(moments, "_in_one_pass", passes.takes)
    launches = {}
    for d in (4, 16, 64):
        before = len(device.cuda.launches)
        layer, x = eg.nn.ZCAWhitening(64, group_size=d), torch.randn(8, 64, 8, 8, requires_grad=True)
        layer(x).square().sum().backward()
        launches[d] = len(device.cuda.launches) - before
    return launches


LAUNCH = 5e-6
"""Seconds."""


def longest(compiler: Compiler, row: Row) -> float:
    """Seconds, by what bounds it."""
    return max(seconds(row, resident(row.kernel, usage(compiler, row.kernel)[0])).values())


def main() -> None:
    """Count, compute, write."""
    compiler = Compiler()
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as cache, fake_device(patch, Path(cache)) as device:
        rows = of_matrices(device, ((3, 65_536), (8, 4096), (16, 4096), (32, 1024), (64, 128))) + of_passes()
        of_step = {d: of_matrices(device, ((d, 64 // d),))[1:] for d in (4, 16, 64)}
        launches = steps(device, patch)
    patch.undo()
    lines = [
        f"Forecast, not a measurement: `python -m benchmarks.gpu_forecast`, NVRTC {compiler.version} for sm_90.",
        "",
        "| kernel | batch | registers | spilled bytes | shared KB | blocks x threads | occupancy | MB | GFLOP "
        "| predicted | bound by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        registers, spilled = usage(compiler, row.kernel)
        blocks = resident(row.kernel, registers)
        times = seconds(row, blocks)
        bound = max(times, key=lambda name: times[name])
        lines.append(
            f"| {row.name} | {row.count:,} | {registers} | {spilled} | {row.kernel.shared / 1024:.1f} | {blocks} x "
            f"{row.kernel.threads} | {blocks * row.kernel.threads / THREADS:.0%} | {row.count * row.bytes / 1e6:.3g} | "
            f"{row.count * row.flops / 1e9:.3g} | {1e6 * times[bound]:.3g} us | {bound} |"
        )
    lines += [
        "",
        "A training step of `ZCAWhitening(64, group_size=d)` on 128 images of 32 x 32, with the exact gradient.",
        "Launches are counted, and of 5 us each; the smaller kernels take no more. The data is 33.6 MB.",
        "",
        "| d | launches | MB | passes | root and its gradient | launches | in all |",
        "|---|---|---|---|---|---|---|",
    ]
    for d, matrices in of_step.items():
        own = [row for row in rows if row.name.endswith(f", d = {d}")]
        parts = [1e6 * sum(longest(compiler, row) for row in some) for some in (own, matrices)]
        parts.append(1e6 * LAUNCH * launches[d])
        shown = " | ".join(f"{part:.3g} us" for part in (*parts, sum(parts)))
        lines.append(f"| {d} | {launches[d]} | {sum(row.count * row.bytes for row in own) / 1e6:.3g} | {shown} |")
    write(RESULTS / "gpu-forecast.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
