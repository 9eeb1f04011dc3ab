"""Many runs at once: worker processes here, tasks of a Ray cluster, and workers that die."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from waiting import wait_for_step

from eigengrad_lab import data
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.runs import engines
from eigengrad_lab.runs.execution import Recording, train
from eigengrad_lab.runs.records import RunRecord
from eigengrad_lab.training import Result

BASE = RunConfig(data="digits", model="small", method="ours", group_size=16, seed=0, epochs=6, train_images=400)
CONFIGS = [BASE, dataclasses.replace(BASE, seed=1), dataclasses.replace(BASE, method="svd", group_size=64)]


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load("digits", train_images=BASE.train_images)


@pytest.fixture(scope="module")
def whole(digits: data.ImageData, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What the runs give one after the other, in this process."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("whole")
    return [train(config, digits, Recording(root)) for config in CONFIGS]


def same(result: Result) -> Result:
    """But for what depends on the process."""
    return dataclasses.replace(result, seconds=0, peak_memory_mb=None)


def kill_the_first_worker(root: Path, resumed: list[int]) -> threading.Thread:
    """Kill the process of ``BASE`` in the middle of its run; note at which step the next one begins."""
    record = RunRecord(root, BASE)

    def kill() -> None:
        position = wait_for_step(record, 4)
        os.kill(position.process, signal.SIGKILL)
        while record.result() is None:
            after = record.position()
            if after is not None and after.process != position.process:
                resumed.append(after.started_at_step)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["local", "ray"])
def test_a_worker_is_killed(name: str, digits: data.ImageData, whole: list[Result], tmp_path: Path) -> None:
    """Its run goes on elsewhere, from its checkpoint; every run ends once, with the figures it has when undisturbed."""
    if name == "ray":
        pytest.importorskip("ray")
    warnings: list[str] = []
    recording = Recording(tmp_path, checkpoint_seconds=0)
    work = engines.Work(CONFIGS, digits, recording, torch.device("cpu"), 2, warnings.append)
    resumed: list[int] = []
    killer = kill_the_first_worker(tmp_path, resumed)
    ended = list(engines.by_name(name)(work))
    killer.join(10)
    assert sorted(config.identity for config, _ in ended) == sorted(config.identity for config in CONFIGS)
    outcomes = {config.identity: outcome for config, outcome in ended}
    for config, expected in zip(CONFIGS, whole, strict=True):
        outcome = outcomes[config.identity]
        assert isinstance(outcome, Result)
        assert same(outcome) == same(expected)
    assert resumed
    assert resumed[0] > 0


def test_an_interrupted_engine_saves(digits: data.ImageData, tmp_path: Path) -> None:
    """Closing its iterator stops it; runs on their way save their state."""
    long = dataclasses.replace(BASE, epochs=500)
    work = engines.Work(
        [CONFIGS[2], long], digits, Recording(tmp_path), torch.device("cpu"), 2, warn=lambda message: None
    )
    runs = engines.by_name("local")(work)
    config, _ = next(runs)  # the one that fails at once
    assert config == CONFIGS[2]
    record = RunRecord(tmp_path, long)
    wait_for_step(record, 1)
    runs.close()
    assert record.result() is None
    assert (record.folder / "checkpoint.pt").exists()
    assert not record.is_claimed()


def test_a_defect_breaks_one_run(digits: data.ImageData, tmp_path: Path) -> None:
    (tmp_path / CONFIGS[1].identity).write_text("in the way")
    work = engines.Work(CONFIGS, digits, Recording(tmp_path), torch.device("cpu"), 1, warn=lambda message: None)
    outcomes = {config.identity: outcome for config, outcome in engines.by_name("local")(work)}
    broken = outcomes.pop(CONFIGS[1].identity)
    assert isinstance(broken, engines.Broken)
    assert broken.reason.startswith("FileExistsError")
    assert all(isinstance(outcome, Result) for outcome in outcomes.values())


def test_names() -> None:
    with pytest.raises(UsageError, match="--engine must be local or ray, got 'slurm'"):
        engines.by_name("slurm")
    with pytest.raises(UsageError, match="--address is that of a Ray cluster"):
        engines.by_name("local", "10.0.0.1:6379")
