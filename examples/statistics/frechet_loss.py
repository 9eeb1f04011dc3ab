"""
The Fréchet distance as a loss
==============================

The distance behind the FID compares means and covariances of features, and contains a square root of a product of
covariances. Measured in batches smaller than the number of features, these are singular. Here a generator is
trained by it directly: it moves points until their *random features* have the statistics of the target's.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

import eigengrad as eg

FEATURES, BATCH = 48, 256
torch.manual_seed(0)
directions, phases = 2.0 * torch.randn(2, FEATURES), 6.28 * torch.rand(FEATURES)


def features(points: Tensor) -> Tensor:
    """Random Fourier features ``(N, FEATURES)``."""
    return (points @ directions + phases).cos()


def frechet(X: Tensor, Y: Tensor) -> Tensor:
    """Squared Fréchet distance of Gaussians with the means and covariances of ``X, Y (N, d)``."""
    return eg.spd.frechet_distance(X.mean(0), X.T.cov(), Y.mean(0), Y.T.cov())


def target(count: int, seed: int) -> Tensor:
    """Two half moons."""
    return torch.tensor(make_moons(count, noise=0.05, random_state=seed)[0], dtype=torch.float32)


# %%

generator = nn.Sequential(nn.Linear(2, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 2))
optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3)
noise = torch.randn(800, 2)
snapshots, losses = {}, []
for step in range(601):
    if step in (0, 60, 600):
        with torch.no_grad():
            snapshots[step] = generator(noise)
    loss = frechet(features(generator(torch.randn(BATCH, 2))), features(target(BATCH, step)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"Fréchet distance: {losses[0]:.2f} at first, {sum(losses[-20:]) / 20:.2f} at the end")

figure, axes = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
axes = axes.flat
goal = target(800, 0)
for axis, (step, points) in zip(axes, snapshots.items(), strict=False):
    axis.scatter(*goal.T, s=5, color="0.8")
    axis.scatter(*points.T, s=5, color="C1")
    axis.set(title=f"step {step}", xlim=(-1.6, 2.6), ylim=(-1.2, 1.7), xticks=[], yticks=[])
axes[3].semilogy(losses)
axes[3].set(title="Fréchet distance", xlabel="step")
plt.show()
