"""The price of a call of the public functions against the same call in torch and in the packages of others.

Every claim (:mod:`benchmarks.calls_cases`) is a bound on a ratio of times, with two threads and with one, in one
process: ours and the rivals take turns, call by call, and the ratio is the median of the pairs', shown with its
quartiles. Two threads are judged by the clock on the wall. One thread is judged by the processor's time, which other
programs on the machine lengthen less; the other clock's ratio is in the JSON. Reading the clocks, half a microsecond,
is in all times. Without a claim, plain ``torch.linalg.eigh`` with a loss of its own is reported beside the functions.
"""

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median as median_of
from statistics import quantiles

import torch

from benchmarks.calls_cases import CLAIMS, OURS, PEERS, PLAIN, Claim, Run, candidates, peers
from benchmarks.calls_instructions import count
from benchmarks.timing import RESULTS, provenance, wait_for_cores, write

EXAMPLE = """example, two functions in a minute, judged but not written to results/:
  python -m benchmarks.calls --only logm,expm"""
THREADS = (2, 1)
ROUNDS, SECONDS, WARMUP = 1000, 0.4, 5
"""Calls of each candidate of a case, the time after which no more are made, and calls before."""


@dataclass(frozen=True)
class Measured:
    """The figures of a case against one rival."""

    claim: Claim
    row: str
    column: str
    figures: dict[str, float]

    @property
    def holds(self) -> bool:
        """Within the bound, or without one."""
        return PLAIN in self.row or self.figures["ratio"] <= self.claim.bound

    @property
    def cell(self) -> str:
        """The ratio and its quartiles, in bold where the claim fails."""
        ratio, lower, upper = (
            f"{self.figures[f'ratio{part}']:.3g}" for part in ("", "_lower_quartile", "_upper_quartile")
        )
        return f"{ratio if self.holds else f'**{ratio}**'} ({lower}-{upper})"


def ratios(ours: Run, rivals: dict[str, Run], *, rounds: int, by_cpu: bool) -> dict[str, dict[str, float]]:
    """Ours and the rivals in turn: median and quartiles of the ratios, by the clock that judges and by the other."""
    runs = {"ours": ours, **rivals}
    wall, cpu = ({name: array("d") for name in runs} for _ in range(2))
    until = math.inf
    for done in range(-WARMUP, rounds):
        if done == 0:
            until = time.perf_counter() + SECONDS
        if done >= 3 and time.perf_counter() > until:
            break
        for name, run in runs.items():
            processor, started = time.process_time(), time.perf_counter()
            run()
            ended, processor_ended = time.perf_counter(), time.process_time()
            if done >= 0:
                wall[name].append(ended - started)
                cpu[name].append(processor_ended - processor)
    judged, other = (cpu, wall) if by_cpu else (wall, cpu)
    figures = {}
    for name in rivals:
        lower, median, upper = quantiles(map(truediv, judged["ours"], judged[name]), n=4)
        figures[name] = {
            "ratio": median,
            "ratio_lower_quartile": lower,
            "ratio_upper_quartile": upper,
            "ratio_by_wall" if by_cpu else "ratio_by_processor": median_of(map(truediv, other["ours"], other[name])),
            "ours_seconds": median_of(judged["ours"]),
            "rival_seconds": median_of(judged[name]),
        }
    return figures


def measure(only: set[str], threads_tried: Sequence[int], *, quick: bool) -> list[Measured]:
    """Every case of every claim about these functions; quickly, a few calls of each claim's first size."""
    others, found = peers(), []
    for claim, threads in itertools.product(CLAIMS, threads_tried):
        torch.set_num_threads(threads)
        names, sizes = [name for name in claim.functions if name in only], claim.sizes[: 1 if quick else None]
        for name, mode, (batch, n), dtype in itertools.product(names, claim.modes, sizes, claim.dtypes):
            column = f"{str(dtype).removeprefix('torch.')}, {threads} thread{'s' * (threads > 1)}"
            progress(f"{name}, {mode}, {batch} of {n}x{n}, {column}")
            ours, rivals = candidates(name, mode, batch, n, dtype, others)
            if not quick:
                wait_for_cores(threads)
            with torch.set_grad_enabled(mode != "no_grad"):
                figures = ratios(ours, rivals, rounds=3 if quick else ROUNDS, by_cpu=threads == 1)
            row = f"{name if mode == 'backward' else f'{name}, {mode}'} | {batch} of {n}x{n}"
            found += [
                Measured(
                    claim, f"{row} | {rival}", column, {**values, "bound": claim.bound, "load": os.getloadavg()[0]}
                )
                for rival, values in figures.items()
            ]
    progress("")
    return found


def progress(text: str) -> None:
    """What is being measured, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="", file=sys.stderr)


def noise(found: list[Measured]) -> str:
    """How busy the machine was. With two threads, ratios taken while others compute say little."""
    loads = [case.figures["load"] for case in found]
    return (
        f"Load average of the machine while measuring: {min(loads):.1f} to {max(loads):.1f}, of {os.cpu_count()} cores."
    )


def verdicts(found: list[Measured]) -> dict[Claim, str]:
    """Of every claim that was measured: whether it holds, the worst ratio, and in how many cases it fails."""
    said = {}
    for claim in CLAIMS:
        bounded = [case for case in found if case.claim is claim and PLAIN not in case.row]
        if bounded:
            worst = max(bounded, key=lambda case: case.figures["ratio"])
            failing = sum(not case.holds for case in bounded)
            said[claim] = (
                f"{'FAILS' if failing else 'holds'}: {claim.text}: at most {claim.bound:.3g}; fails in {failing} of "
                f"{len(bounded)} cases, worst {worst.figures['ratio']:.3g} ({worst.row}, {worst.column})"
            ).replace(" | ", ", ")
    return said


def tables(found: list[Measured]) -> str:
    """A table in Markdown for each claim: ratios with their quartiles."""
    parts = []
    for claim, verdict in verdicts(found).items():
        cases = [case for case in found if case.claim is claim]
        columns = list(dict.fromkeys(case.column for case in cases))
        rows: dict[str, dict[str, str]] = {}
        for case in cases:
            rows.setdefault(case.row, {})[case.column] = case.cell
        lines = [f"| function | matrices | rival | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
        lines += [f"| {row} | {' | '.join(cells[column] for column in columns)} |" for row, cells in rows.items()]
        parts.append("\n".join([f"## {claim.text}", "", verdict, "", *lines]))
    return "\n\n".join(parts)


def page(found: list[Measured], instructions: dict[str, dict[str, float]] | None) -> str:
    """Everything to read."""
    parts = [noise(found), tables(found)]
    if instructions:
        lines = ["| one call, float32 | ours | torch | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {case} | {counts['ours']:,.0f} | {counts['torch']:,.0f} | {counts['ratio']:.3g} |"
            for case, counts in instructions.items()
        ]
        parts += ["\n".join(["## Instructions, counted by valgrind (AVX2 at most, one thread)", "", *lines])]
    return "\n\n".join(parts)


def origin(found: list[Measured]) -> dict[str, str | int | None]:
    """Where the result comes from, and of the peers, which were measured."""
    said = {**provenance("calls"), "threads": "2 and 1"}
    for peer in PEERS:
        measured = any(case.row.endswith(peer) for case in found)
        said[peer] = importlib.metadata.version(peer) if measured else "could not be imported, not measured"
    return said


def record(found: list[Measured], text: str, instructions: dict[str, dict[str, float]] | None) -> None:
    """Write ``results/calls.json`` and ``results/calls.md``."""
    measured: dict[str, dict[str, float]] = {}
    for case in found:
        measured[f"{case.row}, {case.column}".replace(" | ", ", ")] = {
            key: float(f"{value:.4g}") for key, value in case.figures.items()
        }
    contents = {
        "provenance": origin(found),
        "noise": noise(found),
        "claims": list(verdicts(found).values()),
        "measured": measured,
        "instructions": instructions,
    }
    write(RESULTS / "calls.json", json.dumps(contents, indent=2) + "\n")
    header = ["# The price of a call", (__doc__ or "").split("\n\n", 1)[1].strip()]
    said = "\n".join(f"* {key}: {value}" for key, value in origin(found).items())
    write(RESULTS / "calls.md", "\n\n".join([*header, text, said]) + "\n")


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calls",
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few calls of one size, to see that all run")
    parser.add_argument("--only", metavar="NAMES", default=",".join(OURS), help=f"some of {','.join(OURS)}")
    parser.add_argument("--threads", type=int, choices=THREADS, help="only with so many")
    parser.add_argument("--instructions", action="store_true", help="count instructions too, with valgrind: minutes")
    chosen = parser.parse_args()
    chosen.only = set(chosen.only.split(","))
    if unknown := chosen.only - OURS.keys():
        parser.error(f"--only: no such function: {', '.join(sorted(unknown))}; there are {', '.join(OURS)}")
    return chosen


def main() -> None:
    """Measure, print, write, and fail if a claim fails. Only a whole run writes; a quick one judges nothing."""
    chosen = arguments()
    torch.manual_seed(0)
    threads = (chosen.threads,) if chosen.threads else THREADS
    found = measure(chosen.only, threads, quick=chosen.quick)
    instructions = count() if chosen.instructions else None
    text = page(found, instructions)
    print(text, "", sep="\n")
    if chosen.quick:
        print("a quick run: too few calls to judge a claim by, and nothing was written")
        return
    print(noise(found), *verdicts(found).values(), sep="\n")
    if chosen.only == OURS.keys() and threads == THREADS:
        record(found, text, instructions)
    if not all(case.holds for case in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
