"""What the layers share with ``nn.BatchNorm2d``: parameters, running estimates, and which of them are used when."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from eigengrad.nn.functional.batch_statistics import AffineMap, check_settings

__all__ = ["Normalization"]


class Normalization(nn.Module):
    """The part of ``nn.BatchNorm2d`` that does not depend on what is computed.

    No subclass of PyTorch's own base class, which ``SyncBatchNorm.convert_sync_batchnorm`` replaces without a word.

    Args:
        num_features: number of channels C.
        eps, momentum, affine, track_running_stats, device, dtype, bias: as for ``nn.BatchNorm2d``.
        process_group, errors: as for :func:`eigengrad.whiten`.
        estimates: names and shapes of the running estimates.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        bias: bool,
        process_group: ProcessGroup | None,
        errors: str,
        estimates: dict[str, tuple[int, ...]],
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        check_settings(eps, errors)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.process_group = process_group
        self.errors = errors
        self._estimates = tuple(estimates)

        def empty(*shape: int, dtype: torch.dtype | None = dtype) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(empty(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(empty(num_features)) if affine and bias else None)
        for name, shape in estimates.items():
            self.register_buffer(name, empty(*shape) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", empty(dtype=torch.long) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was seen, as before the first batch: evaluation then changes nothing but scale and offset."""
        for name in (*self._estimates, "num_batches_tracked"):
            buffer = getattr(self, name)
            if buffer is not None:
                buffer.zero_()

    def reset_parameters(self) -> None:
        """Scale 1, offset 0, and :meth:`reset_running_stats`."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def evaluation_maps(self) -> Iterator[AffineMap]:
        """What evaluation does to each block of channels."""
        raise NotImplementedError

    def _arguments(self, x: Tensor) -> dict[str, Any]:
        """Of the function that does the work, as far as they are common to the layers."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}) or (N, {self.num_features}, *), got {tuple(x.shape)}")
        estimates = {name: getattr(self, name) for name in (*self._estimates, "num_batches_tracked")}
        training = self.training or any(buffer is None for buffer in estimates.values())
        if training and not (self.training and self.track_running_stats):
            estimates = dict.fromkeys(estimates)
        return estimates | {
            "weight": self.weight,
            "bias": self.bias,
            "training": training,
            "momentum": 0.0 if estimates["num_batches_tracked"] is None else self.momentum,
            "eps": self.eps,
            "process_group": self.process_group if training and self.training else None,
            "errors": self.errors,
        }

    def extra_repr(self) -> str:
        """The arguments that ``nn.BatchNorm2d`` shows, and others where they are not the default."""
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )
        return text if self.errors == "raise" else f"{text}, errors={self.errors!r}"
