"""Who computes the functions of :mod:`benchmarks.accuracy`: eigengrad, torch, and peers where they are installed."""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

import eigengrad as eg

N, POWER = 8, 0.3

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
        "polar": lambda A: eg.polar(A).unitary,
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


def by_torch_svd() -> dict[str, MatrixFunction]:
    """Autograd through ``torch.linalg.svd``."""

    def unitary(A: Tensor) -> Tensor:
        U, _, Vh = torch.linalg.svd(A)
        return U @ Vh

    return {"polar": unitary}


def by_torch_functions() -> dict[str, MatrixFunction]:
    """torch's own functions without eigenvectors: ``matrix_exp``; since torch 2.14 ``matrix_sqrth`` and ``polar``."""
    functions = {"expm": torch.linalg.matrix_exp}
    if hasattr(torch.linalg, "matrix_sqrth"):
        functions |= {"sqrtm": torch.linalg.matrix_sqrth, "polar": lambda A: torch.linalg.polar(A)[0]}
    return functions


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
    "torch svd": by_torch_svd,
    "torch's own": by_torch_functions,
    "torchspd": by_torchspd,
    "spd_learn": by_spd_learn,
    "xitorch": by_xitorch,
    "pyriemann": by_pyriemann,
}
