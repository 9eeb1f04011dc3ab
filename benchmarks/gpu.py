"""Batched eigendecomposition on a GPU: ours, torch's and cuSOLVER's own routines, side by side.

    python -m benchmarks.gpu [--dtype float32] [--limit-seconds 480]

Every case is stored in ``results/gpu-eigh-<dtype>.json`` as it ends. A run that is stopped, or reaches its limit, goes
on where it was when it is started again; when all cases are there, it writes the table ``results/gpu-eigh-<dtype>.md``
and checks the claims. Times are by CUDA events, in turns, medians of ratios. A case is left out, and says why, where it
would not fit into memory, or where a smaller one lets expect that a call takes too long.

Exit code: 0 when done or stopped by the limit, 1 if a claim fails, 2 without a GPU.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.gpu_device import (
    CUPY,
    NO_GPU,
    SYEVJ,
    XSYEV,
    Candidate,
    Candidates,
    Cuda,
    Device,
    first_line,
    store,
    stored,
)
from benchmarks.timing import RESULTS, claim, provenance, write

SIZES = (3, 4, 8, 16, 32, 33, 64, 128, 256, 512)
BATCHES = (1, 16, 256, 4096, 65_536)
WHAT = ("forward", "step")
OURS, TORCH = "ours", "torch"

COPIES = 18
"""Matrices as large as the input that are alive at once: results and workspace of four candidates, backward passes."""
SHARE = 0.8
"""Of the free memory that a case may take."""
LONGEST = 3.0
"""Seconds that one call may be expected to take."""
SECONDS = 2.0
"""Of measuring for each candidate of a case, as long as there are three rounds."""


@dataclass(frozen=True)
class Case:
    """One point of the grid."""

    what: str
    n: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.what}, n = {self.n}, batch {self.batch}"

    def bytes(self, dtype: torch.dtype) -> int:
        """What it may take at most."""
        return COPIES * self.batch * self.n**2 * dtype.itemsize


def grid() -> list[Case]:
    """All cases, cheap ones first, so that a limit cuts off the expensive end."""
    cases = [Case(what, n, batch) for what in WHAT for n in SIZES for batch in BATCHES]
    return sorted(cases, key=lambda case: (case.batch * case.n**2, case.what))


def symmetric(case: Case, dtype: torch.dtype, where: torch.device) -> Tensor:
    """Random matrices ``(batch, n, n)``, the same in every run on a device."""
    generator = torch.Generator(where).manual_seed(case.n)
    X = torch.randn(case.batch, case.n, case.n, dtype=dtype, device=where, generator=generator)
    return X.add_(X.mT.clone()).mul_(0.5)


def candidates(case: Case, device: Device, dtype: torch.dtype) -> Candidates:
    """Forward: the decomposition; step: with the gradient for random cotangents, which cuSOLVER has none of."""
    A = symmetric(case, dtype, device.where)
    if case.what == "forward":
        return {OURS: lambda: eg.eigh(A), TORCH: lambda: torch.linalg.eigh(A), **device.direct(A)}
    A.requires_grad_()
    gL, gV = torch.randn(A.shape[:-1], dtype=dtype, device=device.where), torch.randn_like(A)
    return {
        OURS: lambda: torch.autograd.grad(tuple(eg.eigh(A)), A, (gL, gV)),
        TORCH: lambda: torch.autograd.grad(tuple(torch.linalg.eigh(A)), A, (gL, gV)),
    }


def measure(case: Case, device: Device, dtype: torch.dtype, before: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds and ratios of a case; with reasons for what was left out.

    Args:
        case: which.
        device: on what.
        dtype: of the matrices.
        before: the same for the next smaller batch, to foresee what would take too long.
    """
    room = SHARE * device.free()
    if case.bytes(dtype) > room:
        return {"left out": {"all": f"needs about {_gib(case.bytes(dtype))} of {_gib(room)}"}}
    left_out: dict[str, str] = {}
    ready: dict[str, Candidate] = {}
    foreseen = before.get("left out", {})
    try:
        proposed = candidates(case, device, dtype)
    except torch.OutOfMemoryError as error:
        return {"left out": {"all": first_line(error)}}
    for name, candidate in proposed.items():
        expected = before.get("milliseconds", {}).get(name, 0.0) * case.batch / max(before.get("batch", 1), 1) / 1e3
        if isinstance(candidate, str):
            left_out[name] = candidate
        elif name in foreseen:
            left_out[name] = foreseen[name]
        elif expected > LONGEST:
            left_out[name] = f"expected to take {expected:.0f} seconds a call"
        else:
            try:
                device.milliseconds(candidate)  # the first call loads kernels and allocates
                ready[name] = candidate
            except RuntimeError as error:  # out of memory; a batch that cuSOLVER refuses
                left_out[name] = first_line(error)
    times: dict[str, list[float]] = {name: [] for name in ready}
    started, rounds = time.monotonic(), 0
    while ready and (rounds < 3 or (time.monotonic() - started < SECONDS * len(ready) and rounds < 50)):
        for name, candidate in ready.items():
            times[name].append(device.milliseconds(candidate))
        rounds += 1
    result: dict[str, Any] = {
        "batch": case.batch,
        "rounds": rounds,
        "milliseconds": {name: _short(statistics.median(series)) for name, series in times.items()},
    }
    if OURS in times:
        result["times faster than"] = {
            name: _short(statistics.median([b / a for a, b in zip(times[OURS], series, strict=True)]))
            for name, series in times.items()
            if name != OURS
        }
    if case.what == "forward":
        result["error"] = {name: _short(worst_error(ready[name](), case, dtype, device)) for name in ready}
    return result | ({"left out": left_out} if left_out else {})


def worst_error(result: Any, case: Case, dtype: torch.dtype, device: Device) -> float:
    """The larger of residual and loss of orthogonality, in units of ``n eps``; in float64, for up to 256 matrices."""
    A = symmetric(case, dtype, device.where)[:256].double()
    L, V = (part[:256].double() for part in result)
    residual = torch.linalg.matrix_norm(A @ V - V * L.unsqueeze(-2)) / torch.linalg.matrix_norm(A)
    gram = V.mT @ V - torch.eye(case.n, dtype=torch.float64, device=V.device)
    worst = torch.maximum(residual, torch.linalg.matrix_norm(gram)).max().item()
    return worst / (case.n * torch.finfo(dtype).eps)


def run(device: Device, dtype: torch.dtype, limit: float, path: Path, cases: list[Case]) -> bool:
    """Measure what is not yet in the file; whether everything is there at the end.

    Raises:
        SystemExit: if the file is of another device or version.
    """
    origin = provenance("gpu") | device.describe() | {"dtype": str(dtype).removeprefix("torch.")}
    done = stored(path, origin)
    started = time.monotonic()
    for case in cases:
        if case.name in done:
            continue
        if time.monotonic() - started > limit:
            print(f"{sum(c.name in done for c in cases)} of {len(cases)} cases; run again to go on")
            return False
        smaller = max((b for b in BATCHES if b < case.batch), default=None)
        before = done.get(Case(case.what, case.n, smaller).name, {}) if smaller else {}
        done[case.name] = measure(case, device, dtype, before)
        store(path, origin, done)
        print(f"{case.name:32} {summary(done[case.name])}", flush=True)
    return True


def summary(result: dict[str, Any]) -> str:
    """One line."""
    times = "  ".join(f"{name} {value:.3g} ms" for name, value in result.get("milliseconds", {}).items())
    missing = "; ".join(f"no {name}: {reason}" for name, reason in result.get("left out", {}).items())
    return "  ".join(filter(None, (times, missing and f"({missing})")))


def table(cases: dict[str, Any], origin: str) -> str:
    """Markdown: how many times faster ours is than each rival, by n and batch, and how accurate."""
    lines = [f"# Batched eigendecomposition on a GPU\n\n{origin}\n"]
    for what in WHAT:
        for rival in (TORCH, SYEVJ, XSYEV, CUPY):
            rows = [(n, [_ratio(cases, Case(what, n, batch), rival) for batch in BATCHES]) for n in SIZES]
            if any(cell for _, cells in rows for cell in cells):
                title = f"\n## {what}: times faster than {rival}\n"
                lines += [title, _row("n", *(f"batch {batch}" for batch in BATCHES)), _row(*["---"] * 6)]
                lines += [_row(n, *(f"{cell:.3g}" if cell else "" for cell in cells)) for n, cells in rows]
    lines += ["\n## error, in units of n eps (the largest over all batches)\n"]
    names = (OURS, TORCH, SYEVJ, XSYEV, CUPY)
    lines += [_row("n", *names), _row(*["---"] * 6)]
    for n in SIZES:
        found = [cases.get(Case("forward", n, batch).name, {}).get("error", {}) for batch in BATCHES]
        worst = [max((errors[name] for errors in found if name in errors), default=None) for name in names]
        lines.append(_row(n, *("" if value is None else f"{value:.3g}" for value in worst)))
    return "\n".join(lines) + "\n"


def check(cases: dict[str, Any]) -> None:
    """What must be true in the end, as far as it was measured."""
    ratios = {
        (n, batch): ratio
        for n in SIZES
        for batch in BATCHES
        if (ratio := _ratio(cases, Case("forward", n, batch), TORCH)) is not None
    }
    if not ratios:
        print("no case was measured, so no claim can be checked")
        return
    small = max((r for (n, batch), r in ratios.items() if n <= 8 and batch >= 4096), default=0.0)
    middle = max((r for (n, batch), r in ratios.items() if 8 < n <= 64 and batch >= 256), default=0.0)
    accuracy = max((_against_cusolver(cases[name].get("error", {})) for name in cases), default=0.0)
    claims = {
        f"never slower than 0.95x torch.linalg.eigh: {min(ratios.values()):.3g}": min(ratios.values()) >= 0.95,
        f"10x faster somewhere in n <= 8, batch >= 4096: {small:.3g}": small >= 10,
        f"3x faster somewhere in 8 < n <= 64, batch >= 256: {middle:.3g}": middle >= 3,
        f"error within 2x of cuSOLVER's: {accuracy:.3g}": accuracy <= 2,
    }
    for text, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    claim("all of them", all(claims.values()))


def _against_cusolver(errors: dict[str, float]) -> float:
    """Ours relative to the best of cuSOLVER's; an error below one unit of rounding counts as one."""
    theirs = [errors[name] for name in (SYEVJ, XSYEV) if name in errors]
    return max(errors[OURS], 1.0) / max(min(theirs), 1.0) if theirs and OURS in errors else 0.0


def _ratio(cases: dict[str, Any], case: Case, rival: str) -> float | None:
    return cases.get(case.name, {}).get("times faster than", {}).get(rival)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def main(arguments: list[str] | None = None, device: Device | None = None, folder: Path = RESULTS) -> int:
    """Measure, report, and assert the claims."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Batched eigendecomposition on a GPU, against torch and cuSOLVER. Resumable.",
        epilog="example: python -m benchmarks.gpu --dtype float64 --limit-seconds 480",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--limit-seconds", type=float, default=480.0, help="start no case after so long (%(default)s)")
    options = parser.parse_args(arguments)
    if device is None:
        if not torch.cuda.is_available():
            print(NO_GPU.format("gpu"), file=sys.stderr)
            return 2
        device = Cuda()
    path = folder / f"gpu-eigh-{options.dtype}.json"
    if run(device, getattr(torch, options.dtype), options.limit_seconds, path, grid()):
        contents = json.loads(path.read_text())
        origin = ", ".join(f"{key} {value}" for key, value in contents["provenance"].items())
        write(path.with_suffix(".md"), table(contents["cases"], origin))
        print(f"wrote {path.with_suffix('.md')}")
        check(contents["cases"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
