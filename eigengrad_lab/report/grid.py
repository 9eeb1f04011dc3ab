"""Tables in the paper's layout: one block of rows for each method, the paper's figures below ours."""

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.table import Table

from eigengrad_lab.paper import PaperCell
from eigengrad_lab.report.runs import METHODS, Run

__all__ = ["Cell", "Grid", "Key", "Row", "aggregate", "as_csv", "as_markdown", "as_rich", "lay_out", "mean_and_std"]

Key = tuple[str, str]
"""Method, and column."""


@dataclass(frozen=True)
class Cell:
    """The runs of one method in one column."""

    planned: int = 0
    runs: int = 0
    """How many of them have ended."""
    errors: tuple[float, ...] = ()
    """Test errors of those that succeeded, in percent."""

    @property
    def success_pct(self) -> float | None:
        """Share of ended runs that succeeded."""
        return 100 * len(self.errors) / self.runs if self.runs else None

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
class Row:
    """One line, measured or quoted."""

    texts: tuple[str, ...]
    from_paper: bool = False
    last_of_block: bool = False


@dataclass(frozen=True)
class Grid:
    """A table ready to be shown."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: int = 2
    """How many of the first columns hold words."""


def aggregate(runs: Iterable[Run], column: Callable[[Run], str]) -> dict[Key, Cell]:
    """Runs by method and column, in the order of their first appearance."""
    cells: dict[Key, Cell] = {}
    for run in runs:
        key = run.config.method, column(run)
        cell = cells.get(key, Cell())
        error = run.result.test_error_pct if run.result is not None else None
        errors = cell.errors if error is None else (*cell.errors, error)
        cells[key] = Cell(cell.planned + 1, cell.runs + (run.result is not None), errors)
    return cells


def lay_out(cells: dict[Key, Cell], printed: dict[Key, PaperCell]) -> Grid:
    """Methods by columns; a method's quantities one below the other, each with the paper's where it prints one."""
    methods = [method for method in METHODS if any(key[0] == method for key in cells)]
    columns = list(dict.fromkeys(column for _, column in cells))
    rows: list[Row] = []
    for method in methods:
        keys = [(method, column) for column in columns]
        quoted = any(key in printed for key in keys)
        rates = any(printed[key].success_pct is not None for key in keys if key in printed)
        for index, (quantity, show) in enumerate(_QUANTITIES.items()):
            last, label = index == len(_QUANTITIES) - 1, METHODS[method] if index == 0 else ""
            measured = (show(cells[key]) if key in cells else "" for key in keys)
            rows.append(Row((label, quantity, *measured), last_of_block=last and not quoted))
            if quoted and (rates or show is not _success):
                theirs = (show(printed[key]) if key in printed else "" for key in keys)
                rows.append(Row(("", "  paper", *theirs), from_paper=True, last_of_block=last))
    return Grid(("method", "", *columns), tuple(rows))


def as_rich(grid: Grid, title: str) -> Table:
    """For the terminal; the paper's figures are dimmed."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(grid.columns):
        words = index < grid.labels
        table.add_column(column, justify="left" if words else "right", no_wrap=words)
    for row in grid.rows:
        table.add_row(*row.texts, style="dim" if row.from_paper else "", end_section=row.last_of_block)
    return table


def as_markdown(grid: Grid) -> str:
    """A pipe table; the paper's figures are in italics."""
    alignment = tuple("---" if index < grid.labels else "---:" for index in range(len(grid.columns)))
    lines = [grid.columns, alignment]
    for row in grid.rows:
        lines.append(tuple(f"*{text.strip()}*" if text and row.from_paper else text for text in row.texts))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(cells: dict[Key, Cell], printed: dict[Key, PaperCell]) -> str:
    """One line for each cell, the paper's figures in columns of their own; empty where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ours = ("min_error_pct", "mean_error_pct", "std_error_pct", "success_rate_pct")
    writer.writerow(["method", "column", "planned", "runs", *ours, *(f"paper_{name}" for name in ours)])
    for key, cell in cells.items():
        theirs = printed.get(key, PaperCell())
        values = [getattr(of, name) for of in (cell, theirs) for name in ("least", "mean", "std", "success_pct")]
        writer.writerow([*key, cell.planned, cell.runs, *(None if x is None else round(x, 4) for x in values)])
    return file.getvalue()


def _success(cell: Cell | PaperCell) -> str:
    missing = f"{cell.planned - cell.runs} missing" if isinstance(cell, Cell) and cell.planned > cell.runs else ""
    if cell.success_pct is None:
        return missing or "-"
    share = f"{cell.success_pct:.3g}%"
    if isinstance(cell, Cell):
        share += f" of {cell.runs}"
    return f"{share}, {missing}" if missing else share


def _least(cell: Cell | PaperCell) -> str:
    return "-" if cell.least is None else f"{cell.least:.2f}"


def _mean(cell: Cell | PaperCell) -> str:
    return mean_and_std(cell.mean, cell.std)


def mean_and_std(mean: float | None, std: float | None) -> str:
    """``2.50 ± 0.10``, or a dash for nothing."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


_QUANTITIES = {"success rate": _success, "min error %": _least, "mean error %": _mean}
