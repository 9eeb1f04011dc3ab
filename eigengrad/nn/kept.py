"""What evaluation derives from a running covariance by a decomposition, kept beside it until it changes.

Whoever changes the estimates, a training step, ``load_state_dict``, an average of networks, ``.to``, an edit in place,
need not tell: on a CPU, values are compared, which costs microseconds and sees everything. Elsewhere that would stop
the host, and what is compared is the tensor and its version counter, which every operator that writes in place moves
(not so ``tensor.data.mul_(2)``). A graph that a compiler makes asks the operators below each time it runs. An exported
program holds the matrix as a constant, as it was at the last ``layer.eval()`` or evaluation before.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from eigengrad.nn.functional.denoising import projection
from eigengrad.nn.functional.whitening import whitening_matrix

__all__ = ["Kept", "projection_unless_kept", "whitening_matrix_unless_kept"]

Settings = tuple[Any, ...]


class Kept:
    """A matrix ``(C, d)`` derived from a running covariance ``(C, d)``; at first none."""

    def __init__(self) -> None:
        self.matrix: Tensor | None = None
        self.estimate: Tensor | None = None
        """The covariance as it was."""
        self.settings: Settings = ()
        self._source: Tensor | None = None
        self._version: int | None = None

    def up_to_date(self, estimate: Tensor, settings: Settings) -> bool:
        """Whether nothing has changed. Reads values on a CPU, and never waits for another device."""
        if self.matrix is None or self.estimate is None or not self.of(settings):
            return False
        if (self.estimate.shape, self.estimate.dtype, self.estimate.device) != (
            estimate.shape,
            estimate.dtype,
            estimate.device,
        ):
            return False
        if _at_hand(estimate):
            return torch.equal(self.estimate, estimate)
        return self._source is estimate and self._version is not None and self._version == _version(estimate)

    def of(self, settings: Settings) -> bool:
        """Whether there is a matrix, by these settings."""
        return self.matrix is not None and self.settings == settings

    def renew(self, estimate: Tensor, settings: Settings, derive: Callable[[Tensor], Tensor]) -> None:
        """Derive the matrix, unless it is up to date. Not in the graph of a tracer, nor as an inference tensor."""
        if is_symbolic(estimate):
            return
        jit: Any = torch._C
        state = jit._get_tracing_state()
        jit._set_tracing_state(None)
        try:
            with torch.inference_mode(False), torch.no_grad():
                if not self.up_to_date(estimate, settings):
                    self.estimate = estimate.detach().clone()
                    self.matrix, self.settings = derive(self.estimate), settings
                    self._source, self._version = estimate, _version(estimate)
        finally:
            jit._set_tracing_state(state)


def is_symbolic(tensor: Tensor) -> bool:
    """Whether it has no values to look at, or those of a transform."""
    return tensor.is_meta or isinstance(tensor, FakeTensor) or functorch.is_functorch_wrapped_tensor(tensor)


def is_recorded() -> bool:
    """Whether a graph is made that will run without this layer's Python: a kept matrix becomes a constant of it."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return get_proxy_mode() is not None


def _at_hand(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


@torch.library.custom_op("eigengrad::whitening_matrix_unless_kept", mutates_args=())
def whitening_matrix_unless_kept(
    covariance: Tensor, eps: float, relative_eps: float, method: str, kept: Tensor, matrix: Tensor
) -> Tensor:
    """W of ``covariance``: a copy of ``matrix`` if it is what ``kept`` is, or else computed. Waits for its device."""
    return matrix.clone() if torch.equal(covariance, kept) else whitening_matrix(covariance, eps, relative_eps, method)


@torch.library.custom_op("eigengrad::projection_unless_kept", mutates_args=())
def projection_unless_kept(
    covariance: Tensor, eps: float, rank: int | None, energy: float | None, kept: Tensor, matrix: Tensor
) -> Tensor:
    """P of ``covariance``: likewise."""
    return matrix.clone() if torch.equal(covariance, kept) else projection(covariance, eps, rank, energy)


@whitening_matrix_unless_kept.register_fake
@projection_unless_kept.register_fake
def _(covariance: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(covariance)
