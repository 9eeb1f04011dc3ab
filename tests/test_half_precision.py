"""Matrices in half precision: computed in float32, returned in their dtype, outside autocast and within."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg

FUNCTIONS: dict[str, Callable[..., object]] = {
    "eigh": eg.eigh,
    "topk_eigh": lambda A: eg.topk_eigh(A, 2),
    "generalised": lambda A: eg.eigh(A, B=torch.eye(4, dtype=A.dtype) / 2),
    "projector": lambda A: eg.projector(A, 2),
    "svd": eg.svd,
    "sqrtm": eg.sqrtm,
    "logm": lambda A: eg.logm(A, rtol=1e-3),
    "powm": lambda A: eg.powm(A, torch.tensor(0.25, dtype=A.dtype)),
    "spectral_sum": lambda A: eg.spectral_sum(A, torch.square),
    "polar": eg.polar,
    "procrustes": lambda A: eg.procrustes(A, A.flip(-1)),
    "pinv": eg.pinv,
}


def parts(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_rounded_float32(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    X = torch.randn(5, 4, 9, generator=generator)
    half = (X @ X.mT / 9).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    found, right = parts(FUNCTIONS[name](half)), parts(FUNCTIONS[name](full))
    for ours, theirs in zip(found, right, strict=True):
        assert ours.dtype == dtype and torch.equal(ours, theirs.to(dtype))
    gradient = torch.autograd.grad(sum(part.sum() for part in found), half)[0]
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(part.sum() for part in right), full)[0].to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(part.dtype == torch.float32 for part in parts(FUNCTIONS[name](half)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_complex_values(dtype: torch.dtype) -> None:
    """torch has no complex dtype of that precision: they keep theirs, and their imaginary part."""

    def function(A: Tensor) -> Tensor:
        return eg.matrix_function(A, lambda x: 1 / (x + 1j), lambda x, y: -1 / (x + 1j) / (y + 1j))

    A = (2 * torch.eye(2, dtype=dtype)).requires_grad_()
    found, right = function(A), function(A.detach().float())
    assert found.dtype == torch.complex64 and torch.equal(found, right)
    assert torch.autograd.grad(found.imag.sum(), A)[0].dtype == dtype


IN_BACKWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "eigh": lambda A: eg.eigh(A).eigenvectors.square(),
    "topk_eigh": lambda A: eg.topk_eigh(A, 1).eigenvectors.square(),
    "projector": lambda A: eg.projector(A, 1),
    "svd": lambda A: eg.svd(A).U.square(),
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": lambda A: eg.inv_sqrtm(A, rtol=0.5),
    "logm": eg.logm,
    "singular_value_function": lambda A: eg.singular_value_function(
        A, lambda s: s**3, lambda x, y: x * x + x * y + y * y
    ),
    "low_rank": lambda A: eg.low_rank(A, 2),
    "pinv": eg.pinv,
    "soft_threshold": lambda A: eg.soft_threshold(A, 0.1),
    "polar": lambda A: eg.polar(A).hermitian,
    "nearest_rotation": eg.nearest_rotation,
    "procrustes": lambda A: eg.procrustes(A, A.flip(-1)).rotation,
    "bures_distance": lambda A: eg.spd.bures_distance(A, 2 * torch.eye(3)),
}


@pytest.mark.parametrize("name", IN_BACKWARD)
def test_derivatives_within_autocast(name: str, generator: torch.Generator) -> None:
    """A gradient that is a part of the loss, taken where autocast is on: of single precision, as without it."""
    X = torch.randn(3, 9, generator=generator)
    A, W = (X @ X.mT / 9 + torch.tensor([0.0, 1.0, 2.0]).diag()).requires_grad_(), torch.randn(3, 3)
    found = []
    for within in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within):
            value = (W * IN_BACKWARD[name](A)).sum()
            (first,) = torch.autograd.grad(value, A, create_graph=True)
            penalty = (first * W).sum()
        found.append((value, first, torch.autograd.grad(penalty, A)[0]))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within):
            tangent = torch.func.jvp(IN_BACKWARD[name], (A.detach(),), (W,))[1]
        found[-1] += (tangent,)
    for ours, right in zip(*found, strict=True):
        rounding = 3e-2 if name in ("polar", "procrustes") else 1e-4  # torch's own, in its products after ours
        torch.testing.assert_close(ours, right, rtol=rounding, atol=rounding / 10)


def test_compiled() -> None:
    A = torch.eye(3, dtype=torch.bfloat16).expand(2, 3, 3)
    compiled = torch.compile(lambda A: eg.sqrtm(A + A), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(A), eg.sqrtm(A + A)) and compiled(A).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_by_name(dtype: torch.dtype) -> None:
    assert eg.sqrtm(A=4 * torch.eye(2, dtype=dtype)).equal(2 * torch.eye(2, dtype=dtype))
