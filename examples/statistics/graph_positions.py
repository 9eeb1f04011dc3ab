"""
Positions on a graph, and what holds it together
================================================

The smallest eigenvectors of a graph's Laplacian give its nodes positions, which networks on graphs take as
features. The smallest eigenvalue above zero says how well the graph holds together. ``eg.eigsh`` finds a few of
either from a *sparse* matrix, and its gradient has the same sparse pattern: one number for each edge. We use it to
strengthen a graph of two communities where it is weak, at constant total weight.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

import eigengrad as eg

generator = torch.Generator().manual_seed(0)
places = torch.rand(320, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.2, 1.0])
waist = (places[:, 0] - 1.1).abs() < 0.28
places = places[~(waist & ((places[:, 1] - 0.5).abs() > 0.12))]
n = len(places)
i, j = (torch.cdist(places, places) < 0.19).triu(1).nonzero().T


def laplacian(weights: Tensor) -> Tensor:
    """The sparse Laplacian ``(n, n)`` of edges with these weights."""
    degree = torch.zeros(n, dtype=weights.dtype).index_add(0, i, weights).index_add(0, j, weights)
    nodes = torch.arange(n)
    rows, columns = torch.cat([i, j, nodes]), torch.cat([j, i, nodes])
    values = torch.cat([-weights, -weights, degree])
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (n, n), check_invariants=False).coalesce()


# %%
# Gradient ascent on the second eigenvalue. Its gradient for an edge is ``(v_i - v_j)^2`` of Fiedler's vector.

logits = torch.zeros(len(i), dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.15)
curve = []
for step in range(30):
    weights = len(i) * logits.softmax(0)
    L, V = eg.eigsh(laplacian(weights), 4, which="smallest")
    optimizer.zero_grad()
    (-L[1]).backward()
    optimizer.step()
    curve.append(L[1].item())
    if step == 0:
        positions = V.detach()
weights = weights.detach()
print(f"{n} nodes, {len(i)} edges; the second eigenvalue rises from {curve[0]:.4f} to {curve[-1]:.4f}")

figure, axes = plt.subplots(2, 2, figsize=(8, 4.6), layout="constrained")
axes = axes.flat
lines = torch.stack([places[i], places[j]], 1)
for axis, column in zip(axes, (1, 2), strict=False):
    axis.add_collection(LineCollection(lines, colors="0.85", linewidths=0.7))
    axis.scatter(*places.T, c=positions[:, column], cmap="coolwarm", s=16, zorder=2)
    axis.set(title=f"position {column}", aspect="equal", xticks=[], yticks=[])
axes[2].add_collection(LineCollection(lines, array=weights, cmap="viridis", linewidths=0.5 + weights.clamp_max(6)))
axes[2].set(title="edges, strengthened", aspect="equal", xlim=(0, 2.2), ylim=(0, 1), xticks=[], yticks=[])
axes[3].plot(curve)
axes[3].set(title="second eigenvalue", xlabel="step")
plt.show()
