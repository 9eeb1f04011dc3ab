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


def test_compiled() -> None:
    A = torch.eye(3, dtype=torch.bfloat16).expand(2, 3, 3)
    compiled = torch.compile(lambda A: eg.sqrtm(A + A), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(A), eg.sqrtm(A + A)) and compiled(A).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_by_name(dtype: torch.dtype) -> None:
    assert eg.sqrtm(A=4 * torch.eye(2, dtype=dtype)).equal(2 * torch.eye(2, dtype=dtype))
