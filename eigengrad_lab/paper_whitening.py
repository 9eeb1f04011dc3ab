"""The paper's whitening layer, to the letter: an absolute eps, and a running average of the whitening matrix itself.

For rows that are compared with the paper's. ``eg.nn.ZCAWhitening`` averages the covariance and derives the matrix from
it: ``C^(-1/2)`` is convex, so that in an average of matrices rare batches of small variance dominate.

Source: Wang et al., NeurIPS 2019, section 4.1; Huang et al., *Decorrelated Batch Normalization*, CVPR 2018.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

import eigengrad as eg
from eigengrad.conditioning import Conditioning
from eigengrad.nn.functional.batch_statistics import AffineMap, RunningEstimates, batch_statistics, evaluate, learned
from eigengrad.nn.functional.channel_groups import Layout, parts, together
from eigengrad.nn.functional.moments import affine, full_precision
from eigengrad.nn.functional.whitening import evaluation_maps, inverse_root

__all__ = ["PaperWhitening"]


class PaperWhitening(nn.Module):
    """ZCA whitening of groups of ``group_size`` channels, d dividing them or not, by eigenvectors of ``C + eps I``.

    Args:
        num_features, eps, momentum: as for ``nn.BatchNorm2d``.
        group_size, gradient, solver, process_group: as for ``eg.nn.ZCAWhitening``.
    """

    running_mean: Tensor
    running_whitening: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-4,
        momentum: float = 0.1,
        *,
        group_size: int | None,
        gradient: eg.gradients.GradientRule | eg.Unrolled | None,
        solver: eg.solvers.Name | eg.solvers.Solver,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        d = num_features if group_size is None else group_size
        self.eps, self.momentum, self.group_size = eps, momentum, d
        self.gradient, self.solver, self.process_group = gradient, solver, process_group
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        identity = torch.arange(num_features).unsqueeze(-1) % d == torch.arange(d)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_whitening", identity.float())
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Whiten ``x (N, C, *)``."""
        if not self.training:
            return evaluate(x, self.evaluation_maps(), self.group_size)
        outputs, estimates = [], RunningEstimates(self.momentum, self.num_batches_tracked, "raise")
        by = Conditioning(eps=self.eps)
        with full_precision(x.device):
            for part, block, size in parts(x, self.group_size):
                layout = Layout.of(part, size)
                data = layout.arrange(part)
                found = batch_statistics(data, block, by, self.process_group, "raise")
                W = inverse_root(found.A, self.eps, self.gradient, self.solver)
                found.check.settle(len(W))
                averaged = found._replace(covariance=W.detach())
                estimates.record(block, averaged, self.running_mean, self.running_whitening)
                own = learned(W, block, self.weight, self.bias)
                outputs.append(affine(data, W, found.mean, *own, layout, route=found.route))
        estimates.commit()
        return together(outputs, x)

    def evaluation_maps(self) -> Iterator[AffineMap]:
        """What evaluation does to each block of channels."""
        return evaluation_maps(self.running_mean, self.running_whitening, self.weight, self.bias)
