"""
A differentiable density matrix
===============================

Electrons on a ring of atoms fill the lowest levels, which come in degenerate pairs. What they do is in the density
matrix, the projector on the filled levels: it does not depend on the basis within a pair, and its derivative needs
only the gap between filled and empty. We let the ring find its bond lengths: Peierls' instability makes a regular
ring of benzene's kind (4 k + 2 electrons) stay regular, and one of 4 k dimerise.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

STIFFNESS, COUPLING = 3.0, 0.75


def hamiltonian(stretch: Tensor) -> Tensor:
    """Hopping ``-exp(-COUPLING * stretch)`` along the bonds of a ring, ``(n, n)``."""
    n = len(stretch)
    hopping = -(-COUPLING * stretch).exp()
    H = torch.zeros(n, n, dtype=stretch.dtype)
    row, column = torch.arange(n), (torch.arange(n) + 1) % n
    H = H.index_put((row, column), hopping, accumulate=True)
    return H + H.mT


def energy(stretch: Tensor) -> Tensor:
    """Of two electrons in each filled level, and of the springs; at constant length of the ring."""
    H = hamiltonian(stretch)
    density = 2 * eg.projector(H, slice(0, len(stretch) // 2))
    return (density * H).sum() + STIFFNESS / 2 * stretch.square().sum()


def relax(atoms: int) -> tuple[Tensor, list[float]]:
    """Bond lengths that minimise the energy, from a nearly regular ring, and how they alternate on the way."""
    alternating = torch.tensor([(-1.0) ** i for i in range(atoms)], dtype=torch.float64)
    stretch = (1e-3 * alternating).requires_grad_()
    optimizer, path = torch.optim.SGD([stretch], lr=0.05), []
    for _ in range(300):
        centred = stretch - stretch.mean()
        optimizer.zero_grad()
        energy(centred).backward()
        optimizer.step()
        path.append((centred.detach() * alternating).mean().abs().item())
    return (stretch - stretch.mean()).detach(), path


# %%

rings = {atoms: relax(atoms) for atoms in (6, 8, 10, 12)}
for atoms, (_, path) in rings.items():
    print(f"{atoms:3} atoms: bonds alternate by {path[-1]:.3f}")

figure, axes = plt.subplot_mosaic("AB;CC", figsize=(8, 7), layout="constrained", height_ratios=(1.5, 1))
axes = list(axes.values())
for axis, atoms in zip(axes, (10, 12), strict=False):
    stretch, _ = rings[atoms]
    H = hamiltonian(stretch)
    density = 2 * eg.projector(H, slice(0, atoms // 2))
    angle = torch.cumsum(2 * math.pi / atoms * (1 + stretch.roll(1)), 0)
    place = torch.stack([angle.cos(), angle.sin()], 1)
    for i in range(atoms):
        j = (i + 1) % atoms
        order = density[i, j].item()
        axis.plot(*place[[i, j]].T, color=plt.get_cmap("viridis")(order), linewidth=12 * order, solid_capstyle="round")
    axis.plot(*place.T, "o", color="k", markersize=9)
    axis.set(title=f"{atoms} atoms, drawn by the bond's order", aspect="equal")
    axis.axis("off")
for atoms, (_, path) in rings.items():
    axes[2].semilogy(path, label=f"{atoms} atoms")
axes[2].set(xlabel="step", title="alternation of the bonds")
axes[2].legend()
plt.show()
