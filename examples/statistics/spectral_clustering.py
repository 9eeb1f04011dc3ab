"""
Spectral clustering end to end
==============================

Spectral clustering projects on the smallest eigenvectors of a graph's Laplacian. With k well separated clusters its
k smallest eigenvalues are nearly *equal*, near zero: single eigenvectors have no meaning and no gradient, their
projector has both. We learn the metric behind the graph, from a few labelled pairs, through the projector. Two of
five coordinates matter, the others are noise.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_circles
from torch import Tensor

import eigengrad as eg

POINTS, CLUSTERS = 160, 2
generator = torch.Generator().manual_seed(0)
circles, labels = make_circles(POINTS, noise=0.04, factor=0.4, random_state=0)
labels = torch.tensor(labels)
noise = 0.6 * torch.randn(POINTS, 3, generator=generator, dtype=torch.float64)
points = torch.cat([torch.tensor(circles), noise], 1)
chosen = torch.randperm(POINTS, generator=generator)[:24]
same = (labels[chosen].unsqueeze(0) == labels[chosen].unsqueeze(1)).double()


def projector(scales: Tensor) -> Tensor:
    """On the span of the smallest eigenvectors of the normalised Laplacian."""
    scaled = points * scales
    squared = (scaled.unsqueeze(0) - scaled.unsqueeze(1)).square().sum(2)
    affinity = (-squared).exp() * (1 - torch.eye(POINTS, dtype=torch.float64))
    degree = affinity.sum(1)
    normalised = affinity / (degree.unsqueeze(0) * degree.unsqueeze(1)).sqrt()
    return eg.projector(normalised, CLUSTERS)  # the largest of the affinity are the smallest of the Laplacian


def agreement(P: Tensor) -> Tensor:
    """Cosines of the embedded points, in [-1, 1]: near 1 within a cluster."""
    length = P.diagonal().clamp_min(1e-12).sqrt()
    return P / (length.unsqueeze(0) * length.unsqueeze(1))


# %%

start = torch.full((5,), 2.0, dtype=torch.float64)
logarithm = start.log().requires_grad_()
optimizer = torch.optim.Adam([logarithm], lr=0.1)
curve = []
for _ in range(80):
    loss = (agreement(projector(logarithm.exp()))[chosen][:, chosen] - same).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(loss.item())
learned = logarithm.exp().detach()
print("scales of the five coordinates:", [f"{scale:.2f}" for scale in learned])

order = labels.argsort()
figure, axes = plt.subplots(2, 2, figsize=(8, 7.6), layout="constrained")
axes = axes.flat
axes[0].scatter(*points[:, :2].T, c=labels, cmap="coolwarm", s=14)
axes[0].set(title="two of five coordinates", aspect="equal", xticks=[], yticks=[])
for axis, (title, scales) in zip(axes[2:], {"before": start, "after": learned}.items(), strict=True):
    shown = axis.imshow(agreement(projector(scales))[order][:, order].detach(), cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set(title=f"agreement of points, {title}", xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[2:], shrink=0.8)
axes[1].semilogy(curve)
axes[1].set(title="loss of 24 labelled points", xlabel="step")
plt.show()
