"""The compiled kernel against LAPACK, forward and with gradients, over sizes and batches; and the table for ``"auto"``.

    python -m benchmarks.native DTYPE THREADS     measures one quarter of the grid, in about four minutes
    python -m benchmarks.native                   collects the four quarters, draws the picture, checks the claims

Matrices are random and symmetric. Peers that are not installed are left out, and named (:mod:`benchmarks.peers`).
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
from benchmarks import peers
from benchmarks.timing import RESULTS, claim, cores_given, provenance, ratios, wait_for_cores, write
from eigengrad import native, solvers
from eigengrad.native import thresholds

SIZES = (2, 3, 4, 5, 8, 16, 24, 32, 48, 64, 96, 128, 256)
BATCHES = (1, 2, 4, 8, 16, 64, 256, 4096, 100_000)
STEP_BATCHES = (1, 16, 256, 4096, 100_000)
LONGEST, LONGEST_STEP = 4.1, 1.6
"""Seconds that LAPACK may take for a case to be measured, by a rough estimate: all but n = 256 at a batch of 4096 and
n = 32 and more at 100,000; with gradients, the next below those."""

TARGETS = {
    "float32": {(3, 4096): 40, (3, 100_000): 90, (4, 4096): 28, (4, 100_000): 50, (8, 4096): 25, (16, 4096): 20,
                (32, 256): 13, (64, 256): 6.5, (128, 64): 3},
    "float64": {(3, 4096): 28, (3, 100_000): 50, (4, 4096): 17, (4, 100_000): 30, (8, 4096): 13, (16, 4096): 12,
                (32, 256): 8, (64, 256): 5, (128, 64): 2.2},
}  # fmt: skip
"""How many times faster than ``torch.linalg.eigh`` the kernel should be on two threads, by n and batch."""

ROOT_TARGETS = {(2, 4096): 12, (3, 4096): 12, (4, 4096): 12, (8, 4096): 12, (16, 4096): 10, (32, 256): 9, (64, 256): 5}
"""The same for a forward and backward pass of the inverse square root, float32."""

Case = dict[str, float | str | None]
"""One row of the result: which case, our time, and for every rival how many times slower it is."""


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


def undisturbed(
    threads: int, ours: Callable[[], object], rivals: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, dict[str, float]], float]:
    """Ratios, and how many cores the threads had: of three attempts the one with most, or the first with enough."""
    best: tuple[dict[str, dict[str, float]], float] = ({}, 0.0)
    for _ in range(3):
        before = wait_for_cores(threads)
        figures = ratios(ours, rivals, rounds=rounds, warmup=1, seconds=2.0)
        cores = min(before, cores_given(threads))
        if cores > best[1]:
            best = figures, cores
        if cores > 0.8 * threads:
            break
    return best


def measure(dtype: torch.dtype, threads: int) -> None:
    """One quarter of the grid, to a file of its own."""
    others, missing = peers.installed(threads)
    print("not installed:", ", ".join(missing) or "none")
    torch.set_num_threads(threads)
    auto, kernel = solvers.Auto(), solvers.Native()
    cases: list[Case] = []
    for n in SIZES:
        for batch in BATCHES:
            cost = batch * n**2 * (9e-8 if n < 8 else 6e-8)  # LAPACK, roughly
            if cost > LONGEST or batch * n * n > 2**27:
                continue
            rounds = max(3, min(9 if cost > 1e-3 else 101, int(0.1 / cost)))
            A = symmetric(batch, n, dtype)

            def record(what: str, ours: Callable[[], object], rivals: dict[str, Callable[[], object]]) -> None:
                figures, cores = undisturbed(threads, ours, rivals, rounds)  # noqa: B023 (called at once)
                ours_seconds, torch_seconds = figures["torch"]["ours_seconds"], figures["torch"]["rival_seconds"]
                case: Case = {"dtype": str(dtype).removeprefix("torch."), "threads": threads, "pass": what}
                case |= {"n": n, "batch": batch, "cores": cores}  # noqa: B023
                case |= {"ours_us": ours_seconds / batch * 1e6, "torch_us": torch_seconds / batch * 1e6}  # noqa: B023
                case |= {name: 1 / f["ratio"] for name, f in figures.items()}
                case["torch_low"] = 1 / figures["torch"]["ratio_upper_quartile"]
                case["torch_high"] = 1 / figures["torch"]["ratio_lower_quartile"]
                cases.append(case)

            rivals = {"torch": lambda A=A: torch.linalg.eigh(A), "auto": lambda A=A: auto(A)}
            record("forward", lambda A=A: kernel(A), rivals)
            if batch in (16, 4096):  # apart: their threads spin beside ours
                prepared = {name: prepare(A.numpy()) for name, prepare in others.items()}
                beside = ratios(lambda A=A: kernel(A), prepared, rounds=rounds, warmup=1, seconds=2.0)
                cases[-1] |= {name: 1 / figures["ratio"] for name, figures in beside.items()}
            if batch in STEP_BATCHES and cost <= LONGEST_STEP:
                P = (A @ A.mT + torch.eye(n, dtype=dtype)).requires_grad_()
                gL, gV = torch.randn(batch, n, dtype=dtype), torch.randn(batch, n, n, dtype=dtype)
                record(
                    "eigh step",
                    lambda P=P, gL=gL, gV=gV: step(eg.eigh, P, gL, gV),
                    {"torch": lambda P=P, gL=gL, gV=gV: step(torch.linalg.eigh, P, gL, gV)},
                )
                record(
                    "inverse root step",
                    lambda P=P, gV=gV: torch.autograd.grad(eg.inv_sqrtm(P), P, gV),
                    {"torch": lambda P=P, gV=gV: torch.autograd.grad(root_by_autograd(P), P, gV)},
                )
        print(f"n = {n} done", flush=True)
    write(quarter(str(dtype).removeprefix("torch."), threads), json.dumps(cases))


def quarter(dtype: str, threads: int) -> Path:
    """Where a quarter waits for the others."""
    return RESULTS / f".native-{dtype}-{threads}.json"


COLUMNS = ("dtype", "threads", "pass", "n", "batch", "cores", "ours_us", "torch_us", "torch", "torch_low", "torch_high",
           "auto", *peers.NAMES)  # fmt: skip


def table(cases: list[Case]) -> str:
    """Comma-separated values, one row a case, the provenance in comments above."""
    lines = [f"# {key}: {value}" for key, value in provenance("native").items() if key != "threads"]
    lines += [
        "# cores: how many cores the threads had just before and after (a virtual machine may have fewer than shown)",
        "# ours_us, torch_us: medians, microseconds per matrix, this machine's alone",
        "# torch, torch_low, torch_high: times slower than ours, median and quartiles of ratios taken in turn",
        "# auto, " + ", ".join(peers.NAMES) + ": times slower than ours (forward only)",
        ",".join(COLUMNS),
    ]
    for case in cases:
        cells = [case.get(name) for name in COLUMNS]
        lines.append(
            ",".join(
                "" if x is None else x if isinstance(x, str) else f"{x:.4g}" if x < 1e5 else f"{x:.0f}" for x in cells
            )
        )
    return "\n".join(lines) + "\n"


Grid = dict[tuple[str, int], dict[tuple[str, int, int], Case]]
"""Cases by dtype and threads, then by pass, n and batch."""


def wins(cases: dict[tuple[str, int, int], Case]) -> list[tuple[int, float]]:
    """For each n, the batch from which the kernel is faster than LAPACK by a tenth, at it and at all larger ones."""
    rows: list[tuple[int, float]] = []
    for n in SIZES:
        smallest = math.inf
        for batch in reversed(BATCHES[1:]):  # a single matrix stays with LAPACK
            case = cases.get(("forward", n, batch))
            if case is None:
                continue
            if case["torch"] < 1 / 0.9:
                break
            smallest = batch
        if rows and rows[-1][1] == smallest:
            rows.pop()
        rows.append((n, smallest))
    return rows


def picture(measured: Grid) -> None:
    """How many times faster or slower than ``torch.linalg.eigh``, over n and batch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, ((dtype, threads), cases) in zip(axes.flat, measured.items(), strict=True):
        grid = np.full((len(SIZES), len(BATCHES)), np.nan)
        for i, n in enumerate(SIZES):
            for j, batch in enumerate(BATCHES):
                if case := cases.get(("forward", n, batch)):
                    grid[i, j] = case["torch"]
                    shade = "white" if abs(np.log2(grid[i, j])) > 4.4 else "black"
                    axis.text(j, i, times(grid[i, j]), ha="center", va="center", color=shade)
        image = axis.imshow(np.log2(grid), cmap="RdYlBu", vmin=-6, vmax=6, aspect="auto")
        axis.set_xticks(range(len(BATCHES)), [str(b) for b in BATCHES])
        axis.set_yticks(range(len(SIZES)), [str(n) for n in SIZES])
        axis.set(xlabel="batch", ylabel="n", title=f"{dtype}, threads: {threads}")
    figure.colorbar(
        image,
        ax=axes,
        ticks=FixedLocator(list(range(-6, 7, 2))),
        format=FuncFormatter(_named),
    )
    figure.suptitle("The kernel against torch.linalg.eigh, forward: how many times faster; after a slash, times slower")
    figure.savefig(RESULTS / "native.png", dpi=80)


def _named(power: float, _: object) -> str:
    return f"{2 ** abs(power):.0f} times {'slower' if power < 0 else 'faster'}" if power else "as fast"


def times(ratio: float) -> str:
    """``12`` for twelve times faster, ``/7.7`` for 7.7 times slower."""
    factor = max(ratio, 1 / ratio)
    return ("" if ratio >= 0.995 else "/") + (f"{factor:.0f}" if factor >= 9.95 else f"{factor:.1f}")


def verdict(label: str, case: Case, target: float) -> None:
    """One target and whether it was reached."""
    print(
        f"{label}: {case['torch']:.1f}x (quartiles {case['torch_low']:.1f} to {case['torch_high']:.1f}), "
        f"target {target}x{'' if case['torch'] >= target else ' MISSED'}; "
        f"{case['ours_us']:.3f} us a matrix, torch {case['torch_us']:.3f}; cores {case['cores']:.1f}"
    )


def main() -> None:
    """Collect, draw, print the table that ``native/thresholds.py`` should hold, and check the claims."""
    cases: list[Case] = []
    measured: Grid = {}
    for dtype in ("float32", "float64"):
        for threads in (1, 2):
            part = json.loads(quarter(dtype, threads).read_text())
            cases += part
            measured[dtype, threads] = {(case["pass"], case["n"], case["batch"]): case for case in part}
    write(RESULTS / "native.csv", table(cases))
    picture(measured)
    for key, part in measured.items():
        print(f"    {key}: {tuple(wins(part))},".replace("'", '"').replace("inf", "NEVER"))
    for dtype, targets in TARGETS.items():
        for (n, batch), target in targets.items():
            verdict(f"{dtype}, n = {n}, batch {batch}", measured[dtype, 2]["forward", n, batch], target)
    for (n, batch), target in ROOT_TARGETS.items():
        verdict(
            f"inverse root step, n = {n}, batch {batch}", measured["float32", 2]["inverse root step", n, batch], target
        )
    shown = sorted((case for case in cases if "auto" in case), key=lambda case: case["torch"] / case["auto"])
    for case in shown[:8]:
        lost = case["ours_us"] * (case["auto"] - case["torch"]) * case["batch"]
        print(
            f"'auto' at {case['torch'] / case['auto']:.2f} of torch's speed, {lost:.1f} us more: "
            + ", ".join(f"{key} {case[key]}" for key in ("dtype", "threads", "n", "batch"))
        )
    assert native.available()
    assert set(thresholds.SMALLEST_BATCH) == set(measured)
    worst = shown[0]["torch"] / shown[0]["auto"]
    claim(f"'auto' has at least 0.9 of torch.linalg.eigh's speed anywhere: {worst:.2f}", worst >= 0.9)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(getattr(torch, sys.argv[1]), int(sys.argv[2]))
    else:
        main()
