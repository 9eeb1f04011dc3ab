"""
Rigid fit with learned correspondences
======================================

Which point of one cloud belongs to which of another? A network describes each point by its surroundings;
descriptions are matched softly; ``eg.procrustes`` fits a rotation to the matches; the rotation's error is the loss.
The gradient passes through the fit, and divides by sums of singular values, never by differences.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

POINTS, BATCH = 32, 16
generator = torch.Generator().manual_seed(0)


def clouds() -> tuple[Tensor, Tensor, Tensor]:
    """Points X and, shuffled, turned and with noise, Y ``(BATCH, POINTS, 3)``; and the rotation."""
    X = torch.randn(BATCH, POINTS, 3, generator=generator) * torch.tensor([1.5, 1.0, 0.5])
    R = eg.procrustes(*torch.randn(2, BATCH, 4, 3, generator=generator)).rotation
    Y = X @ R.mT + 0.01 * torch.randn(X.shape, generator=generator)
    return X, Y[:, torch.randperm(POINTS, generator=generator)], R


class Description(nn.Module):
    """Of a point, from its sorted distances to the others: no rotation changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(POINTS, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, X: Tensor) -> Tensor:
        """``(BATCH, POINTS, 3)`` to ``(BATCH, POINTS, 32)``."""
        return self.network(torch.cdist(X, X).sort(2).values)


def match(describe: nn.Module, X: Tensor, Y: Tensor) -> Tensor:
    """Probabilities ``(BATCH, POINTS, POINTS)`` that a point of X is one of Y."""
    return (-torch.cdist(describe(X), describe(Y)).square()).softmax(2)


def angle(found: Tensor, true: Tensor) -> Tensor:
    """Between rotations, in degrees."""
    cosine = ((found * true).sum((1, 2)) - 1) / 2
    return cosine.clamp(-1, 1).acos().rad2deg()


# %%

torch.manual_seed(0)
describe = Description()
optimizer = torch.optim.Adam(describe.parameters(), lr=3e-3)
curve = []
for _ in range(150):
    X, Y, R = clouds()
    fit = eg.procrustes(X, match(describe, X, Y) @ Y)
    loss = (fit.rotation - R).square().sum((1, 2)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(angle(fit.rotation.detach(), R).median().item())

with torch.no_grad():
    X, Y, R = clouds()
    P = match(describe, X, Y)
    fit = eg.procrustes(X, P @ Y)
print(
    f"median error of the rotation: {curve[0]:.0f} degrees at first, {angle(fit.rotation, R).median():.1f} at the end"
)

figure = plt.figure(figsize=(8, 7), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
axis = bottom.subplots()
axis.semilogy(curve)
axis.set(title="median error of the rotation, degrees", xlabel="step", yticks=(1, 10, 100), yticklabels=(1, 10, 100))
shown = {"before": X[0], "after the fit": X[0] @ fit.rotation[0].T}
for axis, (title, moved) in zip(top.subplots(1, 2, subplot_kw={"projection": "3d"}), shown.items(), strict=True):
    axis.scatter(*Y[0].T, s=90, facecolors="none", edgecolors="tab:blue", label="Y")
    axis.scatter(*moved.T, s=20, color="tab:orange", label="X, and its matches")
    for i, j in enumerate(P[0].argmax(1)):
        axis.plot(*torch.stack([moved[i], Y[0, j]]).T, color="tab:orange", linewidth=0.8)
    axis.set(title=title)
    axis.set_axis_off()
    axis.set_box_aspect(None, zoom=1.4)
top.axes[0].legend(loc="lower left")
plt.show()
