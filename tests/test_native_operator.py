"""The compiled kernel as torch sees it: an operator, chosen by size, without which everything works on LAPACK."""

import ctypes

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native, solvers
from eigengrad.native import thresholds

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")


def test_errors() -> None:
    for A in (torch.eye(2, dtype=torch.complex64), torch.eye(2, device="meta")):
        with pytest.raises(ValueError, match="solver='native' takes float32 or float64 matrices on a CPU, got torch"):
            eg.eigh(A, solver="native")
    with pytest.raises(ValueError, match=r"A must be a batch of square matrices .*got shape \(2, 3\)"):
        solvers.Native()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="UPLO must be 'L' or 'U', got 'X'"):
        solvers.Native()(torch.eye(2), "X")


def test_auto_chooses_by_size_alone() -> None:
    """One matrix, complex matrices and large ones go to LAPACK, bit for bit; a large batch of small ones does not."""
    for A in (
        torch.eye(3),
        torch.eye(3)[None],
        torch.eye(3).expand(999, 3, 3).cfloat(),
        torch.eye(300).expand(2, 300, 300),
    ):
        assert not native.chosen(A)
    assert native.chosen(torch.full((4096, 3, 3), torch.nan))
    assert solvers.Auto()(torch.full((4096, 3, 3), torch.nan))[0].isnan().all()
    for rows in thresholds.SMALLEST_BATCH.values():
        assert [n for n, _ in rows] == sorted(n for n, _ in rows)


def test_without_a_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(native, "_LIBRARY", None)
    monkeypatch.setattr(native, "_DETAIL", "not built")
    native._function.cache_clear()
    A = torch.eye(3).expand(4096, 3, 3)
    assert torch.equal(eg.eigh(A)[0], torch.linalg.eigh(A)[0])
    with pytest.raises(RuntimeError, match="native kernel: not built; use solver='eigh'"):
        eg.eigh(A, solver="native")
    eg.show_config()
    assert "native kernel: not built" in capsys.readouterr().out
    assert native.instructions() is None


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, generator: torch.Generator) -> None:
    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    for solver in ("native", "auto"):
        compiled = torch.compile(lambda A, solver=solver: eg.eigh(A, solver=solver), fullgraph=True, dynamic=dynamic)
        assert torch.equal(compiled(A)[1], eg.eigh(A, solver=solver)[1])


def test_vmap(generator: torch.Generator) -> None:
    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    for solver in ("native", "auto"):
        mapped = torch.func.vmap(lambda A, solver=solver: eg.eigh(A, solver=solver), in_dims=1)(A.movedim(0, 1))
        assert torch.equal(mapped[1], eg.eigh(A, solver=solver)[1])


def test_export(generator: torch.Generator) -> None:
    """An operator of this package is in the graph, whose choice under ``"auto"`` is made when it runs."""

    class Solve(torch.nn.Module):
        def __init__(self, solver: str) -> None:
            super().__init__()
            self.solver = solver

        def forward(self, A: Tensor) -> Tensor:
            return eg.eigh(A, solver=self.solver)[0]

    X = torch.randn(64, 3, 3, generator=generator)
    A = X + X.mT
    batch = {"A": {0: torch.export.Dim("batch", min=2)}}
    for solver in ("native", "auto"):
        exported = torch.export.export(Solve(solver), (A,), dynamic_shapes=batch)
        for size in (2, 64):
            assert torch.equal(exported.module()(A[:size]), eg.eigh(A[:size], solver=solver)[0])


def test_operator_contract() -> None:
    for shape in ((5, 3, 3), (2, 2, 4, 4), (0, 3, 3), (3, 3)):
        torch.library.opcheck(torch.ops.eigengrad.eigh.default, (torch.zeros(shape), True))


def test_interface_is_plain_c() -> None:
    for name in native._ARGUMENTS:
        assert isinstance(native._LIBRARY[f"eigengrad_{name}_float32"], ctypes._CFuncPtr)
