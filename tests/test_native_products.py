"""The compiled products with eigenvectors against the same formulas in torch's operators, real and complex."""

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native, native_products
from eigengrad.gradients import few_terms
from eigengrad.testing import relative_error

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 24, 25, 33, 64, 100)


def close(ours: Tensor, expected: Tensor) -> bool:
    tolerance = 30 * ours.shape[-1] ** 0.5 * torch.finfo(ours.dtype).eps
    return torch.equal(ours, expected) or relative_error(ours, expected) < tolerance


def basis(batch: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Eigenvalues about 1 and eigenvectors, which are contiguous each."""
    X = torch.randn(batch, n, 2 * n, dtype=dtype, generator=generator)
    return tuple(torch.linalg.eigh(X @ X.mH / (2 * n) + torch.eye(n)))


def by_columns(V: Tensor) -> Tensor:
    """A copy, with columns that are contiguous."""
    return V.mT.clone(memory_format=torch.contiguous_format).mT


def layouts(G: Tensor) -> tuple[Tensor, ...]:
    """The same numbers by rows, by columns, as a lazy conjugate and from the midst of others."""
    return G, by_columns(G), G.mH.contiguous().mH, torch.cat([G, G], dim=-1)[..., : G.shape[-1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_against_torch(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    real = dtype.to_real()
    for batch in (1, 3, 40):
        L, V = basis(batch, n, dtype, generator)
        assert native_products.multiplies(V)
        assert close(native_products.recompose(V, L), (V * L.unsqueeze(-2)) @ V.mH)
        G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
        K = torch.randn(batch, n, n, dtype=real, generator=generator)
        d = torch.randn(batch, n, dtype=real, generator=generator)
        s, x = L.sqrt(), L.rsqrt()
        sums, product = s.unsqueeze(-1) + s.unsqueeze(-2), x.unsqueeze(-1) * x.unsqueeze(-2)
        weights = {
            "function": (K + K.mT, K + K.mT),
            "square_root": (s, 1 / sums),
            "inverse_square_root": (x, -product / sums),
        }
        B = V.mH @ (G + G.mH) @ V / 2
        rotated = V @ (K * (V.mH @ G) + torch.diag_embed(d)) @ V.mH
        for cotangent in layouts(G):
            for kind, (given, W) in weights.items():
                assert close(native_products.pull_back(V, cotangent, given, kind=kind), V @ (W * B) @ V.mH)
            ours = native_products.pull_back(V, cotangent, K, diagonal=d)
            assert close(ours, (rotated + rotated.mH) / 2)
            assert torch.equal(ours, ours.mH)


RULES = (*map(eg.PowerIteration, (1, 2, 16, 19, 32)), *map(eg.Taylor, (0, 9, 30, 31)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_series(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    """The weights of a short series made in the kernel, against those that the rule gives."""
    real = dtype.to_real()
    for batch in (1, 40):
        _, V = basis(batch, n, dtype, generator)
        G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
        u = torch.rand(batch, n, dtype=real, generator=generator).sort().values
        tiny = torch.finfo(real).tiny
        spectra = [(L, 1.0) for L in (u, 2 * u - 1, (3 * u).round(), (4 * u).round() - 2, torch.zeros_like(u))]
        spectra += [(40 * tiny * u, 1e3 * tiny), (u * 1e-3 / tiny, 1e-3 / tiny)]  # some have no reciprocal
        for L, scale in spectra:
            for rule in RULES:
                assert few_terms(rule) == rule.terms
                ours = native_products.pull_back(V, scale * G, L, kind="series", terms=rule.terms)
                expected = native_products.pull_back(V, scale * G, rule.kernel(L))
                assert ours.isfinite().all() and close(ours, expected)


def test_series_that_the_kernel_does_not_sum() -> None:
    class Doubled(eg.PowerIteration):
        def kernel(self, eigenvalues: Tensor) -> Tensor:
            return 2 * super().kernel(eigenvalues)

    for rule in (eg.PowerIteration(33), eg.Taylor(32), eg.Exact(), Doubled()):
        assert few_terms(rule) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_refine(n: int, dtype: torch.dtype, instructions: int, generator: torch.Generator) -> None:
    """Of eigenvectors with errors of the fourth root of the precision, by the lower triangle."""
    L, V = basis(20, n, dtype, generator)
    A = (V * L.unsqueeze(-2)) @ V.mH
    A = A.tril() + torch.randn(20, n, n, dtype=dtype, generator=generator).triu(1)
    noise = torch.randn(20, n, n, dtype=dtype, generator=generator) * torch.finfo(dtype).eps ** 0.25
    crude = V + noise
    expected = crude @ (3 * torch.eye(n) - crude.mH @ crude) / 2
    hermitian = A.tril() + A.tril(-1).mH
    quotients = (expected.conj() * (hermitian @ expected)).real.sum(-2)
    values, vectors = native_products.refine(A, by_columns(crude))
    assert close(vectors, expected)
    assert close(values, quotients)
    X, x, again = native_products.refined_root(A, by_columns(crude), 1.5, inverse=True)
    assert torch.equal(again, vectors)
    assert close(x, quotients.clamp_min(1.5).rsqrt())
    assert close(X, (expected * x.unsqueeze(-2)) @ expected.mH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 16, 17, 24])
def test_same_bits_in_lanes_and_alone(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    L, V = basis(40, n, dtype, generator)
    G = torch.randn(40, n, n, dtype=dtype, generator=generator)
    K = torch.randn(40, n, n, dtype=dtype, generator=generator)
    kinds = {"eigenvectors": K, "function": K + K.mT, "square_root": L, "inverse_square_root": L, "series": L.round()}
    for kind, weights in kinds.items():
        options = {"kind": kind, "terms": (19, 18)}
        together = native_products.pull_back(V, G, weights, diagonal=L, **options)
        for i in range(40):
            at = slice(i, i + 1)
            alone = native_products.pull_back(V[at], G[at], weights[at], diagonal=L[at], **options)
            assert torch.equal(together[at], alone)
    together = native_products.recompose(V, L)
    assert torch.equal(together, torch.cat([native_products.recompose(V[i : i + 1], L[i : i + 1]) for i in range(40)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 40])
def test_one_bad_cotangent(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    L, V = basis(40, n, dtype, generator)
    G = torch.randn(40, n, n, dtype=dtype, generator=generator)
    expected = native_products.pull_back(V, G, L, kind="square_root")
    G[7, 1, 2] = torch.nan
    found = native_products.pull_back(V, G, L, kind="square_root")
    assert found[7].isnan().all()
    assert torch.equal(found[torch.arange(40) != 7], expected[torch.arange(40) != 7])


def test_weights_that_a_user_gives(generator: torch.Generator) -> None:
    """A number for all, or another dtype: torch's operators take it, or refuse it, as without the kernel."""
    A = torch.eye(3).requires_grad_()
    constant = eg.matrix_function(A, lambda x: 2 * x, lambda x, y: torch.tensor(2.0))
    assert torch.equal(torch.autograd.grad(constant.trace(), A)[0], 2 * torch.eye(3))
    with pytest.raises(RuntimeError, match="dtype"):
        eg.matrix_function(A, lambda x: x.double(), lambda x, y: torch.ones_like(x - y))
