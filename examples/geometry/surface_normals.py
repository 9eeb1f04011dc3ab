"""
Surface normals of a noisy cloud
================================

The normal at a point is the eigenvector of the smallest eigenvalue of its neighbours' covariance: thousands of 3 x
3 matrices, one call. At an edge, neighbours from the other face spoil it. A small network learns which neighbours
to trust, through the eigenvector: its sign is arbitrary, so the loss is the sine of the angle, squared. Clouds are
boxes, with noise.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

POINTS, NEIGHBOURS, NOISE = 900, 24, 0.01
generator = torch.Generator().manual_seed(0)


def box() -> tuple[Tensor, Tensor]:
    """Points ``(POINTS, 3)`` on a cube and their normals, turned at random."""
    face = torch.randint(6, (POINTS,), generator=generator)
    points = torch.rand(POINTS, 3, generator=generator) - 0.5
    normals = nn.functional.one_hot(face % 3, 3).float()
    points = torch.where(normals > 0, (face // 3).float().unsqueeze(1) - 0.5, points)
    rotation = eg.procrustes(*torch.randn(2, 4, 3, generator=generator)).rotation
    noise = NOISE * torch.randn(POINTS, 3, generator=generator)
    return (points + noise) @ rotation.T, normals @ rotation.T


def neighbourhoods(points: Tensor) -> Tensor:
    """Offsets ``(POINTS, NEIGHBOURS, 3)`` to the nearest points, in units of the farthest of them."""
    distance, index = torch.cdist(points, points).topk(NEIGHBOURS, largest=False)
    return (points[index] - points.unsqueeze(1)) / distance[:, -1:, None]


def normals_of(offsets: Tensor, weights: Tensor) -> Tensor:
    """Eigenvectors ``(POINTS, 3)`` of the smallest eigenvalues of weighted covariances."""
    weights = weights / weights.sum(1, keepdim=True)
    centred = offsets - (weights.unsqueeze(2) * offsets).sum(1, keepdim=True)
    covariance = torch.einsum("pk,pki,pkj->pij", weights, centred, centred)
    return eg.eigh(covariance, gradient=eg.Lorentzian(width=1e-3)).eigenvectors[..., 0]


class Trust(nn.Module):
    """A weight for each neighbour, from how far it is out of the plane of a first fit."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, offsets: Tensor) -> Tensor:
        """Normals, refined three times."""
        weights = torch.ones_like(offsets[..., 0])
        for _ in range(4):
            normals = normals_of(offsets, weights)
            height = (offsets @ normals.unsqueeze(2)).squeeze(2).abs()
            seen = torch.stack([height, offsets.norm(dim=2), height / height.mean(1, keepdim=True)], 2)
            weights = self.network(seen).squeeze(2).softmax(1)
        return normals_of(offsets, weights)


def sine(found: Tensor, true: Tensor) -> Tensor:
    """Squared sine of the angle between lines."""
    return 1 - (found * true).sum(1).square()


# %%

torch.manual_seed(0)
model = Trust()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(120):
    points, true = box()
    loss = sine(model(neighbourhoods(points)), true).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

points, true = box()
offsets = neighbourhoods(points)
with torch.no_grad():
    found = {
        "all neighbours alike": normals_of(offsets, torch.ones(offsets.shape[:2])),
        "learned trust": model(offsets),
    }
angles = {name: sine(normals, true).clamp(0, 1).sqrt().asin().rad2deg() for name, normals in found.items()}

figure = plt.figure(figsize=(8, 4.4), layout="constrained")
for place, (name, angle) in enumerate(angles.items()):
    axis = figure.add_subplot(1, 2, place + 1, projection="3d")
    shown = axis.scatter(*points.T, c=angle, cmap="inferno_r", vmin=0, vmax=45, s=10)
    axis.set_title(f"{name}: {angle.mean():.1f} degrees off")
    axis.set_box_aspect((1, 1, 1), zoom=1.5)
    axis.set_axis_off()
figure.colorbar(shown, ax=figure.axes, shrink=0.6, label="error of the normal, degrees")
plt.show()
