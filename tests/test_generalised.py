"""``A v = l B v``: some eigenpairs, projectors orthogonal in B, both orders of derivative in A and in B."""

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import hermitian


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_of_both_orders(dtype: torch.dtype, generator: torch.Generator) -> None:
    A = hermitian(torch.tensor([0.5, 1.0, 2.0]).double(), dtype=dtype, generator=generator).requires_grad_()
    B = hermitian(torch.tensor([1.0, 1.5, 2.5]).double(), dtype=dtype, generator=generator).requires_grad_()

    def symmetric(X: Tensor) -> Tensor:
        return (X + X.mH) / 2

    def pairs(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        L, V = eg.topk_eigh(symmetric(A), 2, B=symmetric(B))
        return L, V.mT.unsqueeze(-1) * V.mT.conj().unsqueeze(-2)

    def all_pairs(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        L, V = eg.eigh(symmetric(A), B=symmetric(B))
        return L, V.mT.unsqueeze(-1) * V.mT.conj().unsqueeze(-2)

    def projector(A: Tensor, B: Tensor) -> Tensor:
        return eg.projector(symmetric(A), 2, B=symmetric(B))

    for function in (pairs, all_pairs, projector):
        assert torch.autograd.gradcheck(function, (A, B), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, (A, B), atol=1e-4)


@pytest.mark.parametrize("UPLO", ["L", "U"])
def test_second_derivatives_are_those_of_the_ordinary_problem(UPLO: str, generator: torch.Generator) -> None:
    """Of a batch, by functions of a matrix alone, along random directions. (At ties those of eigh are biased.)"""
    B = hermitian(torch.tensor([1.0, 1.5, 2.5, 4.0]).double(), generator=generator)
    G = torch.linalg.cholesky(B)
    ordinary = hermitian(torch.tensor([1.0, 1.3, 2.0, 3.5]).double(), generator=generator)
    A = (G @ ordinary @ G.mT).expand(2, 4, 4)
    W, dA = (X + X.mT for X in torch.randn(2, 4, 4, dtype=torch.float64, generator=generator))

    def by_pairs(A: Tensor, B: Tensor) -> Tensor:
        L, V = eg.eigh(A, UPLO, B=B)
        return (W * (V[..., :2] @ V[..., :2].mT)).sum() + L.sum()

    def by_functions(A: Tensor, B: Tensor) -> Tensor:
        inverse = torch.linalg.inv(torch.linalg.cholesky(B))
        X = inverse @ A @ inverse.mT
        X = (X + X.mT) / 2
        space = inverse.mT @ (torch.eye(4, dtype=torch.float64) - eg.projector(X, 2)) @ inverse
        return (W * space).sum() + X.diagonal(dim1=-2, dim2=-1).sum()

    found = []
    for function in (by_pairs, by_functions):
        X, Y = A.clone().requires_grad_(), B.clone().requires_grad_()
        first = torch.autograd.grad(function((X + X.mT) / 2, (Y + Y.mT) / 2), (X, Y), create_graph=True)
        second = torch.autograd.grad(sum((g * dA).sum() for g in first), (X, Y))
        found.append((*first, *second))
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-8 * float(right.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_values(dtype: torch.dtype, generator: torch.Generator) -> None:
    A = torch.stack(
        [hermitian(torch.tensor([0.5, 1.0, 2.0, 2.0]) * c, dtype=dtype, generator=generator) for c in (1, 3)]
    )
    B = hermitian(torch.tensor([1.0, 1.5, 2.5, 3.0]), dtype=dtype, generator=generator).expand(2, 4, 4)
    L, V = eg.eigh(A, B=B)
    some = eg.topk_eigh(A, slice(0, 2), B=B)
    torch.testing.assert_close(some.eigenvalues, L[..., :2])
    torch.testing.assert_close(V.mH @ B @ V, torch.eye(4, dtype=dtype).expand(2, 4, 4), rtol=0, atol=1e-5)
    P = eg.projector(A, 2, B=B)
    torch.testing.assert_close(P @ P, P, rtol=0, atol=1e-5)
    torch.testing.assert_close(P, V[..., 2:] @ V[..., 2:].mH @ B, rtol=0, atol=1e-5)
    torch.testing.assert_close(B @ P, (B @ P).mH, rtol=0, atol=1e-5)
