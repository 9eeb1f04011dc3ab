"""Each table and figure of the paper as a section of a report, made from runs."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from eigengrad_lab import paper
from eigengrad_lab.methods import colour, in_order, label
from eigengrad_lab.recipes import EXPERIMENTS, ITERATIONS, RANK
from eigengrad_lab.report import claims
from eigengrad_lab.report.claims import Cells, Claim
from eigengrad_lab.report.figures import (
    DARK,
    LIGHT,
    QUANTITIES,
    Point,
    curve_panel,
    draw_curves,
    draw_sweeps,
    sweep_panel,
)
from eigengrad_lab.report.grid import Block, Cell, Grid, Key, Row, aggregate, as_blocks, as_csv, lay_out, mean_and_std
from eigengrad_lab.report.runs import Run

__all__ = ["LAYOUTS", "Gallery", "Picture", "Section", "section_of"]


@dataclass(frozen=True)
class Picture:
    """One panel for a page, in both themes."""

    text: str
    """What it shows, for those who cannot see it."""
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Gallery:
    """Panels that belong together, and what their colours mean."""

    title: str
    pictures: list[Picture]
    legend: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """What is shown of one table or figure."""

    title: str
    grid: Grid
    csv: str
    claims: list[Claim]
    figure: bytes | None = None
    figure_text: str = ""
    """What the figure shows, for those who cannot see it."""
    notes: list[str] = field(default_factory=list)
    name: str = ""
    """Of its files."""
    blocks: list[Block] = field(default_factory=list)
    """The table as a page shows it, where that is another way."""
    galleries: list[Gallery] = field(default_factory=list)
    """The figure as a page shows it, likewise."""


def section_of(name: str, runs: Sequence[Run]) -> Section:
    """The section of an experiment, with the verdicts of these runs on the paper's claims."""
    return replace(LAYOUTS[name](EXPERIMENTS[name].title, runs), name=name)


def as_table(
    title: str,
    runs: Sequence[Run],
    *,
    column: Callable[[Sequence[Run], Run], str],
    paper_cells: Callable[[], dict[Key, paper.PaperCell]],
    check: Callable[[Cells], list[Claim]],
) -> Section:
    """Methods by columns, the paper's figures below ours."""
    cells, printed = aggregate(runs, functools.partial(column, runs)), paper_cells()
    cells = dict(sorted(cells.items(), key=lambda item: _size(item[0][1])))
    blocks = as_blocks(cells, printed)
    return Section(title, lay_out(cells, printed), as_csv(cells, printed), check(cells), blocks=blocks)


def as_curves(title: str, runs: Sequence[Run], *, panels: Callable[[Sequence[Run]], dict[str, list[Run]]]) -> Section:
    """Training loss, test error and gradient norm, one panel for each setting."""
    rows, lines, shown = [], ["panel,run,epoch,train_loss,test_error_pct,largest_gradient_norm"], panels(runs)
    for panel, members in shown.items():
        for run in members:
            end = run.ending
            last = f"{run.metrics[-1].train_loss:.4f}" if run.metrics else "-"
            rows.append(Row((panel, run.config.identity, end, last)))
            lines += [
                ",".join(
                    [panel, run.config.identity, str(epoch.epoch), *map(_number, (q.of(epoch) for q in QUANTITIES))]
                )
                for epoch in run.metrics
            ]
    return Section(
        title,
        Grid(("panel", "run", "how it ended", "last training loss"), tuple(rows), labels=3),
        "\n".join(lines) + "\n",
        claims.of_curves(shown),
        draw_curves(shown),
        "Training loss against epochs, one panel for each setting: the mean of each method's runs, a band from the "
        "least to the largest, and a cross at the top where a run failed",
        galleries=[
            Gallery(
                quantity.name.capitalize(),
                [
                    Picture(
                        f"{quantity.name} against epochs, {panel}",
                        curve_panel(panel, members, quantity, LIGHT),
                        curve_panel(panel, members, quantity, DARK),
                    )
                    for panel, members in shown.items()
                ],
                [
                    (label(m), colour(m))
                    for m in in_order(r.config.method for members in shown.values() for r in members)
                ],
            )
            for quantity in QUANTITIES
        ],
    )


def _number(x: float) -> str:
    return f"{x:.6g}" if math.isfinite(x) else ""


def _group_size(run: Run) -> str:
    return "no d" if run.config.group_size is None else f"d = {run.config.group_size}"


def _rank(runs: Sequence[Run]) -> str:
    """Of all of them, the baseline included, which has none of its own."""
    ranks = [run.config.rank for run in runs if run.config.rank is not None]
    return f"rank {ranks[0] if ranks else RANK}"


def _size(column: str) -> float:
    return float("inf") if column == "no d" else int(column.split()[-1])


def _by_group_size(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """What has no group size, such as the baseline, stands in every panel."""
    sizes = sorted({_group_size(run) for run in runs if run.config.group_size is not None}, key=_size)
    return {
        size: [run for run in runs if run.config.group_size is None or _group_size(run) == size]
        for size in sizes or ["no d"]
    }


PANELS: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "preserved_information_pct": (
        "preserved information, %",
        lambda run: 100 * run.config.energy if run.config.energy and run.config.iterations == ITERATIONS else None,
    ),
    "eigenvectors": ("eigenvectors kept", lambda run: run.config.rank if run.config.iterations == ITERATIONS else None),
    "power_iterations": (
        "power iterations",
        lambda run: run.config.iterations if run.config.rank == RANK else None,
    ),
}
"""Of Figure 3, by the names in the paper's data: title, and setting of a run that stands in it."""


def as_sweeps(title: str, runs: Sequence[Run]) -> Section:
    """Error of denoising over preserved information, number of eigenvectors, and number of power iterations."""
    rows, lines = [], ["panel,setting,planned,runs,error_pct,std_error_pct,paper_error_pct,paper_std_error_pct"]
    panels: dict[str, tuple[list[Point], list[Point]]] = {}
    swept: dict[str, dict[float, Cell]] = {}
    for name, (text, setting_of) in PANELS.items():
        cells = aggregate([run for run in runs if setting_of(run) is not None], functools.partial(_setting, setting_of))
        swept[name] = {float(setting): cells["ours", setting] for setting in sorted((c for _, c in cells), key=float)}
        printed = {setting: (error, std) for setting, error, std in paper.figure3()[name]}
        for setting, cell in swept[name].items():
            theirs = printed.get(setting, (None, None))
            rows.append(
                Row((text, f"{setting:g}", _count(cell), mean_and_std(cell.mean, cell.std), mean_and_std(*theirs)))
            )
            numbers = ("" if x is None else f"{x:.4g}" for x in (cell.mean, cell.std, *theirs))
            lines.append(",".join([name, f"{setting:g}", str(cell.planned), str(cell.runs), *numbers]))
        if swept[name]:
            ours = [(s, cell.mean, cell.std) for s, cell in swept[name].items() if cell.mean is not None]
            panels[text] = ours, [(s, *printed[s]) for s in swept[name] if s in printed]
    return Section(
        title,
        Grid(("panel", "setting", "n", "error %", "the paper's error %"), tuple(rows), labels=1),
        "\n".join(lines) + "\n",
        claims.of_sweeps(swept),
        draw_sweeps(panels),
        "Error against each setting: these runs above, the paper's below, on a scale of its own",
        galleries=[
            Gallery(
                "Error over each setting",
                [
                    Picture(
                        f"error over {text}, these runs above, the paper's below",
                        sweep_panel(text, *points, LIGHT),
                        sweep_panel(text, *points, DARK),
                    )
                    for text, points in panels.items()
                ],
            )
        ],
    )


def _setting(of: Callable[[Run], float | None], run: Run) -> str:
    return f"{of(run):g}"


def _count(cell: Cell) -> str:
    missing = cell.planned - cell.runs
    return f"{len(cell.errors)}, {missing} missing" if missing else str(len(cell.errors))


LAYOUTS: dict[str, Callable[[str, Sequence[Run]], Section]] = {
    "table1": functools.partial(
        as_table,
        column=lambda runs, run: _group_size(run),
        paper_cells=paper.table1,
        check=claims.of_whitening,
    ),
    "figure1": functools.partial(as_curves, panels=_by_group_size),
    "table2": functools.partial(
        as_table,
        column=lambda runs, run: _rank(runs),
        paper_cells=paper.table2,
        check=claims.of_denoising,
    ),
    "figure2": functools.partial(as_curves, panels=lambda runs: {_rank(runs): list(runs)}),
    "figure3": as_sweeps,
}
"""How the section of each experiment is made from its title and its runs."""
