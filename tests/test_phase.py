"""A loss of the phase of complex vectors has no gradient, and hears so, whatever its scale."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import hermitian

Vectors = Callable[[Tensor], tuple[Tensor, ...]]
FUNCTIONS: dict[str, Vectors] = {
    "eigh": lambda A: (eg.eigh(A).eigenvectors,),
    "eigh, power iteration's rule": lambda A: (eg.eigh(A, gradient=eg.PowerIteration()).eigenvectors,),
    "topk_eigh": lambda A: (eg.topk_eigh(A, 2).eigenvectors,),
    "svd": lambda A: (eg.svd(A).U, eg.svd(A).Vh.mH),
    "svd, full": lambda A: eg.svd(A[..., :3], full_matrices=True)[::2],
    "eigsh": lambda A: (eg.eigsh(A, 2).eigenvectors,),
}


def matrix(dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return hermitian(torch.tensor([1.0, 2.0, 3.0, 5.0]).double(), dtype=dtype, generator=generator).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_every_scale(name: str, scale: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = matrix(dtype, generator)
    first = FUNCTIONS[name](A)[0]
    with pytest.raises(RuntimeError, match=f"{name.split(',')[0]}: the loss depends on the phase.* in matrix 0 "):
        torch.autograd.grad(scale * first[0].imag.sum(), A)
    weights = torch.arange(first.shape[-2], dtype=dtype.to_real()).unsqueeze(-1)
    well_defined = scale * (weights * first.abs().square()).sum()
    assert torch.autograd.grad(well_defined, A)[0].isfinite().all()


def test_what_torch_lets_pass(generator: torch.Generator) -> None:
    A = matrix(torch.complex128, generator)
    torch.autograd.grad(1e-3 * torch.linalg.eigh(A).eigenvectors[0].imag.sum(), A)


def test_u_and_v_share_their_phase(generator: torch.Generator) -> None:
    A = torch.randn(5, 3, dtype=torch.complex128, generator=generator).requires_grad_()
    W = torch.randn(5, 3, dtype=torch.complex128, generator=generator)
    U, S, Vh = eg.svd(A)
    torch.testing.assert_close(torch.autograd.grad((W.conj() * ((U * S) @ Vh)).sum().real, A)[0], W)
    with pytest.raises(RuntimeError, match="svd: the loss depends on the phase"):
        torch.autograd.grad((W.conj() * (eg.svd(A).U)).sum().real, A)


def test_the_matrix_of_a_batch(generator: torch.Generator) -> None:
    A = torch.stack([matrix(torch.complex128, generator).detach() for _ in range(3)]).requires_grad_()
    V = eg.eigh(A).eigenvectors
    loss = V.abs().square()[..., 0, :].sum() + V[2, 0].imag.sum()
    with pytest.raises(RuntimeError, match="in matrix 2 of the batch"):
        torch.autograd.grad(loss, A)


def test_second_derivatives_and_transforms(generator: torch.Generator) -> None:
    """What is well defined stays so; and nothing looks at values where there are none to look at."""
    A = matrix(torch.complex128, generator)

    def loss(A: Tensor) -> Tensor:
        L, V = eg.eigh((A + A.mH) / 2)
        return (L * V[0].abs().square()).sum() + V[1].abs().square()[:2].sum()

    assert torch.autograd.gradgradcheck(loss, A)
    expected = torch.autograd.grad(loss(A), A)[0]
    batch = A.detach().expand(2, 4, 4)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch)[1], expected)
    phase = lambda A: eg.eigh(A).eigenvectors[0].imag.sum()  # noqa: E731
    torch.func.vmap(torch.func.grad(phase))(batch)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(A), A)[0], expected)
