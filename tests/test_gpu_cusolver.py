"""``XsyevBatched`` where torch decomposes matrices one by one, on a library that stands in for cuSOLVER."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from emulation import fake_device
from fake_cusolver import FakeCuSolver
from torch import Tensor

from eigengrad.gpu import cusolver, kernels, operators
from eigengrad.native import reference
from eigengrad.testing import relative_error

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCuSolver]:
    """As torch 2.11 finds it, on a device whose kernels run on the CPU."""
    library = FakeCuSolver()

    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(cusolver, "library", lambda: Path("libcusolver.so"))
    monkeypatch.setattr(cusolver, "torch_hands_over_batches", lambda: False)
    monkeypatch.setattr(cusolver.ctypes, "CDLL", lambda path: library)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(kernels, "_given_up", set())
    monkeypatch.setattr(kernels, "trouble", [])
    cusolver._solver.cache_clear()
    with fake_device(monkeypatch, tmp_path):
        yield library
    cusolver._solver.cache_clear()


def hermitian(n: int, dtype: torch.dtype, *batch: int) -> Tensor:
    X = torch.randn(*batch, n, n, dtype=dtype.to_complex() if dtype.is_complex else torch.float64)
    return (X + X.mH).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [65, 70])
def test_eigh(n: int, dtype: torch.dtype, library: FakeCuSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lower triangle, laid out as torch's, in pieces that cuSOLVER takes."""
    monkeypatch.setattr(reference, "PIECE", 4)
    A = hermitian(n, dtype, 2, 3)
    lower = A.tril() + torch.randn(n, n, dtype=dtype).triu(1)
    before = lower.clone()
    L, V = operators.eigh(lower, False, False, True)
    assert torch.equal(lower, before)
    assert library.batches == [4, 2]
    expected = torch.linalg.eigh(A)
    assert relative_error(L, expected[0]) < 100 * torch.finfo(dtype).eps
    assert relative_error((V * L.unsqueeze(-2).to(dtype)) @ V.mH, A) < 100 * torch.finfo(dtype).eps
    assert (L.stride(), V.stride()) == (expected[0].stride(), expected[1].stride())


def test_functions(library: FakeCuSolver) -> None:
    A = hermitian(66, torch.float64, 3)
    A = A @ A + torch.eye(66, dtype=torch.float64)
    S, s, V = operators.root(A, True, 0.5, False, False)
    torch.testing.assert_close(S @ A @ S, torch.eye(66, dtype=torch.float64).expand(3, 66, 66))
    torch.testing.assert_close((V * s.unsqueeze(-2)) @ V.mH, S)
    power = operators.function(A, 7, 0.5, False, False)[0]
    torch.testing.assert_close(power @ power, A)
    assert library.batches == [3, 3]


def test_a_bad_matrix(library: FakeCuSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in it, or no convergence: an error, or NaN for itself alone."""
    A = hermitian(65, torch.float64, 4)
    clean = operators.eigh(A, False, False, False)
    for spoil in ("nan", "code"):
        bad = A.clone()
        if spoil == "nan":
            bad[2, 7, 3] = torch.nan
        else:
            library.fails = 3
        with pytest.raises(torch.linalg.LinAlgError, match="matrix 2 of the batch"):
            operators.eigh(bad, False, False, True)
        for actual, right in zip(operators.eigh(bad, False, False, False), clean, strict=True):
            assert actual[2].isnan().all()
            assert all(torch.equal(actual[k], right[k]) for k in (0, 1, 3))
        library.fails = 0


@pytest.mark.parametrize(
    "A",
    [hermitian(65, torch.float32), hermitian(65, torch.float32, 1), hermitian(32, torch.complex64, 4)],
    ids=["one", "a batch of one", "small"],
)
def test_what_torch_takes_as_well(A: Tensor, library: FakeCuSolver) -> None:
    operators.eigh(A, False, False, False)
    assert not library.batches


def test_a_torch_that_does_it_itself(library: FakeCuSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cusolver, "torch_hands_over_batches", lambda: True)
    operators.eigh(hermitian(65, torch.float32, 4), False, False, False)
    assert not library.batches


@pytest.mark.parametrize("what", ["no library", "no routine", "an error"])
def test_what_fails_is_left_to_torch(what: str, library: FakeCuSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one warning, and no second attempt."""
    if what == "no library":
        monkeypatch.setattr(cusolver, "library", lambda: None)
    elif what == "no routine":
        del library.cusolverDnXsyevBatched
    else:
        library.cusolverDnXsyevBatched = _failing
    A = hermitian(65, torch.float64, 4)
    with pytest.warns(RuntimeWarning, match="libcusolver was found|has no|returned status 7") as warned:
        for _ in range(3):
            L, V = operators.eigh(A, False, False, False)
    assert len(warned) == 1
    torch.testing.assert_close((V * L.unsqueeze(-2)) @ V.mT, A)


def _failing(*arguments: Any) -> int:
    return 7
