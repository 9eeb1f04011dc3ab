"""An accelerator that is not there: what would break on one, or make the host wait for it, found without one.

Two means. Fake tensors have a device and no values; they go through forward and backward, and show every tensor that
was made on the wrong device. And :class:`Watch` sees each operator that torch runs and refuses those that, on CUDA,
stop the host until the device has caught up: the ones that :func:`torch.cuda.set_sync_debug_mode` reports, as far as
they are operators. Both are approximations of a GPU; ``tests/test_gpu.py`` asks a real one.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eigengrad as eg

DEVICE = "lazy"
"""A device that every build of torch knows. (On fake tensors of "cuda", a build without CUDA has no autograd.)"""

WAITING = {
    "_linalg_check_errors", "_local_scalar_dense", "_unique", "_unique2", "bincount", "equal", "histc", "is_nonzero",
    "item", "linalg_matrix_exp", "masked_select", "multinomial", "nonzero", "nonzero_numpy", "one_hot",
    "unique_consecutive", "unique_dim", "unique_dim_consecutive",
    "_linalg_eigh", "_linalg_svd", "linalg_cholesky", "linalg_eig", "linalg_inv", "linalg_lu_factor",
}  # fmt: skip
"""Operators whose CUDA version reads from the device, to know a value, an error code, or the size of a result."""
CHECKED = {"linalg_inv_ex", "linalg_cholesky_ex", "linalg_ldl_factor_ex", "linalg_lu_factor_ex", "_linalg_solve_ex"}
"""Those that read an error code if they are asked to."""


class HostWaitsError(AssertionError):
    """An operator would have made the host wait."""


class Watch(TorchDispatchMode):
    """Raises :class:`HostWaitsError` at an operator that waits, except inside :meth:`pause`.

    Args:
        moves_only: refuse only what moves data between devices, which is a mistake even where waiting is allowed.
    """

    def __init__(self, *, moves_only: bool = False) -> None:
        super().__init__()
        self.paused = False
        self.moves_only = moves_only

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.paused:
            reason = None if self.moves_only else _what_it_reads(function, args, kwargs)
            if reason := reason or _what_it_moves(function, args, kwargs):
                raise HostWaitsError(f"{function} {reason}")
        return function(*args, **kwargs)


def _name(function: Any) -> str:
    return function._schema.name.split("::")[-1]


def _what_it_reads(function: Any, args: Any, kwargs: dict[str, Any]) -> str | None:
    name = _name(function)
    if name in WAITING or (name == "repeat_interleave" and len(args) < 2):
        return "reads from the device"
    if name in CHECKED and (True in args[1:] or kwargs.get("check_errors")):
        return "reads an error code from the device"
    indices = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
    if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return "has to count the trues of a mask"
    return None


def _what_it_moves(function: Any, args: Any, kwargs: dict[str, Any]) -> str | None:
    devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    if _name(function) == "_to_copy" and kwargs.get("device") is not None:
        devices.add(torch.device(kwargs["device"]).type)
    return f"moves data between {' and '.join(sorted(devices))}" if len(devices) > 1 else None


@dataclass(frozen=True)
class Exempt:
    """A solver during which the watch is paused: torch's decompositions look at their error codes."""

    differentiable: ClassVar[bool] = False
    watch: Watch
    name: str = "eigh"

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        with self.watch.pause():
            return eg.solvers.resolve(self.name)(A, UPLO)
