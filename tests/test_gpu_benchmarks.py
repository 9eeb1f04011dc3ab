"""The logic of the benchmarks for a GPU, on a device that stands in for one: grid, memory, resuming, report."""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cusolver import FakeCuSolver
from torch import Tensor

from benchmarks import cusolver, gpu, gpu_training_step
from benchmarks.gpu_device import SYEVJ, XSYEV
from eigengrad.gpu import cusolver as of_package


class StandIn:
    """A CPU that calls itself a GPU, and whose clock shows a millisecond for everything."""

    where = torch.device("cpu")

    def __init__(self, *, free: int = 2**40) -> None:
        self.name, self.bytes, self.timed = "stand-in", free, 0

    def describe(self) -> dict[str, Any]:
        return {"device": self.name, "memory_gib": 1, "cuda": "none"}

    def free(self) -> int:
        return self.bytes

    def milliseconds(self, call: Callable[[], Any]) -> float:
        self.timed += 1
        call()
        return 1.0

    def direct(self, A: Tensor) -> gpu.Candidates:
        def refused() -> None:
            raise cusolver.CuSolverError("cusolverDnXsyevBatched returned status 3")

        return {SYEVJ: lambda: torch.linalg.eigh(A), XSYEV: refused if len(A) > 16 else lambda: torch.linalg.eigh(A)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of seconds."""
    monkeypatch.setattr(gpu, "SIZES", (3, 16))
    monkeypatch.setattr(gpu, "BATCHES", (1, 16, 4096))
    monkeypatch.setattr(gpu, "SECONDS", 0.0)


def test_the_grid_of_the_issue() -> None:
    """Both kinds of step at every n and batch; a case comes after the smaller batches that foretell it."""
    cases = gpu.grid()
    assert len(cases) == len(set(cases)) == 2 * 10 * 5
    assert {case.n for case in cases} == {3, 4, 8, 16, 32, 33, 64, 128, 256, 512}
    assert {case.batch for case in cases} == {1, 16, 256, 4096, 65_536}
    for case in cases:
        smaller = [
            other for other in cases if (other.what, other.n) == (case.what, case.n) and other.batch < case.batch
        ]
        assert all(cases.index(other) < cases.index(case) for other in smaller)


def test_a_whole_run(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:  # ours is no faster here than torch, so the claims fail
        gpu.main([], StandIn(), tmp_path)
    assert stopped.value.code == 1
    assert not list(tmp_path.glob(".*")), "no temporary file is left"
    contents = json.loads((tmp_path / "gpu-eigh-float32.json").read_text())
    assert contents["provenance"]["device"] == "stand-in"
    assert contents["provenance"]["torch"] == torch.__version__
    cases = contents["cases"]
    assert list(cases) == [case.name for case in gpu.grid()]
    forward, step = cases["forward, n = 16, batch 16"], cases["step, n = 16, batch 16"]
    assert set(forward["milliseconds"]) == {"ours", "torch", SYEVJ, XSYEV}
    assert set(step["milliseconds"]) == {"ours", "torch"}
    assert forward["rounds"] == 3
    assert all(0 < value < 5 for value in forward["error"].values())
    assert cases["forward, n = 3, batch 4096"]["left out"] == {XSYEV: "cusolverDnXsyevBatched returned status 3"}
    table = (tmp_path / "gpu-eigh-float32.md").read_text()
    assert "## forward: times faster than XsyevBatched" in table
    assert "## step: times faster than torch" in table
    assert "cupy" not in table.split("## error")[0]
    printed = capsys.readouterr().out
    assert "FAILS: 10x faster somewhere in n <= 8, batch >= 4096: 1" in printed
    assert "holds: never slower than 0.95x torch.linalg.eigh: 1" in printed


def test_it_goes_on_where_it_was(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = StandIn()
    assert gpu.main(["--limit-seconds", "-1"], device, tmp_path) == 0
    assert device.timed == 0
    assert "0 of 12 cases; run again to go on" in capsys.readouterr().out
    path = tmp_path / "gpu-eigh-float32.json"
    assert gpu.run(device, torch.float32, 1e9, path, gpu.grid()[:5])
    first, timed = json.loads(path.read_text())["cases"], device.timed
    assert len(first) == 5
    assert gpu.run(device, torch.float32, 1e9, path, gpu.grid()[:5])
    assert device.timed == timed, "what is stored is not measured again"
    gpu.run(device, torch.float32, 1e9, path, gpu.grid())
    assert device.timed > timed
    later = json.loads(path.read_text())["cases"]
    assert {name: later[name] for name in first} == first
    assert len(later) == 12


def test_figures_of_two_devices_are_not_mixed(small: None, tmp_path: Path) -> None:
    device, path = StandIn(), tmp_path / "gpu-eigh-float32.json"
    gpu.run(device, torch.float32, 1e9, path, gpu.grid()[:1])
    device.name = "another"
    with pytest.raises(SystemExit, match="is of device stand-in, not another; move it away and start anew"):
        gpu.run(device, torch.float32, 1e9, path, gpu.grid()[:2])
    for text in ("", "[]", "{}", '{"provenance": 1, "cases": 2}'):
        path.write_text(text)
        with pytest.raises(SystemExit, match="is no result of this benchmark"):
            gpu.run(device, torch.float32, 1e9, path, gpu.grid()[:2])


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    """By an estimate that is larger than what the case takes, before anything is allocated."""
    case, device = gpu.Case("forward", 512, 65_536), StandIn(free=80 * 2**30)
    assert gpu.measure(case, device, torch.float32, {})["left out"] == {"all": "needs about 1.15e+03 GiB of 64 GiB"}
    assert device.timed == 0
    case = gpu.Case("step", 32, 64)
    peak = largest_allocation(lambda: gpu.measure(case, StandIn(), torch.float64, {}))
    assert peak < case.bytes(torch.float64)


def largest_allocation(run: Callable[[], object]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def test_what_takes_too_long_is_foreseen(small: None) -> None:
    """By the smaller batch; and what was left out there is left out at all larger ones."""
    before = {"batch": 16, "milliseconds": {"ours": 1.0, "torch": 20_000.0}, "left out": {SYEVJ: "status 7"}}
    result = gpu.measure(gpu.Case("forward", 3, 256), StandIn(), torch.float32, before)
    assert result["left out"]["torch"] == "expected to take 320 seconds a call"
    assert result["left out"][SYEVJ] == "status 7"
    assert set(result["milliseconds"]) == {"ours"}
    after = gpu.measure(gpu.Case("forward", 3, 512), StandIn(), torch.float32, result)
    assert after["left out"]["torch"] == "expected to take 320 seconds a call"


def test_claims(capsys: pytest.CaptureFixture[str]) -> None:
    def case(n: int, batch: int, ratio: float, ours: float = 1.0) -> dict[str, Any]:
        return {
            gpu.Case("forward", n, batch).name: {
                "times faster than": {"torch": ratio},
                "error": {"ours": ours, XSYEV: 1.0},
            }
        }

    good = case(4, 4096, 12.0) | case(32, 256, 3.5) | case(512, 1, 0.96)
    gpu.check(good)
    for bad in (case(512, 1, 0.94), case(4, 4096, 9.0), case(32, 256, 2.9), case(512, 1, 1.0, ours=2.1)):
        with pytest.raises(SystemExit):
            gpu.check(good | bad)
    capsys.readouterr()
    gpu.check({})
    assert "no case was measured" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "gpu_training_step"])
def test_without_a_gpu(name: str) -> None:
    """One clear line and exit code 2; a mistake in the arguments is another matter."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"benchmarks.{name}: there is no GPU that torch can use; nothing was measured\n"


def test_training_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_training_step, "GROUP_SIZES", (4, 8))
    monkeypatch.setattr(gpu_training_step, "SECONDS", 0.0)
    device = StandIn()
    assert gpu_training_step.main([], device, tmp_path, images=2) == 0
    printed = capsys.readouterr().out
    assert "The paper (Titan XP, batch 128, 2 power iterations): 104.8 ms, against 82.7 ms with BatchNorm" in printed
    contents = json.loads((tmp_path / "gpu-training-step.json").read_text())
    assert contents["provenance"]["images"] == 2
    assert list(contents["cases"]) == ["ResNet-18, d = 4", "layer, d = 4", "ResNet-18, d = 8", "layer, d = 8"]
    for case in contents["cases"].values():
        assert set(case["milliseconds"]) == {"BatchNorm2d", "ours", "closed-form", "literal"}
        assert case["ratio to BatchNorm"] == dict.fromkeys(case["milliseconds"], 1.0)
    timed = device.timed
    assert gpu_training_step.main([], device, tmp_path, images=2) == 0
    assert device.timed == timed, "what is stored is not measured again"
    with pytest.raises(SystemExit, match="is of images 2, not 3"):
        gpu_training_step.main([], device, tmp_path, images=3)


@pytest.mark.parametrize("failing", ["literal", "closed-form", "BatchNorm2d"])
def test_a_system_that_fails_is_left_out(
    failing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the literal procedure, which trains to NaN within some steps, and whose SVD raises then; the others go on."""
    monkeypatch.setattr(gpu_training_step, "GROUP_SIZES", (4,))
    monkeypatch.setattr(gpu_training_step, "SECONDS", 0.0)

    class Failing(torch.nn.Module):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            if self.steps > 5:
                raise torch.linalg.LinAlgError("linalg.svd: the input matrix contained non-finite values.\nMore.")
            return x

    def made(layer: torch.nn.Module, images: int, where: torch.device) -> Callable[[], None]:
        return lambda: layer(torch.ones(1)).sum()

    systems = {name: torch.nn.Identity() for name in gpu_training_step.systems(4)} | {failing: Failing()}
    monkeypatch.setattr(gpu_training_step, "systems", lambda d: systems)
    monkeypatch.setattr(gpu_training_step, "PARTS", {"ResNet-18": made})
    if failing == "literal":
        assert gpu_training_step.main([], StandIn(), tmp_path, images=2) == 0
    else:
        with pytest.raises(SystemExit):
            gpu_training_step.main([], StandIn(), tmp_path, images=2)
    (case,) = json.loads((tmp_path / "gpu-training-step.json").read_text())["cases"].values()
    assert case["left out"] == {failing: "linalg.svd: the input matrix contained non-finite values."}
    assert set(case["milliseconds"]) == set(systems) - {failing}
    assert f"{failing:12} left out: linalg.svd" in capsys.readouterr().out


def test_every_system_whitens() -> None:
    """Or the comparison means nothing: at d = 64, all three ways give white data, and the same."""
    x = torch.randn(64, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    layers = gpu_training_step.systems(64)
    results = [layers[name](x) for name in ("ours", "closed-form", "literal")]
    for y in results:
        torch.testing.assert_close(y.transpose(0, 1).flatten(1).cov(), torch.eye(64), rtol=0, atol=1e-2)
        torch.testing.assert_close(y, results[0], rtol=0, atol=1e-2)


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> cusolver.CuSolver:
    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(of_package, "library", lambda: Path("libcusolver.so"))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: FakeCuSolver())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    return cusolver.CuSolver()


@pytest.mark.parametrize("name", ["syevj", "in_one_call"])
def test_cusolver_is_called_as_its_header_says(name: str, solver: cusolver.CuSolver) -> None:
    A = gpu.symmetric(gpu.Case("forward", 5, 7), torch.float64, torch.device("cpu"))
    before = A.clone()
    decompose = getattr(solver, name)(A)
    for _ in range(2):  # the input is still there for the second call
        L, V = decompose()
        torch.testing.assert_close((V * L.unsqueeze(-2)) @ V.mT, before)
    assert torch.equal(A, before)


def test_cusolver_errors(solver: cusolver.CuSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    A = torch.eye(3).expand(2, 3, 3).contiguous()
    with pytest.raises(cusolver.CuSolverError, match="has no cusolverDnSsyevjBatched_bufferSize"):
        solver.syevj(A)  # the stand-in knows double precision alone
    monkeypatch.setattr(solver, "_settings", ctypes.c_void_p(3))
    with pytest.raises(cusolver.CuSolverError, match="cusolverDnXsyevBatched_bufferSize returned status 1"):
        solver.in_one_call(A)()
    monkeypatch.setattr(of_package, "library", lambda: None)
    with pytest.raises(cusolver.CuSolverError, match="neither in this process nor beside torch"):
        cusolver.CuSolver()
