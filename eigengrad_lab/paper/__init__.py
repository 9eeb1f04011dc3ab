"""Figures printed in Wang et al., NeurIPS 2019, for reports to set beside ours.

Read off the published tables and figures: CIFAR-10, ResNet-18, 350 epochs. Empty fields are cells where no run
succeeded. In the paper's cell of SVD at d = 4 the printed minimum exceeds the printed mean; it is kept as printed.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["SETTING", "PaperCell", "figure3", "table1", "table2"]

SETTING = "Wang et al. 2019: CIFAR-10, ResNet-18, 350 epochs"

Key = tuple[str, str]
"""Method, and column of the table."""


@dataclass(frozen=True)
class PaperCell:
    """One cell of a table of the paper; errors in percent, ``None`` where nothing is printed."""

    least: float | None = None
    mean: float | None = None
    std: float | None = None
    success_pct: float | None = None


def table1() -> dict[Key, PaperCell]:
    """Table 1 by method and group size, with the BatchNorm baseline that the paper prints in Table 2."""
    cells = {(row["method"], f"d = {row['group_size']}"): _cell(row) for row in _rows("table1.csv")}
    return cells | {("batchnorm", "no d"): table2()["batchnorm", "rank 16"]}


def table2() -> dict[Key, PaperCell]:
    """Table 2 by method. Where it prints NaN, no run succeeded."""
    return {(row["method"].removeprefix("pca_"), "rank 16"): _cell(row) for row in _rows("table2.csv")}


def figure3() -> dict[str, list[tuple[float, float, float]]]:
    """Figure 3 by panel: setting, error and standard deviation, in percent."""
    panels: dict[str, list[tuple[float, float, float]]] = {}
    for row in _rows("figure3.csv"):
        point = float(row["setting"]), float(row["error_pct"]), float(row["std_error_pct"])
        panels.setdefault(row["panel"], []).append(point)
    return panels


def _rows(name: str) -> Iterator[dict[str, str]]:
    yield from csv.DictReader(files(__name__).joinpath(name).read_text().splitlines())


def _cell(row: dict[str, str]) -> PaperCell:
    printed = (row.get(f"{name}_pct", "") for name in ("min_error", "mean_error", "std_error", "success_rate"))
    return PaperCell(*(float(value) if value not in ("", "nan") else None for value in printed))
