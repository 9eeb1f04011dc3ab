"""README's table of the demo, made from the committed result files, so that the two cannot differ.

python -m eigengrad_lab.report.readme             # write the table again
python -m eigengrad_lab.report.readme --check     # exit code 1 if it is another one
python -m eigengrad_lab.report.readme runs        # first renew the result files from the records of `make demo`
"""

import csv
import re
import shutil
import sys
from pathlib import Path

from eigengrad_lab.methods import METHODS, label
from eigengrad_lab.recipes import GROUP_SIZES
from eigengrad_lab.report.summary import write_summary
from eigengrad_lab.report.write import rebuild
from eigengrad_lab.runs.records import trainings

__all__ = ["renew", "table", "with_table"]

HERE = Path(__file__).resolve().parents[2]
RESULTS, README = HERE / "results" / "digits", HERE / "README.md"
SETTING = "digits-small-10epochs"
BETWEEN = re.compile(r"(<!-- made of results/digits/table1\.csv -->\n).*?(<!-- end -->)", re.DOTALL)


def table(results: Path = RESULTS) -> str:
    """Success rate and mean error by method and d, the paper's success rate in parentheses, as Markdown."""
    with (results / "table1.csv").open() as file:
        cells = {(row["method"], row["column"]): row for row in csv.DictReader(file)}
    columns = [f"d = {d}" for d in GROUP_SIZES]
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for method in METHODS:
        if method == "batchnorm" or not any(name == method for name, _ in cells):
            continue
        lines.append([label(method), *(_cell(cells[method, column]) for column in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |", 1)


def with_table(readme: str, results: Path = RESULTS) -> str:
    """The text with the table in its place."""
    return BETWEEN.sub(lambda found: f"{found[1]}\n{table(results)}\n{found[2]}", readme)


def renew(output: Path, results: Path = RESULTS) -> None:
    """The result files, from the records below ``output``."""
    list(rebuild(output))
    for name in ("table1", "figure1"):
        for kind in ("csv", "md", "png"):
            made = output / "reports" / SETTING / f"{name}.{kind}"
            if made.exists():
                shutil.copy(made, results / made.name)
    write_summary(trainings(output), results / "runs.csv")


def _cell(row: dict[str, str]) -> str:
    theirs = f" ({float(row['paper_success_rate_pct']):g}%)" if row["paper_success_rate_pct"] else ""
    error = f", {float(row['mean_error_pct']):.1f}" if row["mean_error_pct"] else ""
    return f"{float(row['success_rate_pct']):.0f}%{error}{theirs}" if row["success_rate_pct"] else "-"


def main(arguments: list[str]) -> int:
    """The exit code."""
    places = [Path(word) for word in arguments if word != "--check"]
    for place in places:
        renew(place)
    written, now = README.read_text(), with_table(README.read_text())
    if "--check" in arguments:
        return int(written != now)
    README.write_text(now)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
