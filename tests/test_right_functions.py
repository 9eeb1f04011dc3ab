"""Functions of matrices where people have met wrong gradients or none, of many sizes and scales: closed forms."""

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import hermitian, relative_error

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SCALES = (1e-30, 1.0, 1e30)


def wide(X: Tensor) -> Tensor:
    return X.detach().to(torch.complex128 if X.is_complex() else torch.float64)


def evolve(x: Tensor, t: Tensor) -> Tensor:
    return torch.exp(-1j * t * x)


def difference(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return -1j * t * evolve((x + y) / 2, t) * torch.sinc(t * (x - y) / (2 * torch.pi))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("tied", [False, True])
def test_unitary_evolution(tied: bool, n: int, dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """A transition probability of ``exp(-i t H)``, against torch's exponential in double precision."""
    L = torch.linspace(-1, 2, n).double()
    L[n // 2 :] = 2.0 if tied else L[n // 2 :]
    H = (hermitian(L, dtype=dtype, generator=generator) * scale).requires_grad_()
    t = torch.tensor(0.7 / scale, dtype=dtype.to_real(), requires_grad=True)
    U = eg.matrix_function(H, evolve, difference, parameters=[t])
    found = torch.autograd.grad(U[0, 1].abs().square(), (H, t))
    K = wide(H).requires_grad_()  # whose product with t is of scale 1
    s = t.detach().double().requires_grad_()
    exact = torch.linalg.matrix_exp(-1j * s * (K + K.mH) / 2)
    right = torch.autograd.grad(exact[0, 1].abs().square(), (K, s))
    assert relative_error(U, exact) < 300 * torch.finfo(dtype).eps
    assert relative_error(found[0] * scale, right[0] * scale) < 1e3 * torch.finfo(dtype).eps
    assert float((found[1] - right[1]).abs()) / scale < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(("observations", "channels"), [(30, 128), (10, 24), (5, 6), (2, 3)])
def test_whitening_of_few_observations(
    observations: int, channels: int, scale: float, generator: torch.Generator
) -> None:
    """Fewer than channels, so that eps is all the variance there is in most directions: single precision as double."""
    x, G = (torch.randn(observations, channels, generator=generator) for _ in range(2))
    found = []
    for dtype in (torch.float32, torch.float64):
        leaf = (x.relu() * scale).to(dtype).requires_grad_()
        y = eg.whiten(leaf)
        found.append((y, torch.autograd.grad(y, leaf, G.to(dtype))[0]))
    for ours, right in zip(*found, strict=True):
        assert relative_error(ours, right) < 1e-5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "rank"), [(2, 1), (6, 0), (6, 3), (20, 5), (20, 20)])
def test_bures_distance_to_a_singular_matrix(
    n: int, rank: int, dtype: torch.dtype, scale: float, generator: torch.Generator
) -> None:
    """The gradient in A is ``I - Y (Y^H A Y)^(-1/2) Y^H`` for ``B = Y Y^H``, with Y of full rank."""
    A = (hermitian(torch.linspace(0.5, 3, n).double(), dtype=dtype, generator=generator) * scale).requires_grad_()
    Y = torch.randn(n, rank, dtype=dtype, generator=generator)
    B, factor = Y @ Y.mH * scale, wide(Y)
    inner, eye = factor.mH @ wide(A) @ factor / scale, torch.eye(n, dtype=factor.dtype)
    L, V = torch.linalg.eigh(inner)
    fidelity = L.sqrt().sum() * scale
    value = wide(A).diagonal().real.sum() + wide(B).diagonal().real.sum() - 2 * fidelity
    right = eye - factor @ (V * L.rsqrt()) @ V.mH @ factor.mH
    distance = eg.spd.bures_distance(A, B, squared=True)
    (gradient,) = torch.autograd.grad(distance, A)
    eps = torch.finfo(dtype).eps
    assert float((distance.double() - value).abs() / value) < 1e3 * eps
    assert relative_error(gradient, right) < 1e4 * eps * (float(L[-1] / L[0]) ** 0.5 if rank else 1.0)
