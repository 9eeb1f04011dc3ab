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


def descend(decompose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """Losses and gaps of each step, until one is not finite."""
    A = torch.diag(torch.tensor([0.1, 0.2, 0.5, 0.8])).requires_grad_()
    optimizer = torch.optim.SGD([A], lr=0.05)
    losses, gaps = [], []
    for _ in range(STEPS):
        L, V = decompose(A)
        value = loss(L, V)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if not A.isfinite().all():
            break
        losses.append(value.item())
        gaps.append((L[-1] - L[-2]).item())
    return losses, gaps


# %%
# Every bounded rule arrives; torch's own gradient ends in NaN.

ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"torch.linalg.eigh": torch.linalg.eigh}
for rule in (eg.Lorentzian(width=1e-3), eg.Masked(), eg.Taylor(), eg.PowerIteration()):
    ways[f"eg.eigh, {type(rule).__name__}"] = lambda A, rule=rule: eg.eigh(A, gradient=rule)
histories = {name: descend(decompose) for name, decompose in ways.items()}

figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
for name, (losses, gaps) in histories.items():
    style = {"color": "crimson", "linewidth": 3} if name.startswith("torch") else {"alpha": 0.8}
    top.semilogy(losses, label=name, **style)
    bottom.semilogy([max(gap, 1e-9) for gap in gaps], **style)
    if len(losses) < STEPS:
        top.plot(len(losses) - 1, losses[-1], "X", color="crimson", markersize=13)
        top.annotate(
            "not a number", (len(losses), losses[-1]), xytext=(8, 4), textcoords="offset points", color="crimson"
        )
top.set_ylabel("loss")
top.legend(fontsize=9)
bottom.set_ylabel("gap of the two leading eigenvalues")
bottom.set_xlabel("step")
plt.show()
