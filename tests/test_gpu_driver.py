"""Compiler, cache, driver and launches of the GPU's kernels, with libraries that record what they are asked for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from emulation import STREAM, FakeDevice, FakeNvrtc, fake_device, needs_compiler

from eigengrad import gpu
from eigengrad.gpu import kernels, operators, sources
from eigengrad.gpu.compiler import Compiler, CompilerError, cache_folder
from eigengrad.gpu.driver import Driver, DriverError
from eigengrad.native import reference

A = torch.diag_embed(torch.arange(1.0, 4.0)).expand(70, 3, 3).contiguous()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDevice]:
    monkeypatch.setattr(kernels, "trouble", [])
    with fake_device(monkeypatch, tmp_path) as found:
        yield found


@needs_compiler
def test_a_launch(device: FakeDevice) -> None:
    L, V = operators.eigh(A, False, False, True)
    torch.testing.assert_close((V * L.unsqueeze(-2)) @ V.mT, A)
    shared = 4 * 32 * (9 + 9 + 3)
    assert device.cuda.launches == [("decompose_by_thread<3, float>", 3, 32, shared, STREAM)]
    ((code, options),) = device.nvrtc.compiled
    assert "__launch_bounds__(32)" in code
    assert "static_assert(sizeof(eigengrad::DecomposeArguments<float>) == 64)" in code
    assert {"--gpu-architecture=sm_90", "-fmad=false"} <= set(options)


@needs_compiler
def test_a_thread_without_a_context(device: FakeDevice) -> None:
    """As one of autograd's may be: it gets the device's primary one, and one that is there stays."""
    operators.eigh(A, False, False, True)
    assert device.cuda.context == 0xC0
    device.cuda.context = None
    operators.eigh(A, False, False, True)
    assert device.cuda.context == 0xC0
    device.cuda.context = 0xABC
    operators.eigh(A, False, False, True)
    assert device.cuda.context == 0xABC


@needs_compiler
def test_much_shared_memory_is_asked_for(device: FakeDevice) -> None:
    V = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    operators.pull_back(V, V, V, None, 0)
    ((name, *_, shared, _),) = device.cuda.launches
    assert device.cuda.shared == {name: shared}
    assert shared > 48 * 1024


@needs_compiler
def test_the_cache(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled once in a process, and by one process; anew for other sources and devices."""
    for _ in range(3):
        operators.eigh(A, False, False, True)
    assert len(device.nvrtc.compiled) == len(device.cuda.loaded) == 1
    other = FakeNvrtc()
    kernel = kernels.kernel("decompose", 3, torch.float32)
    assert Compiler(other).binary(kernel.code, (9, 0)) == kernel.code.encode()
    assert not other.compiled
    for code, capability in ((kernel.code, (8, 0)), (kernels.kernel("refine", 3, torch.float32).code, (9, 0))):
        Compiler(other).binary(code, capability)
    assert len(other.compiled) == 2
    assert len(list(cache_folder().iterdir())) == 3
    monkeypatch.setattr(sources, "headers", lambda: {"lane.hpp": "// of another version"})
    Compiler(other).binary(kernel.code, (9, 0))
    assert len(other.compiled) == 3


def test_writers_of_the_cache_do_not_meet(device: FakeDevice) -> None:
    """Each file is whole whenever it is there, and no other is left."""
    code = "x" * 1_000_000
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Compiler(FakeNvrtc()).binary(code, (9, 0)), range(16)))
    assert set(found) == {code.encode()}
    assert [path.suffix for path in cache_folder().iterdir()] == [".cubin"]


@needs_compiler
def test_a_cache_that_cannot_be_written(device: FakeDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    operators.eigh(A, False, False, True)
    assert len(device.cuda.launches) == 1


@pytest.mark.parametrize("what", ["compile", "load"])
def test_what_fails_is_left_to_torch(what: str, device: FakeDevice) -> None:
    """With one warning, and no second attempt."""
    if what == "compile":
        device.nvrtc.fails = "kernel.cu(7): error: no such thing"
    else:
        device.cuda.fails = "load"
    with pytest.warns(RuntimeWarning, match="no such thing|no kernel image") as warned:
        for _ in range(3):
            _, V = operators.eigh(A, False, False, True)
    assert len(warned) == len(device.nvrtc.compiled) == len(kernels.trouble) == 1
    assert torch.equal(V, torch.linalg.eigh(A)[1])


def test_a_launch_that_fails(device: FakeDevice) -> None:
    device.cuda.fails = "launch"
    with pytest.raises(DriverError, match=r"cuLaunchKernel failed: .* \(error 700\)"):
        operators.eigh(A, False, False, True)


@needs_compiler
def test_a_bad_matrix(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises, but not where a graph is captured: there it is NaN."""
    bad = A.clone()
    bad[40, 1, 1] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 40 of the batch"):
        operators.eigh(bad, False, False, True)
    assert operators.eigh(bad, False, False, False)[0].isnan().any(dim=-1).nonzero().tolist() == [[40]]
    monkeypatch.setattr(operators, "is_capturing", lambda: True)
    assert operators.eigh(bad, False, False, True)[1][40].isnan().all()


@pytest.mark.parametrize(
    "other",
    [torch.zeros(0, 3, 3), torch.zeros(2, 0, 0), A.to(torch.complex64), torch.eye(kernels.LARGEST + 1).unsqueeze(0)],
    ids=["no matrices", "of no size", "complex", "large"],
)
def test_what_is_left_to_torch(other: torch.Tensor, device: FakeDevice) -> None:
    L, V = operators.eigh(other, False, False, False)
    assert (L.shape, V.shape) == (other.shape[:-1], other.shape)
    assert torch.equal(operators.recompose(V, L), reference.recompose(V, L))
    operators.pull_back(V, V, V.real, None, 0)
    operators.root(other, False, 0.5, False, False)
    assert not device.cuda.launches


def test_wrong_shapes(device: FakeDevice) -> None:
    """No kernel reads beyond what it is given."""
    for weights, diagonal in ((A[:3], None), (A.double(), None), (A, A), (A[:, 0], None)):
        with pytest.raises(RuntimeError, match=r"pull_back: (weights|diagonal) must be"):
            operators.pull_back(A, A, weights, diagonal, 0)
    with pytest.raises(RuntimeError, match="projector"):
        operators.pull_back(A, A, A[:, 0], None, 8)
    with pytest.raises(RuntimeError, match="one shape and dtype"):
        operators.pull_back(A, A[:4], A, None, 0)
    with pytest.raises(RuntimeError, match="one shape and dtype"):
        operators.refine(A, A.double())
    with pytest.raises(RuntimeError, match="one number for each"):
        operators.recompose(A, A)


def test_libraries_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("they are")
    with pytest.raises(DriverError, match="driver was not found"):
        Driver()
    monkeypatch.setattr(torch.version, "cuda", "77.1")
    with pytest.raises(CompilerError, match="libnvrtc of CUDA 77 was not found"):
        Compiler()
    monkeypatch.setattr(kernels, "trouble", [])
    with pytest.warns(RuntimeWarning, match="through torch.linalg"):
        assert kernels.launcher.__wrapped__() is None
    monkeypatch.setattr(gpu, "_WANTED", True)
    assert gpu.describe() == "none, as torch finds no GPU"


def test_the_variable() -> None:
    """Read at import; the operators are registered for CUDA unless it is 0 or torch knows no CUDA."""
    program = """
import torch
torch.version.cuda = {cuda}
import eigengrad
print(torch._C._dispatch_has_kernel_for_dispatch_key("eigengrad::eigh", "CUDA"), eigengrad.gpu.describe())
"""

    def printed(value: str, cuda: str) -> str:
        environment = {**os.environ, "EIGENGRAD_GPU": value, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program.format(cuda=cuda)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    assert printed("", "'13.0'").startswith("True ")
    assert printed("0", "'13.0'") == "False not wanted (EIGENGRAD_GPU=0)"
    assert printed("1", "None") == "False none, as torch was built without CUDA"
    assert printed("yes", "None") == "ValueError: EIGENGRAD_GPU must be 0 or 1, got 'yes'"
