"""The contract of a gradient rule: each clause refuses a rule that breaks it, and every rule of the package passes."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.testing import SPECTRA, check_gradient_rule, hermitian, relative_error, spectrum, wilkinson


@dataclass(frozen=True)
class Rule:
    """A right rule; each subclass breaks one clause."""

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return eg.PowerIteration().kernel(eigenvalues)

    def bound(self, smallest: float, largest: float) -> float:
        return eg.PowerIteration().bound(smallest, largest)


class WrongShape(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return super().kernel(eigenvalues).sum(-1)


class WrongDtype(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return super().kernel(eigenvalues).double()


class Diagonal(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return super().kernel(eigenvalues) + torch.eye(eigenvalues.shape[-1], dtype=eigenvalues.dtype)


class Unbounded(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return 2 * super().kernel(eigenvalues)


class Absolute(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return eg.Clipped(1.0).kernel(eigenvalues)

    def bound(self, smallest: float, largest: float) -> float:
        return 1.0


class Batch(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return super().kernel(eigenvalues) / (2 if eigenvalues.dim() > 1 else 1)


class Undifferentiated(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        return super().kernel(eigenvalues.detach()) + 0 * eigenvalues.unsqueeze(-1)


class NaNDerivative(Rule):
    def kernel(self, eigenvalues: Tensor) -> Tensor:
        eye = torch.eye(eigenvalues.shape[-1], dtype=eigenvalues.dtype)
        gap = eigenvalues.unsqueeze(-2) - eigenvalues.unsqueeze(-1) + eye
        return torch.where(gap == 0, 0.0, 1 / gap) * (1 - eye)

    def bound(self, smallest: float, largest: float) -> float:
        return float("inf")


BROKEN = {
    WrongShape: r"kernel must have shape",
    WrongDtype: r"kernel must have dtype torch.float32",
    Diagonal: r"the diagonal of the kernel must be zero",
    Unbounded: r"abs\(K\) must be at most bound\(\)",
    Absolute: r"K\(c L\) must be K\(L\)/c",
    Batch: r"a batch must give what its rows give",
    Undifferentiated: r"derivative must be that of finite differences",
    NaNDerivative: r"a finite kernel must have a finite derivative",
}


def test_a_right_rule_passes() -> None:
    check_gradient_rule(Rule())
    check_gradient_rule(Absolute(), scale_free=False)


@pytest.mark.parametrize(("rule", "clause"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_rule_is_refused(rule: type[Rule], clause: str) -> None:
    with pytest.raises(AssertionError, match=clause):
        check_gradient_rule(rule())
    with pytest.raises(TypeError, match="gradient must be a rule"):
        check_gradient_rule(rule)  # the class, not an object


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_spectra(kind: str, n: int) -> None:
    L = spectrum(kind, n, scale=3.0)
    assert L.shape == (n,)
    assert L.dtype == torch.float64
    assert torch.equal(L, L.sort().values)
    assert (L.abs() <= 3.001).all()
    if n and kind != "zero":
        A = hermitian(L, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
        assert torch.equal(A, A.mH)
        assert relative_error(torch.linalg.eigvalsh(A), L) < 1e-14


def test_wilkinson() -> None:
    assert [wilkinson(n).shape for n in (0, 1, 2)] == [(0, 0), (1, 1), (2, 2)]
    L = torch.linalg.eigvalsh(wilkinson(21))
    assert 0 < L[-1] - L[-2] < 1e-12
    with pytest.raises(ValueError, match="kind must be one of 'zero', 'identity'"):
        spectrum("flat", 3)
