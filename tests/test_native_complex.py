"""The compiled kernel on complex Hermitian matrices: accurate as LAPACK is, the same bits wherever a matrix stands."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_native import errors, solve
from torch import Tensor

import eigengrad as eg
from eigengrad import native, solvers, testing
from eigengrad.native import operators

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
COMPLEX = (torch.complex64, torch.complex128)
SIZES = (1, 2, 3, 4, 5, 8, 13, 16, 17, 24, 33, 64)


def hermitian(batch: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    X = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    return X + X.mH


def check(A: Tensor) -> None:
    """Ascending, and as accurate as LAPACK to a factor of 2 in the worst case; see ``test_native.check``."""
    L, V = solve(A)
    assert (L.diff(dim=-1) >= 0).all()
    exponent = A.abs().amax((-2, -1)).frexp().exponent
    lapack = torch.linalg.eigh(A)
    A = torch.complex(A.real.ldexp(-exponent[:, None, None]), A.imag.ldexp(-exponent[:, None, None]))
    exact = _eigenvalues(A)
    L, of_lapack = L.ldexp(-exponent[:, None]), lapack[0].ldexp(-exponent[:, None])
    ours, theirs = (_errors(A, *pairs, exact).amax(-1) for pairs in ((L, V), (of_lapack, lapack[1])))
    assert (ours <= torch.maximum(2 * theirs.nan_to_num(0.0), torch.tensor(0.05))).all(), (ours, theirs)


def _eigenvalues(A: Tensor) -> Tensor:
    """With digits to spare: of complex64 in double, of complex128 by Rayleigh quotients in extended precision."""
    L, V = torch.linalg.eigh(A.to(torch.complex128))
    if A.dtype == torch.complex64:
        return L
    wide, vectors = A.numpy().astype(np.clongdouble), V.numpy().astype(np.clongdouble)
    quotients = (vectors.conj() * (wide @ vectors)).real.sum(-2) / (np.abs(vectors) ** 2).sum(-2)
    return torch.from_numpy(quotients.astype(np.float64)).sort(-1).values


def _errors(A: Tensor, L: Tensor, V: Tensor, exact: Tensor) -> Tensor:
    """Those of ``test_native``, for the real matrix ``[[Re, -Im], [Im, Re]]``, which has every eigenvalue twice."""

    def embed(X: Tensor) -> Tensor:
        return torch.cat([torch.cat([X.real, -X.imag], -1), torch.cat([X.imag, X.real], -1)], -2)

    return 2 * errors(embed(A), L.repeat(1, 2), embed(V), exact.repeat(1, 2))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("n", SIZES)
def test_random_matrices(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    batch = 2_000 if n <= 8 else 200 if n <= 33 else 40
    A = hermitian(batch, n, dtype, generator)
    check(A)
    check(A @ A)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("kind", testing.SPECTRA)
def test_spectra(kind: str, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    for n in SIZES:
        members = []
        scales = (1e-30, 1e-10, 1.0, 1e30) if dtype == torch.complex64 else (1e-200, 1e-30, 1.0, 1e200)
        for scale in scales * (40 if n <= 8 else 8 if n <= 33 else 2):
            L = testing.spectrum(kind, n).double() * scale
            A = testing.hermitian(L, dtype=torch.complex128, generator=generator)
            D = (testing.spectrum(kind, n).abs().sqrt()).to(A.dtype)
            graded = D[:, None] * hermitian(1, n, torch.complex128, generator)[0] * D * scale
            members += [A, L.diag().to(A.dtype), L.flip(-1).diag().to(A.dtype), (graded + graded.mH) / 2]
        check(torch.stack(members).to(dtype))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("n", SIZES)
def test_known_matrices(n: int, dtype: torch.dtype, instructions: str) -> None:
    """Zero and diagonal matrices have no error at all."""
    values = torch.arange(n, 0, -1).to(dtype)
    L, V = solve(torch.stack([torch.zeros(n, n, dtype=dtype), torch.eye(n, dtype=dtype), values.diag()]))
    assert torch.equal(L, torch.stack([torch.zeros(n), torch.ones(n), values.real.flip(0)]).to(L.dtype))
    assert torch.equal(V[:2].abs(), torch.eye(n, dtype=L.dtype).expand(2, n, n))
    assert torch.equal(V[2].abs(), torch.eye(n, dtype=L.dtype).flip(0))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 8, 13, 17, 40))
def test_same_bits_everywhere(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """Whatever the size of the batch, the place in it, the neighbours and the number of threads."""
    A = hermitian(150, n, dtype, generator)
    A[::3] *= torch.logspace(-20, 20, 50, dtype=dtype.to_real())[:, None, None]
    A[1::7] = 0
    L, V = solve(A)

    def same(one: Tensor, other: Tensor) -> bool:
        bits = torch.int32 if one.dtype in (torch.float32, torch.complex64) else torch.int64
        one, other = (torch.view_as_real(x) if x.is_complex() else x for x in (one, other))
        return torch.equal(one.contiguous().view(bits), other.contiguous().view(bits))

    for size in (1, 2, 7, 16, 33, 64):
        for threads in (1, 2):
            part = slice(5, 5 + size)
            assert all(map(same, (L[part], V.mT[part]), (x.mT if x.dim() > 2 else x for x in solve(A[part], threads))))
    order = torch.randperm(150, generator=generator)
    assert all(map(same, (L[order], V[order]), solve(A[order], 2)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, complex(0, torch.nan), complex(0, -torch.inf)])
@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("n", (1, 2, 3, 4, 6, 16, 20, 64))
def test_one_bad_matrix(n: int, dtype: torch.dtype, bad: complex, generator: torch.Generator) -> None:
    A = hermitian(70, n, dtype, generator)
    expected = solve(A)
    for index, row in ((0, 0), (33, n // 2), (69, n - 1)):
        if isinstance(bad, complex) and row == 0:
            continue  # the imaginary part of the diagonal is not read
        spoilt = A.clone()
        spoilt[index, row, 0] = bad
        others = torch.arange(70) != index
        for actual, good in zip(solve(spoilt), expected, strict=True):
            parts = torch.view_as_real(actual[index]) if actual.is_complex() else actual[index]
            assert parts.isnan().all()
            assert torch.equal(actual[others], good[others])
        with pytest.raises(torch.linalg.LinAlgError, match=f"matrix {index} of the batch"):
            eg.eigh(spoilt)


def test_one_triangle_is_read_of_any_layout(generator: torch.Generator) -> None:
    for n in (1, 2, 4, 9, 20):
        A = hermitian(5, n, torch.complex64, generator)
        L, V = solve(A)
        lower = A.tril() + torch.full_like(A, 7).triu(1) + 3j * torch.eye(n)
        assert torch.equal(solve(lower)[1], V)
        assert torch.equal(solvers.Native()(lower.mH, "U")[1], V)
        assert torch.equal(solve(A.conj().resolve_conj().conj())[1], V)
        assert torch.equal(solve(torch.stack([lower, lower], -1)[..., 0])[0], L)
        torch.testing.assert_close((V * L.unsqueeze(-2)) @ V.mH, A)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("inverse", [False, True])
def test_roots(inverse: bool, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """Of few and of many matrices, by the kernel and by LAPACK: complex64 corrected afterwards, or through double."""
    for n in (1, 3, 8, 17, 24, 33):
        A = hermitian(40, n, dtype, generator)
        A = A @ A / n + torch.eye(n)
        for batch, kernel_always in ((A, True), (A[:3], True), (A, False)):
            X, x, V = operators.root(batch, inverse, 0.0, kernel_always, False)
            square = torch.linalg.inv(X @ X) if inverse else X @ X
            assert testing.relative_error(square, batch) < 100 * n * torch.finfo(dtype).eps
            assert testing.relative_error((V * x.unsqueeze(-2)) @ V.mH, X) < 30 * n**0.5 * torch.finfo(dtype).eps
            assert torch.equal(X, X.mH)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "eigh": lambda A: torch.cat(
        [(result := eg.eigh(A, solver="native", errors="nan"))[1], result[0].unsqueeze(-2)], -2
    ),
    "sqrtm": lambda A: eg.sqrtm(A, solver="native", errors="nan"),
    "inv_sqrtm": lambda A: eg.inv_sqrtm(A, solver="native", errors="nan"),
    "logm": lambda A: eg.logm(A, solver="native", errors="nan"),
    "expm": lambda A: eg.expm(-A, solver="native", errors="nan"),
    "powm": lambda A: eg.powm(A, 0.3, solver="native", errors="nan"),
}


def with_gradient(name: str, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    leaf = A.detach().requires_grad_()
    value = FUNCTIONS[name](leaf)
    return value.detach(), torch.autograd.grad(value, leaf, G)[0]


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 24, 25])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions(name: str, n: int, generator: torch.Generator) -> None:
    """Value and gradient: by one triangle; a matrix alone has the bits it has among others; NaN spoils no other."""
    A = hermitian(40, n, torch.complex128, generator)
    A = A @ A / n + torch.eye(n)
    G = torch.randn(FUNCTIONS[name](A).shape, dtype=A.dtype, generator=generator)
    expected = with_gradient(name, A, G)
    lower = A.tril() + torch.full_like(A, 7 + 7j).triu(1) + 3j * torch.eye(n)  # the diagonal is taken for real
    assert all(map(torch.equal, with_gradient(name, lower, G), expected))
    for i in (0, 7, 39):
        assert all(map(torch.equal, with_gradient(name, A[i], G[i]), (result[i] for result in expected)))
    A[33, n - 1, 0] = torch.nan
    others = torch.arange(40) != 33
    for found, good in zip(with_gradient(name, A, G), expected, strict=True):
        assert found[33].isnan().all() and torch.equal(found[others], good[others])
