"""The default gradient of losses that are well defined, where people have met wrong ones: against closed forms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import hermitian, relative_error

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SCALES = (1e-30, 1.0, 1e30)


def wide(X: Tensor) -> Tensor:
    return X.to(torch.complex128 if X.is_complex() else torch.float64)


def gradient(loss: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    A = A.clone().requires_grad_()
    return torch.autograd.grad(loss(A).real, A)[0]


def projector_gradient(A: Tensor, columns: slice, G: Tensor) -> Tensor:
    """Of ``Re <G, P>`` for Hermitian G: Daleckii and Krein in double precision, which no gap inside a block enters."""
    L, V = torch.linalg.eigh(wide(A))
    kept = torch.zeros_like(L)
    kept[columns] = 1.0
    cut = kept.unsqueeze(-1) != kept.unsqueeze(-2)
    gap = torch.where(cut, L.unsqueeze(-1) - L.unsqueeze(-2), torch.inf)
    weights = (kept.unsqueeze(-1) - kept.unsqueeze(-2)) / gap
    return V @ (weights * (V.mH @ wide(G) @ V)) @ V.mH


def random_hermitian(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    X = torch.randn(n, n, dtype=dtype, generator=generator)
    return X + X.mH


@pytest.mark.parametrize("ratio", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 6, 40])
def test_projector(n: int, dtype: torch.dtype, ratio: float, generator: torch.Generator) -> None:
    for scale in SCALES:
        L = torch.cat([torch.linspace(0.1, 0.3, n - 3).double(), torch.tensor([ratio, 1.0, 1.5]).double()]) * scale
        A, G = hermitian(L, dtype=dtype, generator=generator), random_hermitian(n, dtype, generator)
        right = projector_gradient(A, slice(n - 2, n), G)
        found = gradient(lambda A, G=G: (G * eg.projector(A, 2).conj()).sum(), A)
        # Rounding, and the Lorentzian's share w^2/d^2, which is of its size as long as the gap is wide.
        bound = torch.finfo(dtype).eps * (100 / (1 - ratio) + 3 / (1 - ratio) ** 2)
        assert relative_error(found * scale, right * scale) < bound


@pytest.mark.parametrize("solver", ["auto", "eigh", "svd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "block"), [(2, 2), (6, 3), (20, 12)])
def test_subspace_with_a_tie_inside(
    n: int, block: int, dtype: torch.dtype, solver: str, generator: torch.Generator
) -> None:
    """The same for every basis of the tied block; where eigenvalues meet as nearly as rounding lets them, too."""
    for scale in SCALES:
        L = torch.cat([torch.ones(block), torch.arange(2, 2 + n - block)]).double() * scale
        G = random_hermitian(n, dtype, generator)
        for A in (torch.diag_embed(L).to(dtype), hermitian(L, dtype=dtype, generator=generator)):
            right = projector_gradient(A, slice(0, block), G)

            def loss(A: Tensor, G: Tensor = G) -> Tensor:
                V = eg.eigh(A, solver=solver).eigenvectors[:, :block]  # type: ignore[arg-type]
                return (G * (V @ V.mH).conj()).sum()

            error = (wide(gradient(loss, A)) - right).norm() * scale
            assert float(error) < 300 * n * torch.finfo(dtype).eps * float(G.norm())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 6, 20, 60])
def test_laplacian_of_a_cycle(n: int, dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """The three smallest eigenvectors, of a single eigenvalue and a double one."""
    eye = torch.eye(n, dtype=dtype)
    A, G = (2 * eye - eye.roll(1, 0) - eye.roll(-1, 0)) * scale, random_hermitian(n, dtype, generator)

    def loss(A: Tensor) -> Tensor:
        V = eg.topk_eigh(A, slice(0, 3)).eigenvectors
        return (G * (V @ V.mT)).sum()

    error = relative_error(gradient(loss, A) * scale, projector_gradient(A, slice(0, 3), G) * scale)
    gap = float(torch.linalg.eigvalsh(A.double() / scale)[2:4].diff()) / 4
    eps = torch.finfo(dtype).eps  # rounding, and the Lorentzian's share
    assert error < 1e2 * n * eps + 3 * eps / gap**2


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shells", [(1, 3), (3, 5), (8, 16)])
def test_density_matrix_of_whole_shells(
    shells: tuple[int, int], dtype: torch.dtype, scale: float, generator: torch.Generator
) -> None:
    """Two shells, threefold and fivefold degenerate say, with an occupation each."""
    inner, both = shells[0], sum(shells)
    L = torch.tensor([1.0] * inner + [2.0] * shells[1] + [3.5, 4.0]).double() * scale
    A, G = hermitian(L, dtype=dtype, generator=generator), random_hermitian(both + 2, dtype, generator)
    occupation = torch.tensor([1.0] * inner + [0.4] * shells[1] + [0.0] * 2, dtype=dtype.to_real())
    right = 0.6 * projector_gradient(A, slice(0, inner), G) + 0.4 * projector_gradient(A, slice(0, both), G)

    def loss(A: Tensor) -> Tensor:
        V = eg.eigh(A).eigenvectors
        return (G * ((V * occupation) @ V.mH).conj()).sum()

    assert relative_error(gradient(loss, A) * scale, right * scale) < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 500])
@pytest.mark.parametrize("d", [2, 3])
def test_surface_normals(d: int, batch: int, dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """The smallest eigenvector of covariances of noisy points in a line or plane, up to its sign."""
    points = torch.randn(batch, 30, d, dtype=torch.float64, generator=generator)
    points[..., -1] *= 0.3
    centred = (scale * (points - points.mean(-2, keepdim=True))).to(dtype)
    A = centred.mT @ centred / 30
    W = torch.randn(batch, d, d, dtype=dtype, generator=generator)

    def loss(A: Tensor) -> Tensor:
        normal = eg.eigh(A).eigenvectors[..., :1]
        return (normal.mT @ (W + W.mT) @ normal).sum()

    double = A.double().requires_grad_()
    normal = torch.linalg.eigh(double).eigenvectors[..., :1]
    right = torch.autograd.grad((normal.mT @ (W + W.mT).double() @ normal).sum(), double)[0]
    unit = scale**2
    assert relative_error(gradient(loss, A) * unit, (right + right.mT) / 2 * unit) < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_every_gap(dtype: torch.dtype, gap: float, generator: torch.Generator) -> None:
    """A threefold near-tie inside the subspace, as the table of ``results/gaps.md`` has it."""
    for _ in range(5):
        L = torch.tensor([1.0, 1.0 + gap, 1.0 + 2 * gap, 2.0, 3.0, 4.0]).double()
        A, G = hermitian(L, dtype=dtype, generator=generator), random_hermitian(6, dtype, generator)

        def loss(A: Tensor, G: Tensor = G) -> Tensor:
            V = eg.eigh(A).eigenvectors[:, :3]
            return (G * (V @ V.mT)).sum()

        error = relative_error(gradient(loss, A), projector_gradient(A, slice(0, 3), G))
        assert error < torch.finfo(dtype).eps ** 0.5


def test_gradcheck_like_torch(generator: torch.Generator) -> None:
    for dtype in (torch.float64, torch.complex128):
        A = hermitian(torch.tensor([0.5, 1.0, 2.0, 4.0]).double(), dtype=dtype, generator=generator).requires_grad_()

        def function(A: Tensor) -> tuple[Tensor, ...]:
            L, V = eg.eigh((A + A.mH) / 2)
            return L, V.mT.unsqueeze(-1) * V.mT.conj().unsqueeze(-2)

        assert torch.autograd.gradcheck(function, A, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, A)


def test_defaults() -> None:
    assert eg.Lorentzian().relative_width(torch.float64) == 2.0**-26
    assert eg.Lorentzian().relative_width(torch.float32) == pytest.approx(2.0**-11.5)
    assert eg.testing.check_gradient_rule(eg.Lorentzian()).antisymmetric
    for rule in (eg.Exact(), eg.Taylor(), eg.Masked(), eg.Clipped()):
        assert eg.testing.check_gradient_rule(rule, scale_free=not isinstance(rule, eg.Clipped)).antisymmetric
    assert not eg.testing.check_gradient_rule(eg.PowerIteration()).antisymmetric
