"""The whitening layer."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from eigengrad import solvers
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.nn.functional.batch_statistics import AffineMap, check_group_size
from eigengrad.nn.functional.whitening import evaluation_maps, whiten
from eigengrad.nn.normalization import Normalization

__all__ = ["ZCAWhitening"]


class ZCAWhitening(Normalization):
    """ZCA whitening of groups of channels, with the interface and the running statistics of ``nn.BatchNorm2d``.

    In training, each group of ``group_size`` channels is centred and multiplied by ``(C + eps I)^(-1/2)``, C being its
    covariance over the batch and all positions. In evaluation, the running mean and the running whitening matrix take
    their places: one matrix product, no decomposition. See :func:`eigengrad.whiten` for the formulas.

    Args:
        num_features: number of channels C.
        eps: added to the diagonal of the covariance. The default is the paper's.
        momentum: weight of a batch in the running estimates; ``None`` for the average of all batches so far.
        affine: learn a scale and an offset for each channel.
        track_running_stats: keep running estimates for evaluation. Without them, evaluation uses the batch's moments.
        device: where parameters and buffers are made.
        dtype: their dtype.
        group_size: the paper's d. All channels by default; the last group is smaller where d does not divide C.
        gradient: ``None`` for the exact derivative, the safe choice; or a rule, to differentiate eigenvectors by it as
            the paper does.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments in training, such as ``torch.distributed.group.WORLD``;
            their batches may differ in size. ``None`` for each process on its own, as in ``nn.BatchNorm2d``.
        errors: ``"raise"`` or ``"skip"``, what becomes of a group whose covariance is not finite and of a batch with a
            single observation; see :func:`eigengrad.whiten`.
        bias: with ``affine``, learn the offset too.

    Attributes:
        weight, bias: ``(C,)``, or ``None`` without ``affine``.
        running_mean: ``(C,)``, or ``None`` without ``track_running_stats``.
        running_whitening: ``(C, d)``, channel c's row of its group's matrix, or ``None`` likewise.
        num_batches_tracked: number of batches in the estimates; skipped ones are not counted.

    Shape:
        ``(N, C)`` or ``(N, C, *)``, to the same.

    Raises:
        ValueError: for sizes that do not fit, naming the argument.
        torch.linalg.LinAlgError: in training, if a covariance is not finite, with ``errors="raise"``.

    Source: Wang et al., NeurIPS 2019, section 4.1.

    Example:
        >>> import torch, eigengrad as eg
        >>> layer = eg.nn.ZCAWhitening(64, group_size=16)
        >>> layer(torch.randn(8, 64, 14, 14)).shape
        torch.Size([8, 64, 14, 14])
    """

    running_mean: Tensor | None
    running_whitening: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-4,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        group_size: int | None = None,
        gradient: GradientRule | Unrolled | None = None,
        solver: solvers.Name | solvers.Solver = "auto",
        process_group: ProcessGroup | None = None,
        errors: str = "raise",
        bias: bool = True,
    ) -> None:
        d = check_group_size(group_size, max(num_features, 1))
        solvers.resolve(solver)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            process_group=process_group,
            errors=errors,
            estimates={"running_mean": (num_features,), "running_whitening": (num_features, d)},
        )
        self.group_size = d
        self.gradient = gradient
        self.solver = solver

    def reset_running_stats(self) -> None:
        """Forget what was seen, as before the first batch: mean 0, and the identity as whitening matrix."""
        super().reset_running_stats()
        if self.running_whitening is not None:
            channels, d = self.running_whitening.shape
            row, column = (torch.arange(size, device=self.running_whitening.device) for size in (channels, d))
            self.running_whitening.copy_(row.unsqueeze(-1) % d == column)

    def forward(self, x: Tensor) -> Tensor:
        """Whiten ``x (N, C)`` or ``(N, C, *)``."""
        return whiten(x, **self._arguments(x), group_size=self.group_size, gradient=self.gradient, solver=self.solver)

    def evaluation_maps(self) -> Iterator[AffineMap]:
        assert self.running_mean is not None and self.running_whitening is not None
        return evaluation_maps(self.running_mean, self.running_whitening, self.weight, self.bias)

    def extra_repr(self) -> str:
        """As ``nn.BatchNorm2d``, with the group size; gradient and solver where they are not the default."""
        text = f"{super().extra_repr()}, group_size={self.group_size}"
        if self.gradient is not None:
            text += f", gradient={self.gradient}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        return text
