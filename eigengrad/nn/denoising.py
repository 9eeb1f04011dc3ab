"""The denoising layer."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from eigengrad import solvers
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.nn.functional.batch_statistics import AffineMap
from eigengrad.nn.functional.denoising import check_rank, denoise, evaluation_map
from eigengrad.nn.normalization import Normalization

__all__ = ["PCADenoising"]


class PCADenoising(Normalization):
    """Denoising by principal components, with the interface and the running statistics of ``nn.BatchNorm2d``.

    In training, channels are standardised over the batch and all positions and projected on the leading eigenvectors of
    their correlation matrix. In evaluation, the running mean and variances take their places, and the projector of the
    running correlations: one matrix product, no decomposition. See :func:`eigengrad.denoise` for the formulas.

    Args:
        num_features: number of channels C.
        eps: added to the variances.
        momentum: weight of a batch in the running estimates; ``None`` for the average of all batches so far.
        affine: learn a scale and an offset for each channel.
        track_running_stats: keep running estimates for evaluation. Without them, evaluation uses the batch's moments.
        device: where parameters and buffers are made.
        dtype: their dtype.
        rank: how many eigenvectors to keep. Give this or ``energy``.
        energy: share of the spectrum to keep, the paper's preserved information.
        gradient: ``None`` for the derivative of the projector, bounded at the cut; or a rule, to differentiate
            eigenvectors by it as the paper does.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments in training, such as ``torch.distributed.group.WORLD``;
            their batches may differ in size. ``None`` for each process on its own, as in ``nn.BatchNorm2d``.
        errors: ``"raise"`` or ``"skip"``, what becomes of a batch whose covariance is not finite or that has a single
            observation; see :func:`eigengrad.whiten`.
        bias: with ``affine``, learn the offset too.

    Attributes:
        weight, bias: ``(C,)``, or ``None`` without ``affine``.
        running_mean: ``(C,)``, or ``None`` without ``track_running_stats``.
        running_covariance: ``(C, C)``, the variances on its diagonal, or ``None`` likewise.
        running_projection: ``(C, C)``, the projector that belongs to it, or ``None`` likewise.
        num_batches_tracked: number of batches in the estimates; skipped ones are not counted.

    Shape:
        ``(N, C)`` or ``(N, C, *)``, to the same.

    Raises:
        ValueError: for sizes that do not fit, naming the argument.
        torch.linalg.LinAlgError: in training, if the covariance is not finite, with ``errors="raise"``.

    Source: Wang et al., NeurIPS 2019, section 4.2.

    Example:
        >>> import torch, eigengrad as eg
        >>> layer = eg.nn.PCADenoising(64, energy=0.95)
        >>> layer(torch.randn(8, 64, 14, 14)).shape
        torch.Size([8, 64, 14, 14])
    """

    running_mean: Tensor | None
    running_covariance: Tensor | None
    running_projection: Tensor | None

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
        rank: int | None = None,
        energy: float | None = None,
        gradient: GradientRule | Unrolled | None = None,
        solver: solvers.Name | solvers.Solver = "auto",
        process_group: ProcessGroup | None = None,
        errors: str = "raise",
        bias: bool = True,
    ) -> None:
        check_rank(rank, energy, num_features)
        solvers.resolve(solver)
        square = (num_features, num_features)
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
            estimates={"running_mean": (num_features,), "running_covariance": square, "running_projection": square},
        )
        self.rank = rank
        self.energy = energy
        self.gradient = gradient
        self.solver = solver

    def reset_running_stats(self) -> None:
        """Forget what was seen, as before the first batch: mean 0, covariance and projector the identity."""
        super().reset_running_stats()
        for matrix in (self.running_covariance, self.running_projection):
            if matrix is not None:
                matrix.fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise ``x (N, C)`` or ``(N, C, *)``."""
        return denoise(
            x,
            **self._arguments(x),
            rank=self.rank,
            energy=self.energy,
            gradient=self.gradient,
            solver=self.solver,
        )

    def evaluation_maps(self) -> Iterator[AffineMap]:
        """What evaluation does to all channels."""
        assert self.running_mean is not None and self.running_covariance is not None
        assert self.running_projection is not None
        estimates = (self.running_mean, self.running_covariance, self.running_projection)
        yield evaluation_map(*estimates, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """As ``nn.BatchNorm2d``, with rank or energy; gradient and solver where they are not the default."""
        text = f"{super().extra_repr()}, " + (f"energy={self.energy}" if self.rank is None else f"rank={self.rank}")
        if self.gradient is not None:
            text += f", gradient={self.gradient}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        return text
