"""What a person types: every command end to end at a tiny scale, dry runs, help, and mistakes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import wait_until

from eigengrad_lab.__main__ import main
from eigengrad_lab.recipes import EXPERIMENTS

TINY = ["--epochs", "2", "--train-images", "130", "--test-images", "100", "--workers", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eigengrad_lab", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "132"},
    )


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The same in this process, which has imported everything already."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0, exit_.value.code
    return capsys.readouterr().out


def test_help_answers_without_torch() -> None:
    program = (
        "import sys\nfrom eigengrad_lab.__main__ import main\n"
        "try:\n    main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'datasets', 'sklearn', 'matplotlib', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    reproduce = [["reproduce", name] for name in (*EXPERIMENTS, "analysis")]
    for command in (*reproduce, ["train"], ["status"], ["report"]):
        answer = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert f"Example: eigengrad {' '.join(command)}" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "reproduce table1 --data no-such-thing",
            "error: --data 'no-such-thing': no such folder; known names are digits",
        ),
        ("reproduce table1 --group-sizes 128", "error: group_size must lie between 0 and 64, got 128"),
        ("reproduce table2 --rank 65", "error: rank must lie between 0 and 64, got 65"),
        ("reproduce figure3 --energies 1.5", "error: energy must lie between 0 and 1.0, got 1.5"),
        ("reproduce table1 --seeds 0", "error: --seeds must be at least 1, got 0"),
        ("reproduce table1 --device abacus", "error: --device 'abacus'"),
        ("reproduce table1 --address 10.0.0.1:6379", "error: --address is that of a Ray cluster"),
        ("train --layer pca --group-size 4", "error: --group-size: it goes with --layer zca"),
        ("train --rank 4", "error: --rank: it goes with --layer pca"),
        ("train --layer pca --rank 4 --energy 0.9", "error: --rank and --energy are two ways"),
        ("train --method batchnorm --group-size 4", "error: --group-size: --method batchnorm has no such setting"),
        ("report", "error: no runs in"),
        ("report table1", "error: no runs of table1 in"),
    ],
)
def test_a_users_mistake_gets_one_line(arguments: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments.split(), "--output", str(tmp_path)])
    assert str(exit_.value).startswith(message)
    assert "\n" not in str(exit_.value)


def test_an_unknown_value_gets_the_list_of_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", "magic"])
    assert "closed-form" in capsys.readouterr().err


def test_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "reproduce", "table1", "--dry-run", "--seeds", "1", "--output", str(tmp_path))
    assert "21 runs" in shown
    assert "zca-ours-d8-seed0-" in shown
    assert "weight_decay 0.0005" in shown
    shown = here(capsys, "train", "--layer", "pca", "--energy", "0.9", "--dry-run", "--output", str(tmp_path))
    assert "pca-ours-energy0.9-seed0-" in shown
    assert not list(tmp_path.iterdir())


def test_reproduce_table1(tmp_path: Path) -> None:
    """The whole command in two worker processes, and once more when everything is done."""
    command = ["reproduce", "table1", "--output", str(tmp_path), "--seeds", "1", *TINY[:-1], "2"]
    command += ["--methods", "ours", "svd", "batchnorm", "--group-sizes", "4", "64"]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert "zca-ours-d64-seed0-" in first.stdout
    assert "success rate" in first.stdout
    assert len(list((tmp_path / "trainings").iterdir())) == 5
    folder = tmp_path / "reports" / "digits-small-2epochs-130images-100tested"
    page = (folder / "report.html").read_text()
    assert "eigengrad reproduce table1 --output" in page
    assert str(tmp_path.parent) not in page
    second = run(*command)
    assert "5 of 5 runs were done before" in second.stdout
    status = run("status", "--output", str(tmp_path))
    assert "failed at step" in status.stdout
    assert "done" in status.stdout


@pytest.mark.parametrize("name", ["table2", "figure1", "figure2", "figure3"])
def test_reproduce(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every other table and figure, and its report from the records alone."""
    few = {
        "table2": ["--methods", "ours"],
        "figure1": ["--methods", "ours", "--group-sizes", "8"],
        "figure2": ["--methods", "ours"],
        "figure3": ["--energies", "0.9", "--ranks", "--iterations"],
    }
    here(capsys, "reproduce", name, "--output", str(tmp_path), "--seeds", "1", *TINY, *few[name])
    folder = tmp_path / "reports" / "digits-small-2epochs-130images-100tested"
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {f"{name}.md", f"{name}.csv", "report.html"} <= set(made)
    for path in folder.iterdir():
        path.unlink()
    shown = here(capsys, "report", "--output", str(tmp_path))
    assert "digits (130 training images, 100 test images)" in shown
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert again[f"{name}.csv"] == made[f"{name}.csv"]
    assert again[f"{name}.md"] == made[f"{name}.md"]
    shown = here(capsys, "report", name, "--output", str(tmp_path))
    assert shown.count("The paper's figures: ") == 1


def test_reproduce_analysis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "reproduce", "analysis", "--output", str(tmp_path))
    assert "ratio 0.85, k = 19" in shown
    assert "4.56%" in shown
    assert shown.count("reproduced:") == 2
    names = sorted(path.name for path in (tmp_path / "reports" / "analysis").iterdir())
    assert names == ["analysis.csv", "analysis.md", "analysis.png", "report.html"]


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--output", str(tmp_path), "--epochs", "4", "--train-images", "500", "--group-size", "8", "--seed", "3"]
    shown = here(capsys, "train", *options)
    assert "zca-ours-d8-seed3-" in shown
    assert "test error" in shown
    (folder,) = (tmp_path / "trainings").iterdir()
    assert json.loads((folder / "config.json").read_text())["seed"] == 3
    before = (folder / "result.json").stat().st_mtime_ns
    assert "test error" in here(capsys, "train", *options)
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, a run on its way, and the same run stopped by SIGTERM."""
    assert "no runs in" in here(capsys, "status", "--output", str(tmp_path))
    command = [sys.executable, "-m", "eigengrad_lab", "train", "--epochs", "500", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    shown = ""
    while "step" not in shown or "step 0 of" in shown:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
        shown = here(capsys, "status", "--output", str(tmp_path))
    assert "running" in shown
    assert "left, process" in shown
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; the same command goes on from here" in error
    assert "Traceback" not in error
    shown = here(capsys, "status", "--output", str(tmp_path))
    assert "stopped" in shown
    assert "1 stopped" in shown


def test_a_whole_group_is_terminated(tmp_path: Path) -> None:
    """As by ``timeout`` or a batch system: one worker, idle, dies of it with a lock; the other one saves and ends."""
    command = [sys.executable, "-m", "eigengrad_lab", "reproduce", "figure1", "--epochs", "500", "--seeds", "1"]
    command += ["--methods", "svd", "ours", "--group-sizes", "64", "--workers", "2", "--output", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(lambda: any(tmp_path.glob("trainings/zca-svd-*/result.json")), during=process)
        wait_until(lambda: _step(tmp_path, "zca-ours-*") > 12, during=process)
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert "interrupted; the same command goes on from here" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("trainings/zca-ours-*/checkpoint.pt"))


def _step(root: Path, name: str) -> int:
    steps = [json.loads(path.read_text())["step"] for path in root.glob(f"trainings/{name}/progress.json")]
    return max(steps, default=0)
