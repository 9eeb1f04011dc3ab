"""Complex batches through real matrices of twice the size: the same numbers as without, to every order."""

import pytest
import torch
from eigengrad.matrix_functions.embedding import embeds
from spectra import relative_error
from torch import Tensor
from torch.autograd import forward_ad

import eigengrad as eg
from eigengrad import native
from eigengrad.testing import hermitian

pytestmark = pytest.mark.skipif(not native.available(), reason="eigengrad was installed without its native kernel")
ROOTS = {"sqrtm": eg.sqrtm, "inv_sqrtm": eg.inv_sqrtm}
every_root = pytest.mark.parametrize("name", ROOTS)


def batch(generator: torch.Generator, dtype: torch.dtype = torch.complex128, size: int = 140) -> Tensor:
    """Of size 4: separated, tied, tied three times, clustered, of any scale."""
    L = torch.tensor([[1, 2, 3, 4], [1, 2, 2, 3], [2, 2, 2, 5], [1, 1 + 1e-9, 2, 3], [1, 1, 1, 1]], dtype=torch.float64)
    scale = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)
    L = (L * scale[:, None, None]).flatten(0, 1).repeat(4, 1)[:size]
    return hermitian(L, generator=generator, dtype=dtype)


def draw(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


@every_root
def test_values_and_derivatives(name: str, generator: torch.Generator) -> None:
    """Against the complex eigenvectors of LAPACK: value, gradient, forward mode, and the gradient of the gradient."""
    A, root = batch(generator), ROOTS[name]
    assert embeds(A, "auto")
    G, dA = draw(A, generator), draw(A, generator)
    results = []
    for solver in ("auto", "eigh"):
        leaf = A.clone().requires_grad_()
        value = root(leaf, solver=solver)
        gradient = torch.autograd.grad(value, leaf, G, create_graph=True)[0]
        second = torch.autograd.grad(gradient, leaf, dA)[0]
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(root(forward_ad.make_dual(A, dA), solver=solver)).tangent
        results.append((value, gradient, second, tangent))
    for actual, expected in zip(*results, strict=True):
        for one, other in zip(actual, expected, strict=True):  # each at its own scale
            assert relative_error(one, other) < 1e-12
    assert torch.equal(results[0][0], results[0][0].mH)
    assert relative_error(results[0][1], results[0][1].mH) < 1e-14


@every_root
def test_finite_differences(name: str, generator: torch.Generator) -> None:
    A = batch(generator, size=5)[1]

    def function(X: Tensor) -> Tensor:
        several = ((X + X.mH) / 2).expand(128, 4, 4)
        assert embeds(several, "auto")
        return ROOTS[name](several)[::40]

    A.requires_grad_()
    assert torch.autograd.gradcheck(function, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True)


@every_root
def test_one_triangle_is_read(name: str, generator: torch.Generator) -> None:
    A = batch(generator)
    lower = A.tril() + torch.full_like(A, 7 + 7j).triu(1)
    lower.diagonal(dim1=-2, dim2=-1).imag.fill_(3.0)  # LAPACK, too, takes the diagonal for real
    assert torch.equal(ROOTS[name](lower), ROOTS[name](A))


@every_root
def test_one_bad_matrix_spoils_no_other(name: str, generator: torch.Generator) -> None:
    A = batch(generator)
    spoilt = A.clone()
    spoilt[33, 1, 0] = torch.nan
    value, expected = ROOTS[name](spoilt), ROOTS[name](A)
    others = torch.arange(len(A)) != 33
    assert value[33].isnan().all()
    assert torch.equal(value[others], expected[others])


def test_where(generator: torch.Generator) -> None:
    """Where it pays, and only where the kernel may be asked and the batch is in sight."""
    A = batch(generator)
    assert not embeds(A, "eigh")
    assert not embeds(A[:10], "auto")
    assert not embeds(A.real.contiguous(), "auto")
    torch.func.vmap(lambda matrix: pytest.fail("hidden") if embeds(matrix, "auto") else matrix)(A)
    value = torch.func.vmap(eg.sqrtm)(A)
    assert relative_error(value @ value, A) < 1e-13
