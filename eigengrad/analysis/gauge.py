"""Does a loss depend on what eigenvectors leave open?

An eigenvector is defined up to a sign (a phase, for complex matrices), and several of one eigenvalue up to a unitary
matrix: their gauge. A loss that depends on it has no gradient, only numbers, whatever the rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eigengrad.analysis.inspection import inspect
from eigengrad.arguments import check_square

__all__ = ["GaugeDependence", "gauge_dependence"]


@dataclass(frozen=True)
class GaugeDependence:
    """How much the gradient of a loss changes with the gauge, relative to its own size; 0 for a well defined loss."""

    phase: float
    """Under changes of sign or phase of single eigenvectors."""
    basis: float
    """Under changes of basis among the eigenvectors of a cluster of eigenvalues; 0 where there is none."""

    def __str__(self) -> str:
        """The finding as a sentence."""
        return (
            f"The gradient changes by {self.phase:.1e} of its size with the phases of eigenvectors, "
            f"and by {self.basis:.1e} with the basis in clusters of eigenvalues."
        )


def gauge_dependence(
    loss: Callable[[Tensor, Tensor], Tensor],
    A: Tensor,
    *,
    rtol: float | None = None,
    trials: int = 4,
    generator: torch.Generator | None = None,
) -> GaugeDependence:
    """Whether ``loss(L, V)`` depends on the arbitrary sign, phase or basis of eigenvectors.

    Compares the cotangent of V with those at other eigenvectors ``V Z`` of the same matrices, for random Z: that of a
    well defined loss turns along, ``g(V Z) = g(V) Z``. The difference is relative to the cotangent's own size, so that
    the scale of the loss does not matter; rounding alone gives about ``1e-6`` in float32. A diagnosis for the desk: it
    waits for the device.

    Args:
        loss: real scalar function of eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)``.
        A: Hermitian matrices ``(*, n, n)`` to try it on. The lower triangle is read.
        rtol: what counts as a cluster, as for :func:`inspect`.
        trials: number of random Z of each kind, at least 1.
        generator: source of randomness; torch's global one by default.

    Raises:
        TypeError: if ``A`` is no tensor, or of another dtype than LAPACK has; if ``loss`` returns no tensor.
        ValueError: if ``A`` is no batch of square matrices; if ``trials`` is not positive, or the loss is no real
            scalar, or its cotangent not finite.
        torch.linalg.LinAlgError: if the eigendecomposition does not converge, for example on NaN.

    Example:
        >>> import torch, eigengrad as eg
        >>> A = torch.tensor([1.0, 2.0, 2.0]).diag()
        >>> eg.analysis.gauge_dependence(lambda L, V: V[0].sum(), A).phase > 0.1
        True
        >>> eg.analysis.gauge_dependence(lambda L, V: (V @ V.mT).sum(), A).phase < 1e-5
        True
    """
    check_square(A)
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    same = inspect(A, rtol=rtol, rules=()).clusters
    L, V = torch.linalg.eigh(A.detach())
    same_cluster = same.unsqueeze(-1) == same.unsqueeze(-2)
    reference = _cotangent(loss, L, V)
    largest = float(reference.abs().max()) if reference.numel() else 0.0
    if not largest < math.inf:
        raise ValueError("the cotangent of the eigenvectors, which loss sends back, is not finite")
    scale = largest or 1.0  # squares of very small and large ones are no numbers
    size = float(torch.linalg.vector_norm(reference / scale))

    def change(Z: Tensor) -> float:
        difference = float(torch.linalg.vector_norm((_cotangent(loss, L, V @ Z) - reference @ Z) / scale))
        return difference / size if size else difference

    phase = basis = 0.0
    for _ in range(trials):
        random = torch.randn(V.shape, dtype=V.dtype, device=V.device, generator=generator)
        phase = max(phase, change(torch.diag_embed(random.diagonal(dim1=-2, dim2=-1).sgn())))
        skew = torch.where(same_cluster, random - random.mH, 0.0)
        if bool((same_cluster.sum(-1) > 1).any()):
            basis = max(basis, change(torch.linalg.matrix_exp(skew)))
    return GaugeDependence(phase, basis)


def _cotangent(loss: Callable[[Tensor, Tensor], Tensor], L: Tensor, V: Tensor) -> Tensor:
    with torch.enable_grad():
        V = V.detach().requires_grad_()
        value = loss(L, V)
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a tensor, got {type(value).__name__}")
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"loss must return a real scalar, got {value.dtype} of shape {tuple(value.shape)}")
        if not value.requires_grad:  # a function of eigenvalues alone
            return torch.zeros_like(V)
        cotangent = torch.autograd.grad(value, V, allow_unused=True)[0]
    return torch.zeros_like(V) if cotangent is None else cotangent
