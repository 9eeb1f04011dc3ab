"""The operators ``torch.ops.eigengrad`` on CUDA: by our kernels where they take the batch, else by ``reference``.

They take real matrices up to 64 rows. A function of a matrix in single precision is corrected to the first order, as on
a CPU. Nothing here waits for the device, but for ``strict``, which must know whether to raise, and does not ask while a
CUDA graph is captured.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad.gpu import arguments, cusolver, kernels
from eigengrad.native import reference
from eigengrad.native.operators import KINDS, matrices_like, values_like, vectors_like

__all__ = ["IMPLEMENTATIONS"]


def eigh(A: Tensor, kernel_always: bool, for_function: bool, strict: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors."""
    launch = _launch("decompose" if for_function else "eigh", A)
    if launch is None:
        found = cusolver.eigh(A, strict) if A.numel() and cusolver.takes(A) and not is_capturing() else None
        return reference.eigh(A, kernel_always, for_function, strict) if found is None else found
    refined = for_function and A.dtype == torch.float32
    return _decompose(launch, A, None, refined=refined, f=(0, 0.0), strict=strict)


def root(A: Tensor, inverse: bool, floor: float, kernel_always: bool, strict: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A root, its eigenvalues and eigenvectors, in one launch."""
    launch = _launch("decompose", A)
    if launch is None:
        return reference.root_of(*eigh(A, kernel_always, True, strict), inverse, floor)
    kind = KINDS["inverse_square_root" if inverse else "square_root"]
    return _function(launch, A, (kind, floor), strict)


def function(A: Tensor, kind: int, parameter: float, kernel_always: bool, strict: bool) -> tuple[Tensor, ...]:
    """f(A), and the eigenvalues and eigenvectors of A, in one launch."""
    launch = _launch("decompose", A)
    if launch is None:
        return reference.function_of(*eigh(A, kernel_always, True, strict), kind, parameter)
    return _function(launch, A, (kind, parameter), strict)


def refine(A: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors without their errors of first order."""
    launch = _launch("refine", A)
    if launch is None:
        return reference.refine(A, V)
    _need(V.shape == A.shape and V.dtype == A.dtype, "refine: A and V must be of one shape and dtype")
    L, refined = values_like(A), vectors_like(A).copy_(V)
    A = A.contiguous()
    launch(arguments.RefineArguments(A.data_ptr(), refined.data_ptr(), L.data_ptr(), *_size(A)))
    return L, refined


def recompose(V: Tensor, x: Tensor) -> Tensor:
    """``V diag(x) V^T``."""
    launch = _launch("recompose", V)
    if launch is None:
        return reference.recompose(V, x)
    _need(_is_vector_of(x, V), "recompose: x must be real, of V's precision, one number for each vector")
    result, rows, x = matrices_like(V), V.mT.contiguous(), x.contiguous()
    launch(arguments.RecomposeArguments(rows.data_ptr(), x.data_ptr(), result.data_ptr(), *_size(V)))
    return result


def pull_back(
    V: Tensor,
    G: Tensor,
    weights: Tensor,
    diagonal: Tensor | None,
    kind: int,
    parameter: float = 0.0,
    major_terms: int = 0,
    minor_terms: int = 0,
) -> Tensor:
    """A cotangent, in one launch."""
    launch = _launch("pull_back", V)
    if launch is None:
        return reference.pull_back(V, G, weights, diagonal, kind, parameter, major_terms, minor_terms)
    given = kind in (KINDS["eigenvectors"], KINDS["function"])
    _need(G.shape == V.shape and G.dtype == V.dtype, "pull_back: V and G must be of one shape and dtype")
    _need(
        weights.dtype == V.dtype and weights.shape == (V.shape if given else V.shape[:-1]),
        "pull_back: weights must be real, of V's precision and the shape that their kind has",
    )
    _need(
        kind != KINDS["projector"] or diagonal is not None,
        "pull_back: of a projector, diagonal must say which eigenvalues it keeps",
    )
    _need(
        diagonal is None or _is_vector_of(diagonal, V),
        "pull_back: diagonal must be real, of V's precision, one number for each vector",
    )
    by_columns = not G.is_contiguous() and G.mT.is_contiguous()
    rows, weights = V.mT.contiguous(), weights.contiguous()
    G = G.mT if by_columns else G.contiguous()
    diagonal = None if diagonal is None else diagonal.contiguous()
    result = matrices_like(V)
    of = arguments.PullBack(
        kind,
        rows.data_ptr(),
        G.data_ptr(),
        by_columns,
        weights.data_ptr(),
        (major_terms, minor_terms),
        None if diagonal is None else diagonal.data_ptr(),
        result.data_ptr(),
        parameter,
    )
    launch(arguments.DerivativeArguments(of, *_size(V)))
    return result


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "eigh": eigh,
    "root": root,
    "function": function,
    "refine": refine,
    "recompose": recompose,
    "pull_back": pull_back,
}

_Launch = Callable[[ctypes.Structure], None]


def _launch(name: str, A: Tensor) -> _Launch | None:
    """How to launch the kernel that takes A, or None if none does."""
    n, count = A.shape[-1], math.prod(A.shape[:-2])
    if not 0 < n <= kernels.LARGEST or count == 0 or A.dtype not in (torch.float32, torch.float64):
        return None
    launcher = kernels.launcher()
    kernel = kernels.kernel(name, n, A.dtype)
    if launcher is None or not launcher.has(kernel, A.device):
        return None
    return lambda of: launcher.launch(kernel, count, of, A.device)


def _function(launch: _Launch, A: Tensor, f: tuple[int, float], strict: bool) -> tuple[Tensor, Tensor, Tensor]:
    result = matrices_like(A)
    return result, *_decompose(launch, A, result, refined=A.dtype == torch.float32, f=f, strict=strict)


def _decompose(
    launch: _Launch, A: Tensor, result: Tensor | None, *, refined: bool, f: tuple[int, float], strict: bool
) -> tuple[Tensor, Tensor]:
    A, L, V = A.contiguous(), values_like(A), vectors_like(A)
    into = None if result is None else result.data_ptr()
    launch(arguments.DecomposeArguments(A.data_ptr(), into, L.data_ptr(), V.data_ptr(), *_size(A), refined, f))
    if strict and not is_capturing():
        bad = V[..., 0, 0].isnan().flatten()
        if bad.any():
            raise torch.linalg.LinAlgError(reference.not_finite(int(bad.nonzero()[0])))
    return L, V


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured, which may not wait."""
    return torch.cuda.is_current_stream_capturing()


def _size(A: Tensor) -> tuple[int, int]:
    return math.prod(A.shape[:-2]), A.shape[-1]


def _is_vector_of(x: Tensor, V: Tensor) -> bool:
    return x.shape == V.shape[:-1] and x.dtype == V.dtype


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(f"eigengrad: {message}")
