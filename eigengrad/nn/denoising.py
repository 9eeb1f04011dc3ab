"""The denoising layer."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.nn.functional.batch_statistics import AffineMap
from eigengrad.nn.functional.denoising import check_rank, denoise, evaluation_map, projection
from eigengrad.nn.functional.distributed import Processes
from eigengrad.nn.kept import Settings, projection_unless_kept
from eigengrad.nn.normalization import Normalization

__all__ = ["PCADenoising"]


class PCADenoising(Normalization):
    """Denoising by principal components, with the interface and the running statistics of ``nn.BatchNorm2d``.

    In training, channels are standardised over the batch and all positions and projected on the leading eigenvectors of
    their correlation matrix. In evaluation, the running mean and covariance take their places: one matrix product, and
    no decomposition but the first time after they have changed. See :func:`eigengrad.denoise` for the formulas.

    Args:
        num_features: number of channels C.
        eps: added to the variances.
        momentum: weight of a batch in the running estimates; ``None`` for the average of all batches so far.
        affine: learn a scale and an offset for each channel.
        track_running_stats: keep running estimates for evaluation. Without them, evaluation uses the batch's moments.
        device: where parameters and buffers are made.
        dtype: that of the parameters; running estimates are float32 at least, also after ``layer.half()``.
        rank: how many eigenvectors to keep. Give this or ``energy``.
        energy: share of the spectrum to keep, the paper's preserved information.
        gradient: ``None`` for the derivative of the projector, bounded at the cut; or a rule, to differentiate
            eigenvectors by it as the paper does.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments in training: a group, or ``"all"``, which unlike a group can
            be copied and saved; their batches may differ in size. ``None`` for each process on its own.
        errors: ``"raise"`` or ``"skip"``, what becomes of a batch whose covariance is not finite or that has a single
            observation; see :func:`eigengrad.whiten`.
        bias: with ``affine``, learn the offset too.
        dim: dimension of the channels: 1, or -1 for tokens ``(N, L, C)`` and images ``(N, H, W, C)``.

    Attributes:
        weight, bias: ``(C,)``, or ``None`` without ``affine``.
        running_mean: ``(C,)``, or ``None`` without ``track_running_stats``.
        running_covariance: ``(C, C)``, the variances on its diagonal, or ``None`` likewise.
        num_batches_tracked: number of batches in the estimates; skipped ones are not counted.

    Shape:
        ``(N, C)`` or ``(N, C, *)``, to the same; or with the channels in dimension ``dim``.

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
        process_group: Processes = None,
        errors: str = "raise",
        bias: bool = True,
        dim: int = 1,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            group_size=num_features,
            gradient=gradient,
            solver=solver,
            bias=bias,
            process_group=process_group,
            errors=errors,
            dim=dim,
        )
        check_rank(rank, energy, num_features)
        self.rank = rank
        self.energy = energy

    def evaluation_maps(self, dtype: torch.dtype = torch.float32) -> Iterator[AffineMap]:
        """What evaluation does to all channels."""
        assert self.running_mean is not None and self.running_covariance is not None
        mean, covariance, P = self.running_mean, self.running_covariance, self.evaluation_matrix()
        wide = mean.to(dtype), covariance.to(dtype), P.to(dtype)
        yield evaluation_map(*wide, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """As ``nn.BatchNorm2d``, with rank or energy; gradient and solver where they are not the default."""
        text = f"{super().extra_repr()}, " + (f"energy={self.energy}" if self.rank is None else f"rank={self.rank}")
        if self.gradient is not None:
            text += f", gradient={self.gradient}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        return text

    def _normalized(self, x: Tensor, **arguments: Any) -> Tensor:
        return denoise(x, **arguments, rank=self.rank, energy=self.energy, gradient=self.gradient, solver=self.solver)

    def _settings(self) -> Settings:
        return self.eps, self.rank, self.energy

    def _derived(self, covariance: Tensor) -> Tensor:
        return projection(covariance, *self._settings())

    def _derived_unless(self, covariance: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
        return projection_unless_kept(covariance, *self._settings(), kept, matrix)
