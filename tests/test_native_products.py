"""The operators that multiply with eigenvectors, against the same formulas in torch's products, real and complex."""

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad import native
from eigengrad.gradients import in_kernel
from eigengrad.native import operators
from eigengrad.testing import relative_error

with_kernel = pytest.mark.skipif(not native.available(), reason="a property of the compiled kernel")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 24, 25, 33, 64, 100)


def close(ours: Tensor, expected: Tensor) -> bool:
    tolerance = 30 * ours.shape[-1] ** 0.5 * torch.finfo(ours.dtype).eps
    return torch.equal(ours, expected) or relative_error(ours, expected) < tolerance


def pull_back(
    V: Tensor,
    G: Tensor,
    weights: Tensor,
    kind: str,
    diagonal: Tensor | None = None,
    terms: tuple[int, ...] = (0, 0),
    parameter: float = 0.0,
) -> Tensor:
    return operators.pull_back(V, G, weights, diagonal, operators.KINDS[kind], parameter, *terms)


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
def test_against_torch(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    real = dtype.to_real()
    for batch in (1, 3, 40) if n <= 32 else (1, 3):
        L, V = basis(batch, n, dtype, generator)
        assert close(operators.recompose(V, L), (V * L.unsqueeze(-2)) @ V.mH)
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
                assert close(pull_back(V, cotangent, given, kind), V @ (W * B) @ V.mH)
            ours = pull_back(V, cotangent, K, "eigenvectors", d)
            assert close(ours, (rotated + rotated.mH) / 2)
            assert torch.equal(ours, ours.mH)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [257, 300, 520])
def test_large(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """Products in more than one step of their sums."""
    L, V = basis(2, n, dtype, generator)
    G = torch.randn(2, n, n, dtype=dtype, generator=generator)
    K = torch.randn(2, n, n, dtype=dtype.to_real(), generator=generator)
    assert close(operators.recompose(V, L), (V * L.unsqueeze(-2)) @ V.mH)
    ours = pull_back(V, G, K + K.mT, "function")
    assert close(ours, V @ ((K + K.mT) * (V.mH @ (G + G.mH) @ V / 2)) @ V.mH)
    rotated = V @ (K * (V.mH @ G)) @ V.mH
    assert close(pull_back(V, G, K, "eigenvectors"), (rotated + rotated.mH) / 2)


def every_product(A: Tensor, L: Tensor, V: Tensor, G: Tensor) -> list[Tensor]:
    results = [*operators.refine(A, by_columns(V))]
    results += operators.root(A, True, 0.0, True, False)
    results += [operators.recompose(V, L), pull_back(V, G, L, "square_root")]
    results.append(pull_back(V, G, L, "rule", terms=(9, 8)))
    return [*results, pull_back(V, G, L, "rule", parameter=1e-4)]


@with_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [2, 5])
def test_same_bits_by_any_number_of_threads(threads: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Of one matrix, or of two, whose products threads share, and of more than there are threads."""
    for batch, n in ((1, 150), (1, 300), (2, 160), (4, 145)):
        L, V = basis(batch, n, dtype, generator)
        A = (V * L.unsqueeze(-2)) @ V.mH
        G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
        alone = every_product(A, L, V, G)
        torch.set_num_threads(threads)
        try:
            shared = every_product(A, L, V, G)
        finally:
            torch.set_num_threads(1)
        assert all(map(torch.equal, alone, shared))


RULES = (
    *map(eg.PowerIteration, (1, 2, 16, 19, 32)),
    *map(eg.Taylor, (0, 9, 30, 31)),
    *map(eg.Lorentzian, (None, 1e-30, 1e-12, 1e-3)),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_rules(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """The weights made in the kernel, of a Lorentzian or a short series, against those that the rule gives."""
    real = dtype.to_real()
    for batch in (1, 40 if n <= 32 else 3):  # large ones are taken one by one
        _, V = basis(batch, n, dtype, generator)
        G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
        u = torch.rand(batch, n, dtype=real, generator=generator).sort().values
        tiny = torch.finfo(real).tiny
        spectra = [(L, 1.0) for L in (u, 2 * u - 1, (3 * u).round(), (4 * u).round() - 2, torch.zeros_like(u))]
        spectra += [(40 * tiny * u, 1e3 * tiny), (u * 1e-3 / tiny, 1e-3 / tiny)]  # some have no reciprocal
        for L, scale in spectra:
            for rule in RULES:
                by_rule = in_kernel(rule, real)
                assert by_rule is not None
                width, *terms = by_rule
                ours = pull_back(V, scale * G, L, "rule", terms=tuple(terms), parameter=width)
                expected = pull_back(V, scale * G, rule.kernel(L), "eigenvectors")
                assert ours.isfinite().all() and close(ours, expected)


def test_rules_that_the_kernel_does_not_know() -> None:
    class Doubled(eg.PowerIteration):
        def kernel(self, eigenvalues: Tensor) -> Tensor:
            return 2 * super().kernel(eigenvalues)

    for rule in (eg.PowerIteration(33), eg.Taylor(32), eg.Exact(), Doubled()):
        assert in_kernel(rule, torch.float32) is None


def errors_of_pairs(A: Tensor, L: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """In each matrix of a batch: of ``V^H V - 1``, and of ``V^H A V - diag(L)`` to the largest eigenvalue."""
    A, V, L = A.to(torch.complex128), V.to(torch.complex128), L.to(torch.complex128)
    departure, residual = V.mH @ V - torch.eye(A.shape[-1]), V.mH @ A @ V - torch.diag_embed(L)
    norm = torch.linalg.matrix_norm
    return norm(departure), norm(residual) / L.abs().amax(-1)


@pytest.mark.parametrize("spectrum", ["apart", "half clustered", "clustered", "tied"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_refine(n: int, dtype: torch.dtype, spectrum: str, instructions: str, generator: torch.Generator) -> None:
    """Eigenvectors that are off by many times the precision, and those of a cluster mixed at random."""
    if spectrum != "apart" and not native.available():
        pytest.skip("only the kernel rotates within clusters")
    wide, real = torch.complex128 if dtype.is_complex else torch.float64, torch.float64
    eps = torch.finfo(dtype).eps
    L = torch.linspace(1, 10, n, dtype=real)
    members = {"apart": 0, "half clustered": n // 2, "clustered": n, "tied": n}[spectrum]
    L[:members] = 1 + torch.arange(members) * (0 if spectrum == "tied" else 100 * eps)
    V = torch.linalg.qr(torch.randn(5, n, n, dtype=wide, generator=generator)).Q
    A = ((V * L) @ V.mH).to(dtype)
    A = A.tril() + A.tril(-1).mH
    V[..., :members] @= torch.linalg.qr(torch.randn(5, members, members, dtype=wide, generator=generator)).Q
    perturbed = (V + eps**0.75 * torch.randn(5, n, n, dtype=wide, generator=generator)).to(dtype)
    read = A.tril() + torch.randn(5, n, n, dtype=dtype, generator=generator).triu(1)
    values, vectors = operators.refine(read, by_columns(perturbed))
    for error in errors_of_pairs(A, values, vectors):
        assert error.max() < (0.8 * n + 3) * eps


@with_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 16, 24])
def test_refine_leaves_neighbours_alone(
    n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator
) -> None:
    """The bits of a matrix whose neighbours are apart, clustered or NaN, which takes other steps in each."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    L = torch.linspace(1, 10, n, dtype=torch.float64).repeat(40, 1)
    L[::3] = 1 + torch.arange(n) * 100 * torch.finfo(dtype).eps
    V = torch.linalg.qr(torch.randn(40, n, n, dtype=wide, generator=generator)).Q
    A = ((V * L.unsqueeze(-2)) @ V.mH).to(dtype)
    V[::3] = torch.linalg.qr(torch.randn(14, n, n, dtype=wide, generator=generator)).Q
    V = V.to(dtype)
    V[7], A[8] = torch.nan, torch.nan
    values, vectors = operators.refine(A, by_columns(V))
    for i in range(40):
        alone = operators.refine(A[i], by_columns(V[i]))
        for one, among_others in zip(alone, (values[i], vectors[i]), strict=True):
            assert torch.equal(one.nan_to_num(7), among_others.nan_to_num(7))
    assert [i for i in range(40) if values[i].isnan().all()] == [7, 8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_refine_at_any_scale(scale: float, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    L, V = basis(3, 20, dtype, generator)
    A = (V * L.unsqueeze(-2)) @ V.mH
    values, vectors = operators.refine(scale * A, by_columns(V))
    for error in errors_of_pairs(scale * A, values, vectors):
        assert error.max() < 10 * torch.finfo(dtype).eps


@with_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_refine_under_vmap(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Over each dimension of a batch, of both or of one of its arguments."""
    L, V = basis(6, 20, dtype, generator)
    A, V = ((V * L.unsqueeze(-2)) @ V.mH).unflatten(0, (2, 3)), by_columns(V).unflatten(0, (2, 3))
    refine = operators.refine
    values, vectors = refine(A, V)
    for dim in (0, 1):
        mapped = torch.vmap(refine, in_dims=dim, out_dims=dim)(A, V)
        assert torch.equal(mapped[0], values) and torch.equal(mapped[1], vectors)
    assert torch.equal(torch.vmap(refine, in_dims=(None, 0))(A[1], V)[1][1], vectors[1])
    assert torch.equal(torch.vmap(refine, in_dims=(0, None))(A, V[1])[1][1], vectors[1])


@with_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 24, 25])
def test_same_bits_in_lanes_and_alone(
    n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator
) -> None:
    L, V = basis(40, n, dtype, generator)
    G = torch.randn(40, n, n, dtype=dtype, generator=generator)
    K = torch.randn(40, n, n, dtype=dtype.to_real(), generator=generator)
    kinds = {"eigenvectors": K, "function": K + K.mT, "square_root": L, "inverse_square_root": L, "rule": L.round()}

    def every(at: slice) -> list[Tensor]:
        products = [
            pull_back(V[at], cotangent, weights[at], kind, L[at], (19, 18))
            for cotangent in (G[at], by_columns(G[at]))
            for kind, weights in kinds.items()
        ]
        products.append(pull_back(V[at], G[at], L[at], "rule", L[at], parameter=1e-4))
        return [*products, operators.recompose(V[at], L[at])]

    together = every(slice(None))
    for i in range(40):
        assert all(map(torch.equal, (x[i : i + 1] for x in together), every(slice(i, i + 1))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 40])
def test_one_bad_cotangent(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    L, V = basis(40, n, dtype, generator)
    G = torch.randn(40, n, n, dtype=dtype, generator=generator)
    expected = pull_back(V, G, L, "square_root")
    G[7, 1, 2] = torch.nan
    found = pull_back(V, G, L, "square_root")
    assert found[7].isnan().all()
    assert torch.equal(found[torch.arange(40) != 7], expected[torch.arange(40) != 7])


def test_weights_that_a_user_gives(generator: torch.Generator) -> None:
    """Of another dtype, they are taken in the matrix's own."""
    A = torch.eye(3).requires_grad_()
    value = eg.matrix_function(A, lambda x: 2 * x.double(), lambda x, y: torch.full_like(x + y, 2).long())
    assert torch.equal(torch.autograd.grad(value.trace(), A)[0], 2 * torch.eye(3))
