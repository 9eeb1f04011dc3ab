"""
Bures barycentres of Gaussians
==============================

The Wasserstein barycentre of Gaussians is a Gaussian, whose covariance is a fixed point of ``S = S^(-1/2) (sum_i
w_i (S^(1/2) C_i S^(1/2))^(1/2))^2 S^(-1/2)``: square roots, of batches. We fill a square with the barycentres of
four corners; then go backwards and *learn* the weights that belong to a given covariance, through the iteration.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse
from torch import Tensor

import eigengrad as eg

corners = torch.tensor(
    [[[4.0, 0.0], [0.0, 0.15]], [[0.15, 0.0], [0.0, 4.0]], [[2.0, 1.9], [1.9, 2.0]], [[1.0, 0.0], [0.0, 1.0]]],
    dtype=torch.float64,
)


def barycentre(weights: Tensor, steps: int = 12) -> Tensor:
    """Covariances ``(*, 2, 2)`` of the barycentres with weights ``(*, 4)``."""
    S = torch.einsum("...k,kij->...ij", weights, corners)
    for _ in range(steps):
        root, inverse = eg.sqrtm(S), eg.inv_sqrtm(S)
        inner = root.unsqueeze(-3) @ corners @ root.unsqueeze(-3)
        mean = torch.einsum("...k,...kij->...ij", weights, eg.sqrtm((inner + inner.mT) / 2))
        S = inverse @ mean @ mean @ inverse
        S = (S + S.mT) / 2
    return S


def draw(axis: plt.Axes, S: Tensor, centre: tuple[float, float], **style: object) -> None:
    """An ellipse, by the eigenvectors of S."""
    L, V = eg.eigh(S)
    angle = torch.atan2(V[1, 1], V[0, 1]).rad2deg().item()
    axis.add_patch(Ellipse(centre, 0.4 * L[1].sqrt().item(), 0.4 * L[0].sqrt().item(), angle=angle, **style))


# %%
# Forwards: one batch of 49 barycentres.

side = torch.linspace(0, 1, 7, dtype=torch.float64)
u, v = torch.meshgrid(side, side, indexing="xy")
square = torch.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], -1)
filled = barycentre(square)

# %%
# Backwards: which weights belong to this covariance? The isotropic corner is a tie, and on the way.

hidden = torch.tensor([0.1, 0.15, 0.15, 0.6], dtype=torch.float64)
wanted = barycentre(hidden)
logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.1)
losses = []
for _ in range(150):
    loss = (barycentre(logits.softmax(0)) - wanted).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"the covariance is met to {losses[-1] ** 0.5:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", width_ratios=(1, 1))
for i in range(7):
    for j in range(7):
        colour = plt.get_cmap("viridis")(0.25 * (u[i, j] + v[i, j]).item() + 0.4 * u[i, j].item())
        draw(left, filled[i, j], (j, i), facecolor=colour, alpha=0.9)
left.set(xlim=(-0.7, 6.7), ylim=(-0.7, 6.7), aspect="equal", title="barycentres of the four corners")
left.axis("off")
right.semilogy(losses)
right.set(xlabel="step", title="learning the weights of a barycentre: squared error")
plt.show()
