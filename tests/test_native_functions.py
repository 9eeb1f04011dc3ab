"""Functions of matrices in the kernel: elementary functions, divided differences and both together, against mpmath."""

from collections.abc import Callable

import mpmath
import oracle
import pytest
import torch
from spectra import diagonal, hermitian, relative_error
from torch import Tensor

from eigengrad import native
from eigengrad.native import operators

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
REAL = (torch.float32, torch.float64)
POWERS = (0.3, -0.3, -1.7, 2.5, 20.1, -0.7, 1e-3)
FUNCTIONS = (("exponential", 0.0), ("logarithm", 0.0), *(("power", p) for p in POWERS))
NAMES = {"logm": ("logarithm", 0.0), "expm": ("exponential", 0.0), "powm": ("power", 0.3)}
ROOTS = {"sqrtm": "square_root", "inv_sqrtm": "inverse_square_root"}


def exact(kind: str, parameter: float) -> tuple[Callable, Callable]:
    """The function and its derivative, for numbers of mpmath."""
    p = mpmath.mpf(parameter)
    return {
        "exponential": (mpmath.exp, mpmath.exp),
        "logarithm": (mpmath.log, lambda x: 1 / x),
        "power": (lambda x: x**p, lambda x: p * x ** (p - 1)),
    }[kind]


def function(
    A: Tensor, kind: str, parameter: float = 0.0, *, kernel_always: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """``f(A)``, eigenvalues (of a root, its own) and eigenvectors; the parameter of a root is its floor."""
    if kind in ROOTS.values():
        return operators.root(A, kind == "inverse_square_root", parameter, kernel_always, False)
    return operators.function(A, operators.KINDS[kind], parameter, kernel_always, False)


def pull_back(V: Tensor, G: Tensor, x: Tensor, kind: str, parameter: float = 0.0) -> Tensor:
    return operators.pull_back(V, G, x, None, operators.KINDS[kind], parameter)


def elementary(kind: str, x: Tensor, parameter: float = 0.0) -> Tensor:
    """Of matrices of one number, which are their own eigenvalues to the last bit."""
    return function(x[:, None, None], kind, parameter)[0].flatten()


def weights(kind: str, x: Tensor, y: Tensor, parameter: float = 0.0) -> Tensor:
    """Of pairs: the derivative at a diagonal matrix, whose eigenvectors are axes, along a matrix of ones.

    Where f'(x) or f'(y) is infinite, it is NaN.
    """
    L = torch.stack([x, y], -1)
    G = torch.ones(*L.shape, 2, dtype=x.dtype)
    found = pull_back(torch.eye(2, dtype=x.dtype).expand(G.shape), G, L, kind, parameter)
    assert torch.equal(found[:, 0, 1].nan_to_num(7), found[:, 1, 0].nan_to_num(7))
    return found[:, 0, 1]


def units(found: Tensor, expected: list[mpmath.mpf]) -> float:
    """The largest error in units of the last place; where the number leaves the range, infinity is right, or zero."""
    info, worst = torch.finfo(found.dtype), 0.0
    digits = 1 - round(mpmath.log(info.eps, 2))
    for ours, right in zip(found.double().tolist(), expected, strict=True):
        if abs(right) > info.max:
            assert ours in (mpmath.sign(right) * torch.inf, mpmath.sign(right) * info.max)
        elif right != 0:
            place = max(mpmath.frexp(right)[1], mpmath.frexp(info.tiny)[1]) - digits
            worst = max(worst, float(abs(mpmath.mpf(ours) - right) / mpmath.ldexp(1, place)))
        else:
            assert ours == 0
    return worst


def positive(dtype: torch.dtype, count: int, generator: torch.Generator) -> Tensor:
    """Of every size, subnormal ones too; about one, and closer and closer to it."""
    info = torch.finfo(dtype)
    random = torch.rand(5, count, dtype=torch.float64, generator=generator)
    low, high = torch.tensor([info.smallest_normal * info.eps, info.max], dtype=torch.float64).log2()
    everywhere = torch.exp2(low + (high - low) * random[0])
    close = 1 + (random[1] - 0.5) * 10 ** (-15 * random[2])
    return torch.cat([everywhere, 0.5 + 1.5 * random[3], close]).to(dtype)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("kind", "parameter"), [*FUNCTIONS, ("power", -50.0), ("power", 0.0)])
def test_elementary(
    kind: str, parameter: float, dtype: torch.dtype, instructions: str, generator: torch.Generator
) -> None:
    x, info = positive(dtype, 400, generator), torch.finfo(dtype)
    if kind == "exponential":
        low, high = mpmath.log(info.smallest_normal * info.eps) - 1, mpmath.log(info.max) + 1
        spread = torch.rand(1000, dtype=torch.float64, generator=generator) * float(high - low) + float(low)
        x = torch.cat([spread.to(dtype), x.log() / 100, torch.tensor([0.0, info.tiny, -info.tiny], dtype=dtype)])
    with mpmath.workprec(150):
        f = exact(kind, parameter)[0]
        assert units(elementary(kind, x, parameter), [f(mpmath.mpf(v)) for v in x.double().tolist()]) < 1.8


@pytest.mark.parametrize("dtype", REAL)
def test_edges(dtype: torch.dtype, instructions: str) -> None:
    """As torch has them, beyond a vector and alone; but a matrix that is not finite has no function."""
    info = torch.finfo(dtype)
    one = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, -1.0, -info.tiny, info.max, -info.max, info.tiny, 1.0]
    for x in (torch.tensor(7 * one, dtype=dtype), *torch.tensor(one, dtype=dtype).split(1)):
        right = {
            "exponential": (0.0, x.exp()),
            "logarithm": (0.0, x.log()),
            "square_root": (0.5, x.clamp_min(0.5).sqrt()),
            "inverse_square_root": (0.5, x.clamp_min(0.5).rsqrt()),
        }
        for kind, (parameter, expected) in [*right.items(), *(("power", (p, (x + 0.0) ** p)) for p in (0.3, -0.3))]:
            expected = torch.where(x.isfinite(), expected, torch.nan)
            torch.testing.assert_close(elementary(kind, x, parameter), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("kind", "parameter"), FUNCTIONS)
def test_same_bits_of_every_width(kind: str, parameter: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    """With fused multiplication: of vectors of 64 bytes, of 32, and of few numbers, but not through double."""
    x = positive(dtype, 112, generator)
    x = x.log() if kind == "exponential" else x
    found, chosen = [], str(native.instructions())
    for name in ("avx512", "avx2"):
        if native.choose_instructions(name):
            found += [elementary(kind, x, parameter)]
            found += [torch.cat([elementary(kind, few, parameter) for few in x.split(size)]) for size in (16, 48)]
            if dtype == torch.float64:
                found += [torch.cat([elementary(kind, one, parameter) for one in x.split(1)])]
    assert native.choose_instructions(chosen)
    assert all(torch.equal(found[0], other) for other in found)


def pairs(kind: str, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ties, pairs that differ by a unit in the last place and more, and pairs far apart; in either order."""
    info = torch.finfo(dtype)
    if kind == "exponential":
        x = torch.linspace(-60, 60, 60).to(dtype)
        gaps = torch.tensor([0.0, 0.3, 1.0, 7.0, 30.0, *(10.0**-k for k in range(1, 15))], dtype=torch.float64)
        other = (x.double().unsqueeze(-1) + gaps).to(dtype)
        neighbours = torch.nextafter(x, torch.tensor(torch.inf, dtype=dtype))
    else:
        x = positive(dtype, 20, generator)
        x = x[(x > info.tiny * 1e3) & (x < info.max / 1e3)]
        factors = [1.0, 1.1, 1.41, 1.42, 1.9999, 2.0, 2.001, 100.0, *(1 + 10.0**-k for k in range(3, 15))]
        other = (x.double().unsqueeze(-1) * torch.tensor(factors, dtype=torch.float64)).to(dtype)
        neighbours = torch.nextafter(x, torch.tensor(torch.inf, dtype=dtype))
        other = torch.cat([other, x.flip(0).unsqueeze(-1)], -1)  # of any quotient
    other = torch.cat([other, neighbours.unsqueeze(-1)], -1)
    x, y = x.unsqueeze(-1).expand(other.shape).flatten(), other.flatten()
    return torch.cat([x, y]), torch.cat([y, x])


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("kind", "parameter"), FUNCTIONS)
def test_divided_differences(
    kind: str, parameter: float, dtype: torch.dtype, instructions: str, generator: torch.Generator
) -> None:
    x, y = pairs(kind, dtype, generator)
    expected, good, info = [], [], torch.finfo(dtype)
    with mpmath.workprec(400):
        f, derivative = exact(kind, parameter)
        for a, b in zip(map(mpmath.mpf, x.double().tolist()), map(mpmath.mpf, y.double().tolist()), strict=True):
            expected.append(derivative(a) if a == b else (f(a) - f(b)) / (a - b))
            numbers = (expected[-1], derivative(a), derivative(b))  # of full precision in this dtype
            good.append(all(1e3 * info.tiny < abs(number) < info.max / 1e3 for number in numbers))
    together = weights(kind, x, y, parameter)
    good = [i for i, is_good in enumerate(good) if is_good]
    assert len(good) > 0.2 * len(expected)
    assert units(together[good], [expected[i] for i in good]) < 8
    alone = [weights(kind, x[i : i + 1], y[i : i + 1], parameter) for i in range(0, len(x), 7)]
    assert torch.equal(torch.cat(alone).nan_to_num(7), together[::7].nan_to_num(7))


def test_divided_differences_at_the_edge(instructions: str) -> None:
    """Infinite at zero where the derivative is, NaN for negative numbers and for NaN."""
    zero, one, bad = torch.zeros(1), torch.ones(1), torch.full((1,), torch.nan)
    for kind, parameter in FUNCTIONS:
        assert weights(kind, bad, one, parameter).isnan() and weights(kind, one, bad, parameter).isnan()
        if kind != "exponential":
            assert weights(kind, -one, one, parameter).isnan() and weights(kind, one, -one, parameter).isnan()
            for other in (one, zero):
                assert weights(kind, zero, other, parameter).isfinite() == (parameter > 1)


@pytest.mark.parametrize(
    ("dtype", "scales", "limit"),
    [(torch.float64, (1e-100, 1e-15, 1.0, 1e100), 1e-13), (torch.float32, (1e-15, 1.0, 1e15), 2e-6)],
)
@pytest.mark.parametrize("name", [*NAMES, *ROOTS])
def test_value_and_gradient(
    name: str,
    dtype: torch.dtype,
    scales: tuple[float, ...],
    limit: float,
    instructions: str,
    generator: torch.Generator,
) -> None:
    """At a condition of 10, every gap and every scale (of the exponential: one), of one matrix and of many."""
    kind, parameter = NAMES.get(name) or (ROOTS[name], 0.0)
    for scale in scales if name != "expm" else (1.0,):
        for gap in (1.0, 1e-3, 1e-6, 1e-9, 0.0):
            L = torch.tensor([1, 1 + gap, 1 + 2 * gap, 5, 10], dtype=torch.float64)
            L = L.log() if name == "expm" else scale * L
            for A in (hermitian(L, dtype, generator), diagonal(L, dtype)):
                G = torch.randn(5, 5, dtype=dtype, generator=generator)
                value, gradient = oracle.value_and_gradient(name, A.double(), G.double())
                size = gradient.abs().max()  # its square may not be a number
                for copies in (1, 40):
                    X, x, V = function(A.expand(copies, 5, 5), kind, parameter)
                    assert relative_error(X, value.expand(X.shape)) < limit
                    found = pull_back(V, G.expand(X.shape), x, kind, parameter)
                    assert relative_error(found.double() / size, (gradient / size).expand(found.shape)) < limit


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 24, 25, 40])
def test_of_any_size(n: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """Against torch; a few matrices have the bits that they have among others; few small ones go through double."""
    F = torch.randn(40, n, 2 * n, dtype=dtype, generator=generator)
    A = F @ F.mT / (2 * n) + 0.1 * torch.eye(n, dtype=dtype)
    A[7] = torch.nan
    G = torch.randn(40, n, n, dtype=dtype, generator=generator)
    good = torch.arange(40) != 7
    L, U = torch.linalg.eigh(A[good].double())
    in_double = dtype == torch.float32 and n <= 12
    few = 16 if in_double else 1
    for kind, parameter in (("exponential", 0.0), ("logarithm", 0.0), ("power", 0.3), ("inverse_square_root", 0.0)):
        X, x, V = function(A, kind, parameter)
        gradient = pull_back(V, G, x, kind, parameter)
        f = {"power": L**0.3, "exponential": L.exp(), "logarithm": L.log()}.get(kind, L.rsqrt())
        expected = (U * f.unsqueeze(-2)) @ U.mT
        assert relative_error(X[good], expected) < 100 * torch.finfo(dtype).eps
        assert torch.equal(X[good], X[good].mT)
        assert relative_error(x[good].sort().values, (f if "root" in kind else L).sort().values) < 1e-6
        assert X[7].isnan().all() and gradient[7].isnan().all()
        for i in (8, 11, 40 - few):
            at = slice(i, i + few)
            alone = function(A[at], kind, parameter)
            assert all(map(torch.equal, alone, (X[at], x[at], V[at])))
            assert torch.equal(pull_back(alone[2], G[at], alone[1], kind, parameter), gradient[at])
        by_lapack = function(A[good][:1], kind, parameter, kernel_always=False)[0]
        assert relative_error(by_lapack, expected[:1]) < 100 * torch.finfo(dtype).eps
        if in_double:
            assert relative_error(function(A[good][:3], kind, parameter)[0], expected[:3]) < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("n", "batch"), [(3, 40), (20, 2), (33, 1)])
def test_complex(n: int, batch: int, dtype: torch.dtype, instructions: str, generator: torch.Generator) -> None:
    """By eigenvectors of the kernel, and by those of LAPACK."""
    F = torch.randn(batch, n, 2 * n, dtype=dtype, generator=generator)
    A = F @ F.mH / (2 * n) + 0.1 * torch.eye(n, dtype=dtype)
    L, U = torch.linalg.eigh(A.to(torch.complex128))
    G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    gaps = L.unsqueeze(-1) - L.unsqueeze(-2) + torch.eye(n)
    W = (L.log().unsqueeze(-1) - L.log().unsqueeze(-2)) / gaps + torch.diag_embed(1 / L)
    expected = U @ (W * (U.mH @ (G + G.mH).to(U.dtype) @ U / 2)) @ U.mH
    for kernel_always in (True, False):
        X, x, V = function(A, "logarithm", kernel_always=kernel_always)
        assert relative_error(X, (U * L.log().unsqueeze(-2)) @ U.mH) < 100 * torch.finfo(dtype).eps
        assert relative_error(pull_back(V, G, x, "logarithm"), expected) < 300 * torch.finfo(dtype).eps
