"""
A loss whose minimum is a tie
=============================

A covariance is to have equal eigenvalues: whitening, isotropy, a degenerate shell. On the way down the eigenvalues
meet, and there the exact gradient of the eigenvectors ends. We pull the two leading eigenvalues to 1 and their span
to a given plane.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

STEPS = 250
plane = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(0))).Q


def loss(L: Tensor, V: Tensor) -> Tensor:
    """Of eigenvalues ``(4,)`` and eigenvectors ``(4, 4)``: distance to the tie, and to the plane."""
    outside = V[:, -2:] - plane @ (plane.T @ V[:, -2:])
    return (L[-2:] - 1).square().sum() + outside.square().sum()


def descend(decompose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[list[float], list[float], list[Tensor]]:
    """Losses, gaps and matrices of each step, until one is not finite."""
    A = torch.diag(torch.tensor([0.1, 0.2, 0.5, 0.8])).requires_grad_()
    optimizer = torch.optim.SGD([A], lr=0.05)
    losses, gaps, matrices = [], [], []
    for _ in range(STEPS):
        matrices.append(A.detach().clone())
        L, V = decompose(A)
        value = loss(L, V)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if not A.isfinite().all():
            break
        losses.append(value.item())
        gaps.append((L[-1] - L[-2]).item())
    return losses, gaps, matrices


# %%
# Every bounded rule arrives; torch's own gradient ends in NaN.

ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"torch.linalg.eigh": torch.linalg.eigh}
for rule in (eg.Lorentzian(width=1e-3), eg.Masked(), eg.Taylor(), eg.PowerIteration()):
    ways[f"eg.eigh, {type(rule).__name__}"] = lambda A, rule=rule: eg.eigh(A, gradient=rule)
histories = {name: descend(decompose) for name, decompose in ways.items()}

# %%
# The covariance within the plane, as an ellipse, from step 0 (dark) to the last (bright): it becomes a circle, where
# eigenvectors have no direction of their own.

figure, axes = plt.subplot_mosaic("AB;AC", figsize=(9, 5), layout="constrained", width_ratios=(1, 1.2))
turn = torch.linspace(0, 2 * torch.pi, 100, dtype=plane.dtype)
circle = torch.stack([turn.cos(), turn.sin()])
matrices = histories["eg.eigh, Lorentzian"][2]
for step in [*range(0, 60, 6), *range(60, STEPS, 38), STEPS - 1]:
    ellipse = plane.T @ matrices[step] @ plane @ circle
    axes["A"].plot(*ellipse, color=plt.get_cmap("viridis")((step / STEPS) ** 0.5), linewidth=1.5)
axes["A"].set(title="the covariance in the plane", aspect="equal", xticks=[], yticks=[])
for name, (losses, gaps, _) in histories.items():
    style = {"color": "crimson", "linewidth": 3, "zorder": 3} if name.startswith("torch") else {"alpha": 0.7}
    axes["B"].semilogy(losses, label=name, **style)
    axes["C"].semilogy([max(gap, 1e-8) for gap in gaps], **style)
    if len(losses) < STEPS:
        axes["B"].plot(len(losses) - 1, losses[-1], "X", color="crimson", markersize=13, zorder=4)
        axes["B"].annotate(
            "not a number", (len(losses), losses[-1]), xytext=(-95, -16), textcoords="offset points", color="crimson"
        )
axes["B"].set(title="loss", xticklabels=[])
axes["B"].legend(fontsize=8)
axes["C"].set(title="gap of the two leading eigenvalues", xlabel="step")
plt.show()
