"""Table 1: error and success rate of each method at each group size, ours beside the paper's."""

import csv
import io
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from eigengrad_lab import paper
from eigengrad_lab.config import RunConfig
from eigengrad_lab.records import Result

__all__ = ["LABELS", "Cell", "Grid", "aggregate", "as_csv", "as_markdown", "as_rich", "lay_out"]

LABELS = {
    "svd": "SVD",
    "pi": "PI",
    "ours": "ours",
    "closed-form": "closed form",
    "qr": "QR",
    "batchnorm": "BatchNorm",
}
Key = tuple[str, int | None]


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one group size."""

    runs: int
    errors: tuple[float, ...]
    """Test errors of the runs that succeeded, in percent."""

    @property
    def success_pct(self) -> float:
        """Share of runs that succeeded."""
        return 100 * len(self.errors) / self.runs

    @property
    def least(self) -> float | None:
        """Smallest error."""
        return min(self.errors, default=None)

    @property
    def mean(self) -> float | None:
        """Mean error."""
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation, for two successes or more."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None


@dataclass(frozen=True)
class Grid:
    """A table ready to be shown: one block of rows for each method, one column for each group size."""

    columns: tuple[str, ...]
    rows: tuple["Row", ...]


@dataclass(frozen=True)
class Row:
    """One quantity of one method, measured or quoted."""

    texts: tuple[str, ...]
    from_paper: bool
    last_of_method: bool


def aggregate(results: Iterable[tuple[RunConfig, Result]]) -> dict[Key, Cell]:
    """Runs by method and group size, in the order of their first appearance."""
    cells: dict[Key, Cell] = {}
    for config, result in results:
        key = config.method, config.group_size
        cell = cells.get(key, Cell(0, ()))
        error = () if result.test_error_pct is None else (result.test_error_pct,)
        cells[key] = Cell(cell.runs + 1, cell.errors + error)
    return cells


def lay_out(cells: dict[Key, Cell]) -> Grid:
    """The paper's layout, its own figures below ours."""
    printed = paper.table1()
    methods = [method for method in LABELS if any(key[0] == method for key in cells)]
    sizes = sorted({d for _, d in cells if d is not None}) + ([None] if any(d is None for _, d in cells) else [])
    rows: list[Row] = []
    for method in methods:
        keys: list[Key] = [(method, d) for d in sizes]
        quoted = any(key in printed for key in keys)
        for index, (quantity, show) in enumerate(_QUANTITIES.items()):
            last = index == len(_QUANTITIES) - 1
            label = LABELS[method] if index == 0 else ""
            measured = (show(cells[key]) if key in cells else "" for key in keys)
            rows.append(Row((label, quantity, *measured), from_paper=False, last_of_method=last and not quoted))
            if quoted:
                theirs = (show(printed[key]) if key in printed else "" for key in keys)
                rows.append(Row(("", "  paper", *theirs), from_paper=True, last_of_method=last))
    columns = ("method", "", *("no d" if d is None else f"d = {d}" for d in sizes))
    return Grid(columns, tuple(rows))


def as_rich(grid: Grid, title: str, caption: str) -> Table:
    """For the terminal; the paper's figures are dimmed."""
    table = Table(title=title, caption=caption, caption_justify="left")
    for index, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index < 2)
    for row in grid.rows:
        table.add_row(*row.texts, style="dim" if row.from_paper else "", end_section=row.last_of_method)
    return table


def as_markdown(grid: Grid) -> str:
    """A pipe table; the paper's figures are in italics."""
    alignment = ("---", "---", *("---:" for _ in grid.columns[2:]))
    lines = [grid.columns, alignment]
    for row in grid.rows:
        lines.append(tuple(f"*{text.strip()}*" if text and row.from_paper else text for text in row.texts))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(cells: dict[Key, Cell]) -> str:
    """One line for each cell, the paper's figures in columns of their own; empty where there is none."""
    printed = paper.table1()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ours = ("min_error_pct", "mean_error_pct", "std_error_pct", "success_rate_pct")
    writer.writerow(["method", "group_size", "runs", *ours, *(f"paper_{name}" for name in ours)])
    for key, cell in cells.items():
        measured: list[float | None] = [cell.least, cell.mean, cell.std, cell.success_pct]
        theirs = printed.get(key, paper.PaperCell(None, None, None, None))
        quoted = [theirs.least, theirs.mean, theirs.std, theirs.success_pct]
        writer.writerow([*key, cell.runs, *(None if x is None else round(x, 4) for x in measured + quoted)])
    return file.getvalue()


def _success(cell: Cell | paper.PaperCell) -> str:
    return _dash if cell.success_pct is None else f"{cell.success_pct:.3g}%"


def _least(cell: Cell | paper.PaperCell) -> str:
    return _dash if cell.least is None else f"{cell.least:.2f}"


def _mean(cell: Cell | paper.PaperCell) -> str:
    if cell.mean is None:
        return _dash
    return f"{cell.mean:.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")


_dash = "-"
_QUANTITIES = {"success rate": _success, "min error %": _least, "mean error %": _mean}
