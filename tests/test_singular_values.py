"""Functions of singular values and sums over a spectrum: against the dilation, torch, finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import hermitian, relative_error

SHAPES = [(3, 3, torch.float64), (4, 3, torch.complex128), (2, 3, torch.float64), (7, 2, torch.float64)]
SPECTRA = {"separated": [3.0, 1.7, 0.6], "tie": [2.0, 2.0, 0.6], "all tied": [2.0] * 3, "zero": [2.0, 2.0, 0.0]}
SMOOTH = (torch.sinh, lambda x, y: torch.cosh((x + y) / 2) * sinhc((x - y) / 2))


def sinhc(d: Tensor) -> Tensor:
    small, square = d.abs() < 1e-2, d * d
    return torch.where(small, 1 + square / 6 + square**2 / 120, d.sinh() / torch.where(small, 1.0, d))


def matrix(values: list[float], m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    k, wide = min(m, n), torch.complex128 if dtype.is_complex else torch.float64
    U, V = (torch.linalg.qr(torch.randn(size, size, dtype=wide, generator=generator))[0][:, :k] for size in (m, n))
    return ((U * torch.tensor(values[:k], dtype=torch.float64)) @ V.mH).to(dtype)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "singular_value_function": lambda A: eg.singular_value_function(A, *SMOOTH),
    "low_rank": lambda A: eg.low_rank(A, min(2, *A.shape[-2:])),
    "pinv": eg.pinv,
    "soft_threshold": lambda A: eg.soft_threshold(A, 1.0),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("m", "n", "dtype"), SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_both_orders(
    name: str, m: int, n: int, spectrum: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    if (name == "low_rank" and spectrum == "all tied") or (name == "pinv" and spectrum == "zero" and min(m, n) == 3):
        pytest.skip("not differentiable there")
    A = matrix(SPECTRA[spectrum], m, n, dtype, generator).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(FUNCTIONS[name], A, check_fwd_over_rev=spectrum == "tie", atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), [(4, 3), (3, 4), (5, 5), (1, 1), (20, 12)])
def test_reconstruction(m: int, n: int, dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """``U S V^H`` is A, and its gradient the cotangent, for the identity as for any tie."""
    G = torch.randn(m, n, dtype=dtype, generator=generator)
    some = [2.0, 2.0, *[0.0] * 10]
    for A in (torch.eye(m, n, dtype=dtype) * scale, matrix(some, m, n, dtype, generator) * scale):
        A.requires_grad_()
        for F in (
            eg.singular_value_function(A, lambda s: s, lambda x, y: torch.ones_like(x - y)),
            eg.low_rank(A, min(m, n)),
            eg.soft_threshold(A, 0.0),
        ):
            assert relative_error(F / scale, A / scale) < 30 * torch.finfo(dtype).eps
            (gradient,) = torch.autograd.grad(F, A, G)
            assert relative_error(gradient, G) < 30 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("spectrum", ["tie", "all tied", "zero"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0])
def test_against_the_dilation(scale: float, spectrum: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """A matrix function of ``[[0, A], [A^H, 0]]`` in double precision."""
    A = (scale * matrix(SPECTRA[spectrum], 5, 3, dtype, generator)).requires_grad_()
    G = torch.randn(5, 3, dtype=dtype, generator=generator)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    B = A.detach().to(wide).requires_grad_()
    zeros = B.new_zeros(5, 5), B.new_zeros(3, 3)
    dilation = torch.cat([torch.cat([zeros[0], B], dim=-1), torch.cat([B.mH, zeros[1]], dim=-1)])
    expected = eg.matrix_function(dilation, *SMOOTH)[:5, 5:]
    found = FUNCTIONS["singular_value_function"](A)
    gradient, right = torch.autograd.grad(found, A, G)[0], torch.autograd.grad(expected, B, G.to(wide))[0]
    assert relative_error(found / scale, expected / scale) < 100 * torch.finfo(dtype).eps
    assert relative_error(gradient, right) < 100 * torch.finfo(dtype).eps


OF_DILATION: dict[
    str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]
] = {
    "singular_value_function": (
        lambda A: eg.singular_value_function(A, lambda s: s**3, lambda x, y: x * x + x * y + y * y),
        lambda x: x**3,
        lambda x: 3 * x**2,
        3,
    ),
    "low_rank": (
        lambda A: eg.low_rank(A, min(2, *A.shape)),
        lambda x: torch.where(x.abs() > 0.8, x, 0.0),
        lambda x: torch.where(x.abs() > 0.8, 1.0, 0.0),
        1,
    ),
    "pinv": (
        lambda A: eg.pinv(A, rtol=0.1),
        lambda x: torch.where(x.abs() > 0.3, 1 / x, 0.0),
        lambda x: torch.where(x.abs() > 0.3, -1 / x**2, 0.0),
        -1,
    ),
    "soft_threshold": (
        eg.soft_threshold,
        lambda x: x.sign() * (x.abs() - 1).clamp_min(0),
        lambda x: torch.where(x.abs() > 1, 1.0, 0.0),
        1,
    ),
}
"""Of matrices of scale 1: the function, f, its derivative, and the degree by which it scales."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5), (3, 3), (1, 1), (20, 12)])
@pytest.mark.parametrize("name", OF_DILATION)
def test_first_derivatives(
    name: str, m: int, n: int, scale: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """By the eigenvectors of the dilation in double precision and quotients of f, at a tie and where values vanish."""
    function, f, slope, degree = OF_DILATION[name]
    if dtype.to_real() == torch.float32 and scale != 1 and degree == 3:
        pytest.skip("the third power has no number in single precision")
    A = matrix([2.0, 2.0, 0.5, *[0.0] * 9], m, n, dtype, generator)
    G = torch.randn(m, n, dtype=dtype, generator=generator)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    H = torch.zeros(m + n, m + n, dtype=wide)
    H[:m, m:] = A
    L, V = torch.linalg.eigh(H + H.mH)
    x, y = L.unsqueeze(-1), L.unsqueeze(-2)
    tied = (x - y).abs() < 1e-5
    W = torch.where(tied, slope(x), (f(x) - f(y)) / torch.where(tied, 1.0, x - y))
    E = torch.zeros_like(H)
    E[:m, m:] = G
    value = ((V * f(L)) @ V.mH)[:m, m:]
    right = (V @ (W * (V.mH @ (E + E.mH) @ V)) @ V.mH)[:m, m:]
    leaf = (A * scale).requires_grad_()
    found = eg.soft_threshold(leaf, scale) if name == "soft_threshold" else function(leaf)
    found = found.mH if degree < 0 else found
    weight = scale if degree < 0 else 1.0  # so that the gradient has a number
    (gradient,) = torch.autograd.grad(found, leaf, G * weight)
    eps = torch.finfo(dtype).eps
    assert relative_error(found / scale**degree, value) < 300 * eps
    assert relative_error(gradient / (weight * scale ** (degree - 1)), right) < 1e3 * eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_pinv_is_torch(dtype: torch.dtype, generator: torch.Generator) -> None:
    A = torch.stack([matrix([3.0, 2.0, rest], 5, 3, dtype, generator) for rest in (1.0, 0.5)]).requires_grad_()
    G = torch.randn(2, 3, 5, dtype=dtype, generator=generator)
    ours, theirs = eg.pinv(A), torch.linalg.pinv(A)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(X, A, G)[0] for X in (ours, theirs)))


def test_pinv_of_constant_rank(generator: torch.Generator) -> None:
    """Along a curve of matrices of rank 2, whose product is the parameter."""
    X, Y = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((5, 2), (2, 4)))
    assert torch.autograd.gradcheck(lambda X, Y: eg.pinv(X @ Y), (X.requires_grad_(), Y.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_learned_threshold(dtype: torch.dtype, generator: torch.Generator) -> None:
    A = torch.stack([matrix([3.0, 2.0, 0.5], 3, 4, dtype, generator) for _ in range(2)]).requires_grad_()
    t = torch.tensor([1.0, 2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(eg.soft_threshold, (A, t), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(eg.soft_threshold, (A, t))
    one_by_one = torch.stack([eg.soft_threshold(a, s) for a, s in zip(A, t, strict=True)])
    torch.testing.assert_close(eg.soft_threshold(A, t), one_by_one)
    torch.testing.assert_close(torch.func.vmap(eg.soft_threshold)(A.detach(), t.detach()), one_by_one.detach())
    lost, kept = eg.soft_threshold(A, torch.tensor([torch.nan, 1.0], dtype=torch.float64))
    assert lost.isnan().all()
    torch.testing.assert_close(kept, eg.soft_threshold(A[1], 1.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [2.0, 2.0, 1.0], [2.0, 2.0, 2.0]])
def test_spectral_sum(values: list[float], dtype: torch.dtype, generator: torch.Generator) -> None:
    """The Hessian of ``sum(l^3)``, which is that of ``trace(A^3)``, and of the log-determinant."""
    A = hermitian(torch.tensor(values).double(), dtype=dtype, generator=generator).requires_grad_()

    def symmetric(A: Tensor) -> Tensor:
        return (A + A.mH) / 2

    for f, trace in (
        (lambda x: x**3, lambda A: (A @ A @ A).diagonal(dim1=-2, dim2=-1).sum(-1).real),
        (torch.log, lambda A: torch.linalg.slogdet(A).logabsdet),
    ):

        def ours(A: Tensor, f: Callable[[Tensor], Tensor] = f) -> Tensor:
            return eg.spectral_sum(symmetric(A), f)

        torch.testing.assert_close(ours(A), trace(A.detach()))
        values = ours(A), trace(symmetric(A))
        gradients = [torch.autograd.grad(value, A, create_graph=True)[0] for value in values]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
        H = torch.randn(3, 3, dtype=dtype, generator=generator)
        torch.testing.assert_close(*(torch.autograd.grad(g, A, H)[0] for g in gradients), rtol=1e-9, atol=1e-10)
        assert torch.autograd.gradcheck(ours, A, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(ours, A, check_fwd_over_rev=True)
    batch = torch.stack([A.detach(), 2 * A.detach()])
    mapped = torch.func.vmap(torch.func.hessian(lambda A: eg.spectral_sum(A, torch.log)))(batch.real)
    assert mapped.shape == (2, 3, 3, 3, 3)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (0, 3, 2), (2, 3, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    A = torch.ones(shape).requires_grad_()
    for name, function in FUNCTIONS.items():
        F = function(A)
        assert F.shape == (A.mT.shape if name == "pinv" else A.shape)
        assert torch.autograd.grad(F.sum(), A)[0].shape == A.shape
    assert eg.spectral_sum(torch.zeros(2, 0, 0), torch.exp).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("points", "d"), [(3, 2), (4, 3), (30, 3), (200, 5)])
def test_rotations_at_every_scale(points: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Against the rotation that was put in; the gradient against that of the same points in double, of scale 1."""
    X, noise = (torch.randn(4, points, d, dtype=dtype, generator=generator) for _ in range(2))
    R = eg.nearest_rotation(torch.randn(4, d, d, dtype=dtype, generator=generator))
    G, close = torch.randn(4, d, d, dtype=dtype, generator=generator), 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(4, dtype=dtype))
    Y = X @ R.mT + 0.1 * noise
    wide = Y.double().requires_grad_()
    right = torch.autograd.grad(eg.procrustes(X.double(), wide, scaling=True).rotation, wide, G.double())[0]
    scales = (1e-30, 1e-22, 1.0, 1e20, 1e30) if dtype == torch.float32 else (1e-250, 1e-30, 1.0, 1e30, 1e250)
    for scale in scales:
        fit = eg.procrustes(X * scale, X @ R.mT * scale, scaling=True)
        torch.testing.assert_close(fit.rotation, R, rtol=0, atol=close)
        torch.testing.assert_close(fit.scale, torch.ones(4, dtype=dtype), rtol=close, atol=0)
        torch.testing.assert_close(eg.nearest_rotation(R * scale), R, rtol=0, atol=close)
        target = (Y * scale).requires_grad_()
        (gradient,) = torch.autograd.grad(eg.procrustes(X * scale, target).rotation, target, G)
        assert relative_error(gradient * scale, right) < 100 * close


def test_fits_of_two_scales(generator: torch.Generator) -> None:
    X = torch.randn(4, 30, 3, generator=generator)
    R = eg.nearest_rotation(torch.randn(4, 3, 3, generator=generator))
    fit = eg.procrustes(X * 1e20, X @ R.mT * 1e-15, scaling=True)
    torch.testing.assert_close(fit.rotation, R, rtol=0, atol=3e-6)
    torch.testing.assert_close(fit.scale, torch.full((4,), 1e-35), rtol=1e-5, atol=0)


def test_rigid_fits_broadcast_and_degenerate(generator: torch.Generator) -> None:
    template, Y = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((6, 3), (5, 6, 3)))
    weights = torch.rand(6, dtype=torch.float64, generator=generator)
    fit = eg.procrustes(template, Y, weights=weights)
    expected = eg.procrustes(template.expand(5, 6, 3), Y, weights=weights.expand(5, 6))
    for ours, theirs in zip(fit, expected, strict=True):
        assert torch.equal(ours, theirs)
    weights = weights.repeat(5, 1)
    weights[1] = 0
    Y[2] = 7.0
    Y.requires_grad_()
    partly = eg.procrustes(template, Y, weights=weights, scaling=True)
    torch.testing.assert_close(partly.rotation[1], torch.eye(3).double())
    assert all(part.isfinite().all() for part in partly)
    gradient = torch.autograd.grad(partly.rotation.sum() + partly.translation.sum(), Y)[0]
    assert gradient.isfinite().all() and not gradient[1].any()
    others = [0, 3, 4]
    torch.testing.assert_close(partly.rotation[others], expected.rotation[others])
    with pytest.raises(ValueError, match="must broadcast"):
        eg.procrustes(template, Y, weights=torch.ones(5))


def test_errors() -> None:
    A = torch.eye(3, 2)
    with pytest.raises(ValueError, match=r"k must lie between 0 and min\(m, n\) = 2, got 3"):
        eg.low_rank(A, 3)
    with pytest.raises(TypeError, match=r"k must be an int, got 1\.0"):
        eg.low_rank(A, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rtol must be finite and not negative, got -1"):
        eg.pinv(A, rtol=-1)
    with pytest.raises(ValueError, match="t must be finite and not negative, got -1"):
        eg.soft_threshold(A, -1)
    with pytest.raises(TypeError, match="f must be a function of tensors, got 3"):
        eg.singular_value_function(A, 3, torch.add)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="f must have real values, got"):
        eg.spectral_sum(torch.eye(2), lambda x: 1j * x)
    with pytest.raises(TypeError, match="for the nearest unitary matrix use polar"):
        eg.nearest_rotation(torch.eye(2, dtype=torch.complex64))
