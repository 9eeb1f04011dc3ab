"""Each table and figure of the paper as a section of a report, made from runs."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from eigengrad_lab import paper
from eigengrad_lab.recipes import RANK
from eigengrad_lab.report import claims
from eigengrad_lab.report.claims import Claim
from eigengrad_lab.report.figures import Point, draw_curves, draw_sweeps
from eigengrad_lab.report.grid import Cell, Grid, Row, aggregate, as_csv, lay_out
from eigengrad_lab.report.runs import Run

__all__ = ["EXPERIMENTS", "Experiment", "Section"]


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


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper: which runs belong to it, and how they are shown."""

    belongs: Callable[[Run], bool]
    show: Callable[[Sequence[Run]], Section]
    asks: Callable[[Run], bool] = lambda run: run.config.layer is not None
    """Which of them are reason enough to show it. The baseline is none, and of Figure 3 not Table 2's own point."""


def show_table1(runs: Sequence[Run]) -> Section:
    """Whitening by each method at each group size."""
    cells, printed = aggregate(runs, _group), paper.table1()
    order = {column: index for index, column in enumerate(sorted({c for _, c in cells}, key=_size))}
    cells = dict(sorted(cells.items(), key=lambda item: order[item[0][1]]))
    return Section(
        "Table 1: ZCA whitening", lay_out(cells, printed), as_csv(cells, printed), claims.of_whitening(cells)
    )


def show_table2(runs: Sequence[Run]) -> Section:
    """Denoising by each method."""
    rank = _rank(runs)
    cells, printed = aggregate(runs, lambda run: rank), paper.table2()
    return Section(
        "Table 2: PCA denoising", lay_out(cells, printed), as_csv(cells, printed), claims.of_denoising(cells)
    )


def show_figure1(runs: Sequence[Run]) -> Section:
    """Training loss of whitening."""
    whitening = [run for run in runs if run.config.layer == "zca"]
    titles = sorted({_group(run) for run in whitening}, key=_size)
    panels = {title: [run for run in runs if run.config.layer is None or _group(run) == title] for title in titles}
    return _curves("Figure 1: training loss with ZCA whitening", panels)


def show_figure2(runs: Sequence[Run]) -> Section:
    """Training loss of denoising."""
    return _curves("Figure 2: training loss with PCA denoising", {_rank(runs): list(runs)})


def _curves(title: str, panels: dict[str, list[Run]]) -> Section:
    rows, lines = [], ["panel,run,epoch,train_loss"]
    for panel, runs in panels.items():
        for run in runs:
            end = "running" if run.result is None else str(run.result)
            last = f"{run.metrics[-1].train_loss:.4f}" if run.metrics else "-"
            rows.append(Row((panel, run.config.identity, end, last)))
            lines += [f"{panel},{run.config.identity},{epoch.epoch},{epoch.train_loss:.6g}" for epoch in run.metrics]
    return Section(
        title,
        Grid(("panel", "run", "how it ended", "last training loss"), tuple(rows), labels=3),
        "\n".join(lines) + "\n",
        claims.of_curves(panels),
        draw_curves(panels),
        "Training loss against epochs, one panel for each setting, a cross where a run failed",
    )


PANELS: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "preserved_information_pct": (
        "preserved information, %",
        lambda run: 100 * run.config.energy if run.config.energy and _default_iterations(run) else None,
    ),
    "eigenvectors": ("eigenvectors kept", lambda run: run.config.rank if _default_iterations(run) else None),
    "power_iterations": (
        "power iterations",
        lambda run: run.config.iterations if run.config.rank == RANK else None,
    ),
}


def show_figure3(runs: Sequence[Run]) -> Section:
    """Error of denoising over preserved information, number of eigenvectors, and number of power iterations."""
    rows, lines = [], ["panel,setting,planned,runs,error_pct,std_error_pct,paper_error_pct,paper_std_error_pct"]
    panels: dict[str, tuple[list[Point], list[Point]]] = {}
    swept: dict[str, dict[float, Cell]] = {}
    for name, (title, setting_of) in PANELS.items():
        cells = aggregate([run for run in runs if setting_of(run) is not None], functools.partial(_setting, setting_of))
        swept[name] = {float(setting): cells["ours", setting] for setting in sorted((c for _, c in cells), key=float)}
        printed = {setting: (error, std) for setting, error, std in paper.figure3()[name]}
        for setting, cell in swept[name].items():
            theirs = printed.get(setting, (None, None))
            rows.append(Row((title, f"{setting:g}", _count(cell), _pm(cell.mean, cell.std), _pm(*theirs))))
            numbers = ("" if x is None else f"{x:.4g}" for x in (cell.mean, cell.std, *theirs))
            lines.append(",".join([name, f"{setting:g}", str(cell.planned), str(cell.runs), *numbers]))
        if swept[name]:
            ours = [(s, cell.mean, cell.std) for s, cell in swept[name].items() if cell.mean is not None]
            panels[title] = ours, [(s, *printed[s]) for s in swept[name] if s in printed]
    return Section(
        "Figure 3: PCA denoising over its settings",
        Grid(("panel", "setting", "n", "error %", "the paper's error %"), tuple(rows), labels=1),
        "\n".join(lines) + "\n",
        claims.of_sweeps(swept),
        draw_sweeps(panels),
        "Error against each setting: these runs on the left axis, the paper's on the right axis",
    )


def _setting(of: Callable[[Run], float | None], run: Run) -> str:
    return f"{of(run):g}"


def _count(cell: Cell) -> str:
    missing = cell.planned - cell.runs
    return f"{len(cell.errors)}, {missing} missing" if missing else str(len(cell.errors))


def _pm(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _group(run: Run) -> str:
    return "no d" if run.config.group_size is None else f"d = {run.config.group_size}"


def _size(column: str) -> float:
    return float("inf") if column == "no d" else int(column.removeprefix("d = "))


def _rank(runs: Sequence[Run]) -> str:
    ranks = [run.config.rank for run in runs if run.config.rank is not None]
    return f"rank {ranks[0] if ranks else RANK}"


def _default_iterations(run: Run) -> bool:
    return run.config.iterations == 19


def _whitens(run: Run) -> bool:
    return run.config.layer in ("zca", None) and _default_iterations(run)


def _denoises(run: Run) -> bool:
    return (run.config.rank == RANK or run.config.layer is None) and _default_iterations(run)


def _sweeps(run: Run) -> bool:
    return run.config.layer == "pca" and run.config.method == "ours"


EXPERIMENTS = {
    "table1": Experiment(_whitens, show_table1),
    "figure1": Experiment(_whitens, show_figure1),
    "table2": Experiment(_denoises, show_table2),
    "figure2": Experiment(_denoises, show_figure2),
    "figure3": Experiment(_sweeps, show_figure3, asks=lambda run: not _denoises(run)),
}
"""By the name of the command that makes it."""
