"""How a command ends: by its exit code, by a signal, by its parent's death; no traceback, and nothing lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import fails
from waiting import wait_until


def test_train_says_by_its_exit_code_that_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "svd", "--group-size", "64", "--epochs", "1", "--train-images", "200"]
    code, _ = fails(capsys, "train", "--output", str(tmp_path), *options)
    assert code == 1


def test_hours_end_a_grid_which_goes_on_at_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "figure1", "--methods", "ours", "--group-sizes", "4", "--seeds", "2", "--epochs", "400"]
    command += ["--workers", "1", "--train-images", "300", "--output", str(tmp_path)]
    code, said = fails(capsys, *command, "--hours", "0.002")
    assert code == 3
    assert "the time is up" in said
    (stopped,) = tmp_path.glob("trainings/*/checkpoint.pt")
    assert not (stopped.parent / "result.json").exists()
    code, said = fails(capsys, "train", "--epochs", "400", "--output", str(tmp_path), "--hours", "0.0005")
    assert code == 3


def test_interrupted_while_modules_load() -> None:
    program = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from eigengrad_lab.__main__ import main
main(["report"])
"""
    for module in ("tyro", "torch"):
        process = subprocess.run([sys.executable, "-c", program, module], capture_output=True, text=True, check=False)
        assert process.returncode == 130, module
        assert "Traceback" not in process.stderr


@pytest.mark.parametrize("arguments", [("reproduce", "table1", "--help"), ("status", "--output", "."), ("--version",)])
def test_the_reader_leaves(arguments: tuple[str, ...]) -> None:
    """As ``| head`` does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eigengrad_lab", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) in (1, 141)  # 1 where rich writes, which handles it itself


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
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob("trainings/zca-ours-*/checkpoint.pt"))


def test_a_killed_parent_takes_its_workers_along(tmp_path: Path) -> None:
    """kill -9 of the command: the workers save their runs and end."""
    command = [sys.executable, "-m", "eigengrad_lab", "reproduce", "figure1", "--epochs", "500", "--seeds", "1"]
    command += ["--methods", "ours", "--group-sizes", "8", "64", "--workers", "2", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: all(_step(tmp_path, f"zca-ours-d{d}-*") > 2 for d in (8, 64)), during=process)
        workers = [json.loads(path.read_text())["process"] for path in tmp_path.glob("trainings/*/progress.json")]
        assert len(set(workers)) == 2
        assert process.pid not in workers
        process.kill()
        process.wait()
        wait_until(lambda: not any(_alive(worker) for worker in workers))
        assert len(list(tmp_path.glob("trainings/*/checkpoint.pt"))) == 2
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _step(root: Path, name: str) -> int:
    steps = [json.loads(path.read_text())["step"] for path in root.glob(f"trainings/{name}/progress.json")]
    return max(steps, default=0)


def _alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
