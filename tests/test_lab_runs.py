"""Trainings as records: data, results, failures that are results, interruption and resumption."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from eigengrad_lab import data, recipes, records
from eigengrad_lab import train as training
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.records import RunRecord

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


def test_learning_rate_schedule() -> None:
    assert recipes.milestones(350) == (100, 200, 300)
    config = dataclasses.replace(SHORT, epochs=350, milestones=(100, 200, 300))
    rates = [config.learning_rate_at(epoch) for epoch in (0, 99, 100, 200, 300, 349)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])


def test_table1_grid() -> None:
    grid = recipes.table1(data="digits", model="small", epochs=10, seeds=2)
    assert len(grid) == 2 * (4 * 5 + 1)
    assert len({config.identity for config in grid}) == len(grid)
    assert [config.seed for config in grid] == sorted(config.seed for config in grid)
    with pytest.raises(UsageError, match="between 1 and 64"):
        recipes.table1(data="digits", model="small", epochs=10, group_sizes=[65])


def test_a_run_leaves_its_records(digits: data.ImageData, tmp_path: Path) -> None:
    result = training.train(SHORT, digits, tmp_path)
    record = RunRecord(tmp_path, SHORT)
    assert result.succeeded
    assert result == record.result()
    metrics = record.metrics()
    assert [epoch.epoch for epoch in metrics] == [1, 2, 3]
    assert metrics[-1].train_loss < metrics[0].train_loss
    assert result.test_error_pct == metrics[-1].test_error_pct
    names = sorted(path.name for path in record.folder.iterdir())
    assert names == ["config.json", "environment.json", "metrics.jsonl", "result.json"]
    config = json.loads((record.folder / "config.json").read_text())
    assert RunConfig.from_dict(config) == SHORT
    assert json.loads((record.folder / "environment.json").read_text())["torch"] == torch.__version__

    before = (record.folder / "result.json").stat().st_mtime_ns
    assert training.train(SHORT, digits, tmp_path) == result
    assert (record.folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["ours", "pi"])
def test_an_interrupted_run_resumes_to_the_same_figures(
    method: str, digits: data.ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, random starts included: interrupted in the third epoch, it goes on from the second's end."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    config = dataclasses.replace(SHORT, method=method, group_size=4)
    steps = iter(range(1000))
    with pytest.raises(training.Interrupted):
        training.train(config, digits, tmp_path / "broken", should_stop=lambda: next(steps) == 7)
    assert RunRecord(tmp_path / "broken", config).result() is None
    assert len(RunRecord(tmp_path / "broken", config).metrics()) == 2
    seen: list[int] = []
    training.train(config, digits, tmp_path / "broken", on_step=lambda done, _: seen.append(done))
    assert seen == [7, 8, 9]
    training.train(config, digits, tmp_path / "whole")

    def figures(root: Path) -> list[tuple[float, float, float]]:
        metrics = RunRecord(tmp_path / root, config).metrics()
        return [(epoch.train_loss, epoch.test_error_pct, epoch.largest_gradient_norm) for epoch in metrics]

    assert figures(Path("broken")) == figures(Path("whole"))


def test_nan_is_a_result(digits: data.ImageData, tmp_path: Path) -> None:
    """Rank 9 in 64 channels: exact gradients meet a tie at once."""
    result = training.train(dataclasses.replace(SHORT, method="svd", group_size=64), digits, tmp_path)
    assert not result.succeeded
    assert result.test_error_pct is None
    assert result.failed_at_step is not None
    assert result.failed_at_step <= 9
    assert result.reason in ("gradient is not finite", "loss is not finite")
    assert str(result) == f"failed at step {result.failed_at_step}: {result.reason}"


def test_divergence_is_a_result(digits: data.ImageData, tmp_path: Path) -> None:
    result = training.train(
        dataclasses.replace(SHORT, method="batchnorm", group_size=None, learning_rate=300.0), digits, tmp_path
    )
    assert not result.succeeded
    assert result.reason is not None
    assert "diverged" in result.reason or "not finite" in result.reason


def test_a_failed_decomposition_is_a_result(
    digits: data.ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("no convergence. A longer story")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    result = training.train(SHORT, digits, tmp_path)
    assert str(result) == "failed at step 1: decomposition failed (no convergence)"


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    records.write_atomically(path, lambda file: file.write(b"old"))

    def broken(file: object) -> None:
        file.write(b"new")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_atomically(path, broken)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
