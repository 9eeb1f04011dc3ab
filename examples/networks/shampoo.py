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

curves = {}
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
    print(f"{name:8} {curves[name][-1]:.2e}")

spectra = {name: torch.linalg.eigvalsh(optimizer.state[W][name]) for name in ("L", "R")}
figure, (one, two) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, values in curves.items():
    one.semilogy(values, label=name)
one.set_xlabel("step")
one.set_ylabel("loss")
one.legend()
for name, values in spectra.items():
    two.semilogy(values.clamp_min(1e-12).flip(0), "o-", markersize=4, label=f"statistics {name}")
two.set_xlabel("index")
two.set_ylabel("eigenvalue at the end")
two.legend()
plt.show()
