"""Every function of a matrix refuses what is none, with an error that names the argument and what came."""

from collections.abc import Callable

import pytest
import torch
from test_conformance import FUNCTION_ALONE
from torch import Tensor

import eigengrad as eg

FUNCTIONS: dict[str, Callable[[Tensor], object]] = {
    **FUNCTION_ALONE,
    "procrustes": lambda X: eg.procrustes(X, X),
    "whole power": lambda A: eg.powm(A, 3),
    "inspect": eg.analysis.inspect,
    "gauge_dependence": lambda A: eg.analysis.gauge_dependence(lambda L, V: L.sum(), A),
}
SQUARE = FUNCTIONS.keys() - {"svd", "polar", "procrustes"}

every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@every_function
def test_no_tensor(function: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"(A|X) must be a tensor, got list; torch\.as_tensor makes one"):
        function([[1.0, 0.0], [0.0, 1.0]])


@every_function
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_dtype(function: Callable[[Tensor], object], dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"(A|X) must be of float32, .* got {dtype}; convert it"):
        function(torch.ones(2, 2, dtype=dtype))


@every_function
@pytest.mark.parametrize("shape", [(), (3,)])
def test_no_matrix(function: Callable[[Tensor], object], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"(A|X) must be a batch of (square )?matrices .*, got shape") as error:
        function(torch.ones(shape))
    assert str(error.value).endswith(str(shape))


@pytest.mark.parametrize("name", sorted(SQUARE))
@pytest.mark.parametrize("batch", [(), (5000,)])
def test_not_square(name: str, batch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"A must be a batch of square matrices \(\*, n, n\), got shape .*2, 3\)"):
        FUNCTIONS[name](torch.ones(*batch, 2, 3))


def test_generalised_problem() -> None:
    A = torch.eye(3)
    with pytest.raises(ValueError, match=r"B must be a batch of square matrices .*, got shape \(3,\)"):
        eg.eigh(A, B=A[0])
    for B in (torch.eye(2), A.double()):
        with pytest.raises(ValueError, match=r"B must have A's dtype and size, torch\.float32 and n = 3, got torch"):
            eg.eigh(A, B=B)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64])
def test_two_clouds_of_points(dtype: torch.dtype) -> None:
    X = torch.randn(4, 3)
    with pytest.raises(TypeError, match=f"X and Y must both be .*, got torch.float32 and {dtype}"):
        eg.procrustes(X, X.to(dtype))


def test_parameters_are_a_sequence() -> None:
    with pytest.raises(TypeError, match=r"parameters must be a sequence of tensors, got one tensor; write parameters="):
        eg.matrix_function(torch.eye(2), torch.exp, torch.maximum, parameters=torch.tensor(1.0))  # type: ignore[arg-type]
