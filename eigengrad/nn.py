"""Layers: a module holds the parameters and running estimates, the function of the same name does the work."""

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from eigengrad import solvers
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.whitening import whiten

__all__ = ["ZCAWhitening"]


class ZCAWhitening(nn.Module):
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

    Attributes:
        weight, bias: ``(C,)``, or ``None`` without ``affine``.
        running_mean: ``(C,)``, or ``None`` without ``track_running_stats``.
        running_whitening: ``(C, d)``, channel c's row of its group's matrix, or ``None`` likewise.
        num_batches_tracked: number of batches in the estimates.

    Shape:
        ``(N, C)`` or ``(N, C, *)``, to the same.

    Raises:
        ValueError: for sizes that do not fit, naming the argument.

    Source: Wang et al., NeurIPS 2019, section 4.1.

    Example:
        >>> import torch, eigengrad as eg
        >>> layer = eg.nn.ZCAWhitening(64, group_size=16)
        >>> layer(torch.randn(8, 64, 14, 14)).shape
        torch.Size([8, 64, 14, 14])
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_whitening: Tensor | None
    num_batches_tracked: Tensor | None

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
        solver: str | solvers.Solver = "auto",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        if group_size is not None and not 1 <= group_size <= num_features:
            raise ValueError(f"group_size must lie between 1 and num_features, {num_features}, got {group_size}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        solvers.resolve(solver)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.group_size = num_features if group_size is None else group_size
        self.gradient = gradient
        self.solver = solver
        self.process_group = process_group

        def empty(*shape: int, dtype: torch.dtype | None = dtype) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(empty(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(empty(num_features)) if affine else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", empty(num_features) if tracked else None)
        self.register_buffer("running_whitening", empty(num_features, self.group_size) if tracked else None)
        self.register_buffer("num_batches_tracked", empty(dtype=torch.long) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was seen: mean 0 and the identity as whitening matrix, as before the first batch."""
        if self.running_mean is not None and self.running_whitening is not None:
            assert self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_whitening.zero_()
            channel = torch.arange(self.num_features, device=self.running_whitening.device)
            self.running_whitening[channel, channel % self.group_size] = 1.0
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Scale 1, offset 0, and :meth:`reset_running_stats`."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Whiten ``x (N, C)`` or ``(N, C, *)``."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}) or (N, {self.num_features}, *), got {tuple(x.shape)}")
        tracking = self.training and self.num_batches_tracked is not None
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if tracking and x.numel():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = self.num_batches_tracked.float().reciprocal()  # a tensor: the host need not wait for it
        return whiten(
            x,
            self.running_mean if tracking or not self.training else None,
            self.running_whitening if tracking or not self.training else None,
            self.weight,
            self.bias,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
            group_size=self.group_size,
            gradient=self.gradient,
            solver=self.solver,
            process_group=self.process_group if self.training else None,
        )

    def extra_repr(self) -> str:
        """The arguments, defaults of the last three left out."""
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, group_size={self.group_size}"
        )
        if self.gradient is not None:
            text += f", gradient={self.gradient}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        return text
