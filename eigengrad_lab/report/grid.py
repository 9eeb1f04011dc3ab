"""Tables in the paper's layout: one block of rows for each method, the paper's figures below ours."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rich.table import Table

from eigengrad_lab.methods import colour, in_order, label
from eigengrad_lab.paper import PaperCell
from eigengrad_lab.report.runs import Run
from eigengrad_lab.report.statistics import wilson

__all__ = [
    "Block",
    "Cell",
    "Entry",
    "Grid",
    "Key",
    "Row",
    "aggregate",
    "as_blocks",
    "as_csv",
    "as_markdown",
    "as_rich",
    "lay_out",
    "mean_and_std",
]

Key = tuple[str, str]
"""Method, and column."""


@dataclass(frozen=True)
class Cell:
    """The runs of one method in one column."""

    planned: int = 0
    runs: int = 0
    """How many of them have succeeded or failed."""
    by_seed: Mapping[int, float] = field(default_factory=dict)
    """Test errors of those that succeeded, in percent."""
    undecided: int = 0
    """How many ended without having been trained long enough to tell."""
    epoch_seconds: tuple[float, ...] = ()
    """Of every epoch that was trained to its end."""

    @property
    def errors(self) -> tuple[float, ...]:
        """Of those that succeeded."""
        return tuple(self.by_seed.values())

    @property
    def success_pct(self) -> float | None:
        """Share of decided runs that succeeded."""
        return 100 * len(self.errors) / self.runs if self.runs else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95% interval of that share."""
        return wilson(len(self.errors), self.runs) if self.runs else None

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

    @property
    def seconds(self) -> float | None:
        """Median of an epoch."""
        return statistics.median(self.epoch_seconds) if self.epoch_seconds else None


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
        decided = run.result is not None and not run.result.undecided
        whole = [epoch.seconds for epoch in run.metrics if math.isfinite(epoch.test_error_pct)]
        cells[key] = Cell(
            cell.planned + 1,
            cell.runs + decided,
            cell.by_seed if error is None else {**cell.by_seed, run.config.seed: error},
            cell.undecided + (run.result is not None and run.result.undecided),
            (*cell.epoch_seconds, *whole),
        )
    return cells


def lay_out(cells: dict[Key, Cell], printed: dict[Key, PaperCell]) -> Grid:
    """Methods by columns; a method's quantities one below the other, each with the paper's where it prints one."""
    methods = in_order(method for method, _ in cells)
    columns = list(dict.fromkeys(column for _, column in cells))
    rows: list[Row] = []
    for method in methods:
        keys = [(method, column) for column in columns]
        quoted = any(key in printed for key in keys)
        rates = any(printed[key].success_pct is not None for key in keys if key in printed)
        for quantity, show, theirs_show in _QUANTITIES:
            measured = (show(cells[key]) if key in cells else "" for key in keys)
            rows.append(Row((label(method) if show is _success else "", quantity, *measured)))
            if theirs_show is not None and quoted and (rates or theirs_show is not _success):
                theirs = (theirs_show(printed[key]) if key in printed else "" for key in keys)
                rows.append(Row(("", "  paper", *theirs), from_paper=True))
        rows[-1] = replace(rows[-1], last_of_block=True)
    return Grid(("method", "", *columns), tuple(rows))


@dataclass(frozen=True)
class Entry:
    """One cell of a table for a page, where it is a small stack of lines."""

    column: str
    success: str
    interval: str
    error: str
    details: str
    paper: str


@dataclass(frozen=True)
class Block:
    """One method's cells."""

    label: str
    colour: str
    entries: tuple[Entry, ...]


def as_blocks(cells: dict[Key, Cell], printed: dict[Key, PaperCell]) -> list[Block]:
    """The same for a page."""
    blocks = []
    for method in in_order(method for method, _ in cells):
        entries = []
        for (of, column), cell in cells.items():
            if of == method:
                theirs = printed.get((method, column))
                quoted = [] if theirs is None else [t for t in (_success(theirs), _mean(theirs)) if t != "-"]
                details = [f"least {_least(cell)}"] if cell.errors else []
                details += [f"{_seconds(cell)} s per epoch"] if cell.seconds is not None else []
                entries.append(
                    Entry(
                        column,
                        _success(cell),
                        "" if cell.interval is None else "{:.0f} to {:.0f}%".format(*cell.interval),
                        _mean(cell) if cell.errors else "",
                        ", ".join(details),
                        f"paper {', '.join(quoted)}" if quoted else "",
                    )
                )
        blocks.append(Block(label(method), colour(method), tuple(entries)))
    return blocks


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
    more = ("success_low_pct", "success_high_pct", "undecided", "epoch_seconds")
    writer.writerow(["method", "column", "planned", "runs", *ours, *more, *(f"paper_{name}" for name in ours)])
    for key, cell in cells.items():
        theirs = printed.get(key, PaperCell())
        mine, printed_ones = (
            [
                None if (x := getattr(of, name)) is None else round(x, 4)
                for name in ("least", "mean", "std", "success_pct")
            ]
            for of in (cell, theirs)
        )
        low, high = (None, None) if cell.interval is None else (round(x, 2) for x in cell.interval)
        seconds = None if cell.seconds is None else f"{cell.seconds:.3g}"
        writer.writerow([*key, cell.planned, cell.runs, *mine, low, high, cell.undecided, seconds, *printed_ones])
    return file.getvalue()


def _success(cell: Cell | PaperCell) -> str:
    others = []
    if isinstance(cell, Cell):
        others += [f"{cell.undecided} undecided"] if cell.undecided else []
        missing = cell.planned - cell.runs - cell.undecided
        others += [f"{missing} missing"] if missing else []
    if cell.success_pct is None:
        return ", ".join(others) or "-"
    share = f"{cell.success_pct:.3g}%"
    if isinstance(cell, Cell):
        share += f" of {cell.runs}"
    return ", ".join([share, *others])


def _least(cell: Cell | PaperCell) -> str:
    return "-" if cell.least is None else f"{cell.least:.2f}"


def _mean(cell: Cell | PaperCell) -> str:
    return mean_and_std(cell.mean, cell.std)


def mean_and_std(mean: float | None, std: float | None) -> str:
    """``2.50 ± 0.10``, or a dash for nothing."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _seconds(cell: Cell) -> str:
    return "-" if cell.seconds is None else f"{cell.seconds:.3g}"


def _interval(cell: Cell) -> str:
    return "" if cell.interval is None else "{:.0f} to {:.0f}".format(*cell.interval)


_QUANTITIES: tuple[tuple[str, Callable[[Cell], str], Callable[[PaperCell], str] | None], ...] = (
    ("success rate", _success, None),
    ("  95% interval", _interval, _success),
    ("min error %", _least, _least),
    ("mean error %", _mean, _mean),
    ("seconds per epoch", _seconds, None),
)
"""Of each method: its name, how it is shown, and how the paper's below it is, if it prints one."""
