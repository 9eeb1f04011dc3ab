"""Matrix functions: values and derivatives against arithmetic of many digits, at every gap and scale, ties included."""

from collections.abc import Callable

import mpmath
import numpy as np
import oracle
import pytest
import torch
from spectra import diagonal, hermitian, relative_error, symmetrised
from torch import Tensor

import eigengrad as eg
from eigengrad.matrix_functions.divided_differences import RADIUS, Custom, Exponential, Logarithm, Power

MatrixFunction = Callable[[Tensor], Tensor]


def cube_root(A: Tensor) -> Tensor:
    """A function of the user's own, its divided difference free of cancellation."""

    def divided_difference(x: Tensor, y: Tensor) -> Tensor:
        a, b = x ** (1 / 3), y ** (1 / 3)
        return 1 / (a * a + a * b + b * b)

    return eg.matrix_function(A, lambda x: x ** (1 / 3), divided_difference)


FUNCTIONS: dict[str, MatrixFunction] = {
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "logm": eg.logm,
    "expm": eg.expm,
    "powm": lambda A: eg.powm(A, 0.3),
    "powm -1.7": lambda A: eg.powm(A, -1.7),
    "powm 3": lambda A: eg.powm(A, 3),
    "powm -2": lambda A: eg.powm(A, -2),
    "matrix_function": cube_root,
}
SPECTRA = {
    "separated": [0.3, 1.0, 2.5, 4.0],
    "tie": [0.5, 0.5, 2.0, 3.0],
    "triple": [0.7, 2.0, 2.0, 2.0],
    "identity": [1.5, 1.5, 1.5, 1.5],
    "cluster": [1.0, 1.0 + 1e-9, 1.0 + 2e-9, 3.0],
}
REAL_AND_COMPLEX = (torch.float64, torch.complex128)


def positive(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return hermitian(torch.tensor(SPECTRA[spectrum], dtype=torch.float64), dtype, generator)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradgradcheck(name: str, spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Finite differences are valid at ties: the functions are smooth there. First and second order, both modes."""
    A = positive(spectrum, dtype, generator).requires_grad_()

    def function(X: Tensor) -> Tensor:
        return FUNCTIONS[name](symmetrised(X))

    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("spectrum", ["tie", "triple", "identity"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradgradcheck_at_ties_to_the_last_bit(name: str, spectrum: str, dtype: torch.dtype) -> None:
    """Of a diagonal matrix, whose computed eigenvalues are equal in every bit."""
    A = diagonal(torch.tensor(SPECTRA[spectrum], dtype=torch.float64), dtype)
    assert torch.linalg.eigvalsh(A).unique().numel() == len(set(SPECTRA[spectrum]))
    A.requires_grad_()

    def function(X: Tensor) -> Tensor:
        return FUNCTIONS[name](symmetrised(X))

    assert torch.autograd.gradcheck(function, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True)


def test_second_divided_difference_of_a_custom_function(generator: torch.Generator) -> None:
    """Where first ones agree by chance, over an interval that is long for f; and over shorter ones."""
    degree = 41

    def difference(x: Tensor, y: Tensor) -> Tensor:
        return sum((x**k * y ** (degree - 1 - k) for k in range(degree)), torch.zeros_like(x))

    random = torch.rand(75, 3, dtype=torch.float64, generator=generator)
    by_chance = torch.tensor([-1.0, 0.0, 1.0]).double() + 1e-3 * random[:25]
    shorter = random[25:, :1] + torch.logspace(-14, 0, 50).double().unsqueeze(-1) * (random[25:] - 0.5)
    points = torch.cat([by_chance, shorter, shorter[:5, :1].expand(5, 3)])
    actual = Custom(lambda x: x**degree, difference).second(*points.unbind(-1))
    for (x, y, z), found in zip(points.tolist(), actual.tolist(), strict=True):
        powers = [
            (mpmath.mpf(x) ** i * mpmath.mpf(y) ** j, degree - 2 - i - j)
            for i in range(degree - 1)
            for j in range(degree - 1 - i)
        ]
        expected = sum(head * mpmath.mpf(z) ** k for head, k in powers)
        largest = degree * (degree - 1) / 2 * max(map(abs, (x, y, z))) ** (degree - 2)
        assert abs(found - float(expected)) < 1e-12 * largest


@pytest.mark.parametrize(
    ("dtype", "scales", "limit"),
    [
        (torch.float64, (1e-100, 1.0, 1e100), 1e-13),
        (torch.complex128, (1e-100, 1e100), 1e-13),
        (torch.float32, (1e-15, 1.0, 1e15), 2e-6),
        (torch.complex64, (1e-15, 1e15), 2e-6),
    ],
)
@pytest.mark.parametrize("name", oracle.scalar_functions())
def test_accuracy(
    name: str, dtype: torch.dtype, scales: tuple[float, ...], limit: float, generator: torch.Generator
) -> None:
    """Value and gradient at a condition of 10, every gap and every scale (of the exponential: one)."""
    for scale in scales if name != "expm" else (1.0,):
        for gap in (1.0, 1e-2, 1e-5, 1e-8, 1e-12, 0.0):
            L = torch.tensor([1, 1 + gap, 1 + 2 * gap, 5, 10], dtype=torch.float64)
            if name == "expm":
                L = L.log()  # so that what is computed has the condition of 10
            for A in (hermitian(L * scale, dtype, generator), diagonal(L * scale, dtype)):
                G = torch.randn(5, 5, dtype=dtype, generator=generator)
                wide = torch.complex128 if dtype.is_complex else torch.float64
                value, gradient = oracle.value_and_gradient(name, A.to(wide), G.to(wide))
                size = gradient.abs().max()  # its square may not be a number
                for copies in (1, 64):  # of which the compiled kernel takes the second
                    batch = A.detach().repeat(copies, 1, 1).requires_grad_()
                    actual = FUNCTIONS[name](batch)
                    assert relative_error(actual, value.expand(actual.shape)) < limit
                    found = torch.autograd.grad(actual, batch, G.expand(actual.shape))[0].to(wide)
                    assert relative_error(found / size, (gradient / size).expand(found.shape)) < limit


@pytest.mark.parametrize("name", oracle.scalar_functions())
def test_condition(name: str, generator: torch.Generator) -> None:
    """Ill-conditioned input: within ten units of rounding times the condition."""
    for condition in (1e3, 1e6, 1e9):
        L = torch.logspace(0, torch.tensor(condition).log10(), 5).double()
        A = hermitian(L if name != "expm" else L.log(), torch.float64, generator).requires_grad_()
        G = torch.randn(5, 5, dtype=torch.float64, generator=generator)
        _, gradient = oracle.value_and_gradient(name, A.detach(), G)
        error = relative_error(torch.autograd.grad(FUNCTIONS[name](A), A, G)[0], gradient)
        assert error < 10 * torch.finfo(torch.float64).eps * condition


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_hermitian(name: str, generator: torch.Generator) -> None:
    """First and second, whatever the cotangents: a step along them keeps both triangles of A alike."""
    A = positive("tie", torch.complex128, generator).requires_grad_()
    G, H = torch.randn(2, 4, 4, dtype=A.dtype, generator=generator)
    first = torch.autograd.grad(FUNCTIONS[name](A), A, G, create_graph=True)[0]
    second = torch.autograd.grad(first, A, H)[0]
    torch.testing.assert_close(first, first.mH)
    torch.testing.assert_close(second, second.mH)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["separated", "tie"])
def test_real_embedding(name: str, spectrum: str, generator: torch.Generator) -> None:
    """A complex Hermitian matrix is the real symmetric ``[[Re, -Im], [Im, Re]]``, in value and gradient."""

    def embed(A: Tensor) -> Tensor:
        return torch.cat([torch.cat([A.real, -A.imag], -1), torch.cat([A.imag, A.real], -1)], -2)

    A = positive(spectrum, torch.complex128, generator).requires_grad_()
    R = embed(A.detach()).requires_grad_()
    G = torch.randn(4, 4, dtype=A.dtype, generator=generator)
    actual, expected = FUNCTIONS[name](A), FUNCTIONS[name](R)
    torch.testing.assert_close(embed(actual), expected)
    gradients = torch.autograd.grad(actual, A, G)[0], torch.autograd.grad(expected, R, embed(G))[0]
    torch.testing.assert_close(embed(symmetrised(gradients[0])), symmetrised(gradients[1]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hessian_and_vmap(name: str, generator: torch.Generator) -> None:
    batch = torch.stack([positive(spectrum, torch.float64, generator) for spectrum in ("separated", "tie", "identity")])

    def loss(A: Tensor) -> Tensor:
        return (FUNCTIONS[name](symmetrised(A)) ** 3).sum()

    one_by_one = torch.stack([torch.autograd.functional.hessian(loss, A) for A in batch])
    torch.testing.assert_close(torch.func.vmap(torch.func.hessian(loss))(batch), one_by_one)


@pytest.mark.parametrize("outermost", [torch.func.jacfwd, torch.func.jacrev])
@pytest.mark.parametrize("dtype", REAL_AND_COMPLEX)
@pytest.mark.parametrize("name", ["sqrtm", "inv_sqrtm"])
def test_third_derivative(name: str, dtype: torch.dtype, outermost: Callable, generator: torch.Generator) -> None:
    """Against the Taylor coefficients of ``X`` in ``X(t) X(t) = A + t B``, or its inverse, at a triple tie.

    Forward mode once: twice and thrice it is compared with reverse mode in ``test_conformance.py``.
    """
    x = torch.tensor([0.5, 0.5, 0.5, 0.25], dtype=torch.float64)
    A = (x ** (2 if name == "sqrtm" else -2)).diag().to(dtype)
    X, W = torch.randn(2, 4, 4, dtype=dtype, generator=generator)
    B = X + X.mH
    square, coefficients = [A if name == "sqrtm" else A.inverse()], [x.diag().to(dtype)]
    for order in (1, 2, 3):
        inverse = -square[-1] @ B @ square[0]
        square.append(inverse if name == "inv_sqrtm" else B if order == 1 else torch.zeros_like(B))
        known = sum(coefficients[k] @ coefficients[order - k] for k in range(1, order))
        coefficients.append((square[order] - known) / (x.unsqueeze(-1) + x))

    def along(t: Tensor) -> Tensor:
        return torch.linalg.vecdot(W.flatten(), FUNCTIONS[name](A + t * B).flatten()).real

    third = outermost(torch.func.jacrev(torch.func.jacrev(along)))(torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(third, 6 * torch.linalg.vecdot(W.flatten(), coefficients[3].flatten()).real)


@pytest.mark.parametrize("name", ["logm", "expm", "powm", "matrix_function"])
def test_third_derivative_is_refused(name: str) -> None:
    """An error, not a wrong number."""

    def along(t: Tensor) -> Tensor:
        return FUNCTIONS[name](torch.eye(2) * (2 + t)).sum()

    second = torch.func.grad(torch.func.grad(along))
    assert second(torch.zeros(())).isfinite()
    with pytest.raises(NotImplementedError, match="of any order: sqrtm, inv_sqrtm"):
        torch.func.grad(second)(torch.zeros(()))


def test_values_at_the_edge_of_the_domain() -> None:
    """As the scalar functions do: zero has a root, an infinite logarithm, and negative numbers have neither."""
    A = torch.tensor([0.0, 1.0]).double().diag()
    torch.testing.assert_close(eg.sqrtm(A), A)
    assert eg.sqrtm(-A).isfinite().all()  # negative eigenvalues count as zero
    for function in (eg.inv_sqrtm, eg.logm, lambda A: eg.powm(A, -0.3)):
        assert not function(A).isfinite().all()
    assert eg.logm(-torch.eye(2)).isnan().all()
    torch.testing.assert_close(eg.powm(-torch.eye(2), 3), -torch.eye(2))  # integer powers need no sign


def test_powers_are_those_of_the_other_functions(generator: torch.Generator) -> None:
    A = positive("tie", torch.float64, generator)
    torch.testing.assert_close(eg.powm(A, 0.5), eg.sqrtm(A), rtol=0, atol=0)
    torch.testing.assert_close(eg.powm(A, -0.5), eg.inv_sqrtm(A), rtol=0, atol=0)
    torch.testing.assert_close(eg.powm(A, 0), torch.eye(4).double())
    assert not torch.autograd.functional.jacobian(lambda A: eg.powm(A, 0), A).any()
    torch.testing.assert_close(eg.expm(0.3 * eg.logm(A)), eg.powm(A, 0.3))


@pytest.mark.parametrize("function", [eg.sqrtm, eg.inv_sqrtm])
def test_floor(function: Callable[..., Tensor]) -> None:
    """An eigenvalue that rounding pushed below zero counts as the floor."""
    A = torch.tensor([-1e-9, 1.0]).double().diag()
    expected = torch.tensor([1e-2, 1.0]).double() ** (1 if function is eg.sqrtm else -1)
    torch.testing.assert_close(function(A, floor=1e-4), expected.diag())
    assert torch.autograd.functional.jacobian(lambda A: function(A, floor=1e-4), A).isfinite().all()
    with pytest.raises(ValueError, match="floor must be finite and not negative, got -1"):
        function(A, floor=-1)


@pytest.mark.parametrize("solver", ["eigh", "svd", "qr", eg.solvers.PowerIteration(300)])
@pytest.mark.parametrize("function", [eg.sqrtm, eg.inv_sqrtm, eg.logm, eg.expm])
def test_solvers(function: Callable[..., Tensor], solver: str | eg.solvers.Solver, generator: torch.Generator) -> None:
    A = positive("separated", torch.float64, generator)
    torch.testing.assert_close(function(A, solver=solver), function(A), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="solver must be one of"):
        function(A, solver="lapack")


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (0, 3, 3), (2, 0, 0), (2, 3, 2, 2)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    A = (4 * torch.eye(shape[-1])).expand(shape).clone().requires_grad_()
    value = FUNCTIONS[name](A)
    expected = FUNCTIONS[name](torch.full((1, 1), 4.0)) * torch.eye(shape[-1])
    torch.testing.assert_close(value, expected.expand(shape))
    gradient = torch.autograd.grad(value.sum(), A, create_graph=True)[0]
    assert gradient.shape == shape
    assert torch.autograd.grad(gradient.sum(), A)[0].shape == shape


@pytest.mark.parametrize("name", ["sqrtm", "inv_sqrtm", "logm", "powm"])
def test_one_bad_matrix_spoils_no_other(name: str, generator: torch.Generator) -> None:
    A = torch.stack([positive("tie", torch.float64, generator), torch.zeros(4, 4).double()]).requires_grad_()
    gradient = torch.autograd.grad(FUNCTIONS[name](A).sum(), A)[0]
    assert gradient[0].isfinite().all()
    assert not gradient[1].isfinite().all()


def test_errors() -> None:
    A = torch.eye(2)
    for exponent in ("2", True, 1j):
        with pytest.raises(TypeError, match="exponent must be a real number or tensor"):
            eg.powm(A, exponent)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exponent must be a real tensor"):
        eg.powm(A, torch.tensor(1j))
    with pytest.raises(ValueError, match=r"exponent must broadcast to the batch \(\), got shape \(2,\)"):
        eg.powm(A, torch.ones(2))
    time = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="f depends on a tensor that wants a gradient"):
        eg.matrix_function(A, lambda x: time * x, lambda x, y: time + 0 * x * y)
    with pytest.raises(ValueError, match="exponent must be finite, got inf"):
        eg.powm(A, float("inf"))
    with pytest.raises(TypeError, match="divided_difference must be a function of tensors, got None"):
        eg.matrix_function(A, torch.exp, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", ["tie", "separated"])
def test_learned_exponent(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = positive(spectrum, dtype, generator).requires_grad_()
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def function(A: Tensor, p: Tensor) -> Tensor:
        return eg.powm((A + A.mH) / 2, p)

    torch.testing.assert_close(function(A, p), eg.powm(A, 0.3), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(function, (A, p), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (A, p), check_fwd_over_rev=True)
    batch, exponents = A.detach().expand(3, 4, 4), torch.tensor([0.3, -1.5, 2.0])
    mapped = torch.func.vmap(torch.func.grad(lambda A, p: eg.powm(A, p)[0, 1].real, argnums=1))(batch, exponents)
    one_by_one = [torch.func.grad(lambda p: eg.powm(A.detach(), p)[0, 1].real)(p) for p in exponents]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))


def test_numpy_exponents() -> None:
    A = 4 * torch.eye(2)
    for exponent in (np.float32(0.5), np.float64(0.5)):
        torch.testing.assert_close(eg.powm(A, exponent), 2 * torch.eye(2))
    torch.testing.assert_close(eg.powm(A, np.int64(2)), 16 * torch.eye(2))


def evolve(x: Tensor, t: Tensor) -> Tensor:
    return torch.exp(-1j * t * x)


def difference_of_evolve(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    angle = t * (x - y) / 2
    small, square = angle.abs() < 1e-2, angle * angle
    series = 1 - square / 6 + square**2 / 120 - square**3 / 5040
    sinc = torch.where(small, series, angle.sin() / torch.where(small, 1.0, angle))
    return -1j * t * evolve((x + y) / 2, t) * sinc


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", ["tie", "separated"])
def test_unitary_evolution(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """A function with complex values, of a time that is learned."""
    H = positive(spectrum, dtype, generator).requires_grad_()
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def function(H: Tensor, t: Tensor) -> Tensor:
        return eg.matrix_function((H + H.mH) / 2, evolve, difference_of_evolve, parameters=[t])

    def by_exponential(H: Tensor, t: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(-1j * t * (H + H.mH) / 2)

    torch.testing.assert_close(function(H, t), by_exponential(H, t))
    for loss in (lambda U: U[0, 1].abs().square(), lambda U: (U * (1 + 2j)).sum().real):
        ours, right = (torch.autograd.grad(loss(f(H, t)), (H, t)) for f in (function, by_exponential))
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(function, (H, t), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (H, t))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", ["tie", "separated"])
def test_example_of_the_docstring(spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Green's function, of a broadening that is learned: both orders, mixed ones too."""

    def green(x: Tensor, t: Tensor) -> Tensor:
        return 1 / (x + 1j * t)

    def function(A: Tensor, t: Tensor) -> Tensor:
        A = (A + A.mH) / 2
        return eg.matrix_function(A, green, lambda x, y, t: -green(x, t) * green(y, t), parameters=[t])

    A = positive(spectrum, dtype, generator).requires_grad_()
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(function(A, t), torch.linalg.inv(A + 1j * t * torch.eye(A.shape[-1])))
    assert torch.autograd.gradcheck(function, (A, t), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (A, t))


SCALARS = {
    "exp": (Exponential(), mpmath.exp),
    "log": (Logarithm(), mpmath.log),
    "power": (Power(0.3), lambda x: x ** mpmath.mpf(0.3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCALARS)
def test_second_divided_difference(name: str, dtype: torch.dtype) -> None:
    """On both sides of the radius within which a series is summed, to the rounding of what is left to a quotient."""
    ours, exact = SCALARS[name]
    eps = torch.finfo(dtype).eps
    for spread in (1e-3, 0.06, 0.124, 0.126, 0.5):
        x, y, z = (torch.tensor(value, dtype=dtype) for value in (1.0, 1.0 + spread / 3, 1.0 + spread))
        with mpmath.workdps(oracle.DIGITS):
            a, b, c = (mpmath.mpf(value.item()) for value in (x, y, z))
            expected = ((exact(c) - exact(b)) / (c - b) - (exact(b) - exact(a)) / (b - a)) / (c - a)
        tolerance = 8 * eps if spread < RADIUS else 8 * eps / spread
        for points in ((x, y, z), (z, x, y), (y, z, x)):
            assert abs(ours.second(*points).item() - float(expected)) < tolerance * abs(float(expected))


@pytest.mark.skipif(not eg.native.available(), reason="the measured choice is that of the kernel")
@pytest.mark.parametrize("n", [2, 3, 8, 12])
@pytest.mark.parametrize("function", [eg.sqrtm, eg.inv_sqrtm, eg.logm], ids=lambda f: f.__name__)
def test_a_small_matrix_in_single_precision_goes_through_double(function: MatrixFunction, n: int) -> None:
    """Where that is cheap, the result has little more than its own rounding error (corrected in single: 1.5e-7)."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        L = 1.0 + 9.0 * torch.rand(n, generator=generator, dtype=torch.float64)
        A = eg.testing.hermitian(L, dtype=torch.float32, generator=generator)
        assert relative_error(function(A).double(), function(A.double())) < 7e-8
