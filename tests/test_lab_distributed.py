"""One training in two processes, as ``torchrun`` starts them, against the same training in one."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from waiting import wait_for_step, wait_until

from eigengrad_lab import data, models
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.distributed import Processes
from eigengrad_lab.runs.execution import Recording, train
from eigengrad_lab.runs.records import RunRecord
from eigengrad_lab.training import EpochMetrics, Training

CONFIG = RunConfig(
    data="digits",
    model="small",
    method="ours",
    group_size=16,
    seed=0,
    epochs=2,
    batch_size=63,
    train_images=300,
    learning_rate=0.01,  # a training that is chaotic would make much of rounding
)

PROGRAM = """
import sys, torch
from pathlib import Path
from torch import nn
from eigengrad_lab import data
from eigengrad_lab.config import RunConfig
from eigengrad_lab.distributed import joined_processes
from eigengrad_lab.runs.execution import Interrupted, Recording, train

torch.set_num_threads(1)
class Plain(nn.Identity):
    def __init__(self, *_): super().__init__()
if "plain" in sys.argv:
    nn.BatchNorm2d = Plain  # so that the extra layer alone has moments to share
config = RunConfig(**eval(sys.argv[2]))
digits = data.load("digits", train_images=300)
try:
    with joined_processes(torch.device("cpu")) as (processes, device):
        recording = Recording(Path(sys.argv[1]), checkpoint_seconds=0)
        print(processes.rank, train(config, digits, recording, processes=processes), flush=True)
except Interrupted:
    sys.exit(75)
"""


def torchrun(root: Path, config: RunConfig, *words: str) -> subprocess.Popen[str]:
    program = root / "program.py"
    program.write_text(PROGRAM)
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name != "milestones"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, str(program), str(root / "trainings"), repr(fields), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )


def metrics(root: Path, config: RunConfig) -> list[EpochMetrics]:
    return RunRecord(root / "trainings", config).metrics()


@pytest.fixture
def without_batchnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(nn.Identity):
        def __init__(self, *_: object) -> None:
            super().__init__()

    monkeypatch.setattr(nn, "BatchNorm2d", Plain)


@pytest.mark.usefixtures("without_batchnorm")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Losses, gradient norms and errors, with shares of 32 and 31 images, and a last batch of 48."""
    process = torchrun(tmp_path, CONFIG, "plain")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    digits = data.load("digits", train_images=300)
    train(CONFIG, digits, Recording(tmp_path / "alone" / "trainings"))
    first, second = zip(metrics(tmp_path, CONFIG), metrics(tmp_path / "alone", CONFIG), strict=True)
    for two, one in (first, second):
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert two.test_error_pct == pytest.approx(one.test_error_pct, abs=0.6)  # two of 360 images
    assert first[0].largest_gradient_norm == pytest.approx(first[1].largest_gradient_norm, rel=1e-4)


def test_two_processes_are_stopped_and_resume(tmp_path: Path) -> None:
    """SIGTERM to torchrun: its processes agree on a step, one of them saves, and the next two go on from there."""
    long = dataclasses.replace(CONFIG, epochs=200, learning_rate=0.1)
    process = torchrun(tmp_path, long)
    record = RunRecord(tmp_path / "trainings", long)
    wait_for_step(record, 3, during=process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert record.result() is None
    assert (record.folder / "checkpoint.pt").exists()
    again = torchrun(tmp_path, long)
    wait_until(lambda: (position := record.position()) is not None and position.started_at_step >= 3, during=again)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=120)


@pytest.mark.parametrize("count", [0, 1, 7, 128])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares(count: int, size: int) -> None:
    shares = [Processes(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_too_small_for_two_processes() -> None:
    digits = data.load("digits", train_images=130)
    with pytest.raises(UsageError, match="the smallest batch has 2 images, too few for 2 processes"):
        Training(dataclasses.replace(CONFIG, batch_size=128), digits, Processes(0, 2))


def test_the_extra_layer_gets_the_process_group() -> None:
    """The layer under test shares its moments wherever there is a process group."""
    group = object()
    layer = models.extra_layer(CONFIG, torch.Generator(), group)  # type: ignore[arg-type]
    assert layer.process_group is group
