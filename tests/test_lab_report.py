"""What a person sees: the command line, the table, the files, the page."""

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eigengrad_lab import paper
from eigengrad_lab.__main__ import main
from eigengrad_lab.config import RunConfig
from eigengrad_lab.records import EpochMetrics, Result, RunRecord
from eigengrad_lab.report import table1, write_table1

BASE = RunConfig(data="digits", model="small", method="ours", group_size=8, seed=0, epochs=2)


def test_the_papers_figures() -> None:
    printed = paper.table1()
    assert len(printed) == 16
    assert printed["ours", 64] == paper.PaperCell(4.44, 4.59, 0.09, 100.0)
    assert printed["svd", 8] == paper.PaperCell(None, None, None, 0.0)
    assert printed["batchnorm", None].mean == 4.81


def test_cells() -> None:
    errors = [3.0, None, 5.0]
    results = [(BASE, Result(error is not None, error, None if error else 4, "NaN")) for error in errors]
    cell = table1.aggregate(results)["ours", 8]
    assert (cell.runs, cell.errors, cell.least, cell.mean) == (3, (3.0, 5.0), 3.0, 4.0)
    assert cell.std == pytest.approx(2**0.5)
    assert cell.success_pct == pytest.approx(200 / 3)
    nothing = table1.Cell(2, ())
    assert (nothing.success_pct, nothing.least, nothing.mean, nothing.std) == (0.0, None, None, None)


def test_files(tmp_path: Path) -> None:
    """One run that succeeded, one that failed, one that is missing; the page loads nothing from elsewhere."""
    configs = [BASE, dataclasses.replace(BASE, method="svd"), dataclasses.replace(BASE, seed=1)]
    results = [Result(True, 2.5, seconds=1.0), Result(False, None, 3, "gradient is not finite", 1.0)]
    for config, result in zip(configs, results, strict=False):
        record = RunRecord(tmp_path / "trainings", config)
        record.open()
        record.write_metrics([EpochMetrics(1, 3, 1.5, 2.5, 0.1, 1.0, 1.0)])
        record.write_result(result)
    folder = tmp_path / "report"
    write_table1(configs, tmp_path / "trainings", folder, ["eigengrad", "reproduce", "table1", "<&>"])
    assert sorted(path.name for path in folder.iterdir()) == ["figure1.png", "report.html", "table1.csv", "table1.md"]

    rows = {row["method"]: row for row in csv.DictReader((folder / "table1.csv").read_text().splitlines())}
    assert rows["ours"]["mean_error_pct"] == "2.5"
    assert rows["ours"]["paper_mean_error_pct"] == "4.62"
    assert rows["svd"]["success_rate_pct"] == "0.0"
    assert rows["svd"]["mean_error_pct"] == ""
    markdown = (folder / "table1.md").read_text()
    assert "| ours | success rate | 100% |" in markdown
    assert "1 of 3 runs have no result yet" in markdown
    page = (folder / "report.html").read_text()
    assert "failed at step 3: gradient is not finite" in page
    assert "data:image/png;base64," in page
    assert "&lt;&amp;&gt;" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert (folder / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_help_answers_without_torch() -> None:
    program = (
        "import sys\nfrom eigengrad_lab.__main__ import main\n"
        "try:\n    main(['reproduce', 'table1', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'datasets', 'sklearn', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Example: eigengrad reproduce table1" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no-such-thing"], "error: --data 'no-such-thing': no such folder"),
        (["--group-sizes", "128"], "error: --group-sizes must lie between 1 and 64"),
        (["--seeds", "0"], "error: --seeds must be at least 1, got 0"),
        (["--device", "abacus"], "error: --device 'abacus'"),
    ],
)
def test_a_users_mistake_gets_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", "table1", "--output", str(tmp_path), *arguments])
    assert str(exit_.value).startswith(message)


def test_reproduce_table1(tmp_path: Path) -> None:
    """The whole command in two worker processes, and once more when everything is done."""
    command = [sys.executable, "-m", "eigengrad_lab", "reproduce", "table1", "--output", str(tmp_path)]
    command += ["--epochs", "2", "--train-images", "200", "--test-images", "100", "--seeds", "1", "--workers", "2"]
    command += ["--methods", "ours", "svd", "batchnorm", "--group-sizes", "4", "64"]
    first = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "132"})
    assert first.returncode == 0, first.stderr
    assert "zca-ours-d64-seed0-" in first.stdout
    assert "success rate" in first.stdout
    assert len(list((tmp_path / "trainings").iterdir())) == 5
    assert (tmp_path / "table1-digits-small-2epochs-200images" / "report.html").exists()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "5 of 5 runs were done before" in second.stdout
