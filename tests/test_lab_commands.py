"""What a person types: every command end to end at a tiny scale, dry runs, help, and mistakes."""

import csv
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import fails, here
from rich.console import Console

import eigengrad
from eigengrad_lab import data
from eigengrad_lab.__main__ import main
from eigengrad_lab.cli import commands
from eigengrad_lab.cli.parser import parse
from eigengrad_lab.cli.progress import Display
from eigengrad_lab.config import RunConfig
from eigengrad_lab.recipes import EXPERIMENTS
from eigengrad_lab.runs.records import Position, recorded_runs

TINY = ["--epochs", "2", "--train-images", "130", "--test-images", "100", "--workers", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eigengrad_lab", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "132"},
    )


def test_help_answers_without_torch() -> None:
    program = (
        "import sys\nfrom eigengrad_lab.__main__ import main\n"
        "try:\n    main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'datasets', 'sklearn', 'matplotlib', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    reproduce = [["reproduce", name] for name in (*EXPERIMENTS, "analysis")]
    for command in (*reproduce, ["train"], ["status"], ["summary"], ["export"], ["report"]):
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
        ("reproduce table1 --group-sizes 128", "error: group_size must lie between 1 and 64, got 128"),
        ("reproduce table2 --rank 65", "error: rank must lie between 1 and 64, got 65"),
        ("reproduce figure3 --energies 1.5", "error: energy must be above 0 and at most 1, got 1.5"),
        ("reproduce table1 --seeds 0", "error: --seeds must be at least 1, got 0"),
        ("reproduce table1 --device abacus", "error: --device 'abacus'"),
        ("reproduce table1 --address 10.0.0.1:6379", "error: --address is that of a Ray cluster"),
        ("train --layer pca --group-size 4", "error: --group-size: it goes with --layer zca"),
        ("train --rank 4", "error: --rank: it goes with --layer pca"),
        ("train --layer pca --rank 4 --energy 0.9", "error: --rank and --energy are two ways"),
        ("train --method batchnorm --group-size 4", "error: --group-size: --method batchnorm has no such setting"),
        ("train --group-size 0", "error: group_size must lie between 1 and 64, got 0"),
        ("reproduce table1 --workers 0", "error: --workers must be at least 1, got 0"),
        ("reproduce table1 --workers -2", "error: --workers must be at least 1, got -2"),
        ("train --checkpoint-seconds -1", "error: --checkpoint-seconds must be at least 0, got -1.0"),
        ("train --learning-rate -1", "error: learning_rate must be above 0, got -1.0"),
        ("train --eps 0", "error: eps must be above 0, got 0.0"),
        ("train --sgd-momentum 1", "error: sgd_momentum must be at least 0 and below 1, got 1.0"),
        ("train --clip-norm 0", "error: clip_norm must be above 0, got 0.0"),
        ("train --learning-rate inf", "error: learning_rate must be finite, got inf"),
        ("train --clip-norm inf", "error: clip_norm must be finite, got inf"),
        (f"train --seed {10**20}", f"error: seed must be below 2^63, got {10**20}"),
        ("train --epochs 1 --warmup-epochs 50", "error: warmup_epochs must be at most epochs, 1, got 50.0"),
        ("train --gradient eigengrad:Exact --method pi", "error: --method pi: parts of your own are a method"),
        ("train --data nowhere.npz", "error: --data 'nowhere.npz': no such file"),
        ("train --device mps", "error: --device mps: this laboratory trains on cpu and cuda"),
        ("reproduce table1 --methods", "error: --methods: nothing is named"),
        ("reproduce figure3 --energies --ranks --iterations", "error: --energies, --ranks, --iterations: nothing"),
        ("train --data ./cifar", "error: --data './cifar': no such folder"),
        ("train --data /nowhere/cifar10", "error: --data '/nowhere/cifar10': no such folder"),
        ("train --layer ica", "error: --layer ica: known are zca, pca"),
        ("export zca", "error: no single run 'zca' in"),
        ("report", "error: no runs in"),
        ("report table1", "error: no runs of table1 in"),
    ],
)
def test_a_users_mistake_gets_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = fails(capsys, *arguments.split(), "--output", str(tmp_path))
    assert code == 2
    assert said.startswith(message)
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["summary", "status"])
def test_a_folder_that_is_not_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, command, "--output", str(tmp_path / "nowhere"))
    assert code == 2
    assert "there is no such folder; eigengrad reproduce and train make one" in said
    assert not list(tmp_path.iterdir())


def test_an_unknown_value_gets_the_list_of_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "closed-form" in fails(capsys, "train", "--method", "magic")[1]
    assert "did you mean 'closed-form'?" in fails(capsys, "train", "--method", "closed-from")[1]
    assert "did you mean 'closed-form'?" in fails(capsys, "reproduce", "table1", "--methods", "closed_form")[1]
    assert "error: no command 'tarin' (did you mean 'train'?)" in fails(capsys, "tarin")[1]
    assert "did you mean 'resnet18'?" in fails(capsys, "train", "--model", "resnet-18")[1]
    assert "--method" in fails(capsys, "train", "--mehtod", "ours")[1]


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
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in error
    assert "Traceback" not in error
    shown = here(capsys, "status", "--output", str(tmp_path))
    assert "stopped" in shown
    assert "1 stopped" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "--version")
    assert shown.startswith(f"eigengrad {eigengrad.__version__}")
    assert f"torch {torch.__version__}" in shown


@pytest.mark.parametrize("command", ["train", "reproduce table1", "reproduce analysis", "status", "report", "summary"])
def test_an_output_that_is_no_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, said = fails(capsys, *command.split(), "--output", str(tmp_path / "file" / "below"))
    assert code == 2
    assert "is a file; give a folder" in said


def test_an_output_where_nothing_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by root; one line."""
    code, said = fails(capsys, "train", "--output", "/proc/eigengrad", *TINY)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_full_disk_while_the_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that took hours is shown all the same, and the command says by its exit code that a file is missing."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eigengrad_lab.report.write.write_text", full)
    command = ["reproduce", "table1", "--methods", "batchnorm", "--seeds", "1", "--output", str(tmp_path), *TINY]
    with pytest.raises(SystemExit) as exit_:
        main(command)
    shown = capsys.readouterr().out
    assert exit_.value.code == 1
    assert "success rate" in shown
    assert "the report cannot be written to" in shown
    assert "No space left on device" in " ".join(shown.split())


def test_too_short_a_run_is_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch of the digits: the loss is still that of a guess, and nothing is counted against the paper."""
    options = ["--methods", "ours", "--group-sizes", "4", "--epochs", "1", "--seeds", "1", "--workers", "1"]
    shown = here(capsys, "reproduce", "table1", "--output", str(tmp_path), *options)
    assert "not trained long enough" in shown
    assert "1 undecided" in shown
    assert "differs" not in shown
    assert "1 undecided" in here(capsys, "status", "--output", str(tmp_path))


def test_lines_tell_pace_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "reproduce", "figure1", "--dry-run", "--seeds", "1", "--group-sizes", "8", *TINY,
                 "--output", str(tmp_path))  # fmt: skip
    assert re.search(r"about \d:\d\d:\d\d for 2 runs, 1 at a time on cpu: \d+ images/s each", shown)
    config = RunConfig(data="digits", model="small", method="ours", group_size=8, seed=0, epochs=2)
    now = time.time()
    position = Position(30, 50, 1, 2, 1.5, 20.0, started=now - 10, started_at_step=10, updated=now, batch_size=128)
    display = Display([config, dataclasses.replace(config, seed=1)], tmp_path, Console(width=300), 2)
    display._print_line({config.identity: position})
    shown = capsys.readouterr().out
    assert "at step 30 of 50, 256 images/s, 0:00:10 left, epoch 1, loss 1.500, error 20.0%" in shown
    assert "0 of 2 runs done, 0:00:00 so far, 0:00:18 left" in shown  # 10 s of one, 25 s of the other, two at a time


def test_summary_and_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One CSV of all runs; and the network of one, folded, gives the same answers under another runtime."""
    monkeypatch.chdir(tmp_path)
    here(capsys, "train", "--group-size", "8", "--epochs", "6", "--output", "runs", "--train-images", "600")
    here(capsys, "summary", "--output", "runs")
    (row,) = csv.DictReader((tmp_path / "runs" / "summary.csv").read_text().splitlines())
    assert (row["method"], row["group_size"], row["state"], row["epochs_done"]) == ("ours", "8", "done", "6")
    assert (row["threads"], row["device"], row["torch"]) == (str(torch.get_num_threads()), "cpu", torch.__version__)
    assert row["kernel"] in ("none", "baseline", "avx2", "avx512")
    assert float(row["peak_memory_mb"]) > 50
    assert float(row["seconds"]) > 0

    (record,) = recorded_runs(tmp_path / "runs" / "trainings")[0]
    onnxruntime = pytest.importorskip("onnxruntime")
    shown = here(capsys, "export", record.config.identity[:12], "--output", "runs", "--to", "network.onnx")
    assert "from 1 x 8 x 8 pixels of 0 to 255 to 10 logits" in shown
    digits = data.load("digits")
    session = onnxruntime.InferenceSession("network.onnx")
    (logits,) = session.run(None, {"pixels": digits.test_images.float().numpy()})
    error = 100 * (logits.argmax(1) != digits.test_labels.numpy()).mean()
    result = record.result()
    assert result is not None
    assert error == pytest.approx(result.test_error_pct, abs=0.3)  # one image of 360


def test_every_choice_of_a_training_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is part of the run's identity."""
    flags = {
        "--flip on": "flip True", "--flip off": "flip False", "--crop 0": "crop 0", "--clip-norm 2": "clip_norm 2.0",
        "--amp bf16": "amp bf16", "--compile": "compile True", "--channels-last": "channels_last True",
        "--warmup-epochs 1.5": "warmup_epochs 1.5", "--schedule one-cycle": "schedule one-cycle",
        "--nesterov": "nesterov True", "--label-smoothing 0.1": "label_smoothing 0.1", "--image-size 9": "image_size 9",
    }  # fmt: skip
    seen = set()
    for flag, expected in flags.items():
        config = commands._configuration(parse(["train", *flag.split()]))
        name, value = expected.split(" ", 1)
        assert str(getattr(config, name)) == value
        seen.add(config.identity)
    assert len(seen) == len(flags)
