"""The compiled kernel as torch sees it: operators, chosen by size, without which everything works on LAPACK."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native, solvers
from eigengrad.native import operators, thresholds

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def test_errors() -> None:
    with pytest.raises(ValueError, match="solver='native' takes matrices on a CPU, got meta; use solver='eigh'"):
        eg.eigh(torch.eye(2, device="meta"), solver="native")
    eye, half, values = torch.eye(2), torch.eye(2).half(), torch.ones(2)
    wrong = {
        "matrices must be square": lambda: operators.eigh(torch.ones(2, 3), True, False, False),
        "matrices must be of float32": lambda: operators.eigh(half, True, False, False),
        "refine: A and V must be of one shape": lambda: operators.refine(eye, eye.double()),
        "recompose: x must be real": lambda: operators.recompose(eye, torch.ones(3)),
        "pull_back: V and G must be of one shape": lambda: operators.pull_back(eye, half, values, None, 2),
        "pull_back: weights must be real": lambda: operators.pull_back(eye, eye, eye, None, 2),
        "pull_back: diagonal must be real": lambda: operators.pull_back(eye, eye, eye, eye, 0),
    }
    for message, call in wrong.items():
        with pytest.raises(RuntimeError, match=f"eigengrad: {message}"):
            call()


def matrices(batch: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    X = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    return X + X.mH


CASES = [(n, batch) for n in (2, 3, 12, 32, 33, 48, 49, 64, 65, 96, 97) for batch in (1, 2, 3, 4, 7, 8, 15, 16)]
CASES += [(129, 7), (129, 8), (257, 8)]


def follows(plan: thresholds.Plan, purpose: str, A: Tensor) -> bool:
    """Whether eigenvalues and eigenvectors have the bits that the plan gives them."""
    by_plan = solvers.Native() if plan.backend == "kernel" else torch.linalg.eigh
    if plan.precision == "in_double":
        L, V = by_plan(A.to(torch.complex128 if A.is_complex() else torch.float64))
        L, V = L.to(A.dtype.to_real()), V.to(A.dtype)
    else:
        L, V = by_plan(A)
    expected = operators.refine(A, V) if plan.precision == "refined" else (L, V)
    return all(map(torch.equal, operators.eigh(A, False, purpose == "function", True), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_plan_is_followed(dtype: torch.dtype, generator: torch.Generator) -> None:
    """By size and dtype alone: large matrices go to LAPACK, bit for bit, small ones to the kernel."""
    plans = set()
    for n, batch in CASES:
        A = matrices(batch, n, dtype, generator)
        for purpose in thresholds.PURPOSES:
            plan = thresholds.plan(purpose, n, batch, dtype, 1)
            assert follows(plan, purpose, A), (n, batch, plan)
            plans.add(plan)
    single = dtype.to_real() == torch.float32
    assert {plan.backend for plan in plans} == {"lapack", "kernel"}
    assert {plan.precision for plan in plans} == {"as_it_is"} | ({"refined", "in_double"} if single else set())


def test_the_plan_knows_threads(generator: torch.Generator) -> None:
    A = matrices(4, 65, torch.float32, generator)
    one, two = (thresholds.plan("eigenvectors", 65, 4, A.dtype, threads) for threads in (1, 2))
    assert one != two
    torch.set_num_threads(2)
    followed = follows(two, "eigenvectors", A)
    torch.set_num_threads(1)
    assert followed and follows(one, "eigenvectors", A)


def test_table_by_ascending_n() -> None:
    for rows in (
        *thresholds._OF_EIGENVECTORS.values(),
        *thresholds._OF_FUNCTIONS.values(),
        *thresholds._IN_SINGLE.values(),
    ):
        assert [n for n, _ in rows] == sorted(n for n, _ in rows)


def test_without_a_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(native, "_LIBRARY", None)
    monkeypatch.setattr(native, "_DETAIL", "not built")
    with pytest.raises(RuntimeError, match=r"solver='native': the kernel is not there .*; use 'auto'"):
        eg.eigh(torch.eye(3), solver="native")
    eg.show_config()
    assert "native kernel: not built" in capsys.readouterr().out
    assert native.instructions() is None


def test_a_process_that_wants_no_kernel() -> None:
    """Its operators are torch's."""
    program = """
import torch, eigengrad as eg
assert not eg.native.available()
X = torch.randn(64, 3, 3)
A = (X + X.mT).requires_grad_()
assert torch.equal(eg.eigh(A)[1], torch.linalg.eigh(A)[1])
eg.expm(A).sum().backward()
print(A.grad.isfinite().all().item())
"""
    environment = {**os.environ, native.VARIABLE: "none"}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120
    )
    assert found.stdout == "True\n", found.stderr


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


@pytest.mark.parametrize("A", [torch.ones(3, 4), torch.ones(3), torch.ones(3, 3, dtype=torch.int64)], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_square_matrices(A: Tensor, device: str) -> None:
    """Tracers hear of it as eager does."""
    A = A.to(device)
    x = torch.ones(3, device=device)
    for call in (
        lambda: operators.eigh(A, False, False, True),
        lambda: operators.root(A, True, 0.0, False, True),
        lambda: operators.recompose(A, x),
        lambda: operators.pull_back(A, A, x, None, operators.KINDS["square_root"]),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=r"square|float32|real"):
            call()
