"""The whitening layer."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.conditioning import check_relative_eps, check_shrinkage
from eigengrad.gradients import GradientRule, Unrolled
from eigengrad.nn.functional.batch_statistics import (
    MOMENTUM,
    RELATIVE_EPS,
    SHRINKAGE,
    AffineMap,
    check_group_size,
)
from eigengrad.nn.functional.distributed import Processes
from eigengrad.nn.functional.whitening import check_method, evaluation_maps, whiten, whitening_matrix
from eigengrad.nn.kept import Settings, whitening_matrix_unless_kept
from eigengrad.nn.normalization import Normalization

__all__ = ["ZCAWhitening"]


class ZCAWhitening(Normalization):
    """ZCA whitening of groups of channels, with the interface and the running statistics of ``nn.BatchNorm2d``.

    In training, each group of ``group_size`` channels is centred and multiplied by the inverse square root of its
    covariance over the batch and all positions. In evaluation, the running mean and covariance take their places: one
    matrix product, and no decomposition but the first time after they have changed. See :func:`eigengrad.whiten` for
    the formulas.

    Args:
        num_features: number of channels C.
        eps: added to the diagonal of the covariance. The default is the paper's.
        momentum: weight of a batch in the running estimates; ``None`` for the average of all batches so far. The
            default is measured: covariances want a shorter window than BatchNorm's variances while weights move fast.
        affine: learn a scale and an offset for each channel.
        track_running_stats: keep running estimates for evaluation. Without them, evaluation uses the batch's moments.
        device: where parameters and buffers are made.
        dtype: that of the parameters; running estimates are float32 at least, also after ``layer.half()``.
        group_size: the paper's d. By default all channels, or 64 if there are more, since a group wants at least twice
            as many observations as channels; the last one is smaller where d does not divide C.
        relative_eps: share of the group's mean variance that is added to the diagonal as well. The default is measured
            (``benchmarks/evaluation.py``); the paper has none.
        shrinkage: of the covariance toward its diagonal, a share or ``"auto"``: for few observations.
        method: ``"zca"``, or ``"cholesky"`` for the inverse of the Cholesky factor, as in W-MSE.
        gradient: ``None`` for the exact derivative, the safe choice; or a rule, to differentiate eigenvectors by it as
            the paper does.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments in training: a group, or ``"all"``, which unlike a group can
            be copied and saved; their batches may differ in size. ``None`` for each process on its own.
        errors: ``"raise"`` or ``"skip"``, what becomes of a group whose covariance is not finite and of a batch with a
            single observation; see :func:`eigengrad.whiten`.
        bias: with ``affine``, learn the offset too.
        dim: dimension of the channels: 1, or -1 for tokens ``(N, L, C)`` and images ``(N, H, W, C)``.

    Attributes:
        weight, bias: ``(C,)``, or ``None`` without ``affine``.
        running_mean: ``(C,)``, or ``None`` without ``track_running_stats``.
        running_covariance: ``(C, d)``, channel c's row of its group's matrix, or ``None`` likewise.
        num_batches_tracked: number of batches in the estimates; skipped ones are not counted.

    Shape:
        ``(N, C)`` or ``(N, C, *)``, to the same; or with the channels in dimension ``dim``.

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

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-4,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        group_size: int | None = None,
        relative_eps: float = RELATIVE_EPS,
        shrinkage: float | str = SHRINKAGE,
        method: str = "zca",
        gradient: GradientRule | Unrolled | None = None,
        solver: solvers.Name | solvers.Solver = "auto",
        process_group: Processes = None,
        errors: str = "raise",
        bias: bool = True,
        dim: int = 1,
    ) -> None:
        d = check_group_size(group_size, max(num_features, 1))
        check_relative_eps(relative_eps)
        check_shrinkage(shrinkage)
        check_method(method)
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            group_size=d,
            gradient=gradient,
            solver=solver,
            bias=bias,
            process_group=process_group,
            errors=errors,
            dim=dim,
        )
        self.group_size = d
        self.relative_eps = relative_eps
        self.shrinkage = shrinkage
        self.method = method

    def _advice(self) -> str:
        return "take larger batches or a smaller group_size" + ("" if self.shrinkage else ", or shrinkage='auto'")

    def evaluation_maps(self, dtype: torch.dtype = torch.float32) -> Iterator[AffineMap]:
        assert self.running_mean is not None
        W = self.evaluation_matrix().to(dtype)
        return evaluation_maps(self.running_mean.to(dtype), W, self.weight, self.bias)

    def extra_repr(self) -> str:
        """As ``nn.BatchNorm2d``, with the group size; the others where they are not the default."""
        text = f"{super().extra_repr()}, group_size={self.group_size}"
        if self.relative_eps != RELATIVE_EPS:
            text += f", relative_eps={self.relative_eps}"
        if self.shrinkage != SHRINKAGE:
            text += f", shrinkage={self.shrinkage!r}"
        if self.method != "zca":
            text += f", method={self.method!r}"
        if self.gradient is not None:
            text += f", gradient={self.gradient}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        return text

    def _normalized(self, x: Tensor, **arguments: Any) -> Tensor:
        return whiten(
            x,
            **arguments,
            relative_eps=self.relative_eps,
            shrinkage=self.shrinkage,
            method=self.method,
            group_size=self.group_size,
            gradient=self.gradient,
            solver=self.solver,
        )

    def _settings(self) -> Settings:
        return self.eps, self.relative_eps, self.method

    def _derived(self, covariance: Tensor) -> Tensor:
        return whitening_matrix(covariance, *self._settings())

    def _derived_unless(self, covariance: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
        return whitening_matrix_unless_kept(covariance, *self._settings(), kept, matrix)
