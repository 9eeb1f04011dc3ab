"""Figures printed in Wang et al., NeurIPS 2019, for reports to set beside ours.

Read off the published tables: CIFAR-10, ResNet-18, 350 epochs. Empty fields are cells where no run succeeded. In the
paper's cell of SVD at d = 4 the printed minimum exceeds the printed mean; it is kept as printed.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["SETTING", "PaperCell", "table1"]

SETTING = "Wang et al. 2019: CIFAR-10, ResNet-18, 350 epochs"


@dataclass(frozen=True)
class PaperCell:
    """One cell of the paper's Table 1; errors in percent, ``None`` where nothing is printed."""

    least: float | None
    mean: float | None
    std: float | None
    success_pct: float | None


def table1() -> dict[tuple[str, int | None], PaperCell]:
    """Table 1 by method and group size, with the BatchNorm baseline that the paper prints in Table 2."""
    cells: dict[tuple[str, int | None], PaperCell] = {}
    for row in _rows("table1.csv"):
        cells[row["method"], int(row["group_size"])] = _cell(row, row["success_rate_pct"])
    for row in _rows("table2.csv"):
        if row["method"] == "batchnorm":
            cells["batchnorm", None] = _cell(row, "")
    return cells


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(files(__name__).joinpath(name).read_text().splitlines()))


def _cell(row: dict[str, str], success: str) -> PaperCell:
    printed = (row["min_error_pct"], row["mean_error_pct"], row["std_error_pct"], success)
    return PaperCell(*(float(value) if value else None for value in printed))
