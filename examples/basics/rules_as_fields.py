"""
Gradient rules as fields
========================

Symmetric 2 x 2 matrices of trace 2 are a plane: ``A = [[1 + x, y], [y, 1 - x]]``. Its eigenvalues are equal at the
origin alone. The loss wants the leading eigenvector to point at 30 degrees; its negative gradient is a field on the
plane, which every rule draws in its own way. Nothing but the weight of one pair of eigenvectors changes.
"""

import math

import matplotlib.pyplot as plt
import torch

import eigengrad as eg

side = torch.linspace(-0.6, 0.6, 15, dtype=torch.float64)
x, y = torch.meshgrid(side, side, indexing="xy")
target = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)], dtype=torch.float64)


def field(gradient: eg.gradients.GradientRule) -> torch.Tensor:
    """The negative gradient ``(2, 15, 15)`` of one minus the squared cosine, in x and y."""
    point = torch.stack([x, y]).requires_grad_()
    A = torch.stack([1 + point[0], point[1], point[1], 1 - point[0]], -1).unflatten(-1, (2, 2))
    leading = eg.eigh(A, gradient=gradient).eigenvectors[..., 1]
    loss = 1 - (leading @ target).square()
    return -torch.autograd.grad(loss.sum(), point)[0]


# %%
# The exact gradient grows as one over the distance to the origin. ``Masked`` cuts a hole into it; ``Lorentzian`` lets
# it go to zero; ``Taylor`` and ``PowerIteration`` bound it everywhere.

rules = {
    "Exact()": eg.Exact(),
    "Masked(rtol=0.3)": eg.Masked(rtol=0.3),
    "Lorentzian(width=0.3)": eg.Lorentzian(width=0.3),
    "Clipped(max_magnitude=3)": eg.Clipped(max_magnitude=3.0),
    "Taylor(degree=2)": eg.Taylor(degree=2),
    "PowerIteration(iterations=3)": eg.PowerIteration(iterations=3),
}
fields = {name: field(rule) for name, rule in rules.items()}
largest = {name: values.norm(dim=0).nan_to_num(0).max().item() for name, values in fields.items()}

figure, axes = plt.subplots(2, 3, figsize=(8, 5.9), sharex=True, sharey=True, layout="constrained")
for axis, (name, values) in zip(axes.flat, fields.items(), strict=True):
    length = values.norm(dim=0)
    undefined = values.isnan().any(0)
    arrows = values / length.clamp_min(1e-12) * length.clamp_max(3) / 3
    axis.quiver(x, y, *arrows.nan_to_num(0), length.nan_to_num(0), cmap="viridis", clim=(0, 3), scale=9, width=0.006)
    axis.plot(x[undefined], y[undefined], "x", color="crimson", markersize=10)
    axis.plot([0, 0.6 * math.cos(math.pi / 3)], [0, 0.6 * math.sin(math.pi / 3)], ":", color="0.6", zorder=0)
    axis.set_title(name, fontsize=10)
    axis.set(aspect="equal", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
figure.suptitle("Dotted: where the gradient is zero; cross: where it is not a number", fontsize=11)
plt.show()

# %%
# The largest length on the grid, the tie itself left out.

for name, value in largest.items():
    print(f"{name:30} {value:8.2f}")
