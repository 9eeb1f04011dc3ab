"""svd: against finite differences, torch's own, and eigh of the Gram matrix; bounded where singular values meet."""

import pytest
import torch
from spectra import relative_error
from torch import Tensor

import eigengrad as eg
from eigengrad.svd import SVDResult

SHAPES = [(3, 3), (5, 3), (3, 5), (1, 1), (2, 1)]
RULES = [eg.Lorentzian(), eg.PowerIteration(), eg.Taylor(), eg.Clipped(3.0), eg.Lorentzian(1e-3), eg.Masked()]


def matrix(
    values: list[float], m: int, n: int, dtype: torch.dtype, generator: torch.Generator, scale: float = 1.0
) -> Tensor:
    k = min(m, n)
    U, V = (torch.linalg.qr(torch.randn(size, size, dtype=dtype, generator=generator))[0][:, :k] for size in (m, n))
    return (U * (scale * torch.tensor(values[:k], dtype=torch.float64)).to(dtype.to_real())) @ V.mH


def defined(A: Tensor, gradient: eg.gradients.GradientRule, full: bool) -> tuple[Tensor, ...]:
    """All that is defined about a decomposition: S, ``u v^H`` for each pair, and projectors on the null spaces."""
    U, S, Vh = eg.svd(A, full_matrices=full, gradient=gradient)
    k = S.shape[-1]
    pairs = U[..., :k].mT.unsqueeze(-1) * Vh[..., :k, :].unsqueeze(-2)
    left, right = U[..., k:], Vh[..., k:, :].mH
    return (S, pairs, left @ left.mH, right @ right.mH) if full else (S, pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("full", [False, True])
def test_gradcheck(m: int, n: int, full: bool, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = matrix([3.0, 1.7, 0.6], m, n, dtype, generator).requires_grad_()

    def function(A: Tensor) -> tuple[Tensor, ...]:
        return defined(A, eg.Exact(), full)

    assert torch.autograd.gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, A, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_exact_is_torch(m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    A = torch.stack([matrix([3.0, 1.7, 0.6], m, n, dtype, generator) for _ in range(3)]).requires_grad_()
    gradients = []
    for U, S, Vh in (eg.svd(A, gradient=eg.Exact()), torch.linalg.svd(A, full_matrices=False)):
        G = torch.linspace(-1, 2, S.shape[-1] * m * n).reshape(S.shape[-1], m, n).to(dtype)
        pairs = U.mT.unsqueeze(-1) * Vh.unsqueeze(-2)
        gradients.append(torch.autograd.grad((G * pairs).real.sum() + S.sin().sum(), A)[0])
    assert relative_error(*gradients) < 1e-12


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rule_is_that_of_the_dilation(
    scale: float, rule: eg.gradients.GradientRule, generator: torch.Generator
) -> None:
    """Singular vectors are the eigenvectors of ``[[0, A], [A^H, 0]]``, with the same gradient."""
    # Of s and -s, rounding decides which one is the major: power iteration treats it differently, where A is complex.
    dtype = torch.float64 if isinstance(rule, eg.PowerIteration) else torch.complex128
    A = matrix([1.0, 0.9, 0.3], 5, 3, dtype, generator, scale).requires_grad_()
    G = torch.randn(3, 5, 3, dtype=A.dtype, generator=generator)
    U, _, Vh = eg.svd(A, gradient=rule)
    below = torch.cat([A.mH, A.new_zeros(3, 3)], dim=-1)
    dilation = torch.cat([torch.cat([A.new_zeros(5, 5), A], dim=-1), below])
    W = eg.eigh(dilation, gradient=rule).eigenvectors[:, 5:].flip(-1) * 2**0.5
    gradients = []
    for left, right in ((U, Vh), (W[:5], W[5:].mH)):
        outer = left.mT.unsqueeze(-1) * right.unsqueeze(-2)
        gradients.append(torch.autograd.grad((G * outer).real.sum(), A, retain_graph=True)[0] * scale)
    assert relative_error(*gradients) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_polar_factor_at_a_tie(dtype: torch.dtype, generator: torch.Generator) -> None:
    """``U V^H`` does not depend on the basis of tied vectors; its derivative divides by sums of singular values."""
    A = matrix([2.0, 2.0, 0.5], 4, 3, torch.complex128 if dtype.is_complex else torch.float64, generator).to(dtype)
    G = torch.randn(4, 3, dtype=dtype, generator=generator)
    gradients = []
    for function in (lambda A: eg.svd(A).U @ eg.svd(A).Vh, lambda A: eg.polar(A).unitary):
        B = A.clone().requires_grad_()
        gradients.append(torch.autograd.grad((G * function(B)).real.sum(), B)[0])
    assert relative_error(*gradients) < 1e4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 1e-4, 1e-5]])
def test_bounded_at_ties_and_rank_deficiency(
    values: list[float], scale: float, rule: eg.gradients.GradientRule, generator: torch.Generator
) -> None:
    for m, n in SHAPES[:3]:
        A = torch.zeros(m, n)
        A[range(3), range(3)] = torch.tensor(values) * scale
        A.requires_grad_()
        U, S, Vh = eg.svd(A, gradient=rule)
        G = torch.randn(m, n, generator=generator)
        for loss in (S.sum() / scale, (G[:, :3] * U**2).sum(), (G[:3] * Vh**2).sum()):
            gradient = torch.autograd.grad(loss, A, retain_graph=True)[0]
            assert gradient.isfinite().all()


def test_singular_values_alone_at_a_tie() -> None:
    """A loss of singular values meets no kernel, whatever the rule."""
    A = torch.eye(4, 3).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(eg.svd(A, gradient=eg.Exact()).S.sum(), A)[0], torch.eye(4, 3))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (0, 3, 2), (2, 3, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    A = torch.zeros(shape).requires_grad_()
    for full in (False, True):
        result, expected = eg.svd(A, full_matrices=full), torch.linalg.svd(A, full_matrices=full)
        assert [part.shape for part in result] == [part.shape for part in expected]
        assert torch.autograd.grad(sum(part.sum() for part in result), A)[0].shape == shape


def test_values_are_torch(generator: torch.Generator) -> None:
    A = torch.randn(2, 5, 3, generator=generator)
    for full in (False, True):
        result, expected = eg.svd(A, full_matrices=full), torch.linalg.svd(A, full_matrices=full)
        assert isinstance(result, SVDResult)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_errors() -> None:
    with pytest.raises(TypeError, match="gradient must be a rule"):
        eg.svd(torch.eye(2), gradient="exact")  # type: ignore[arg-type]
