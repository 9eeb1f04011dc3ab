"""Functions of a matrix in single precision: with a decomposition better than a solver's own, their gradients."""

import pytest
import torch
from spectra import hermitian
from torch import Tensor

import eigengrad as eg
from eigengrad import native, solvers
from eigengrad.eigenbasis import Eigenbasis

FUNCTIONS = (eg.sqrtm, eg.inv_sqrtm, eg.logm, lambda A: eg.powm(A, 0.3))
"""Those whose derivatives do not range much wider than the eigenvalues."""


def errors(A: Tensor, L: Tensor, V: Tensor) -> tuple[float, float]:
    """The largest departures of a batch: of ``V^H V`` from the identity; of eigenvalues, each relative to itself."""
    wide = (A.tril() + A.tril(-1).mH).to(torch.complex128)
    exact, V = torch.linalg.eigvalsh(wide), V.to(wide.dtype)
    departure = V.mH @ V - torch.eye(A.shape[-1])
    relative = (L - exact) / exact
    return torch.linalg.matrix_norm(departure).max().item(), torch.linalg.vector_norm(relative, dim=-1).max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("n", [16, 33, 40, 64])
def test_better_than_lapack(n: int, several: bool, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Against LAPACK in the same precision; the lower triangle alone counts, as there."""
    A = torch.stack([hermitian(torch.linspace(1, 10, n), dtype, generator) for _ in range(16)]).tril()
    A = A if several else A[0]
    orthogonality, eigenvalues = errors(A, *Eigenbasis.for_function(A, solvers.Auto()))
    of_lapack = errors(A, *torch.linalg.eigh(A))
    assert orthogonality < 0.4 * of_lapack[0]
    assert eigenvalues < (1.1 if dtype.is_complex else 0.8) * of_lapack[1]


@pytest.mark.parametrize("n", [2, 40, 64])
def test_one_bad_matrix_among_many(n: int) -> None:
    """It is named; and where it is asked for as it is, with or without a kernel, it spoils no other."""
    A = torch.eye(n).repeat(64, 1, 1)
    A[3, 1, 0] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 3 of the batch"):
        eg.sqrtm(A)
    L, V = torch.ops.eigengrad.eigh(A, False, True, False)
    others = torch.arange(64) != 3
    assert L[3].isnan().all() and V[3].isnan().all()
    assert torch.equal(L[others], torch.ones(63, n)) and torch.equal(V[others].abs(), torch.eye(n).expand(63, n, n))


@pytest.mark.parametrize("n", [0, 1, 40])
def test_zero_and_empty(n: int) -> None:
    for batch in ((), (0,), (2, 0, 3)):
        L, V = Eigenbasis.for_function(torch.zeros(*batch, n, n), solvers.Auto())
        assert L.shape == (*batch, n) and V.shape == (*batch, n, n)
        assert not L.any() and V.isfinite().all()


def test_another_solver_is_taken_as_it_is(generator: torch.Generator) -> None:
    A = hermitian(torch.linspace(1, 2, 40), torch.float32, generator)
    for found, expected in zip(Eigenbasis.for_function(A, solvers.Eigh()), torch.linalg.eigh(A), strict=True):
        assert torch.equal(found, expected)


def spectrum(kind: str, gap: float, n: int) -> Tensor:
    """From 1 to 10: eigenvalues apart, or with small gaps in half of them, in all but one, in pairs."""
    L = torch.linspace(1, 10, n, dtype=torch.float64)
    members = {"half": n // 2, "all but the last": n - 1, "all but the first": n - 1}.get(kind, 0)
    cluster = gap * torch.arange(members)
    if kind == "all but the first":
        L[1:] = 10 - cluster
    elif kind == "pairs":
        L[1 : n // 2 * 2 : 2] = L[: n // 2 * 2 : 2] + gap
    else:
        L[:members] = 1 + cluster
    return L


CASES = [("apart", 1.0)] + [("half", gap) for gap in (0, 1e-6, 1e-5, 1e-4, 1e-3)]
CASES += [(kind, gap) for kind in ("all but the last", "all but the first", "pairs") for gap in (1e-5, 1e-4)]


@pytest.mark.parametrize("kind, gap", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("n", [2, 12, 13, 17, 32, 33, 40, 64, 128])
def test_accuracy(n: int, dtype: torch.dtype, kind: str, gap: float, generator: torch.Generator) -> None:
    """Single precision against double, of one matrix and of several, by the lower triangle.

    Without the kernel that rotates within clusters, LAPACK's error is left there.
    """
    wide = torch.complex128 if dtype.is_complex else torch.float64
    limit = 2e-6 if native.available() or n <= 32 or gap in (0, 1) else 1e-5
    A = hermitian(spectrum(kind, gap, n), wide, generator).to(dtype)
    G = torch.randn(n, n, dtype=dtype, generator=generator)
    for function in FUNCTIONS:
        leaf = A.to(wide).requires_grad_()
        expected = torch.autograd.grad(function(leaf), leaf, G.to(wide))[0]
        for copies in (1, 64 if n < 64 else 8):
            several = A.tril().expand(copies, n, n).clone().requires_grad_()
            value = function(several)
            gradient = torch.autograd.grad(value, several, G.expand_as(value))[0][-1]
            assert torch.linalg.matrix_norm(gradient - expected) < limit * torch.linalg.matrix_norm(expected)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 12, 16, 24, 32])
def test_accuracy_of_thousands(n: int, generator: torch.Generator) -> None:
    """The worst of many spectra, with clusters in half of them, of the batches that the kernel takes."""
    L = 1 + 9 * torch.rand(4000, n, dtype=torch.float64, generator=generator)
    gap = 10 ** (-7 * torch.rand(2000, 1, dtype=torch.float64, generator=generator))
    L[:2000, : n // 2] = 1 + gap * torch.arange(n // 2) / n
    L[:, 0], L[:, -1] = 1, 10
    V = torch.linalg.qr(torch.randn(4000, n, n, dtype=torch.float64, generator=generator)).Q
    A = ((V * L.unsqueeze(-2)) @ V.mT).float()
    A = A.tril() + A.tril(-1).mT
    G = torch.randn(A.shape, generator=generator)
    leaf, wide = A.requires_grad_(), A.detach().double().requires_grad_()
    for function in FUNCTIONS:
        gradient = torch.autograd.grad(function(leaf), leaf, G)[0]
        expected = torch.autograd.grad(function(wide), wide, G.double())[0]
        error = torch.linalg.matrix_norm(gradient - expected) / torch.linalg.matrix_norm(expected)
        assert error.max() < 1.5e-6
