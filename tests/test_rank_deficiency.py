"""Thresholds for small eigenvalues, lifted or dropped: values and gradients against arithmetic of many digits."""

import functools
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.matrix_functions.rank import Below
from eigengrad.native import operators, reference
from eigengrad.testing import hermitian, relative_error

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sqrtm": (eg.sqrtm, mpmath.sqrt, lambda x: 1 / (2 * mpmath.sqrt(x))),
    "inv_sqrtm": (eg.inv_sqrtm, lambda x: 1 / mpmath.sqrt(x), lambda x: -(x ** mpmath.mpf(-1.5)) / 2),
    "logm": (eg.logm, mpmath.log, lambda x: 1 / x),
    "powm": (
        lambda A, **how: eg.powm(A, -0.25, **how),
        lambda x: x ** mpmath.mpf(-0.25),
        lambda x: -(x ** mpmath.mpf(-1.25)) / 4,
    ),
    "matrix_function": (
        lambda A, **how: eg.matrix_function(A, lambda x: 1 / x, lambda x, y: -1 / x / y, **how),
        lambda x: 1 / x,
        lambda x: -1 / x**2,
    ),
}


@functools.cache
def eigenpairs(rows: tuple[tuple[complex, ...], ...]) -> tuple[Any, Any]:
    """Of the same matrix for every function and threshold, in the precision of the first call."""
    return mpmath.eighe(mpmath.matrix(rows))


def oracle(
    A: Tensor,
    G: Tensor,
    f: Callable[[Any], Any],
    slope: Callable[[Any], Any],
    threshold: float,
    below: str,
    rtol: float,
) -> tuple[Tensor, Tensor]:
    """Value and gradient; with ``rtol``, the threshold moves with the largest eigenvalue."""
    with mpmath.workdps(80):
        L, V = eigenpairs(tuple(map(tuple, wide(A).tolist())))
        n, tau = len(L), mpmath.mpf(threshold)
        lift = below == "lift"
        low = [x <= tau if not lift else x < tau for x in L]
        at = [tau if low[i] and lift else L[i] for i in range(n)]
        values = [mpmath.mpf(0) if low[i] and not lift else f(at[i]) for i in range(n)]
        B = V.H * mpmath.matrix(wide((G + G.mH) / 2).tolist()) * V
        W = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                if low[i] and low[j]:
                    continue
                if abs(L[i] - L[j]) < mpmath.mpf(10) ** -40 * abs(L[n - 1]):
                    W[i, j] = slope(L[i])
                else:
                    W[i, j] = (values[i] - values[j]) / (L[i] - L[j])
        value = V * mpmath.diag(values) * V.H
        H = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                H[i, j] = W[i, j] * B[i, j]
        if lift and rtol:
            H[n - 1, n - 1] += rtol * slope(tau) * sum(B[i, i] for i in range(n) if low[i])
        gradient = V * H * V.H
        number = complex if A.is_complex() else lambda x: float(mpmath.re(x))
        found = [[[number(x) for x in row] for row in M.tolist()] for M in (value, gradient)]
        return torch.tensor(found[0], dtype=wide(A).dtype), torch.tensor(found[1], dtype=wide(A).dtype)


def wide(X: Tensor) -> Tensor:
    return X.to(torch.complex128 if X.is_complex() else torch.float64)


SCALES = (1e-30, 1.0, 1e30)
CASES = [
    *((5, dtype, scale) for dtype in (torch.float32, torch.float64) for scale in SCALES),
    *((5, dtype, 1.0) for dtype in (torch.complex64, torch.complex128)),
    *((n, dtype, scale) for (n, dtype) in ((2, torch.float32), (9, torch.float64)) for scale in (1e-30, 1e30)),
]


@pytest.mark.parametrize("rank", [0, 1, -1, None])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "dtype", "scale"), CASES)
def test_against_many_digits(
    n: int, dtype: torch.dtype, name: str, rank: int | None, scale: float, generator: torch.Generator
) -> None:
    """Of rank 0, 1, n - 1 and n."""
    if name == "matrix_function" and dtype.to_real() == torch.float32 and scale != 1:
        pytest.skip("the square of its argument has no number in single precision")
    function, f, slope = FUNCTIONS[name]
    positive = torch.cat([torch.ones(n - n // 2), torch.linspace(2, 5, n // 2)])
    rank = n if rank is None else rank % n
    L = torch.cat([torch.zeros(n - rank), positive[n - rank :]]).double() * scale
    A = hermitian(L, dtype=dtype, generator=generator)
    G = torch.randn(n, n, dtype=dtype, generator=generator)
    for below in BELOW:
        for how in ({"floor": 1e-3 * scale}, {"rtol": 1e-3}, {"floor": torch.tensor(0.7 * scale), "rtol": 1e-3}):
            if rank == 0 and "floor" not in how and below == "lift":
                continue  # a zero matrix has no scale
            largest = max(float(torch.linalg.eigvalsh(wide(A))[-1]), 0.0)
            floor = how.get("floor", 0.0)
            threshold = max(float(torch.as_tensor(floor, dtype=dtype.to_real())), how.get("rtol", 0.0) * largest)
            relative = how.get("rtol", 0.0) if "floor" not in how else 0.0
            value, gradient = oracle(A, G, f, slope, threshold, below, relative)
            B = A.clone().requires_grad_()
            found = function(B, below=below, **how)
            found_gradient = torch.autograd.grad(found, B, G)[0]
            eps = torch.finfo(dtype).eps
            for ours, right in ((found, value), (found_gradient, gradient)):
                if not right.any():
                    assert not ours.any()
                elif torch.finfo(dtype).tiny / eps < right.abs().max() < 1e-3 * torch.finfo(dtype).max:
                    size = right.abs().max()
                    assert relative_error(wide(ours) / size, right / size) < 4e3 * eps, (below, how)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("below", ["lift", "drop"])
def test_derivatives_of_both_orders(below: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """At ties above and below the threshold, with a threshold that is learned and one that follows the matrix."""
    ascending = torch.tensor([0.1, 0.1, 0.3, 1.0, 1.0, 2.0]).double()
    A = hermitian(ascending, dtype=dtype, generator=generator).requires_grad_()
    floor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def symmetric(A: Tensor) -> Tensor:
        return (A + A.mH) / 2

    for function in (eg.sqrtm, eg.logm):

        def by_floor(A: Tensor, floor: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            return function(symmetric(A), floor=floor, below=below)

        def by_rtol(A: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            return function(symmetric(A), rtol=0.25, below=below)

        assert torch.autograd.gradcheck(by_floor, (A, floor), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(by_floor, (A, floor))
        assert torch.autograd.gradcheck(by_rtol, (A,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(by_rtol, (A,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("largest", [[2.0], [2.0, 2.0]])
def test_the_threshold_is_the_largest_eigenvalue(
    largest: list[float], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """``rtol=1``: all of A is lifted, and the function ``f(max(L)) I``; where two are largest, their mean moves it."""
    A = hermitian(torch.tensor([0.5, 1.0, *largest]).double(), dtype=dtype, generator=generator).requires_grad_()
    if len(largest) == 2:
        A = torch.tensor([0.5, 1.0, *largest]).to(dtype).diag().requires_grad_()
    value = eg.logm(A, rtol=1.0)
    torch.testing.assert_close(value, torch.log(torch.tensor(2.0)) * torch.eye(len(A), dtype=dtype))
    trace = value.diagonal().real.sum()
    (gradient,) = torch.autograd.grad(trace, A, create_graph=True)
    V = torch.linalg.eigh(A.detach()).eigenvectors[:, 2:]
    torch.testing.assert_close(gradient, len(A) / 2.0 * (V @ V.mH) / len(largest))
    if len(largest) == 1:

        def function(A: Tensor) -> Tensor:
            return eg.logm((A + A.mH) / 2, rtol=1.0)

        assert torch.autograd.gradcheck(function, A, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, A)


BELOW: tuple[Below, ...] = ("lift", "drop")


def test_batches_and_transforms(generator: torch.Generator) -> None:
    A = torch.stack([hermitian(torch.tensor([0.0, 1.0, 2.0 + i]).double(), generator=generator) for i in range(4)])
    floor = torch.tensor([0.1, 0.5, 1.5, 0.2], dtype=torch.float64)
    one_by_one = torch.stack([eg.logm(a, floor=f.item()) for a, f in zip(A, floor, strict=True)])
    torch.testing.assert_close(eg.logm(A, floor=floor), one_by_one)
    mapped = torch.func.vmap(lambda a, f: eg.logm(a, floor=f))(A, floor)
    torch.testing.assert_close(mapped, one_by_one)
    hessian = torch.func.vmap(torch.func.hessian(lambda a: eg.powm(a, 0.3, rtol=0.1).sum()))(A)
    assert hessian.shape == (4, 3, 3, 3, 3) and hessian.isfinite().all()
    for below in BELOW:

        def root(a: Tensor, below: Below = below) -> Tensor:
            return eg.sqrtm(a, rtol=0.4, below=below)

        jacobian = torch.autograd.functional.jacobian(root, A[0], vectorize=True)
        torch.testing.assert_close(jacobian, torch.func.jacrev(root)(A[0]))
        assert torch.func.vmap(root)(A[:0]).shape == (0, 3, 3)
    assert eg.logm(A[:0], rtol=0.1).shape == (0, 3, 3)
    assert eg.sqrtm(torch.zeros(2, 0, 0), rtol=0.1).shape == (2, 0, 0)
    assert not eg.logm(torch.zeros(3, 3), rtol=0.1, below="drop").any()


def test_without_thresholds_a_singular_matrix_is_what_the_scalar_is() -> None:
    A = torch.tensor([1.0, 0.0]).diag()
    assert not eg.powm(A, -0.25).isfinite().all()
    assert not eg.logm(A).isfinite().all()


def test_errors() -> None:
    A = torch.eye(2).expand(3, 2, 2)
    for function in (eg.sqrtm, eg.inv_sqrtm, eg.logm, lambda A, **how: eg.powm(A, 3, **how)):
        with pytest.raises(ValueError, match="floor must be finite and not negative, got -1"):
            function(A, floor=-1)
        with pytest.raises(ValueError, match="rtol must be finite and not negative, got nan"):
            function(A, rtol=float("nan"))
        with pytest.raises(TypeError, match="rtol must be a number, got '1'"):
            function(A, rtol="1")
        with pytest.raises(ValueError, match="below must be 'lift' or 'drop', got 'clip'"):
            function(A, below="clip")
        with pytest.raises(ValueError, match=r"broadcasts to the batch \(3,\), got \(2,\)"):
            function(A, floor=torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float16])
def test_one_matrix_in_forward_mode(dtype: torch.dtype) -> None:
    A = torch.eye(3, dtype=dtype) + 0.1
    for function in (eg.sqrtm, eg.inv_sqrtm, eg.logm):
        for below in BELOW:
            of = functools.partial(function, rtol=1e-3, below=below)
            value, tangent = torch.func.jvp(of, (A,), (A,))
            assert value.dtype == tangent.dtype == dtype and tangent.isfinite().all()
    if dtype == torch.float32:
        assert torch.func.hessian(lambda A: eg.sqrtm(A, rtol=1e-3).sum())(A).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize(("n", "batch"), [(3, 40), (20, 2), (33, 1)])
def test_lifted_in_the_kernel_and_out_of_it(n: int, batch: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Thresholds of each matrix's own; eigenvalues at, below and far below them, tied and not, and negative ones."""
    V = torch.linalg.qr(torch.randn(batch, n, n, dtype=dtype, generator=generator)).Q
    G = torch.randn(batch, n, n, dtype=dtype, generator=generator)
    L = torch.linspace(-0.5, 2, n, dtype=dtype.to_real()).repeat(batch, 1)
    L[:, 1] = L[:, 0]
    L[:, -2] = L[:, -1]
    thresholds = torch.linspace(0.1, 1, batch, dtype=L.dtype).unsqueeze(-1).expand(batch, n)
    L[:, n // 2] = thresholds[:, 0]
    for kind, parameter in (("logarithm", 0.0), ("exponential", 0.0), ("power", 0.3), ("power", 1.0), ("power", -0.5)):
        arguments = (V, G, L, thresholds, operators.KINDS[kind], parameter)
        found, right = operators.pull_back(*arguments), reference.pull_back(*arguments)
        assert relative_error(found, right) < 1e3 * torch.finfo(dtype).eps
