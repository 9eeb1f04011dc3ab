"""What every test starts from: one thread, no hypothesis database, a seeded generator; sets of instructions.

In parallel (``pytest -n auto``) a worker's subprocesses have one thread too, unless they ask for more; the tests of a
file of the laboratory, which share trainings, stay on one worker (``--dist loadgroup``).

After ``python -m pytest -m gpu`` on a machine with a GPU, a summary is written to ``results/gpu-tests.json``.
"""

import collections
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from eigengrad import gradients, native

if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ.setdefault(variable, "1")
torch.set_num_threads(1)  # the matrices are small, and the order of summation should not depend on the machine
settings.register_profile("eigengrad", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("eigengrad")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random starts of the power iteration solver are drawn from torch's global generator."""
    torch.manual_seed(0)


WELL_DEFINED = ("analysis", "checks", "eigsh", "generalised", "opinfo", "phase", "right_by_default")
"""Modules of losses that do not depend on the phase of complex vectors."""


@pytest.fixture(autouse=True)
def random_cotangents(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere cotangents are drawn at random, to see every entry of a formula, and nobody may object."""
    if request.module.__name__.removeprefix("test_") not in WELL_DEFINED:
        monkeypatch.setattr("eigengrad.phase.SHARE", float("inf"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=native.SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this processor, one after the other; or the one the environment asks for, or none."""
    if not native.available():
        if request.param != native.SETS[0]:
            pytest.skip("there is no kernel")
        yield "none"
        return
    chosen = native.instructions()
    if os.environ.get(native.VARIABLE, request.param) != request.param:
        pytest.skip(f"{native.VARIABLE} asks for {chosen}")
    if not native.choose_instructions(request.param):
        pytest.skip(f"this processor or this build has no {request.param}")
    yield request.param
    assert native.choose_instructions(str(chosen))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names that are the same in every process: dtypes and rules by themselves, others as pytest has it."""
    if isinstance(val, torch.dtype):
        return str(val).removeprefix("torch.")
    return repr(val) if isinstance(val, gradients.GradientRule) and not isinstance(val, type) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith("test_lab_"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


_reports: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "gpu" in report.keywords and (report.when == "call" or report.outcome != "passed"):
        _reports.append(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only where asked for, and if tests ran: a machine without a GPU must not overwrite what one with it found."""
    ran = [report for report in _reports if report.outcome != "skipped"]
    if session.config.option.markexpr != "gpu" or not ran:
        return
    counts = collections.Counter(report.outcome for report in _reports)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    summary = {
        "command": "python -m pytest -m gpu tests/test_gpu.py",
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **counts,
        "not passed": {report.nodeid: _line(report) for report in _reports if report.outcome != "passed"},
    }
    path = Path(str(session.config.rootpath)) / "results" / "gpu-tests.json"
    path.with_name(f".{path.name}").write_text(json.dumps(summary, indent=1) + "\n")
    path.with_name(f".{path.name}").replace(path)


def _line(report: pytest.TestReport) -> str:
    """Why, in one line."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    lines = [line for line in str(report.longreprtext).splitlines() if line.startswith("E ")]
    return f"{report.outcome}: {lines[0][1:].strip() if lines else 'see the log'}"
