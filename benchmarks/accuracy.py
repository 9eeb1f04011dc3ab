"""Accuracy of matrix functions and their gradients, against arithmetic of many digits.

Spectra by methods by precisions: each figure is the largest relative error (in the Frobenius norm) over a few random
matrices of size 8; `nan` says that the result was no number. For `polar`, the unitary factor, spectra are singular
values of general matrices. The floating-point matrix is taken as exact, so what is measured is the method, not its
input. Ours decomposes small matrices in single precision through double, but for batches that the compiled kernel
takes, whose eigenvectors it corrects. Peers that are not installed are left out: `pip install torchspd spd_learn
xitorch pyriemann` brings all of them; `matrix_sqrth` and `polar` among torch's own come with torch 2.14.
"""

import csv
import functools
import importlib.metadata
import io
import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.accuracy_methods import METHODS, OWN, POWER, SCALARS, MatrixFunction, N
from benchmarks.timing import RESULTS, provenance, write
from tests import oracle

DRAWS = 5
QUANTITIES = ("value", "gradient", "second")
SECOND = {"sqrtm": -0.25, "inv_sqrtm": 0.75, "logm": -1.0, "expm": 1.0, "powm": POWER * (POWER - 1)}
"""Second derivatives of the scalar functions at 1; at 0 of the exponential."""
LUCK = 1.1
"""Errors within this factor count as equal: rounding decides between them."""


def spectra(name: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Eigenvalues ``(N,)`` of the function's input, of the exponential's output, with what they are called."""
    for label, gap in (("gap 1", 1.0), ("gap 1e-3", 1e-3), ("gap 1e-6", 1e-6), ("gap 1e-9", 1e-9), ("tie", 0.0)):
        yield label, torch.tensor([1, 1 + gap, 1 + 2 * gap, 4, 4 + gap, 6, 8, 10], dtype=torch.float64)
    yield "condition 1e4", torch.logspace(-4, 0, N, dtype=torch.float64)
    if dtype == torch.float64:
        yield "condition 1e8", torch.logspace(-8, 0, N, dtype=torch.float64)
    if name != "expm":
        for scale in (1e-100, 1e100) if dtype == torch.float64 else (1e-15, 1e15):
            yield f"gap 1e-3, scale {scale:g}", scale * torch.tensor([1, 1.001, 2, 4, 4.001, 6, 8, 10]).double()


def errors(function: MatrixFunction, A: Tensor, G: Tensor, value: Tensor, gradient: Tensor) -> tuple[float, float]:
    """Relative errors of value and gradient; NaN where there is no number, or no convergence."""
    A = A.clone().requires_grad_()
    try:
        actual = function(A)
        actual_gradient = torch.autograd.grad(actual, A, G)[0]
    except torch.linalg.LinAlgError:
        return math.nan, math.nan
    if torch.equal(A, A.mT):
        actual, actual_gradient = _symmetric(actual), _symmetric(actual_gradient)
    return relative_error(actual, value), relative_error(actual_gradient, gradient)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """In float64, and at a scale where squares are numbers."""
    size = expected.abs().max()
    return float((actual.detach().double() / size - expected / size).norm() / (expected / size).norm())


def error_of_second(name: str, function: MatrixFunction, D: Tensor, G: Tensor) -> float:
    """Of the second derivative at the identity (of ``expm``, at zero), where all eigenvalues meet, along D.

    It is ``f''(1) D^2`` for symmetric D; of the polar factor, with D = K + S, antisymmetric and symmetric, it is
    ``K^2 - K S - S K``, from ``W^T W = I`` and ``W P = I + D`` to second order.
    """
    if name == "polar":
        S, K = _symmetric(D), (D - D.mT) / 2
        exact = (K @ K - K @ S - S @ K).double()
    else:
        D = _symmetric(D)
        exact = SECOND[name] * (D @ D).double()
    origin = torch.zeros_like(D) if name == "expm" else torch.eye(N, dtype=D.dtype)
    t = torch.zeros((), dtype=D.dtype, requires_grad=True)
    try:
        first = torch.autograd.grad((function(origin + t * D) * G).sum(), t, create_graph=True)[0]
        second = torch.autograd.grad(first, t)[0]
    except RuntimeError:  # once differentiable
        return math.nan
    return float((second.double() - (exact * G).sum()).abs() / (exact.norm() * G.double().norm()))


def measure(methods: dict[str, dict[str, MatrixFunction]]) -> list[dict[str, Any]]:
    """One row for each function, precision, spectrum and method."""
    generator, rows = torch.Generator().manual_seed(0), []
    for name in (*SCALARS, "polar"):
        for dtype in (torch.float64, torch.float32):
            for label, L in spectra(name, dtype):
                worst = {method: (0.0, 0.0) for method, functions in methods.items() if name in functions}
                for _ in range(DRAWS):
                    A = matrix(name, label, L, generator).to(dtype)
                    G = torch.randn(N, N, generator=generator, dtype=torch.float64).to(dtype)
                    expected = oracle.value_and_gradient(name, A.double(), G.double())
                    for method, largest in worst.items():
                        found = errors(methods[method][name], A, G, *expected)
                        worst[method] = (_largest(largest[0], found[0]), _largest(largest[1], found[1]))
                progress(f"{name} {dtype} {label}")
                rows += [row(name, dtype, label, method, *largest) for method, largest in worst.items()]
            directions = torch.randn(DRAWS, 2, N, N, generator=generator).to(dtype)
            for method, functions in methods.items():
                if name in functions:
                    seconds = [error_of_second(name, functions[name], *direction) for direction in directions]
                    rows.append(row(name, dtype, "identity", method, second=functools.reduce(_largest, seconds)))
    return rows


def matrix(name: str, label: str, L: Tensor, generator: torch.Generator) -> Tensor:
    """With these eigenvalues, or singular values. To the last bit, a tie is one of a diagonal; draws permute it."""
    L = L.log() if name == "expm" else L
    if label == "tie":
        A = L[torch.randperm(N, generator=generator)].diag()
        return A[:, torch.randperm(N, generator=generator)] if name == "polar" else A
    A = eg.testing.hermitian(L, generator=generator)
    if name == "polar":
        A = A @ torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=A.dtype)).Q
    return A


def row(name: str, dtype: torch.dtype, spectrum: str, method: str, *errors: float, **second: float) -> dict[str, Any]:
    """Of the file; either value and gradient, or the second derivative."""
    value, gradient = errors or ("", "")
    place = {"function": name, "dtype": str(dtype).removeprefix("torch."), "spectrum": spectrum, "method": method}
    return {**place, "value": value, "gradient": gradient, "second": second.get("second", "")}


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _largest(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def progress(text: str) -> None:
    """What is being measured, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="", file=sys.stderr)


def cells_of(rows: list[dict[str, Any]], quantity: str) -> dict[tuple[str, ...], dict[str, float]]:
    """Errors by function, precision and spectrum, then by method."""
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        if row[quantity] != "":
            cells.setdefault((row["function"], row["dtype"], row["spectrum"]), {})[row["method"]] = row[quantity]
    return cells


def table(rows: list[dict[str, Any]], quantity: str, methods: list[str]) -> str:
    """Errors as Markdown; the smallest of a row is bold."""
    lines = [
        "| function | precision | spectrum | " + " | ".join(methods) + " |",
        "|---" * (3 + len(methods)) + "|",
    ]
    for key, found in cells_of(rows, quantity).items():
        best = min((error for error in found.values() if not math.isnan(error)), default=math.nan)
        shown = [
            ""
            if method not in found
            else f"**{found[method]:.1e}**"
            if found[method] == best
            else f"{found[method]:.1e}"
            for method in methods
        ]
        lines.append(f"| {' | '.join(key)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def behind(rows: list[dict[str, Any]]) -> list[str]:
    """The cells where a peer is more accurate than ours by more than luck and a unit of rounding, and by how much."""
    found = []
    for quantity in QUANTITIES:
        for key, errors in cells_of(rows, quantity).items():
            rounding = torch.finfo(getattr(torch, key[1])).eps
            numbers = {
                method: math.inf if math.isnan(error) else max(error, rounding) for method, error in errors.items()
            }
            best = min(numbers.keys() - OWN, key=numbers.__getitem__)
            found += [
                f"{', '.join(key)}: {quantity} of {own} {numbers[own]:.2e}, of {best} {numbers[best]:.2e}"
                for own in OWN
                if numbers[own] > LUCK * numbers[best]
            ]
    return found


def main() -> None:
    """Measure, print, and write ``results/accuracy.csv`` and ``results/accuracy.md``."""
    warnings.filterwarnings("ignore")
    methods, versions = {}, {}
    for method, load in METHODS.items():
        try:
            methods[method] = load()
        except ImportError:
            print(f"left out, not installed: {method}")
            continue
        if method in ("torchspd", "spd_learn", "xitorch", "pyriemann"):
            versions[method] = importlib.metadata.version(method)
    rows = measure(methods)
    text = table(rows, "gradient", list(methods))
    second = table(rows, "second", list(methods))
    exceptions = behind(rows)
    print(text, second, sep="\n")
    print("a peer is more accurate, by more than a tenth, in:", *exceptions or ["no cell"], sep="\n  ")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    figures = ({quantity: f"{row[quantity]:.2e}" for quantity in QUANTITIES if row[quantity] != ""} for row in rows)
    writer.writerows({**row, **rounded} for row, rounded in zip(rows, figures, strict=True))
    write(RESULTS / "accuracy.csv", buffer.getvalue())
    listed = "\n".join(f"* {line}" for line in exceptions) or "* no cell"
    said = "\n".join(f"* {key}: {value}" for key, value in {**provenance("accuracy"), **versions}.items())
    page = [
        "# Relative error of gradients of matrix functions",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        text.strip(),
        "## Second derivatives",
        "At the identity (of `expm`, at zero), where all eigenvalues meet, along random directions; `nan` stands for "
        "no second derivative, too.",
        second.strip(),
        "## Where a peer is ahead",
        "The smallest error of a row is bold. By more than a tenth, a peer is more accurate than ours in:",
        listed,
        said,
    ]
    write(RESULTS / "accuracy.md", "\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
