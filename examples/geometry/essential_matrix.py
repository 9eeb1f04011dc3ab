"""
The essential matrix, with outliers
===================================

Two calibrated views of the same points fulfil ``y^T E x = 0``. The eight-point algorithm stacks the equations, and
takes the eigenvector of the smallest eigenvalue of ``A^T W A``, 9 x 9. A network that weights the correspondences
is trained through it. With few good matches the two smallest eigenvalues come close, which is where the gradient of
other decompositions bursts.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from torch import Tensor, nn

import eigengrad as eg

BATCH, MATCHES, OUTLIERS = 32, 80, 0.4
generator = torch.Generator().manual_seed(0)


def views() -> tuple[Tensor, Tensor, Tensor]:
    """Matches x, y ``(BATCH, MATCHES, 3)`` and essential matrices ``(BATCH, 9)`` of length one."""
    X = torch.rand(BATCH, MATCHES, 3, generator=generator) * 4 - 2 + torch.tensor([0.0, 0.0, 4.0])
    R = torch.matrix_exp(0.1 * skew(torch.randn(BATCH, 3, generator=generator)))
    t = nn.functional.normalize(torch.randn(BATCH, 3, generator=generator), dim=1)
    Y = X @ R.mT + t.unsqueeze(1)
    x, y = X / X[..., 2:], Y / Y[..., 2:]
    y = y + 0.001 * torch.randn(y.shape, generator=generator) * torch.tensor([1.0, 1.0, 0.0])
    wrong = torch.rand(BATCH, MATCHES, 1, generator=generator) < OUTLIERS
    y = torch.where(wrong, y[:, torch.randperm(MATCHES, generator=generator)], y)
    return x, y, nn.functional.normalize((skew(t) @ R).flatten(1), dim=1)


def skew(t: Tensor) -> Tensor:
    """The matrix of the cross product with t."""
    zero = torch.zeros_like(t[:, 0])
    return torch.stack([zero, -t[:, 2], t[:, 1], t[:, 2], zero, -t[:, 0], -t[:, 1], t[:, 0], zero], 1).view(-1, 3, 3)


def smallest(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The eight-point algorithm: ``(BATCH, 9)``."""
    A = (y.unsqueeze(3) * x.unsqueeze(2)).flatten(2)
    return eg.eigh(A.mT @ (weights.unsqueeze(2) * A), gradient=eg.Lorentzian(width=1e-4)).eigenvectors[..., 0]


class Weights(nn.Module):
    """A weight for each match, from the match and from what all matches have in common (context normalisation)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.last = nn.Linear(64, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Weights ``(BATCH, MATCHES)`` that sum to one."""
        h = torch.cat([x[..., :2], 4 * (y - x)[..., :2]], 2)
        for layer in self.layers:
            h = layer(h)
            h = ((h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1e-5)).relu()
        return (6 * self.last(h).squeeze(2).tanh()).softmax(1)


def error(E: Tensor, true: Tensor) -> Tensor:
    """Squared sine of the angle between E and the true one, whose sign is arbitrary."""
    return 1 - (E * true).sum(1).square()


# %%

torch.manual_seed(0)
model = Weights()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(350):
    x, y, true = views()
    loss = error(smallest(x, y, model(x, y)), true).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

angles: dict[str, list[Tensor]] = {"equal weights": [], "learned weights": []}
with torch.no_grad():
    for _ in range(20):
        x, y, true = views()
        for name, weights in (("equal weights", torch.ones(x.shape[:2])), ("learned weights", model(x, y))):
            angles[name].append(error(smallest(x, y, weights), true).clamp(0, 1).sqrt().asin().rad2deg())

# %%
# One view upon the other: a match is a line from where a point is seen in one to where it is seen in the other. Of
# 80 matches the network believes those that one motion explains.

shown = {"equal weights": torch.ones(MATCHES), "learned weights": model(x, y)[0].detach()}
figure, axes = plt.subplot_mosaic("AB;CC", figsize=(8, 7.4), layout="constrained", height_ratios=(1.2, 1))
for axis, (name, weights) in zip((axes["A"], axes["B"]), shown.items(), strict=True):
    share = (weights / weights.max()).sqrt()
    lines = LineCollection(torch.stack([x[0, :, :2], y[0, :, :2]], 1), array=share, cmap="viridis_r", alpha=share)
    lines.set(clim=(0, 1.2), linewidth=1.5)
    axis.add_collection(lines)
    axis.scatter(*y[0, :, :2].T, c=share, cmap="viridis_r", vmin=0, vmax=1.2, alpha=share, s=14)
    axis.set(title=f"{MATCHES} matches, {name}", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
for name, values in angles.items():
    ordered = torch.cat(values).sort().values
    label = f"{name}: median {ordered.median():.1f}"
    axes["C"].plot(ordered, torch.linspace(0, 100, len(ordered)), linewidth=2, label=label)
axes["C"].set(xlabel="angle to the true essential matrix, degrees", ylabel="pairs of views below it, %")
axes["C"].set_title(f"{OUTLIERS:.0%} of the matches are wrong")
axes["C"].grid(alpha=0.3)
axes["C"].legend()
plt.show()
