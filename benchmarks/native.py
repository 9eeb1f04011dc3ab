"""The compiled kernel against LAPACK, forward and with gradients, over sizes and batches; and the table for ``"auto"``.

    python -m benchmarks.native DTYPE THREADS     measures one quarter of the grid, in about two minutes
    python -m benchmarks.native                   collects the four quarters, draws the picture, checks the claims

Matrices are random and symmetric. NumPy calls the same LAPACK routine one matrix after the other, as torch does.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import RESULTS, claim, ratios, report
from eigengrad import native, native_wins, solvers

SIZES = (2, 3, 4, 5, 8, 16, 24, 32, 48, 64, 96, 128, 256)
BATCHES = (1, 2, 4, 8, 16, 64, 256, 4096, 100_000)
LONGEST = 0.15
"""Seconds that LAPACK may take for a case to be measured."""

TARGETS = {
    "float32": {(3, 4096): 40, (3, 100_000): 90, (4, 4096): 28, (4, 100_000): 50, (8, 4096): 25, (16, 4096): 20,
                (32, 256): 13, (64, 256): 6.5, (128, 64): 3},
    "float64": {(3, 4096): 28, (3, 100_000): 50, (4, 4096): 17, (4, 100_000): 30, (8, 4096): 13, (16, 4096): 12,
                (32, 256): 8, (64, 256): 5, (128, 64): 2.2},
}  # fmt: skip
"""How many times faster than ``torch.linalg.eigh`` the kernel should be on two threads, by n and batch."""


def symmetric(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Random symmetric matrices ``(batch, n, n)``."""
    X = torch.randn(batch, n, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    return (X + X.mT) / 2


def step(decompose: Callable[[Tensor], tuple[Tensor, Tensor]], A: Tensor, gL: Tensor, gV: Tensor) -> None:
    """Forward and backward with given cotangents."""
    torch.autograd.grad(decompose(A), A, (gL, gV))


def root_by_autograd(A: Tensor) -> Tensor:
    """What one writes without this package."""
    L, V = torch.linalg.eigh(A)
    return (V * L.rsqrt().unsqueeze(-2)) @ V.mT


def measure(dtype: torch.dtype, threads: int) -> None:
    """One quarter of the grid, to a file of its own."""
    torch.set_num_threads(threads)
    auto, kernel = solvers.Auto(), solvers.Native()
    measured = {}
    for n in SIZES:
        for batch in BATCHES:
            cost = batch * n**2 * (9e-8 if n < 8 else 6e-8)  # LAPACK, roughly
            if cost > LONGEST or batch * n * n > 2**27:
                continue
            A = symmetric(batch, n, dtype)
            rounds = max(3, min(9, int(0.1 / cost)))
            rivals: dict[str, Callable[[], object]] = {
                "torch.linalg.eigh": lambda A=A: torch.linalg.eigh(A),
                "auto": lambda A=A: auto(A),
            }
            if batch in (16, 4096):
                rivals["numpy.linalg.eigh"] = lambda A=A: np.linalg.eigh(A.numpy())
            measured[f"forward, n = {n}, batch {batch}"] = ratios(
                lambda A=A: kernel(A), rivals, rounds=rounds, warmup=1
            )
            if batch in (256, 4096):
                P = (A @ A.mT + torch.eye(n, dtype=dtype)).requires_grad_()
                gL, gV = torch.randn(batch, n, dtype=dtype), torch.randn(batch, n, n, dtype=dtype)
                measured[f"eigh step, n = {n}, batch {batch}"] = ratios(
                    lambda P=P, gL=gL, gV=gV: step(eg.eigh, P, gL, gV),
                    {"torch.linalg.eigh": lambda P=P, gL=gL, gV=gV: step(torch.linalg.eigh, P, gL, gV)},
                    rounds=3,
                    warmup=1,
                )
                measured[f"inverse root step, n = {n}, batch {batch}"] = ratios(
                    lambda P=P, gV=gV: torch.autograd.grad(eg.inv_sqrtm(P), P, gV),
                    {"eigh and autograd": lambda P=P, gV=gV: torch.autograd.grad(root_by_autograd(P), P, gV)},
                    rounds=3,
                    warmup=1,
                )
    quarter(str(dtype).removeprefix("torch."), threads).write_text(json.dumps(measured))


def quarter(dtype: str, threads: int) -> Path:
    """Where a quarter waits for the others."""
    return RESULTS / f".native-{dtype}-{threads}.json"


def quarters() -> dict[tuple[str, int], dict[str, dict[str, dict[str, float]]]]:
    """What was measured, by dtype and threads."""
    return {
        (dtype, threads): json.loads(quarter(dtype, threads).read_text())
        for dtype in ("float32", "float64")
        for threads in (1, 2)
    }


def wins(measured: dict[str, dict[str, dict[str, float]]]) -> list[tuple[int, float]]:
    """For each n, the batch from which the kernel is faster than LAPACK by a tenth, at it and at all larger ones."""
    rows: list[tuple[int, float]] = []
    for n in SIZES:
        smallest = math.inf
        for batch in reversed(BATCHES[1:]):  # a single matrix stays with LAPACK
            case = measured.get(f"forward, n = {n}, batch {batch}")
            if case is None:
                continue
            if case["torch.linalg.eigh"]["ratio"] > 0.9:
                break
            smallest = batch
        rows.append((n, smallest))
    return rows


def picture(measured: dict[tuple[str, int], dict[str, dict[str, dict[str, float]]]]) -> None:
    """How many times faster than ``torch.linalg.eigh``, over n and batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9), layout="constrained")
    for axis, ((dtype, threads), cases) in zip(axes.flat, measured.items(), strict=True):
        grid = np.full((len(SIZES), len(BATCHES)), np.nan)
        for i, n in enumerate(SIZES):
            for j, batch in enumerate(BATCHES):
                if case := cases.get(f"forward, n = {n}, batch {batch}"):
                    grid[i, j] = 1 / case["torch.linalg.eigh"]["ratio"]
                    axis.text(j, i, f"{grid[i, j]:.2g}", ha="center", va="center")
        axis.imshow(np.log2(grid), cmap="RdYlGn", vmin=-6, vmax=6, aspect="auto")
        axis.set_xticks(range(len(BATCHES)), [str(b) for b in BATCHES])
        axis.set_yticks(range(len(SIZES)), [str(n) for n in SIZES])
        axis.set(xlabel="batch", ylabel="n", title=f"{dtype}, threads: {threads}")
    figure.suptitle("Times faster than torch.linalg.eigh, forward")
    figure.savefig(RESULTS / "native.png", dpi=80)


def main() -> None:
    """Collect, draw, print the table that ``native_wins.py`` should hold, and assert the claims."""
    measured = quarters()
    report(
        "native", {f"{dtype}, threads {t}, {case}": f for (dtype, t), q in measured.items() for case, f in q.items()}
    )
    picture(measured)
    for key, cases in measured.items():
        print(f"    {key}: {tuple(wins(cases))},".replace("'", '"').replace("inf", "NEVER"))
    for dtype, targets in TARGETS.items():
        for (n, batch), target in targets.items():
            speed = 1 / measured[dtype, 2][f"forward, n = {n}, batch {batch}"]["torch.linalg.eigh"]["ratio"]
            print(
                f"{dtype}, n = {n}, batch {batch}: {speed:.1f}x, target {target}x{'' if speed >= target else ' MISSED'}"
            )
    for n, batch, target in ((8, 4096, 12), (16, 4096, 10), (32, 256, 9), (64, 256, 5)):
        case = measured["float32", 2][f"inverse root step, n = {n}, batch {batch}"]
        speed = 1 / case["eigh and autograd"]["ratio"]
        print(f"inverse root step, n = {n}, batch {batch}: {speed:.1f} times as fast, target {target}")
    worst, where = max(
        (figures["auto"]["rival_seconds"] / figures["torch.linalg.eigh"]["rival_seconds"], f"{key}, {case}")
        for key, cases in measured.items()
        for case, figures in cases.items()
        if "auto" in figures
    )
    claim(
        f"'auto' takes at most 1 / 0.9 of torch.linalg.eigh's time anywhere: {worst:.2f} at {where}", worst <= 1 / 0.9
    )
    assert native.available()
    assert set(native_wins.SMALLEST_BATCH) == set(measured)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(getattr(torch, sys.argv[1]), int(sys.argv[2]))
    else:
        main()
