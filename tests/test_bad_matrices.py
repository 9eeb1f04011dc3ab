"""One bad matrix among good ones: an error that names it, or NaN for it alone, whatever the function and the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg

Function = Callable[..., object]
HERMITIAN: dict[str, Function] = {
    "eigh": eg.eigh,
    "eigh, torch": lambda A, **how: eg.eigh(A, solver="eigh", **how),
    "eigh, qr": lambda A, **how: eg.eigh(A, solver="qr", **how),
    "eigh, power iteration": lambda A, **how: eg.eigh(
        A, solver=eg.solvers.PowerIteration(generator=torch.Generator().manual_seed(0)), **how
    ),
    "eigh, svd": lambda A, **how: eg.eigh(A, solver="svd", **how),
    "generalised": lambda A, **how: eg.eigh(A, B=torch.eye(4), **how),
    "topk_eigh": lambda A, **how: eg.topk_eigh(A, 2, **how),
    "projector": lambda A, **how: eg.projector(A, 2, **how),
    "sqrtm": eg.sqrtm,
    "inv_sqrtm, dropped": lambda A, **how: eg.inv_sqrtm(A, rtol=1e-3, below="drop", **how),
    "logm": eg.logm,
    "expm": eg.expm,
    "powm": lambda A, **how: eg.powm(A, 0.3, **how),
    "powm, squared": lambda A, **how: eg.powm(A, 2, **how),
    "powm, inverse": lambda A, **how: eg.powm(A, -1, **how),
    "powm, none": lambda A, **how: eg.powm(A, 0, **how),
    "powm, learned": lambda A, **how: eg.powm(A, torch.tensor(0.3), **how),
    "matrix_function": lambda A, **how: eg.matrix_function(A, torch.square, torch.add, **how),
    "spectral_sum": lambda A, **how: eg.spectral_sum(A, torch.square, **how),
}
RECTANGULAR: dict[str, Function] = {
    "svd": eg.svd,
    "polar": eg.polar,
    "nearest_rotation": eg.nearest_rotation,
    "procrustes": lambda A, **how: eg.procrustes(A, torch.eye(4), **how),
    "low_rank": lambda A, **how: eg.low_rank(A, 2, **how),
    "pinv": eg.pinv,
    "soft_threshold": lambda A, **how: eg.soft_threshold(A, 0.1, **how),
    "singular_value_function": lambda A, **how: eg.singular_value_function(
        A, lambda s: s**3, lambda x, y: x * x + x * y + y * y, **how
    ),
}


def parts(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)  # type: ignore[return-value]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch", [3, 64])
@pytest.mark.parametrize("name", [*HERMITIAN, *RECTANGULAR])
def test_policy(name: str, batch: int, bad: float, generator: torch.Generator) -> None:
    function = {**HERMITIAN, **RECTANGULAR}[name]
    X = torch.randn(batch, 4, 9, generator=generator)
    A = X @ X.mT / 9
    spoilt = A.clone()
    spoilt[1, 2, 0] = spoilt[1, 0, 2] = bad
    with pytest.raises(torch.linalg.LinAlgError, match="matrix 1 of the batch"):
        function(spoilt)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.func.vmap(function)(spoilt)
    spoilt.requires_grad_()
    found, right = parts(function(spoilt, errors="nan")), parts(function(A))
    others = torch.arange(batch) != 1
    for ours, good in zip(found, right, strict=True):
        if name != "procrustes" or ours.dim() > 1:
            assert ours[1].isnan().all()
        torch.testing.assert_close(ours[others], good[others])
    gradient = torch.autograd.grad(sum(part.sum() for part in found), spoilt)[0]
    assert gradient[others].isfinite().all()
    with pytest.raises(ValueError, match="errors must be 'raise' or 'nan', got 'skip'"):
        function(A, errors="skip")


def test_a_bad_metric(generator: torch.Generator) -> None:
    A, B = torch.eye(3).expand(4, 3, 3), torch.eye(3).repeat(4, 1, 1)
    B[2, 0, 0] = -1.0
    with pytest.raises(torch.linalg.LinAlgError):
        eg.eigh(A, B=B)
    L, V = eg.eigh(A, B=B, errors="nan")
    assert L[2].isnan().all() and V[2].isnan().all() and L[[0, 1, 3]].isfinite().all()


def test_a_singular_matrix_has_no_negative_power() -> None:
    A = torch.stack([torch.eye(2), torch.ones(2, 2), 2 * torch.eye(2)]).requires_grad_()
    with pytest.raises(torch.linalg.LinAlgError, match=r"matrix 1 of the batch is singular.*rtol="):
        eg.powm(A, -2)
    found = eg.powm(A, -2, errors="nan")
    assert found[1].isnan().all()
    torch.testing.assert_close(found[2], torch.eye(2) / 4)
    gradient = torch.autograd.grad(found[[0, 2]].sum(), A)[0]
    assert gradient[[0, 2]].isfinite().all()
