"""Denoising by principal components: the function behind :class:`eigengrad.nn.PCADenoising`.

Channels are standardised, projected on the leading eigenvectors of their correlation matrix, and given a scale and an
offset. The projector onto a span of eigenvectors depends on the gap at the cut alone, so by default that is where the
gradient rule applies; the paper differentiates each eigenvector.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eigengrad import solvers
from eigengrad.conditioning import AS_OBSERVED
from eigengrad.eigh import eigh
from eigengrad.gradients import GradientRule, PowerIteration, Unrolled
from eigengrad.matrix_functions import projector
from eigengrad.nn.functional.batch_statistics import (
    AffineMap,
    RunningEstimates,
    batch_statistics,
    check_input,
    check_tensors,
    evaluate,
    learned,
    or_identity,
)
from eigengrad.nn.functional.channel_groups import Layout
from eigengrad.nn.functional.distributed import Processes
from eigengrad.nn.functional.finite_check import unchecked
from eigengrad.nn.functional.moments import affine, full_precision, working_dtype

__all__ = ["check_rank", "denoise", "evaluation_map", "projection"]


ACROSS_THE_CUT: GradientRule = PowerIteration()
"""Where no rule is given. On digits a Lorentzian trains no better (``benchmarks/evaluation.py``), and its weights are
NaN where nothing varies and the correlations are zero."""
TIED = 1e-6
"""Share of the largest eigenvalue within which, in evaluation, those at the cut count as tied: rounding of float32."""


def denoise(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_covariance: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-4,
    *,
    rank: int | None = None,
    energy: float | None = None,
    num_batches_tracked: Tensor | None = None,
    gradient: GradientRule | Unrolled | None = None,
    solver: solvers.Name | solvers.Solver = "auto",
    process_group: Processes = None,
    errors: str = "raise",
) -> Tensor:
    r"""PCA denoising of the channels, over the batch and all positions.

    .. math:: y = w \cdot P D^{-1} (x - \mu) + b, \qquad D^2 = \mathrm{diag}(C) + \epsilon, \qquad
              P = \sum_{i \text{ leading}} v_i v_i^T, \quad v_i \text{ eigenvectors of } D^{-1} C D^{-1}

    Moments and decomposition are computed in float32 for half precision input, also under autocast.

    Args:
        x: the input, ``(N, C)`` or ``(N, C, *)``.
        running_mean: running estimate of the mean, ``(C,)``. Updated in place when training.
        running_covariance: running estimate of C, ``(C, C)``. Updated in place when training. In evaluation, P is
            computed from it, by a decomposition in each call (a layer keeps P), and keeps all that is tied at the cut.
        weight: scale of each channel, ``(C,)``.
        bias: offset of each channel, ``(C,)``.
        training: use the moments of ``x`` (and update the running estimates, where given), or the running estimates.
        momentum: weight of the new moments, ``running += momentum * (new - running)``; ``None`` for the average of all
            batches that ``num_batches_tracked`` counts.
        eps: added to the variances.
        rank: how many eigenvectors to keep, from 1 to C. Give this or ``energy``.
        energy: share of the spectrum to keep, in (0, 1]: as many eigenvectors as are needed for their eigenvalues to
            make up this share of the sum. The paper's preserved information.
        num_batches_tracked: number of batches in the running estimates, ``()``. Updated in place when training.
        gradient: ``None`` for the derivative of the projector with :class:`eigengrad.PowerIteration` across the cut
            (:func:`eigengrad.projector`). With a rule, eigenvectors are differentiated by it, as in the paper.
        solver: as for :func:`eigengrad.eigh`.
        process_group: processes that share their moments: a group, or ``"all"``. ``None`` for the moments of this
            process alone.
        errors: as for :func:`eigengrad.whiten`; what is skipped is the whole batch.

    Returns:
        The denoised data, of the shape, dtype and memory format of ``x``.

    Raises:
        ValueError: for an input of fewer than two dimensions, a single observation per channel in training, tensors of
            another size, evaluation without running estimates; unless one of ``rank`` and ``energy`` is given, within
            its bounds.
        torch.linalg.LinAlgError: if the covariance is not finite, with ``errors="raise"``.

    Source: Wang et al., NeurIPS 2019, section 4.2.

    Example:
        >>> import torch, eigengrad as eg
        >>> signal = torch.randn(1000, 1) * torch.tensor([1.0, -1.0, 1.0, 1.0])
        >>> y = eg.denoise(signal + 0.1 * torch.randn(1000, 4), rank=1)
        >>> int(torch.linalg.matrix_rank(y, rtol=1e-3))
        1
    """
    check_input(x, training, eps, process_group, errors)
    channels = x.shape[1]
    check_rank(rank, energy, channels)
    check_tensors(
        training,
        running_mean=(running_mean, (channels,)),
        running_covariance=(running_covariance, (channels, channels)),
        weight=(weight, (channels,)),
        bias=(bias, (channels,)),
    )
    if not training:
        assert running_mean is not None and running_covariance is not None
        P = projection(running_covariance, eps, rank, energy)
        mean, covariance, P = (e.to(working_dtype(x)) for e in (running_mean, running_covariance, P))
        return evaluate(x, [evaluation_map(mean, covariance, P, weight, bias, eps)], channels)

    everything = slice(0, channels)
    with full_precision(x.device):
        layout = Layout.of(x, channels)
        data = layout.arrange(x)
        found = batch_statistics(data, everything, AS_OBSERVED, process_group, errors)
        P = _projection(found.A, eps, rank, energy, gradient, unchecked(solver, found.A))
        found.check.settle(1)
        matrix = P * _reciprocal_deviations(found.A, eps).mT
        if errors == "skip":
            matrix = or_identity(matrix, found.valid)
        running = RunningEstimates(momentum, num_batches_tracked, errors)
        running.record(everything, found, running_mean, running_covariance)
        running.commit()
        return affine(data, matrix, found.mean, *learned(matrix, everything, weight, bias), layout, route=found.route)


def projection(running_covariance: Tensor, eps: float, rank: int | None, energy: float | None) -> Tensor:
    """P of a running covariance, both ``(C, C)``: computed once for many batches, in double precision."""
    with full_precision(running_covariance.device):
        wide = running_covariance.to(torch.float32 if running_covariance.device.type == "mps" else torch.float64)
        scale = _reciprocal_deviations(wide, eps)
        choose = _leading(rank, energy, ties=TIED)
        return projector(scale * wide * scale.mT, choose, gradient=ACROSS_THE_CUT).to(running_covariance.dtype)


def evaluation_map(
    running_mean: Tensor, running_covariance: Tensor, P: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> AffineMap:
    """What evaluation by P ``(C, C)`` does to all channels, in the dtype of P and the running estimates."""
    everything = slice(0, len(running_mean))
    matrix = P * _reciprocal_deviations(running_covariance, eps).transpose(-2, -1)  # legacy ONNX has no mT
    T = matrix.unsqueeze(0)
    return AffineMap(everything, running_mean.view(1, -1, 1), T, *learned(T, everything, weight, bias))


def check_rank(rank: int | None, energy: float | None, channels: int) -> None:
    """Exactly one of the two, within its bounds."""
    if (rank is None) == (energy is None):
        raise ValueError(f"give either rank or energy, got rank={rank} and energy={energy}")
    if rank is not None and not 1 <= rank <= channels:
        raise ValueError(f"rank must lie between 1 and the number of channels, {channels}, got {rank}")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"energy must lie in (0, 1], got {energy}: it is a share of the spectrum")


def _reciprocal_deviations(covariance: Tensor, eps: float) -> Tensor:
    """``(diag(C) + eps)^(-1/2)``, ``(*, d, 1)``."""
    variances = covariance.diagonal(dim1=-2, dim2=-1) + eps
    # Not rsqrt(): its derivative takes the third power, which leaves the range of single precision.
    return variances.clamp_min(torch.finfo(variances.dtype).tiny).sqrt().reciprocal().unsqueeze(-1)


def _projection(
    covariance: Tensor,
    eps: float,
    rank: int | None,
    energy: float | None,
    gradient: GradientRule | Unrolled | None,
    solver: solvers.Name | solvers.Solver,
) -> Tensor:
    """P, ``(*, d, d)``, by the correlation matrix."""
    scale = _reciprocal_deviations(covariance, eps)
    correlation = scale * covariance * scale.mT
    choose = _leading(rank, energy)
    if gradient is None:
        return projector(correlation, choose, gradient=ACROSS_THE_CUT, solver=solver)
    L, V = eigh(correlation, gradient=gradient, solver=solver)
    return (V * choose(L.detach()).unsqueeze(-2)) @ V.mH


def _leading(rank: int | None, energy: float | None, *, ties: float | None = None) -> Callable[[Tensor], Tensor]:
    """Which of ascending eigenvalues ``(*, d)`` to keep. A mask, so that the host need not know how many they are.

    With ``ties``, a share of the largest eigenvalue, also those that are so close to the last one: no basis of what is
    tied is better than another. Uncorrelated channels, as before the first batch, are all kept.
    """

    def choose(L: Tensor) -> Tensor:
        kept = leading(L)
        if ties is None:
            return kept
        last = torch.where(kept, L, torch.inf).amin(dim=-1, keepdim=True)
        return kept | (last - ties * L.abs().amax(dim=-1, keepdim=True) <= L)

    def leading(L: Tensor) -> Tensor:
        below = torch.arange(L.shape[-1] - 1, -1, -1, device=L.device)  # how many eigenvalues are larger
        if rank is not None:
            return (below < rank).expand(L.shape)
        assert energy is not None
        wide = L.clamp_min(0.0).double()  # rounding leaves small negative ones
        up_to_here = wide.cumsum(dim=-1)
        return (up_to_here > (1.0 - energy) * up_to_here[..., -1:]) | (below == 0)

    return choose
