"""Every function of a matrix refuses what is none, with an error that names the argument and what came."""

from collections.abc import Callable

import numpy as np
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


def test_batches_of_the_generalised_problem() -> None:
    A, B = torch.eye(3).expand(4, 3, 3), 2 * torch.eye(3).expand(5, 3, 3)
    for function in (eg.eigh, lambda A, B: eg.topk_eigh(A, 1, B=B), lambda A, B: eg.projector(A, 1, B=B)):
        with pytest.raises(ValueError, match=r"B's batch must broadcast with A's, \(4,\), got \(5,\)"):
            function(A, B=B)
        with pytest.raises(torch.linalg.LinAlgError, match="B must be positive definite, but matrix 2 of the batch"):
            function(A, B=torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None, None] * A)
    assert eg.eigh(A[0], B=B).eigenvalues.shape == eg.eigh(A[:1], B=B).eigenvalues.shape == (5, 3)


@every_function
def test_sparse(function: Callable[[Tensor], object]) -> None:
    for A in (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()):
        with pytest.raises(TypeError, match=r"(must be|is no) dense"):
            function(A)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda k: eg.topk_eigh(torch.eye(3), k).eigenvalues, "an int or a slice"),
        (lambda k: eg.projector(torch.eye(3), k), "an int or a slice"),
        (lambda k: eg.low_rank(torch.tensor([3.0, 2.0, 1.0]).diag(), k), "an int"),
        (lambda k: eg.eigsh(torch.tensor([3.0, 2.0, 1.0]).diag(), k).eigenvalues, "an int"),
    ],
)
def test_integers(function: Callable[[object], Tensor], kind: str) -> None:
    for k in (np.int64(2), np.uint8(2), torch.tensor(2)):
        assert torch.equal(function(k), function(2))
    for k in (2.0, True, np.bool_(True), torch.tensor(True), torch.tensor(2.0), "2", None):
        with pytest.raises(TypeError, match=rf"^k must be {kind}, got .* of type {type(k).__name__}"):
            function(k)
    if "slice" in kind:
        with pytest.raises(TypeError, match=r"k must be a slice of integers, got slice\(0\.0"):
            function(slice(0.0, 2.0))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("floor", lambda value: eg.logm(torch.eye(2), floor=value)),
        ("rtol", lambda value: eg.inv_sqrtm(torch.eye(2), rtol=value)),
        ("rtol", lambda value: eg.pinv(torch.eye(2), rtol=value)),
        ("t", lambda value: eg.soft_threshold(torch.eye(2), value)),
        ("rtol", lambda value: eg.analysis.inspect(torch.eye(2), rtol=value).clusters),
    ],
)
def test_thresholds(name: str, function: Callable[[object], Tensor]) -> None:
    for value in (np.float32(0.5), np.float64(0.5)):
        assert torch.equal(function(value), function(0.5))
    for value in (-1, float("nan"), float("inf"), np.float32(-1)):
        with pytest.raises(ValueError, match=f"^{name} must be finite and not negative, got {value}"):
            function(value)
    for value in ("1", True, [0.5]):
        with pytest.raises(TypeError, match=f"^{name} must be a number.*, got .* of type {type(value).__name__}"):
            function(value)


def test_tensors_that_must_not_be_negative() -> None:
    A, bad = torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, -2.0])
    for name, function in (
        ("floor", lambda: eg.sqrtm(A, floor=bad)),
        ("t", lambda: eg.soft_threshold(A, bad)),
        ("weights", lambda: eg.procrustes(A, A, weights=bad[:, None])),
    ):
        with pytest.raises(ValueError, match=f"^{name} must not be negative, got -2"):
            function()
    with pytest.raises(TypeError, match="weights must be a tensor, got list"):
        eg.procrustes(A, A, weights=[1.0, 1.0, 1.0])  # type: ignore[arg-type]


WRONG_FUNCTIONS: dict[str, tuple[type[Exception], str, Callable[..., object]]] = {
    "number": (TypeError, "must return a tensor, got float; a constant is torch.full_like", lambda *_: 1.0),
    "NumPy's": (TypeError, "must return a tensor, got ndarray", lambda *x: x[0].detach().numpy()),
    "sum": (ValueError, r"must be elementwise.*of .* it has made \(\)", lambda *x: sum(x).sum()),  # type: ignore[misc]
    "shape": (ValueError, r"must be elementwise.*of .* it has made \(2, 7\)", lambda *_: torch.ones(2, 7)),
}


@pytest.mark.parametrize(("error", "message", "wrong"), WRONG_FUNCTIONS.values(), ids=WRONG_FUNCTIONS)
def test_functions_of_a_caller(error: type[Exception], message: str, wrong: Callable[..., object]) -> None:
    A, one, two = torch.eye(3).requires_grad_(), torch.sin, torch.add
    for function in (eg.matrix_function, eg.singular_value_function):
        with pytest.raises(error, match=f"^f {message}"):
            function(A, wrong, two)
        value = function(A, one, wrong)
        with pytest.raises(error, match=f"^divided_difference {message}"):
            value.sum().backward()
    with pytest.raises(error, match=f"^f {message}"):
        eg.spectral_sum(A, wrong)


def test_more_functions_of_a_caller() -> None:
    A = torch.eye(3)
    counts = eg.matrix_function(A, lambda x: (x > 0.5).long(), lambda x, y: torch.zeros_like(x - y))
    assert torch.equal(counts, A)
    with pytest.raises(TypeError, match=r"f must have real values, got torch\.complex64"):
        eg.singular_value_function(A, lambda x: 1j * x, torch.add)
    for function in (eg.matrix_function, eg.singular_value_function):
        value = function(A.clone().requires_grad_(), torch.sin, lambda x, y: 1j * (x + y))
        with pytest.raises(TypeError, match="divided_difference must be real where f is, got values of"):
            value.sum().backward()
    with pytest.raises(TypeError, match="x must be a tensor, got dict"):
        eg.nn.ZCAWhitening(3)({"x": A})
    with pytest.raises(TypeError, match=r"weights must be real, got a tensor of torch\.complex64"):
        eg.procrustes(A, A, weights=1j * torch.ones(3))
    with pytest.raises(TypeError, match="k must return a tensor of booleans, got bool"):
        eg.projector(A, lambda L: True)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"k must return a boolean for each eigenvalue, \(3,\), got shape \(2,\)"):
        eg.projector(A, lambda L: L[:2] > 0)
    with pytest.raises(TypeError, match="loss must return a tensor, got float"):
        eg.analysis.gauge_dependence(lambda L, V: 1.0, A)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"write rules=\[rule\]"):
        eg.analysis.inspect(A, rules=eg.Exact())  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="exponent must be finite, got 1000"):
        eg.powm(A, 10**400)
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        eg.testing.spectrum("tie", -1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64])
def test_two_clouds_of_points(dtype: torch.dtype) -> None:
    X = torch.randn(4, 3)
    with pytest.raises(TypeError, match=f"X and Y must both be .*, got torch.float32 and {dtype}"):
        eg.procrustes(X, X.to(dtype))


def test_parameters_are_a_sequence() -> None:
    with pytest.raises(TypeError, match=r"parameters must be a sequence of tensors, got one tensor; write parameters="):
        eg.matrix_function(torch.eye(2), torch.exp, torch.maximum, parameters=torch.tensor(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="parameters must be a sequence of tensors, got None"):
        eg.matrix_function(torch.eye(2), torch.exp, torch.maximum, parameters=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_lower_case_triangles(dtype: torch.dtype) -> None:
    A = torch.randn(3, 3, dtype=dtype)
    for lower, upper in (("l", "L"), ("u", "U")):
        assert torch.equal(eg.eigh(A, lower).eigenvalues, eg.eigh(A, upper).eigenvalues)
        assert torch.equal(
            eg.eigh(A, lower, B=torch.eye(3, dtype=dtype))[0], eg.eigh(A, upper, B=torch.eye(3).to(A))[0]
        )
    with pytest.raises(ValueError, match="UPLO must be 'L' or 'U', got 'x'"):
        eg.eigh(A, "x")
