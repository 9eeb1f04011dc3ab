"""Side-by-side timing: candidates take turns in one process, and what is quoted is the median of their ratios."""

import hashlib
import json
import math
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from eigengrad_lab.runs.environment import environment

RESULTS = Path(__file__).parent.parent / "results"


def ratios(
    ours: Callable[[], object],
    rivals: dict[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    seconds: float = math.inf,
) -> dict[str, dict[str, float]]:
    """Time ``ours`` and every rival in turn, ``rounds`` times, or fewer (at least 3) once so many ``seconds`` are over.

    Returns:
        For each rival, the median of ``ours / rival`` and its quartiles, and both medians in seconds. A ratio below 1
        means that ours is faster.
    """
    candidates = {"ours": ours, **rivals}
    for _ in range(warmup):
        for candidate in candidates.values():
            candidate()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    until = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > until:
            break
        for name, candidate in candidates.items():
            started = time.perf_counter()
            candidate()
            taken[name].append(time.perf_counter() - started)
    measured = {}
    for name in rivals:
        pairs = [a / b for a, b in zip(taken["ours"], taken[name], strict=True)]
        lower, median, upper = statistics.quantiles(pairs, n=4)
        measured[name] = {
            "ratio": median,
            "ratio_lower_quartile": lower,
            "ratio_upper_quartile": upper,
            "ours_seconds": statistics.median(taken["ours"]),
            "rival_seconds": statistics.median(taken[name]),
        }
    return measured


def cores_given(threads: int) -> float:
    """How many cores ``threads`` threads have at once, by hashing: a virtual machine may have fewer than it shows."""
    block = bytes(4_000_000)  # a few milliseconds, without the interpreter's lock

    def hash_once() -> None:
        hashlib.sha256(block)

    time.sleep(0.02)  # OpenMP's threads go on spinning for a few milliseconds
    hash_once()
    started = time.perf_counter()
    hash_once()
    alone = time.perf_counter() - started
    others = [threading.Thread(target=hash_once) for _ in range(threads - 1)]
    started = time.perf_counter()
    for other in others:
        other.start()
    hash_once()
    for other in others:
        other.join()
    return threads * alone / (time.perf_counter() - started)


def wait_for_cores(threads: int, seconds: float = 0.3) -> float:
    """Wait up to so long until so many threads have a core each; the cores they have."""
    until = time.perf_counter() + seconds
    while (given := cores_given(threads)) < 0.85 * threads and time.perf_counter() < until:
        time.sleep(0.02)
    return given


def report(name: str, measured: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print ``{case: {rival: figures}}`` and write it to ``results/<name>.json`` with its provenance."""
    for case, rivals in measured.items():
        for rival, figures in rivals.items():
            line = f"{case:36} ours / {rival:28} {figures['ratio']:.3g}"
            if "ratio_lower_quartile" in figures:
                line += f"  (quartiles {figures['ratio_lower_quartile']:.3g} to {figures['ratio_upper_quartile']:.3g})"
            print(line)
    rounded = {
        case: {
            rival: {key: float(f"{value:.4g}") for key, value in figures.items()} for rival, figures in rivals.items()
        }
        for case, rivals in measured.items()
    }
    note = "medians of ratios taken side by side in one process; absolute seconds are this machine's alone"
    contents = {"provenance": {**provenance(name), "note": note}, "measured": rounded}
    write(RESULTS / f"{name}.json", json.dumps(contents, indent=2) + "\n")


def provenance(name: str) -> dict[str, str | int | None]:
    """Where a result comes from: the command, and the commit and machine that it ran on."""
    return {"command": f"python -m benchmarks.{name}", **environment()}


def write(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def claim(text: str, holds: bool) -> None:
    """Print whether a claim holds; the benchmark fails if it does not."""
    print(f"{'holds' if holds else 'FAILS'}: {text}")
    if not holds:
        raise SystemExit(1)
