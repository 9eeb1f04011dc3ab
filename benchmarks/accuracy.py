"""Accuracy of matrix functions and their gradients, against arithmetic of many digits.

Spectra by methods by precisions: each figure is the largest relative error (in the Frobenius norm) over a few random
matrices of size 8; `nan` says that the result was no number. The floating-point matrix is taken
as exact, so what is measured is the method, not its input. Ours decomposes small matrices in single precision through
double, but for batches that the compiled kernel takes, whose eigenvectors it corrects. Peers that are not installed are
left out: `pip install torchspd spd_learn xitorch pyriemann` brings all of them.
"""

import csv
import importlib
import importlib.metadata
import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import RESULTS, provenance, write
from tests import oracle

N, DRAWS, POWER = 8, 5, 0.3
LUCK = 1.1
"""Errors within this factor count as equal: rounding decides between them."""

MatrixFunction = Callable[[Tensor], Tensor]
SCALARS: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrtm": torch.sqrt,
    "inv_sqrtm": torch.rsqrt,
    "logm": torch.log,
    "expm": torch.exp,
    "powm": lambda x: x**POWER,
}


def ours() -> dict[str, MatrixFunction]:
    """eigengrad."""
    return {
        "sqrtm": eg.sqrtm,
        "inv_sqrtm": eg.inv_sqrtm,
        "logm": eg.logm,
        "expm": eg.expm,
        "powm": lambda A: eg.powm(A, POWER),
    }


def ours_in_a_batch() -> dict[str, MatrixFunction]:
    """eigengrad on 16 copies, which is enough for the compiled kernel where it was built."""
    return {name: lambda A, f=f: f(A.expand(16, N, N))[0] for name, f in ours().items()}


def by_torch() -> dict[str, MatrixFunction]:
    """Autograd through ``torch.linalg.eigh``."""

    def through(f: Callable[[Tensor], Tensor]) -> MatrixFunction:
        def function(A: Tensor) -> Tensor:
            L, V = torch.linalg.eigh(A)
            return (V * f(L)) @ V.mT

        return function

    return {name: through(f) for name, f in SCALARS.items()}


def by_matrix_exp() -> dict[str, MatrixFunction]:
    """``torch.linalg.matrix_exp``: scaling and squaring, no eigenvectors."""
    return {"expm": torch.linalg.matrix_exp}


def by_torchspd() -> dict[str, MatrixFunction]:
    """torchspd's closed forms, which want a batch."""
    peer = importlib.import_module("torchspd")
    functions = {"sqrtm": peer.sqrtm, "inv_sqrtm": peer.invsqrtm, "logm": peer.logm, "expm": peer.expm}
    batched = {**functions, "powm": lambda A: peer.powm(A, POWER)}
    return {name: lambda A, f=f: f(A.unsqueeze(0)).squeeze(0) for name, f in batched.items()}


def by_spd_learn() -> dict[str, MatrixFunction]:
    """spd_learn's closed forms."""
    peer = importlib.import_module("spd_learn.functional")
    return {
        "sqrtm": peer.matrix_sqrt.apply,
        "inv_sqrtm": peer.matrix_inv_sqrt.apply,
        "logm": peer.matrix_log.apply,
        "expm": peer.matrix_exp.apply,
        "powm": lambda A: peer.matrix_power.apply(A, torch.tensor(POWER, dtype=A.dtype)),
    }


def by_xitorch() -> dict[str, MatrixFunction]:
    """Autograd through xitorch's symeig, which masks degenerate pairs."""
    peer = importlib.import_module("xitorch")
    linalg = importlib.import_module("xitorch.linalg")

    def through(f: Callable[[Tensor], Tensor]) -> MatrixFunction:
        def function(A: Tensor) -> Tensor:
            L, V = linalg.symeig(peer.LinearOperator.m(A, is_hermitian=True), method="exacteig")
            return (V * f(L)) @ V.mT

        return function

    return {name: through(f) for name, f in SCALARS.items()}


def by_pyriemann() -> dict[str, MatrixFunction]:
    """pyRiemann, made for values; its gradients are those of autograd through it."""
    peer = importlib.import_module("pyriemann.geometry.base")
    functions = {"sqrtm": peer.sqrtm, "inv_sqrtm": peer.invsqrtm, "logm": peer.logm, "expm": peer.expm}
    return {**functions, "powm": lambda A: peer.powm(A, POWER)}


OWN = ("ours", "ours in a batch")
METHODS: dict[str, Callable[[], dict[str, MatrixFunction]]] = {
    "ours": ours,
    "ours in a batch": ours_in_a_batch,
    "torch eigh": by_torch,
    "torch matrix_exp": by_matrix_exp,
    "torchspd": by_torchspd,
    "spd_learn": by_spd_learn,
    "xitorch": by_xitorch,
    "pyriemann": by_pyriemann,
}


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
    return relative_error(actual, value), relative_error(actual_gradient, gradient)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """In float64, and at a scale where squares are numbers."""
    size = expected.abs().max()
    symmetric = (actual.detach() + actual.detach().mT).double() / 2
    return float((symmetric / size - expected / size).norm() / (expected / size).norm())


def measure(methods: dict[str, dict[str, MatrixFunction]]) -> list[dict[str, str | float]]:
    """One row for each function, precision, spectrum and method."""
    generator, rows = torch.Generator().manual_seed(0), []
    for name in SCALARS:
        for dtype in (torch.float64, torch.float32):
            for label, L in spectra(name, dtype):
                worst = {method: (0.0, 0.0) for method, functions in methods.items() if name in functions}
                for _ in range(DRAWS):
                    L_drawn = L.log() if name == "expm" else L
                    # To the last bit, a tie is one of a diagonal matrix; draws permute it.
                    A = (
                        L_drawn[torch.randperm(N, generator=generator)].diag()
                        if label == "tie"
                        else eg.testing.hermitian(L_drawn, generator=generator)
                    ).to(dtype)
                    G = torch.randn(N, N, generator=generator, dtype=torch.float64).to(dtype)
                    expected = oracle.value_and_gradient(name, A.double(), G.double())
                    for method, largest in worst.items():
                        found = errors(methods[method][name], A, G, *expected)
                        worst[method] = (_largest(largest[0], found[0]), _largest(largest[1], found[1]))
                progress(f"{name} {dtype} {label}")
                for method, (of_value, of_gradient) in worst.items():
                    rows.append(
                        {
                            "function": name,
                            "dtype": str(dtype).removeprefix("torch."),
                            "spectrum": label,
                            "method": method,
                            "value": of_value,
                            "gradient": of_gradient,
                        }
                    )
    return rows


def _largest(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def progress(text: str) -> None:
    """What is being measured, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="", file=sys.stderr)


def table(rows: list[dict[str, str | float]], methods: list[str]) -> str:
    """The gradients' errors as Markdown; the smallest of a row is bold."""
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        key = (str(row["function"]), str(row["dtype"]), str(row["spectrum"]))
        cells.setdefault(key, {})[str(row["method"])] = float(row["gradient"])
    lines = [
        "| function | precision | spectrum | " + " | ".join(methods) + " |",
        "|---" * (3 + len(methods)) + "|",
    ]
    for key, found in cells.items():
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


def behind(rows: list[dict[str, str | float]]) -> list[str]:
    """The cells where a peer's value or gradient is more accurate than ours by more than luck, and by how much."""
    found = []
    for quantity in ("value", "gradient"):
        cells: dict[tuple[str, ...], dict[str, float]] = {}
        for row in rows:
            key = (str(row["function"]), str(row["dtype"]), str(row["spectrum"]))
            cells.setdefault(key, {})[str(row["method"])] = float(row[quantity])
        for key, errors in cells.items():
            numbers = {method: math.inf if math.isnan(error) else error for method, error in errors.items()}
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
    text = table(rows, list(methods))
    exceptions = behind(rows)
    print(text)
    print("a peer is more accurate, by more than a tenth, in:", *exceptions or ["no cell"], sep="\n  ")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "value": f"{row['value']:.2e}", "gradient": f"{row['gradient']:.2e}"} for row in rows)
    write(RESULTS / "accuracy.csv", buffer.getvalue())
    listed = "\n".join(f"* {line}" for line in exceptions) or "* no cell"
    said = "\n".join(f"* {key}: {value}" for key, value in {**provenance("accuracy"), **versions}.items())
    page = [
        "# Relative error of gradients of matrix functions",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        text.strip(),
        "The smallest error of a row is bold. By more than a tenth, a peer is more accurate than ours in:",
        listed,
        said,
    ]
    write(RESULTS / "accuracy.md", "\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
