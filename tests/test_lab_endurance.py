"""A run that ends early, for any reason, goes on at the same call and ends with the same figures."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from waiting import wait_for_step, wait_until

from eigengrad_lab import data
from eigengrad_lab.config import RunConfig
from eigengrad_lab.runs import execution
from eigengrad_lab.runs.checkpoints import Checkpoints
from eigengrad_lab.runs.execution import Interrupted, Recording, train
from eigengrad_lab.runs.records import RunRecord

CONFIG = RunConfig(
    data="digits", model="small", method="pi", group_size=4, seed=0, epochs=2, batch_size=32, train_images=300
)
Figures = list[tuple[float, float, float]]


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load("digits", train_images=CONFIG.train_images)


def figures(root: Path, config: RunConfig = CONFIG) -> Figures:
    """What must not depend on interruptions, to the last bit."""
    metrics = RunRecord(root, config).metrics()
    return [(epoch.train_loss, epoch.test_error_pct, epoch.largest_gradient_norm) for epoch in metrics]


@pytest.fixture(scope="module")
def whole(digits: data.ImageData, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Of a run that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    train(CONFIG, digits, Recording(root))
    return figures(root)


@pytest.mark.parametrize("steps", [1, 7, 10, 13])
def test_stopped_at_a_step(steps: int, digits: data.ImageData, whole: Figures, tmp_path: Path) -> None:
    """In the middle of an epoch and at its end, random starts of power iteration included."""
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        train(CONFIG, digits, Recording(tmp_path), should_stop=lambda: next(asked) == steps - 1)
    record = RunRecord(tmp_path, CONFIG)
    assert record.result() is None
    state = Checkpoints(record.folder).load(torch.device("cpu"))
    assert state is not None
    assert len(state["metrics"]) * 10 + len(state["trace"]) == steps
    train(CONFIG, digits, Recording(tmp_path))
    assert figures(tmp_path) == whole
    assert not Checkpoints(record.folder).exist()


def work(root: Path, digits: data.ImageData) -> None:
    try:
        train(CONFIG, digits, Recording(root, checkpoint_seconds=0))
    except Interrupted:
        sys.exit(75)


def start(root: Path, digits: data.ImageData) -> BaseProcess:
    """A process that trains, with a checkpoint after every step. (A fork: it need not import torch again.)"""
    process = multiprocessing.get_context("fork").Process(target=work, args=(root, digits))
    process.start()
    return process


def finish(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def test_killed_again_and_again(digits: data.ImageData, whole: Figures, tmp_path: Path) -> None:
    """SIGKILL at many moments, while records are written all the time: each attempt goes on from the last."""
    record = RunRecord(tmp_path, CONFIG)
    begun = [0]

    def has_gone_on(process: BaseProcess) -> bool:
        """Two steps: the checkpoint of the first one is written."""
        at = record.position()
        if at is not None and at.process == process.pid and at.step >= at.started_at_step + 2:
            begun.append(at.started_at_step)
            return True
        return not process.is_alive()

    for attempt in range(6):
        process = start(tmp_path, digits)
        wait_until(lambda process=process: has_gone_on(process))
        time.sleep(0.005 * attempt)
        process.kill()
        finish(process)
        if record.result() is not None:
            break
    assert begun == sorted(begun)
    assert begun[-1] > 0
    assert finish(start(tmp_path, digits)) == 0
    assert figures(tmp_path) == whole


def test_terminated(digits: data.ImageData, whole: Figures, tmp_path: Path) -> None:
    """SIGTERM: the state is saved, and the process says so by its exit code."""
    process = start(tmp_path, digits)
    record = RunRecord(tmp_path, CONFIG)
    wait_for_step(record, 1)
    process.terminate()
    assert finish(process) == 75
    assert record.result() is None
    assert finish(start(tmp_path, digits)) == 0
    assert figures(tmp_path) == whole


def interrupted(digits: data.ImageData, root: Path) -> Path:
    """The folder of a run stopped after 13 steps with a checkpoint after each."""
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        train(CONFIG, digits, Recording(root, checkpoint_seconds=0), should_stop=lambda: next(asked) == 12)
    return RunRecord(root, CONFIG).folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_code(path: Path) -> None:
    """What a malicious checkpoint would be: an object whose loading calls a function."""

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(path.parent / "evil"),)

    torch.save({"metrics": Evil()}, path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, replace_by_code])
def test_a_damaged_checkpoint(
    damage: Callable[[Path], None], digits: data.ImageData, whole: Figures, tmp_path: Path
) -> None:
    """Named, set aside, and the one before taken; with both damaged, the run starts over."""
    folder = interrupted(digits, tmp_path)
    damage(folder / "checkpoint.pt")
    warnings: list[str] = []
    train(CONFIG, digits, Recording(tmp_path), warn=warnings.append)
    assert figures(tmp_path) == whole
    assert len(warnings) == 1
    assert "checkpoint.pt is damaged" in warnings[0]
    assert (folder / "checkpoint.damaged1").exists()
    assert not (folder / "evil").exists()

    (folder / "result.json").unlink()
    again = interrupted(digits, tmp_path)
    for path in (again / "checkpoint.pt", again / "checkpoint-before.pt"):
        damage(path)
    train(CONFIG, digits, Recording(tmp_path), warn=warnings.append)
    assert figures(tmp_path) == whole
    assert len(warnings) == 3


def test_two_writers(digits: data.ImageData, whole: Figures, tmp_path: Path) -> None:
    """Two processes asked for one run: one trains, the other waits and finds the result."""
    processes = [start(tmp_path, digits), start(tmp_path, digits)]
    record = RunRecord(tmp_path, CONFIG)
    wait_until(record.is_claimed)
    assert [finish(process) for process in processes] == [0, 0]
    assert not record.is_claimed()
    assert figures(tmp_path) == whole


def test_a_defect_is_noted(digits: data.ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    with monkeypatch.context() as patched:
        patched.setattr(execution, "Training", fail)
        with pytest.raises(OSError, match="disk on fire"):
            train(CONFIG, digits, Recording(tmp_path))
    record = RunRecord(tmp_path, CONFIG)
    assert record.broken() == "OSError: disk on fire"
    train(CONFIG, digits, Recording(tmp_path))
    assert record.broken() is None
