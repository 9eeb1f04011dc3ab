"""The mode in which functions look at what they are given and at what is asked of their gradients."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg

HERMITIAN: dict[str, Callable[[Tensor], object]] = {
    "eigh": eg.eigh,
    "topk_eigh": lambda A: eg.topk_eigh(A, 1),
    "projector": lambda A: eg.projector(A, 1),
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "logm": eg.logm,
    "expm": eg.expm,
    "powm": lambda A: eg.powm(A, 0.5),
    "matrix_function": lambda A: eg.matrix_function(A, lambda x: x * x, lambda x, y: x + y),
    "spectral_sum": lambda A: eg.spectral_sum(A, torch.log),
}
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def here() -> str:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return re.escape(f"{__file__}:{frame.f_back.f_lineno + 1}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HERMITIAN)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_no_hermitian_matrix(name: str, scale: float, dtype: torch.dtype) -> None:
    good = scale * eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0]), dtype=dtype)
    batch = good.expand(4, 3, 3).clone()
    batch[2, 0, 1] += scale
    with eg.analysis.checks():
        HERMITIAN[name](good / scale if name == "expm" else good)
        with pytest.raises(ValueError, match=rf"{name} at .*: matrix 2 of the batch must be Hermitian.*{name} reads"):
            HERMITIAN[name](batch)
    HERMITIAN[name](batch / scale)


def test_the_line_is_named() -> None:
    with eg.analysis.checks():
        with pytest.raises(ValueError, match=rf"^sqrtm at {here()}: A must be Hermitian"):
            eg.sqrtm(torch.ones(3, 3).triu())
        with pytest.raises(ValueError, match=r"^svd at .*: matrix \(0, 1\) of the batch holds NaN or infinity"):
            eg.svd(torch.tensor([1.0, torch.nan]).view(1, 2, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_loss_may_ask_for(dtype: torch.dtype) -> None:
    """Neither within a tie nor elsewhere does a well defined loss ask for anything undefined."""
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]), dtype=dtype).expand(3, 4, 4).clone().requires_grad_()
    W = torch.randn(4, 4, dtype=dtype)
    with eg.analysis.checks():
        L, V = eg.eigh(A)
        ((W * ((V * L.sin().unsqueeze(-2)) @ V.mH)).real.sum()).backward()
        _, V = eg.topk_eigh(A, 1)
        ((W * (V @ V.mH)).real.sum()).backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rotation_within_a_tie(dtype: torch.dtype) -> None:
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 2.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(A)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"eigh at .*: the loss depends on the basis among eigenvectors of equal"):
        (weights.unsqueeze(-1) * V.abs().square() * weights.square()).sum().backward()
    separated = eg.testing.hermitian(torch.tensor([1.0, 2.0, 3.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(separated)
        (weights.unsqueeze(-1) * V.abs().square() * weights.square()).sum().backward()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_phase(dtype: torch.dtype, scale: float) -> None:
    A = eg.testing.hermitian(torch.tensor([1.0, 2.0, 4.0]), dtype=dtype).requires_grad_()
    with eg.analysis.checks():
        _, V = eg.eigh(A)
    with pytest.raises(ValueError, match=r"eigh at .*: the loss depends on the phase of an eigenvector"):
        (scale * (V.real + 2 * V.imag)).sum().backward()


def test_off_it_is_off() -> None:
    bad = torch.ones(3, 3).triu()
    with pytest.raises(ZeroDivisionError), eg.analysis.checks():
        _ = 1 / 0
    eg.expm(bad)
    with eg.analysis.checks():
        torch.vmap(eg.expm)(bad.expand(2, 3, 3))
        torch.compile(eg.expm, backend="eager")(bad)


def test_a_loss_of_eigenvalues_alone() -> None:
    A = torch.tensor([1.0, 2.0, 3.0]).diag().requires_grad_()
    with eg.analysis.checks():
        for result in (eg.eigh(A), eg.topk_eigh(A, 2)):
            assert torch.autograd.grad(result.eigenvalues.sum(), A)[0].isfinite().all()
