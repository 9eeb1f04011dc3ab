"""Forward mode: dual numbers, against torch's own where eigenvalues are separated; and forward mode of batches."""

from collections.abc import Callable

import pytest
import torch
from functions import FUNCTIONS, FUNCTIONS_OF_DATA, Results, positive_definite
from spectra import symmetrised
from torch import Tensor
from torch.autograd import forward_ad

import eigengrad as eg


def of_eigenvectors(L: Tensor, V: Tensor) -> Tensor:
    """A function of eigenvalues and eigenvectors that no sign or phase changes."""
    return (V * L.sin().unsqueeze(-2)) @ V.mH


def tangent(function: Callable[[Tensor], Tensor], A: Tensor, dA: Tensor) -> Tensor:
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(function(forward_ad.make_dual(A, dA))).tangent
        assert found is not None
        return found


DECOMPOSITIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "eigh": (
        lambda A: of_eigenvectors(*eg.eigh(A, gradient=eg.Exact())),
        lambda A: of_eigenvectors(*torch.linalg.eigh(A)),
    ),
    "topk_eigh": (
        lambda A: of_eigenvectors(*eg.topk_eigh(A, 2, gradient=eg.Exact())),
        lambda A: of_eigenvectors(*(x[..., -2:] for x in torch.linalg.eigh(A))),
    ),
    "eigh_generalised": (
        lambda A: of_eigenvectors(*eg.eigh(A, gradient=eg.Exact(), B=metric(A))),
        lambda A: of_eigenvectors(*reduced(A, metric(A))),
    ),
}


def metric(A: Tensor) -> Tensor:
    return A @ A / A.shape[-1] + torch.eye(A.shape[-1], dtype=A.dtype)


def reduced(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The generalised problem as an ordinary one, in torch's operators."""
    G = torch.linalg.cholesky(B)
    half = torch.linalg.solve_triangular(G, A, upper=False)
    L, V = torch.linalg.eigh(symmetrised(torch.linalg.solve_triangular(G, half.mH, upper=False)))
    return L, torch.linalg.solve_triangular(G.mH, V, upper=True)


every_decomposition = pytest.mark.parametrize("name", DECOMPOSITIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@every_decomposition
@pytest.mark.parametrize("shape", [(4, 4), (1, 3, 3), (64, 3, 3), (5, 8, 8)], ids=str)
def test_dual_numbers(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    A = positive_definite(*shape, dtype=dtype)
    dA = symmetrised(torch.randn_like(A))
    ours, theirs = (tangent(function, A, dA) for function in DECOMPOSITIONS[name])
    tolerance = 1e-10 if dtype != torch.float32 else 1e-4
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_dual_numbers_at_a_tie() -> None:
    A = torch.eye(3).expand(8, 3, 3).contiguous()
    torch.testing.assert_close(tangent(lambda A: eg.eigh(A).eigenvalues, A, A), torch.ones(8, 3))
    torch.testing.assert_close(tangent(lambda A: eg.topk_eigh(A, 2).eigenvalues, A, A), torch.ones(8, 2))
    torch.testing.assert_close(tangent(lambda A: eg.eigh(A, B=A).eigenvalues, A, A), torch.zeros(8, 3))


@every_decomposition
@pytest.mark.parametrize("batch", [(), (16,)], ids=str)
def test_finite_differences_in_both_modes(name: str, batch: tuple[int, ...]) -> None:
    A = positive_definite(3, 3).expand(*batch, 3, 3)
    first = A.reshape(-1, 3, 3)[0].clone().requires_grad_()
    function = DECOMPOSITIONS[name][0]

    def of_first(X: Tensor) -> Tensor:
        """In a batch that the kernel decomposes, though finite differences of one matrix suffice."""
        return function(symmetrised(X).expand(*batch, 3, 3)).reshape(-1, 3, 3)[:1]

    assert torch.autograd.gradcheck(of_first, first, check_forward_ad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(of_first, first, check_fwd_over_rev=True)


@every_decomposition
def test_jacobian_by_forward_mode(name: str) -> None:
    A = positive_definite(16, 3, 3)
    ours, theirs = (
        torch.autograd.functional.jacobian(
            lambda A, function=function: function(symmetrised(A)).sum(0), A, vectorize=True, strategy=mode
        )
        for function, mode in zip(DECOMPOSITIONS[name], ("forward-mode", "reverse-mode"), strict=True)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS | FUNCTIONS_OF_DATA)
def test_forward_mode_around_vmap(name: str) -> None:
    """Of first and second order, it is the forward mode of each."""
    A = positive_definite(5, 3, 3)
    dA = symmetrised(torch.randn(5, 3, 3, dtype=A.dtype, generator=torch.Generator().manual_seed(1)))
    function = (FUNCTIONS | FUNCTIONS_OF_DATA)[name]

    def tangent_of(function: Callable[[Tensor], Results]) -> Callable[[Tensor, Tensor], Results]:
        return lambda A, dA: torch.func.jvp(function, (A,), (dA,))[1]

    torch.testing.assert_close(tangent_of(torch.vmap(function))(A, dA), torch.vmap(tangent_of(function))(A, dA))
    around = tangent_of(lambda A: tangent_of(torch.vmap(function))(A, dA))(A, dA)
    inside = torch.vmap(lambda A, dA: tangent_of(lambda A: tangent_of(function)(A, dA))(A, dA))(A, dA)
    torch.testing.assert_close(around, inside)
