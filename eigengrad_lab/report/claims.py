"""What the paper claims, in our words, compared with recorded runs.

Each claim has a rule that decides it from records: ``reproduced``, ``in part`` (at some settings), ``differs``, or
``not shown`` where the runs that could show it have not ended, were not trained long enough, or are too few for a test.
A difference at a small scale does not refute the paper, which trained ResNet-18 for 350 epochs; it says what these runs
show.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eigengrad_lab.report.grid import Cell, Key
from eigengrad_lab.report.runs import Run
from eigengrad_lab.report.statistics import LEVEL, Difference, difference, same_means

__all__ = ["Cells", "Claim", "Verdict", "of_curves", "of_denoising", "of_sweeps", "of_whitening"]

Verdict = Literal["reproduced", "in part", "differs", "not shown"]
JUMP = 0.1
"""Rise of the training loss from one epoch to the next, in nats, that counts as a jump. (Of a loss near zero, a share
means nothing.)"""
MARGIN = 1.0
"""Percentage points of error that hardly matter."""
FEWEST = 2
"""Runs of a cell that its rate of success takes: one run's is 0 or 100%, whatever the method."""
Cells = Mapping[Key, Cell]


@dataclass(frozen=True)
class Claim:
    """One claim, the verdict of these runs, and their figures."""

    text: str
    verdict: Verdict
    evidence: str


def of_whitening(cells: Cells) -> list[Claim]:
    """Of Table 1, from cells by method and ``"d = 4"`` to ``"d = 64"``."""
    ours = _row(cells, "ours")
    failing = {
        "svd": ("d = 8", "d = 16", "d = 32", "d = 64"),
        "pi": ("d = 16", "d = 32", "d = 64"),
    }  # the paper's zeros
    return [
        _rated("The paper's method trains at every group size", ours, lambda rates: [rate == 100 for rate in rates]),
        *(
            _fails(
                f"{label} fails where groups are large",
                {d: c for d, c in _row(cells, method).items() if d in failing[method]},
            )
            for method, label in (
                ("svd", "The exact gradient (SVD)"),
                ("pi", "Power iteration from a random start (PI)"),
            )
        ),
        _spread("The method's error hardly depends on the group size", ours),
        _compared("It errs no more than batch normalisation", ours, cells.get(("batchnorm", "no d"))),
    ]


def of_denoising(cells: Cells) -> list[Claim]:
    """Of Table 2, from cells by method and one column."""
    column = next((column for method, column in cells if method == "ours"), "")
    ours = _row(cells, "ours")
    return [
        _fails("No run with the exact gradient (SVD) succeeds", _row(cells, "svd")),
        _compared("The paper's method errs less than PI", ours, cells.get(("pi", column)), strictly=True),
        _compared("It errs less than batch normalisation", ours, cells.get(("batchnorm", column)), strictly=True),
    ]


def of_curves(panels: Mapping[str, Sequence[Run]]) -> list[Claim]:
    """Of Figures 1 and 2, from the runs of each panel."""
    rough = {title: {m: _rough(runs, m) for m in ("pi", "ours")} for title, runs in panels.items()}
    shown = {title: found for title, found in rough.items() if all(found.values())}
    holds = [sum(found["pi"]) / len(found["pi"]) > sum(found["ours"]) / len(found["ours"]) for found in shown.values()]
    evidence = "; ".join(
        f"{title}: PI {sum(found['pi'])} of {len(found['pi'])}, ours {sum(found['ours'])} of {len(found['ours'])}"
        for title, found in shown.items()
    )
    return [
        _claim(
            "The training loss of PI jumps where the paper's method falls smoothly",
            holds,
            f"runs whose loss rises by {JUMP:g} or more from one epoch to the next, or that fail: {evidence}",
        )
    ]


def of_sweeps(swept: Mapping[str, Mapping[float, Cell]]) -> list[Claim]:
    """Of Figure 3, from cells by setting in its panels, which have the names of the paper's data."""
    information, ranks, iterations = (
        {f"{setting:g}": cell for setting, cell in swept.get(name, {}).items() if cell.runs}
        for name in ("preserved_information_pct", "eigenvectors", "power_iterations")
    )
    return [
        _compared(
            "Keeping 99% of the spectrum errs no more than keeping all",
            _only(information, "99"),
            information.get("100"),
        ),
        _compared(
            "Keeping 85% errs more than keeping 99%", _only(information, "99"), information.get("85"), strictly=True
        ),
        _compared("Two eigenvectors err more than sixteen", _only(ranks, "16"), ranks.get("2"), strictly=True),
        _spread("The number of power iterations hardly matters", iterations),
    ]


def _row(cells: Cells, method: str) -> dict[str, Cell]:
    """The ended cells of a method, by column."""
    return {column: cell for (of, column), cell in cells.items() if of == method and cell.runs}


def _only(row: Mapping[str, Cell], name: str) -> dict[str, Cell]:
    return {name: row[name]} if name in row else {}


def _claim(text: str, holds: Sequence[bool | None], evidence: str) -> Claim:
    """``None`` stands for a comparison within the noise."""
    if not holds:
        return Claim(text, "not shown", "no runs that could show it")
    if all(holds):
        return Claim(text, "reproduced", evidence)
    if any(holds):
        return Claim(text, "in part", evidence)
    if None in holds:
        return Claim(text, "not shown", f"within the noise of these runs: {evidence}")
    return Claim(text, "differs", evidence)


def _rated(text: str, row: Mapping[str, Cell], holds: Callable[[list[float]], Sequence[bool]]) -> Claim:
    """A claim about rates of success, by those of cells with enough runs."""
    known = {name: cell for name, cell in row.items() if cell.runs >= FEWEST}
    if row and not known:
        return Claim(text, "not shown", f"a rate takes {FEWEST} seeds: {_rates(row)}")
    return _claim(text, holds([cell.success_pct or 0.0 for cell in known.values()]), _rates(known))


def _fails(text: str, row: Mapping[str, Cell]) -> Claim:
    def none_succeeds(rates: list[float]) -> list[bool]:
        in_part = any(rates) and any(rate < 100 for rate in rates)
        return [True, False] if in_part else [rate == 0 for rate in rates]

    return _rated(text, row, none_succeeds)


def _compared(text: str, row: Mapping[str, Cell], other: Cell | None, *, strictly: bool = False) -> Claim:
    """Whether the errors of a row are, ``strictly``, smaller than another cell's; or no larger, by more than a margin.

    Smaller and larger are what a test says at the 5% level; no larger, what lies below the margin with 95% confidence.
    """
    if other is None or other.mean is None:
        return Claim(text, "not shown", "no successful runs to compare with")
    found = {name: difference(cell.by_seed, other.by_seed) for name, cell in row.items() if cell.mean is not None}
    holds = [_smaller(gap, strictly) for gap in found.values()]
    gaps = ", ".join(f"{name}: {'too few runs to tell' if gap is None else gap}" for name, gap in found.items())
    margin = "" if strictly else f"; no larger: by less than {MARGIN:g} point"
    return _claim(text, holds, f"{_means(row)}, against {_mean(other)}; differences: {gaps}{margin}")


def _smaller(gap: Difference | None, strictly: bool) -> bool | None:
    if gap is None:
        return None
    if strictly:
        return None if gap.p >= LEVEL else gap.mean < 0
    return True if gap.high < MARGIN else False if gap.low > 0 else None


def _spread(text: str, row: Mapping[str, Cell]) -> Claim:
    """Whether the means lie within the margin of each other, or are the same as far as a test can tell."""
    groups = [list(cell.errors) for cell in row.values() if cell.errors]
    p = same_means(groups)
    if p is None:
        return Claim(text, "not shown", "it takes two settings and two seeds")
    means = [sum(group) / len(group) for group in groups]
    spread = max(means) - min(means)
    evidence = f"{_means(row)}; spread {spread:.2f} points, one mean for all: p = {p:.2g} (analysis of variance)"
    return _claim(text, [True if spread < MARGIN else None if p >= LEVEL else False], evidence)


def _rough(runs: Iterable[Run], method: str) -> list[bool]:
    """For each decided run of a method: whether its training loss rises by a jump from an epoch to the next, or it
    fails.

    A run that failed is the extreme of a jump: leaving it out would count the smooth survivors alone.
    """
    found = []
    for run in runs:
        losses = [epoch.train_loss for epoch in run.metrics if math.isfinite(epoch.train_loss)]
        if run.config.method == method and (run.failed or len(losses) > 1):
            jumps = any(after - before >= JUMP for before, after in itertools.pairwise(losses))
            found.append(jumps or run.failed)
    return found


def _rates(row: Mapping[str, Cell]) -> str:
    return "success: " + ", ".join(
        f"{name}: {len(cell.errors)} of {cell.runs} [{cell.interval[0]:.0f} to {cell.interval[1]:.0f}%]"
        for name, cell in row.items()
        if cell.interval is not None
    )


def _means(row: Mapping[str, Cell]) -> str:
    return "mean error: " + ", ".join(f"{name}: {_mean(cell)}" for name, cell in row.items())


def _mean(cell: Cell) -> str:
    if cell.mean is None:
        return "no success"
    return f"{cell.mean:.2f}%" + ("" if cell.std is None else f" ± {cell.std:.2f}") + f" (n = {len(cell.errors)})"
