"""polar and procrustes: finite differences at ties, the fit against brute force, reflections, degenerate points."""

import oracle
import pytest
import torch
from spectra import relative_error
from torch import Tensor

import eigengrad as eg

VALUES = {"separated": [3.0, 1.7, 0.6], "tie": [2.0, 0.5, 0.5], "all tied": [2.0, 2.0, 2.0]}


def matrix(values: list[float], m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    k = min(m, n)
    U, V = (torch.linalg.qr(torch.randn(size, size, dtype=dtype, generator=generator))[0][:, :k] for size in (m, n))
    return (U * torch.tensor(values[:k], dtype=torch.float64)) @ V.mH


def rotations(count: int, generator: torch.Generator) -> Tensor:
    Q = torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64, generator=generator))[0]
    return Q * torch.linalg.det(Q)[:, None, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 3), (3, 5), (1, 1), (2, 1)])
@pytest.mark.parametrize("values", VALUES)
def test_polar(values: str, m: int, n: int, side: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = matrix(VALUES[values], m, n, dtype, generator).requires_grad_()

    def function(A: Tensor) -> tuple[Tensor, Tensor]:
        return eg.polar(A, side=side)

    U, H = function(A)
    torch.testing.assert_close(U @ H if side == "right" else H @ U, A)
    torch.testing.assert_close(U.mH @ U if m >= n else U @ U.mH, torch.eye(min(m, n), dtype=dtype))
    assert torch.linalg.eigvalsh(H).min() > -1e-14
    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-15), (torch.float32, 1e15), (torch.float64, 1e-100)])
def test_polar_scales(dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    A = matrix(VALUES["tie"], 4, 3, torch.float64, generator).to(dtype)
    G = torch.randn(4, 3, dtype=dtype, generator=generator)
    gradients = []
    for factor in (1.0, scale):
        scaled = (A * factor).requires_grad_()
        gradients.append(torch.autograd.grad(eg.polar(scaled).unitary, scaled, G)[0] * factor)
    assert relative_error(gradients[1], gradients[0]) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3)])
def test_denormal_singular_values(shape: tuple[int, int], generator: torch.Generator) -> None:
    """In single precision, of a condition of ten thousand; their reciprocals have no number."""
    A = torch.zeros(shape)
    A[0, 0], A[1, 1] = 1e-35, 1e-39
    G = torch.randn(2, generator=generator).diag()
    for leaf in (A, A.double()):
        leaf.requires_grad_()
    side = "right" if shape[0] >= shape[1] else "left"
    ours, right = (torch.autograd.grad(eg.polar(X, side=side).hermitian, X, G.to(X))[0] for X in (A, A.double()))
    assert ours.isfinite().all()
    torch.testing.assert_close(ours[:2, :2], right[:2, :2].float(), rtol=1e-4, atol=1e-6)
    for function in (lambda X: eg.polar(X).unitary, lambda X: eg.procrustes(X, X).rotation):
        assert torch.autograd.grad(function(A).sum(), A)[0].isfinite().all()


def test_undetermined_part_gets_no_gradient() -> None:
    A = torch.diag(torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
    gradient = torch.autograd.grad(eg.polar(A).unitary[1, 2], A)[0]
    assert torch.equal(gradient, torch.zeros(3, 3))
    assert torch.autograd.grad(eg.polar(A).unitary[0, 1], A)[0].isfinite().all()


def test_what_rounding_leaves_of_a_null_space_gets_no_gradient(generator: torch.Generator) -> None:
    """Singular values that are zero but for rounding determine nothing: their part of the derivative is left out."""
    for _ in range(20):
        u, v = torch.randn(2, 5, 1, generator=generator).double()
        A = (u @ v.mT).requires_grad_()
        U = eg.polar(A).unitary
        gradient = torch.autograd.grad(U, A, torch.randn(5, 5, generator=generator).double())[0]
        assert gradient.norm() < 100 / torch.linalg.matrix_norm(A, 2)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_deficient(rank: int, shape: tuple[int, int]) -> None:
    """A unitary factor with finite derivatives; one bad matrix spoils no other."""
    A = torch.zeros(2, *shape).double()
    A[1] = torch.eye(*shape)
    A[0, 0, 0] = rank
    U, H = eg.polar(A)
    torch.testing.assert_close(U @ H, A)
    assert (torch.linalg.matrix_norm(U, 2) - 1).abs().max() < 1e-14
    jacobian = torch.autograd.functional.jacobian(lambda A: eg.polar(A).unitary, A)
    assert jacobian.isfinite().all()
    assert jacobian[1, ..., 1, :, :].any()
    assert torch.func.hessian(lambda A: eg.polar(A).unitary.sin().sum())(A).isfinite().all()


@pytest.mark.parametrize("reflection", [False, True])
def test_procrustes_recovers(reflection: bool, generator: torch.Generator) -> None:
    X = torch.randn(4, 7, 3, dtype=torch.float64, generator=generator)
    R = rotations(4, generator)
    if reflection:
        R = -R
    t, c = torch.randn(4, 3, dtype=torch.float64, generator=generator), torch.tensor([0.1, 1.0, 2.0, 30.0]).double()
    Y = c[:, None, None] * X @ R.mT + t.unsqueeze(-2)
    fit = eg.procrustes(X, Y, scaling=True, reflection=reflection)
    torch.testing.assert_close(fit.rotation, R)
    torch.testing.assert_close(fit.translation, t)
    torch.testing.assert_close(fit.scale, c)


@pytest.mark.parametrize("scaling", [False, True])
def test_procrustes_is_the_best_rotation(scaling: bool, generator: torch.Generator) -> None:
    """Where the best orthogonal matrix is a reflection: no rotation of many, nor one close by, fits better."""
    X = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    Y = X * torch.tensor([1.0, 1.0, -1.0]) + 0.1 * torch.randn(9, 3, dtype=torch.float64, generator=generator)
    w = torch.rand(9, dtype=torch.float64, generator=generator)
    fit = eg.procrustes(X, Y, weights=w, scaling=scaling)
    torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.tensor(1.0).double())

    def cost(R: Tensor, t: Tensor, c: Tensor) -> Tensor:
        residual = c[..., None, None] * X @ R.mT + t.unsqueeze(-2) - Y
        return (w * residual.square().sum(-1)).sum(-1)

    best = cost(*fit)
    near = fit.rotation @ (torch.eye(3) + 0.01 * torch.randn(500, 3, 3, dtype=torch.float64, generator=generator))
    near = eg.polar(near).unitary
    for R in (rotations(2000, generator), near):
        mean = w @ X / w.sum(), w @ Y / w.sum()
        t = mean[1] - fit.scale * (R @ mean[0])
        assert (cost(R, t, fit.scale) >= best - 1e-12).all()
    for change in (0.999, 1.001):
        assert not scaling or cost(fit.rotation, fit.translation, fit.scale * change) > best


@pytest.mark.parametrize("mirrored", [False, True])
def test_procrustes_gradcheck(mirrored: bool, generator: torch.Generator) -> None:
    X, noise = torch.randn(2, 2, 6, 3, dtype=torch.float64, generator=generator)
    Y = X * torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0]) + 0.1 * noise
    w = torch.rand(2, 6, dtype=torch.float64, generator=generator)
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (X, Y, w))

    def function(X: Tensor, Y: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return eg.procrustes(X, Y, weights=w, scaling=True)

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_procrustes_of_degenerate_points(rank: int, generator: torch.Generator) -> None:
    """Points in a plane determine a rotation, those on a line or in one place do not: gradients stay finite."""
    X = torch.zeros(5, 3)
    X[:, :rank] = torch.randn(5, rank, generator=generator)
    X.requires_grad_()
    fit = eg.procrustes(X, X.detach() + 1)
    torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.tensor(1.0))
    gradient = torch.autograd.grad((fit.rotation * torch.randn(3, 3, generator=generator)).sum(), X)[0]
    assert gradient.isfinite().all()
    assert gradient.any() == (rank > 0)


def test_procrustes_weights(generator: torch.Generator) -> None:
    """A mask chooses points; weights alone, or one cloud alone, may want a gradient; one place has no scale."""
    X, Y = torch.randn(2, 6, 3, generator=generator)
    mask = torch.tensor([True, True, False, True, True, False])
    masked, chosen = eg.procrustes(X, Y, weights=mask, scaling=True), eg.procrustes(X[mask], Y[mask], scaling=True)
    for actual, expected in zip(masked, chosen, strict=True):
        torch.testing.assert_close(actual, expected)
    w = torch.ones(6).requires_grad_()
    assert torch.autograd.grad(eg.procrustes(X, Y, weights=w).rotation.sum(), w)[0].any()
    X.requires_grad_()
    point = eg.procrustes(X[:1].expand(4, 3), Y[:4], scaling=True)
    assert point.scale == 1
    assert torch.autograd.grad(sum(part.sum() for part in point), X)[0].isfinite().all()


def test_errors() -> None:
    X = torch.randn(4, 3)
    with pytest.raises(ValueError, match="side must be 'right' or 'left', got 'top'"):
        eg.polar(X, side="top")
    with pytest.raises(ValueError, match=r"as many points \(\*, N, d\), got \(4, 3\) and \(3, 3\)"):
        eg.procrustes(X, X[:3])
    with pytest.raises(ValueError, match="must broadcast"):
        eg.procrustes(X, X, weights=torch.ones(3))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    U, H = eg.polar(torch.zeros(shape))
    assert U.shape == shape
    assert H.shape == (*shape[:-2], shape[-1], shape[-1])


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_procrustes_far_from_the_origin(offset: float, generator: torch.Generator) -> None:
    X, Y = torch.randn(2, 6, 3, generator=generator) + offset
    right = eg.procrustes(X.double(), Y.double()).rotation
    torch.testing.assert_close(eg.procrustes(X, Y).rotation.double(), right, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_procrustes_of_points_in_one_place(dtype: torch.dtype, generator: torch.Generator) -> None:
    for _ in range(20):
        X = torch.randn(3, dtype=dtype, generator=generator).repeat(6, 1).requires_grad_()
        fit = eg.procrustes(X, torch.randn(6, 3, dtype=dtype, generator=generator), scaling=True)
        assert torch.equal(fit.rotation, torch.eye(3, dtype=dtype)) and fit.scale == 1
        assert not torch.autograd.grad(fit.rotation.sum() + fit.scale, X)[0].any()


@pytest.mark.parametrize("S", [[2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1e-4, 1e-8], [1e100, 2e100, 3e100]])
def test_against_many_digits(S: list[float], generator: torch.Generator) -> None:
    frames = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)).Q
    A = (frames[0] * torch.tensor(S, dtype=torch.float64) @ frames[1]).requires_grad_()
    G = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    value, gradient = oracle.value_and_gradient("polar", A.detach(), G)
    actual = eg.polar(A).unitary
    condition = max(S) / min(S)
    assert (actual - value).norm() < 1e-14 * condition
    assert (torch.autograd.grad(actual, A, G)[0] - gradient).norm() < 1e-14 * condition * gradient.norm()
