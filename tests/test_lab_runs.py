"""Trainings as records: configurations, results, failures that are results, and what a run leaves behind."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import eigengrad
from eigengrad_lab import data, recipes
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.runs import files
from eigengrad_lab.runs.environment import DECIDING, command_line, mixture
from eigengrad_lab.runs.execution import Recording, train
from eigengrad_lab.runs.records import RunRecord, recorded_runs
from eigengrad_lab.training import Result, judged

SHORT = RunConfig(
    data="digits", model="small", method="ours", group_size=16, seed=0, epochs=3, milestones=(2,), train_images=300
)


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load("digits", train_images=SHORT.train_images)


def test_identity_is_the_configuration() -> None:
    assert SHORT.identity == dataclasses.replace(SHORT).identity
    assert SHORT.identity.startswith("zca-ours-d16-seed0-")
    changed = {"data": "x", "model": "resnet18", "epochs": 4, "learning_rate": 0.2, "eps": 1e-3, "milestones": ()}
    identities = {dataclasses.replace(SHORT, **{name: value}).identity for name, value in changed.items()}
    assert len(identities | {SHORT.identity}) == len(changed) + 1
    assert RunConfig.from_dict(json.loads(json.dumps(SHORT.to_dict()))) == SHORT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_size": None}, "zca needs one of group_size"),
        ({"rank": 3}, "rank is no setting of zca"),
        ({"layer": "pca"}, "group_size is no setting of pca"),
        ({"layer": "pca", "group_size": None, "rank": 3, "energy": 0.5}, "pca needs one of rank, energy"),
        ({"layer": "pca", "group_size": None, "energy": 1.5}, "energy must be above 0 and at most 1, got 1.5"),
        ({"group_size": 65}, "group_size must lie between 1 and 64, got 65"),
        ({"method": "batchnorm"}, "layer is None for batchnorm"),
        ({"layer": "ica"}, "layer must be zca or pca, module:function, or None for batchnorm, got 'ica'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SHORT, **fields)
    with pytest.raises(UsageError, match="no configuration of a run"):
        RunConfig.from_dict({"colour": "blue"})


def test_learning_rate_schedule() -> None:
    assert recipes.milestones(350) == (100, 200, 300)
    config = dataclasses.replace(SHORT, epochs=350, milestones=(100, 200, 300))
    rates = [config.learning_rate_at(epoch) for epoch in (0, 99, 100, 200, 300, 349)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])


def test_grids() -> None:
    common = {"data": "digits", "model": "small", "epochs": 10}
    table1 = recipes.grid(recipes.Whitening(), seeds=2, **common)
    assert len(table1) == 2 * (4 * 5 + 1)
    assert [config.seed for config in table1] == sorted(config.seed for config in table1)
    table2 = recipes.grid(recipes.Denoising(), seeds=2, **common)
    assert {config.rank for config in table2} == {16, None}
    figure3 = recipes.grid(recipes.Sweeps(), seeds=1, **common)
    assert len(figure3) == 6 + 5 + 7 - 1  # rank 16 with 19 iterations stands in two panels
    shared = {config.identity for config in table1} & {config.identity for config in table2}
    assert len(shared) == 2  # the baseline, trained once for both tables
    assert {config.identity for config in table2} & {config.identity for config in figure3}
    for grid in (table1, table2, figure3):
        assert len({config.identity for config in grid}) == len(grid)
    with pytest.raises(UsageError, match="known are batchnorm, svd, pi, ours"):
        recipes.Whitening(("adam",)).choices()


def test_a_run_leaves_its_records(digits: data.ImageData, tmp_path: Path) -> None:
    result = train(SHORT, digits, Recording(tmp_path, "eigengrad train"))
    record = RunRecord(tmp_path, SHORT)
    assert result.succeeded
    assert result == record.result()
    metrics = record.metrics()
    assert [epoch.epoch for epoch in metrics] == [1, 2, 3]
    assert metrics[-1].train_loss < metrics[0].train_loss
    assert result.test_error_pct == metrics[-1].test_error_pct
    names = sorted(path.name for path in record.folder.iterdir())
    assert names == ["config.json", "environment.json", "lock", "metrics.jsonl", "result.json"]
    environment = json.loads((record.folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["command"] == "eigengrad train"

    before = (record.folder / "result.json").stat().st_mtime_ns
    assert train(SHORT, digits, Recording(tmp_path)) == result
    assert (record.folder / "result.json").stat().st_mtime_ns == before


def test_tensorboard(digits: data.ImageData, tmp_path: Path) -> None:
    """One point an epoch, at the epoch's last step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(SHORT, digits, Recording(tmp_path, tensorboard=True))
    events = EventAccumulator(str(RunRecord(tmp_path, SHORT).folder / "events")).Reload()
    assert [point.step for point in events.Scalars("train_loss")] == [3, 6, 9]


def test_nan_is_a_result(digits: data.ImageData, tmp_path: Path) -> None:
    """Rank 9 in 64 channels: exact gradients meet a tie at once."""
    config = dataclasses.replace(SHORT, method="svd", group_size=64)
    result = train(config, digits, Recording(tmp_path))
    assert not result.succeeded
    assert result.test_error_pct is None
    assert result.failed_at_step is not None
    assert result.failed_at_step <= 9
    assert result.reason in ("gradient is not finite", "loss is not finite")
    assert str(result) == f"failed at step {result.failed_at_step}: {result.reason}"


def test_divergence_is_a_result(digits: data.ImageData, tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, layer=None, method="batchnorm", group_size=None, learning_rate=300.0)
    result = train(config, digits, Recording(tmp_path))
    assert not result.succeeded
    assert result.reason is not None
    assert "diverged" in result.reason or "not finite" in result.reason


def test_a_failed_decomposition_is_a_result(
    digits: data.ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("no convergence. A longer story")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    result = train(SHORT, digits, Recording(tmp_path))
    assert str(result) == "failed at step 1: decomposition failed (no convergence)"


def test_damaged_records_are_named(digits: data.ImageData, tmp_path: Path) -> None:
    """Truncated files give no traceback: they are named, and what is left of them is read."""
    train(SHORT, digits, Recording(tmp_path))
    record = RunRecord(tmp_path, SHORT)
    (record.folder / "metrics.jsonl").write_text((record.folder / "metrics.jsonl").read_text()[:-30])
    assert len(record.metrics()) == 2
    (record.folder / "result.json").write_text('{"succeeded": tr')
    assert record.result() is None
    (tmp_path / "notes").mkdir()
    other = tmp_path / "zca-ours-d16-seed1-00000000"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(SHORT.to_dict()))
    found, strange = recorded_runs(tmp_path)
    assert [found_record.config for found_record in found] == [SHORT]
    assert len(strange) == 4
    assert "notes: no readable config.json" in strange[0]
    assert strange[1:3] == [
        f"{record.folder / name}: not what a run writes" for name in ("result.json", "metrics.jsonl")
    ]
    assert f"its config.json is that of {SHORT.identity}" in strange[3]


@pytest.mark.parametrize(
    "content",
    [
        {"succeeded": True, "test_error_pct": "2.5"},
        {"succeeded": True, "test_error_pct": None},
        {"succeeded": True, "test_error_pct": math.nan},
        {"succeeded": True, "test_error_pct": 2.5, "seconds": None},
        {"succeeded": False, "test_error_pct": 2.5},
        {"succeeded": True, "test_error_pct": 2.5, "colour": "red"},
        [True, 2.5],
    ],
)
def test_a_result_of_another_kind_is_none(content: object, tmp_path: Path) -> None:
    record = RunRecord(tmp_path, SHORT)
    record.open()
    (record.folder / "result.json").write_text(json.dumps(content))
    assert record.result() is None
    assert record.damaged() == [record.folder / "result.json"]
    (record.folder / "result.json").write_text('{"succeeded": true, "test_error_pct": 2}')
    assert record.result() == Result(True, 2)
    assert record.damaged() == []


def test_result_as_a_sentence() -> None:
    assert str(Result(True, 2.5)) == "2.50% test error"


def test_commands_in_records_name_no_folder_of_this_machine() -> None:
    words = ["reproduce", "table1", "--data", "/home/me/cifar10", "--output", "../elsewhere/runs", "--seeds", "2"]
    assert command_line(words) == "eigengrad reproduce table1 --data cifar10 --output runs --seeds 2"
    words = ["train", "--data=/home/me/cifar10", "--output", "."]
    assert command_line(words) == "eigengrad train --data=cifar10 --output ."
    assert command_line(["train", "--data", "uoft-cs/cifar10"]) == "eigengrad train --data uoft-cs/cifar10"


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, lambda file: file.write(b"old"))

    def broken(file: object) -> None:
        file.write(b"new")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, broken)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("losses", "ended", "verdict"),
    [
        ([2.25], True, "undecided"),
        ([2.29, 2.25], True, "undecided"),
        ([2.25], False, None),
        ([2.3, 2.3, 2.3], False, "diverged"),
        ([2.3, 2.3, 2.0], True, None),
        ([1.5, 2.25], True, "diverged"),
        ([1.5, 2.25], False, None),
        ([9.0], True, "diverged"),
    ],
)
def test_judged(losses: list[float], ended: bool, verdict: str | None) -> None:
    """A guess among ten has 2.30. Too few epochs to be patient are no verdict, unless the loss says that all is
    lost."""
    assert judged(losses, 10, steps_per_epoch=12, ended=ended) == verdict


def test_few_steps_are_few_whatever_the_epochs() -> None:
    assert judged([2.3] * 3, 10, steps_per_epoch=2, ended=True) == "undecided"
    assert judged([2.3] * 15, 10, steps_per_epoch=2, ended=True) == "diverged"


def test_records_are_json_to_the_letter(digits: data.ImageData, tmp_path: Path) -> None:
    """A run that fails at once has no mean loss and no error: null, which every reader knows, and NaN again when
    read."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    config = dataclasses.replace(SHORT, method="svd", group_size=64)
    train(config, digits, Recording(tmp_path))
    record = RunRecord(tmp_path, config)
    for path in record.folder.glob("*.json*"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=refuse)
    assert '"test_error_pct": null' in (record.folder / "metrics.jsonl").read_text()
    assert math.isnan(record.metrics()[-1].test_error_pct)


def test_what_figures_depend_on_is_recorded(digits: data.ImageData, tmp_path: Path) -> None:
    train(SHORT, digits, Recording(tmp_path))
    known = RunRecord(tmp_path, SHORT).environment()
    assert set(DECIDING) <= set(known)
    assert known["threads"] == torch.get_num_threads()
    assert known["kernel"] == (eigengrad.native.instructions() or "none")
    assert known["device"] == "cpu"
    assert known["blas"] != ""
    assert "earlier" not in known


def test_a_run_that_goes_on_elsewhere_says_so(digits: data.ImageData, tmp_path: Path) -> None:
    record = RunRecord(tmp_path, SHORT)
    record.open()
    path = record.folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 77}))
    train(SHORT, digits, Recording(tmp_path))
    known = record.environment()
    assert [earlier["threads"] for earlier in known["earlier"]] == [77]
    record.open()
    assert len(record.environment()["earlier"]) == 1


def test_a_grid_that_mixes_is_named() -> None:
    one, two = {"threads": 1, "commit": "a", "cores": 2}, {"threads": 2, "commit": "a", "cores": 4}
    assert mixture([one, one]) == ""
    assert mixture([one, two, one]) == "These runs were not all made alike; threads: 1 (2 runs), 2 (1 runs)."


def test_another_number_of_threads_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One identity, one record; asked for again otherwise, the command says whose figures it shows."""
    from commands import here

    options = ["reproduce", "figure1", "--methods", "ours", "--group-sizes", "8", "--seeds", "1", "--epochs", "2"]
    options += ["--train-images", "130", "--workers", "1", "--output", str(tmp_path)]
    here(capsys, *options, "--threads", "1")
    for path in tmp_path.glob("trainings/*/environment.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 5}))
    shown = here(capsys, *options[:7], "2", *options[8:], "--threads", "1")
    told = " ".join(shown.split())
    assert "warning: These runs were not all made alike; " in told
    assert "threads: 5 (1 runs), 1 (1 runs)" in told
    (page,) = tmp_path.glob("reports/*/report.html")
    assert "threads: 5 (1 runs), 1 (1 runs)" in page.read_text()
