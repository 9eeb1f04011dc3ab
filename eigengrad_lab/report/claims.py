"""What the paper claims, in our words, compared with recorded runs.

Each claim has a rule that decides it from records: ``reproduced``, ``in part`` (at some settings), ``differs``, or
``not shown`` where the runs that could show it have not ended. A difference at a small scale does not refute the paper,
which trained ResNet-18 for 350 epochs; it says what these runs show.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eigengrad_lab.report.grid import Cell, Key
from eigengrad_lab.report.runs import Run

__all__ = ["Cells", "Claim", "Verdict", "of_curves", "of_denoising", "of_sweeps", "of_whitening"]

Verdict = Literal["reproduced", "in part", "differs", "not shown"]
JUMP = 0.05
"""Relative rise of the training loss within an epoch that counts as a jump."""
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
        _claim(
            "The paper's method trains at every group size", [c.success_pct == 100 for c in ours.values()], _rates(ours)
        ),
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
    rises = {title: {m: _largest_rise(runs, m) for m in ("pi", "ours")} for title, runs in panels.items()}
    shown = {title: rise for title, rise in rises.items() if not any(map(math.isnan, rise.values()))}
    return [
        _claim(
            "The training loss of PI jumps where the paper's method falls smoothly",
            [rise["pi"] > max(rise["ours"], JUMP) for rise in shown.values()],
            "largest rise from one epoch to the next, median over runs: "
            + "; ".join(f"{title}: PI {rise['pi']:+.0%}, ours {rise['ours']:+.0%}" for title, rise in shown.items()),
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


def _fails(text: str, row: Mapping[str, Cell]) -> Claim:
    rates = [cell.success_pct or 0.0 for cell in row.values()]
    if rates and any(rates) and any(rate < 100 for rate in rates):
        return Claim(text, "in part", _rates(row))
    return _claim(text, [rate == 0 for rate in rates], _rates(row))


def _compared(text: str, row: Mapping[str, Cell], other: Cell | None, *, strictly: bool = False) -> Claim:
    """Whether the mean errors of a row are no larger than another cell's, or, ``strictly``, smaller.

    Smaller, or larger, is what differs by two standard errors; no larger, what exceeds by less than one.
    """
    if other is None or other.mean is None:
        return Claim(text, "not shown", "no successful runs to compare with")
    holds = [_smaller(cell, other, strictly) for cell in row.values() if cell.mean is not None]
    return _claim(text, holds, f"{_means(row)}, against {_mean(other)}")


def _smaller(cell: Cell, other: Cell, strictly: bool) -> bool | None:
    assert cell.mean is not None and other.mean is not None
    if cell.std is None or other.std is None:
        return None
    noise = math.hypot(cell.std / len(cell.errors) ** 0.5, other.std / len(other.errors) ** 0.5)
    gained = other.mean - cell.mean
    if not strictly and gained >= -noise:
        return True
    return None if abs(gained) <= 2 * noise else gained > 0


def _spread(text: str, row: Mapping[str, Cell]) -> Claim:
    """Whether the means lie within two standard deviations of each other."""
    means = [cell.mean for cell in row.values() if cell.mean is not None]
    stds = [cell.std for cell in row.values() if cell.std is not None]
    if len(means) < 2 or not stds:
        return Claim(text, "not shown", "it takes two settings and two seeds")
    return _claim(text, [max(means) - min(means) <= 2 * max(stds)], _means(row))


def _largest_rise(runs: Iterable[Run], method: str) -> float:
    """Largest relative rise of the training loss from one epoch to the next, median over a method's runs."""
    rises = []
    for run in runs:
        losses = [epoch.train_loss for epoch in run.metrics if math.isfinite(epoch.train_loss)]
        if run.config.method == method and len(losses) > 1:
            rises.append(max(after / before - 1 for before, after in itertools.pairwise(losses)))
    return statistics.median(rises) if rises else math.nan


def _rates(row: Mapping[str, Cell]) -> str:
    return "success: " + ", ".join(f"{name}: {cell.success_pct:.3g}% of {cell.runs}" for name, cell in row.items())


def _means(row: Mapping[str, Cell]) -> str:
    return "mean error: " + ", ".join(f"{name}: {_mean(cell)}" for name, cell in row.items())


def _mean(cell: Cell) -> str:
    if cell.mean is None:
        return "no success"
    return f"{cell.mean:.2f}%" + ("" if cell.std is None else f" ± {cell.std:.2f}") + f" (n = {len(cell.errors)})"
