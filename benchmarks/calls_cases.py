"""What :mod:`benchmarks.calls` claims and calls: the public functions, and what one writes without this package.

A forward and backward pass is ``loss.backward()`` with ``A.grad = None`` before, where the loss is ``(W * F).sum()`` of
a function F and ``(W * V).sum() + L.sum()`` of an eigendecomposition, W fixed. A function's rival is ``V f(L) V^T`` by
``torch.linalg.eigh`` and autograd; plain ``torch.linalg.eigh`` with its own loss is reported beside it. Batches of
functions have rivals in other packages too.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import eigengrad as eg

TORCH, PLAIN = "torch.linalg.eigh", "plain torch.linalg.eigh (no claim)"
DTYPES = (torch.float32, torch.float64)
POWER = 0.3

Run = Callable[[], object]
Function = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Claim:
    """That ours takes at most ``bound`` times as long as each rival, for all functions, modes, sizes and dtypes.

    Modes are ``"plain"`` (a tensor that needs no gradient), ``"no_grad"`` (one that does, under ``torch.no_grad``) and
    ``"backward"``. Sizes are ``(batch, n)``; a batch of 1 is one matrix, without a dimension for it.
    """

    text: str
    bound: float
    functions: tuple[str, ...]
    modes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    dtypes: tuple[torch.dtype, ...] = DTYPES


def single(*sizes: int) -> tuple[tuple[int, int], ...]:
    """One matrix of each size."""
    return tuple((1, n) for n in sizes)


VALUES, STEP, STEP_SIZES = ("plain", "no_grad"), ("backward",), single(3, 8, 16, 32, 64)
CLAIMS = (
    Claim("eigh without gradient, one small matrix", 1.0, ("eigh",), VALUES, single(2, 3, 4, 8, 16, 32)),
    Claim("eigh without gradient, one matrix from n = 48", 1.05, ("eigh",), VALUES, single(48, 64, 128, 256)),
    Claim("eigh without gradient, 16 matrices", 1 / 3, ("eigh",), VALUES, ((16, 3),)),
    Claim("eigh, forward and backward, one matrix", 1.0, ("eigh",), STEP, STEP_SIZES),
    Claim("square roots, forward and backward, one matrix", 1.1, ("sqrtm", "inv_sqrtm"), STEP, STEP_SIZES),
    Claim("other functions, forward and backward, one matrix", 1.25,
          ("logm", "expm", "powm", "projector", "topk_eigh"), STEP, STEP_SIZES),
    Claim("functions, forward and backward, batches", 1 / 6, ("logm", "expm", "powm"), STEP,
          ((64, 22), (256, 16), (64, 8))),
    Claim("eigh of complex matrices, forward and backward, batch", 0.25, ("eigh",), STEP, ((128, 16),),
          (torch.complex64,)),
)  # fmt: skip

OURS: dict[str, Function] = {
    "eigh": eg.eigh,
    "sqrtm": eg.sqrtm,
    "inv_sqrtm": eg.inv_sqrtm,
    "logm": eg.logm,
    "expm": eg.expm,
    "powm": lambda A: eg.powm(A, POWER),
    "projector": lambda A: eg.projector(A, A.shape[-1] // 2),
    "topk_eigh": lambda A: eg.topk_eigh(A, A.shape[-1] // 2),
}


def through(f: Function) -> Function:
    """``V f(L) V^T`` by ``torch.linalg.eigh``."""

    def function(A: Tensor) -> Tensor:
        L, V = torch.linalg.eigh(A)
        return (V * f(L).unsqueeze(-2)) @ V.mT

    return function


def leading_projector(A: Tensor) -> Tensor:
    """On the leading half of the eigenvectors."""
    U = torch.linalg.eigh(A).eigenvectors[..., -(A.shape[-1] // 2) :]
    return U @ U.mT


def leading_pairs(A: Tensor) -> tuple[Tensor, Tensor]:
    """The leading half of the eigenvalues and eigenvectors."""
    (L, V), k = torch.linalg.eigh(A), A.shape[-1] // 2
    return L[..., -k:], V[..., -k:]


BY_TORCH: dict[str, Function] = {
    "eigh": torch.linalg.eigh,
    "sqrtm": through(torch.sqrt),
    "inv_sqrtm": through(torch.rsqrt),
    "logm": through(torch.log),
    "expm": through(torch.exp),
    "powm": through(lambda L: L**POWER),
    "projector": leading_projector,
    "topk_eigh": leading_pairs,
}


def by_spd_learn() -> dict[str, Function]:
    """spd_learn's closed forms."""
    peer = importlib.import_module("spd_learn.functional")
    return {
        "logm": peer.matrix_log.apply,
        "expm": peer.matrix_exp.apply,
        "powm": lambda A: peer.matrix_power.apply(A, torch.tensor(POWER, dtype=A.dtype)),
    }


def by_torchspd() -> dict[str, Function]:
    """torchspd's closed forms, which want a batch."""
    peer = importlib.import_module("torchspd")
    return {"logm": peer.logm, "expm": peer.expm, "powm": lambda A: peer.powm(A, POWER)}


PEERS = {"spd_learn": by_spd_learn, "torchspd": by_torchspd}
"""``pip install torchspd spd_learn``; where that would replace torch, with ``--no-deps`` and beside them pyriemann,
joblib, einops, array-api-compat and array-api-extra."""


def peers() -> dict[str, dict[str, Function]]:
    """Functions of the other packages, for batches; what cannot be imported is said and left out."""
    found = {}
    for name, load in PEERS.items():
        try:
            found[name] = load()
        except ImportError as error:
            print(f"left out, cannot be imported: {name} ({error})")
    return found


def spd(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Random positive definite matrices of condition 10 or so: ``(batch, n, n)``, or ``(n, n)`` for a batch of 1."""
    X = torch.randn(batch, n, 4 * n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    A = X @ X.mH / (4 * n)
    return A if batch > 1 else A[0].clone()


def loss(result: Any, W: Tensor) -> Tensor:
    """Of a matrix, or of eigenvalues and eigenvectors."""
    if isinstance(result, Tensor):
        return (W * result).sum()
    L, V = result
    return (W * V).sum() + L.sum()


def step(function: Function, A: Tensor) -> Run:
    """Forward and backward."""
    result = function(A)
    W = torch.randn_like(result if isinstance(result, Tensor) else result[1])

    def run() -> None:
        A.grad = None
        loss(function(A), W).backward()

    return run


def complex_step(function: Function, A: Tensor) -> Run:
    """Forward and backward with cotangents for which the phase of the function's own vectors does not matter."""
    L, V = function(A.detach())
    G = torch.randn_like(V)
    gL, gV = torch.randn_like(L), V @ (G + G.mH)
    return lambda: torch.autograd.grad([*function(A)], A, [gL, gV])


def candidates(
    name: str, mode: str, batch: int, n: int, dtype: torch.dtype, others: dict[str, dict[str, Function]]
) -> tuple[Run, dict[str, Run]]:
    """Ours and its rivals, ready to be called."""
    A = spd(batch, n, dtype).requires_grad_(mode != "plain")
    functions = {TORCH: BY_TORCH[name]}
    if batch > 1:
        functions |= {peer: theirs[name] for peer, theirs in others.items() if name in theirs}
    elif name != "eigh":
        functions[PLAIN] = torch.linalg.eigh
    if mode != "backward":
        return lambda: OURS[name](A), {rival: lambda f=f: f(A) for rival, f in functions.items()}  # type: ignore[misc]
    prepare = complex_step if dtype.is_complex else step
    return prepare(OURS[name], A), {rival: prepare(f, A) for rival, f in functions.items()}
