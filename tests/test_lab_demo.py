"""What README says that `make demo` prints is what the result files hold, and what trainings give here, to the last
bit."""

import csv
from pathlib import Path

import pytest
import torch

from eigengrad_lab import data, recipes
from eigengrad_lab.report import readme
from eigengrad_lab.runs.environment import environment
from eigengrad_lab.training import Training


def test_readme_has_the_table_of_the_result_files() -> None:
    text = readme.README.read_text()
    assert readme.BETWEEN.search(text)
    assert readme.with_table(text) == text, "python -m eigengrad_lab.report.readme writes it again"


def test_another_result_is_another_table(tmp_path: Path) -> None:
    rows = (readme.RESULTS / "table1.csv").read_text()
    (tmp_path / "table1.csv").write_text(rows.replace("100.0", "33.3"))
    assert readme.table(tmp_path) != readme.table()


@pytest.mark.parametrize(("method", "d"), [("svd", 32), ("pi", 32), ("ours", 64)])
def test_the_demo_trains_to_the_result_files(method: str, d: int) -> None:
    """The first seed of three cells, one thread, bit for bit: where the machine computes as the one that made them.

    If a change of the library moves bits, `make demo-results` makes the files and README's table anew.
    """
    with (readme.RESULTS / "runs.csv").open() as file:
        (row,) = [
            row
            for row in csv.DictReader(file)
            if (row["method"], row["group_size"], row["seed"]) == (method, str(d), "0")
        ]
    here = environment()
    for name in ("torch", "processor", "kernel", "threads", "blas", "device"):
        if row[name] != str(here[name]):
            pytest.skip(f"the files were made with {name} {row[name]}, here it is {here[name]}")
    varied = recipes.Whitening((method,), group_sizes=(d,))
    (config,) = recipes.grid(varied, data="digits", model="small", epochs=10, seeds=1)
    assert config.identity == row["run"]
    torch.set_num_threads(1)
    training, result = Training(config, data.load("digits")), None
    while result is None:
        for _ in training.run_epoch():
            pass
        result = training.end_epoch()
    given = "" if result.test_error_pct is None else f"{result.test_error_pct:.7g}"
    assert (given, str(result.failed_at_step or "")) == (row["test_error_pct"], row["failed_at_step"])
    assert f"{training.metrics[-1].train_loss:.7g}" == row["train_loss"] or row["train_loss"] == "nan"
