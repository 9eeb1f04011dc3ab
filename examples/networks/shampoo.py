"""
Shampoo's inverse fourth roots
==============================

Shampoo preconditions the gradient G of a weight matrix by ``L^(-1/4) G R^(-1/4)``, with L and R the sums of ``G
G^T`` and ``G^T G``. The roots are of matrices that are singular at the start and ill-conditioned later: where
optimisers report that "the algorithm failed to converge". Lifted by a share of their own size, they have roots that
``eg.powm`` finds to the last digits.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

generator = torch.Generator().manual_seed(0)
left = eg.testing.hermitian(torch.logspace(-2, 0, 24, dtype=torch.float64), generator=generator).float()
right = eg.testing.hermitian(torch.logspace(-2, 0, 16, dtype=torch.float64), generator=generator).float()
solution = torch.randn(24, 16, generator=generator)


def loss(W: Tensor) -> Tensor:
    """A quadratic whose condition is that of ``left`` times that of ``right``: 10,000 squared."""
    return (left @ (W - solution) @ right).square().sum()


class Shampoo(torch.optim.Optimizer):
    """Gupta, Koren, Singer 2018, for matrices."""

    def __init__(self, parameters: list[Tensor], lr: float, share: float = 1e-5) -> None:
        super().__init__(parameters, {"lr": lr, "share": share})

    @torch.no_grad()
    def step(self) -> None:
        """Both statistics, both roots, one step."""
        for group in self.param_groups:
            for W in group["params"]:
                state = self.state[W]
                G = W.grad
                for name, product in (("L", G @ G.T), ("R", G.T @ G)):
                    state[name] = state.get(name, 0) + product
                    lifted = state[name] + group["share"] * state[name].trace() * torch.eye(len(product))
                    state[f"{name} root"] = eg.powm(lifted, -0.25)
                W -= group["lr"] * state["L root"] @ G @ state["R root"]


# %%

curves, ends = {}, {}
for name, make in {
    "SGD": lambda W: torch.optim.SGD(W, lr=0.4),
    "Adam": lambda W: torch.optim.Adam(W, lr=0.1),
    "Shampoo": lambda W: Shampoo(W, lr=1.0),
}.items():
    W = torch.zeros(24, 16, requires_grad=True)
    optimizer, curves[name] = make([W]), []
    for _ in range(300):
        value = loss(W)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        curves[name].append(value.item())
    ends[name] = W.detach()
    print(f"{name:8} {curves[name][-1]:.2e}")

# %%
# What is left to learn, by direction: from flat ones (above, left) to steep ones (below, right). Gradient descent has
# learned the steep corner, Adam more, Shampoo most.

across, along = torch.linalg.eigh(left).eigenvectors, torch.linalg.eigh(right).eigenvectors
figure = plt.figure(figsize=(8, 7), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.4, 1))
for axis, (name, W) in zip(axes := top.subplots(1, 3), ends.items(), strict=True):
    share = (across.T @ (W - solution) @ along).abs() / (across.T @ solution @ along).abs()
    shown = axis.imshow(share.clamp(0.01, 1), cmap="magma", norm="log", vmin=0.01, vmax=1, aspect="auto")
    axis.set(title=name, xticks=[], yticks=[])
top.colorbar(shown, ax=axes, label="share that is left", shrink=0.8)
one, two = bottom.subplots(1, 2, width_ratios=(1.6, 1))
for name, values in curves.items():
    one.semilogy(values, label=name)
one.set(title="loss", xlabel="step")
one.legend()
for name in ("L", "R"):
    spectrum = torch.linalg.eigvalsh(next(iter(optimizer.state.values()))[name])
    two.semilogy(spectrum.clamp_min(1e-9).flip(0), "o-", markersize=3, label=name)
two.set(title="eigenvalues of L and R", xlabel="index")
two.legend()
plt.show()
