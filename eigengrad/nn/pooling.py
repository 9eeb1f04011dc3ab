"""The second-order pooling layer."""

from typing import Any

from torch import Tensor, nn

from eigengrad.nn.functional.batch_statistics import check_settings
from eigengrad.nn.functional.pooling import Solver, check_function, check_solver, pool_covariance
from eigengrad.nn.leaf import as_leaf, is_proxy

__all__ = ["CovariancePooling"]


class CovariancePooling(nn.Module):
    """Global second-order pooling: a function of each sample's covariance over its positions, as a vector.

    Takes the place of ``nn.AdaptiveAvgPool2d(1)`` and ``nn.Flatten``. See :func:`eigengrad.pool_covariance`.

    Args:
        function: ``"sqrtm"``, ``"logm"``, or the exponent of a power.
        eps: added to the diagonal of the covariance.
        solver: as for :func:`eigengrad.eigh`; or ``"newton_schulz"``, which exports.
        errors: what becomes of a sample whose covariance is not finite: ``"raise"``, or ``"skip"``, which makes its
            vector and its gradient zero.
        dim: dimension of the channels: 1, or -1 for tokens ``(N, L, C)``.

    Shape:
        ``(N, C, *)`` to ``(N, C (C + 1) / 2)``: the upper triangle, scaled so that inner products are kept.

    Raises:
        ValueError: for an unknown function, or if ``eps`` is not positive.

    Example:
        >>> import torch, eigengrad as eg
        >>> head = torch.nn.Sequential(eg.nn.CovariancePooling(), torch.nn.Linear(16 * 17 // 2, 10))
        >>> head(torch.randn(8, 16, 7, 7)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        function: str | float = "sqrtm",
        eps: float = 1e-4,
        *,
        solver: Solver = "auto",
        errors: str = "raise",
        dim: int = 1,
    ) -> None:
        super().__init__()
        check_function(function)
        check_settings(eps, errors, positive=True)
        check_solver(function, solver)
        self.function = function
        self.eps = eps
        self.solver = solver
        self.errors = errors
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors ``(N, C (C + 1) / 2)`` of ``x (N, C, *)``, over the positions that ``mask (N, *)`` leaves."""
        if is_proxy(x):
            return as_leaf(self, x) if mask is None else as_leaf(self, x, mask)
        where: dict[str, Any] = {"dim": self.dim, "mask": mask}
        return pool_covariance(x, self.function, self.eps, solver=self.solver, errors=self.errors, **where)

    def extra_repr(self) -> str:
        """The arguments; solver and errors where they are not the default."""
        text = f"{self.function!r}, eps={self.eps}"
        if self.solver != "auto":
            text += f", solver={self.solver!r}"
        if self.dim != 1:
            text += f", dim={self.dim}"
        return text if self.errors == "raise" else f"{text}, errors={self.errors!r}"
