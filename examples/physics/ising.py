"""
The Ising model by a differentiable renormalisation
===================================================

The partition function of the square lattice is a network of small tensors. The tensor renormalisation group of
Levin and Nave splits each by a singular value decomposition, keeps the largest values, and contracts four halves to
a tensor that stands for twice as many spins. The energy is the derivative of the logarithm with respect to the
temperature, *through* all decompositions. The model's symmetry makes singular values equal, where torch's gradient
is not a number; Onsager tells the truth.
"""

import math

import matplotlib.pyplot as plt
import torch
from scipy.special import ellipk
from torch import Tensor

import eigengrad as eg

KEPT, STEPS = 8, 14
CRITICAL = math.log(1 + math.sqrt(2)) / 2


def halves(T: Tensor, decompose: object) -> tuple[Tensor, Tensor]:
    """A tensor ``(a, b, c, d)`` as a product of ``(a, b, k)`` and ``(c, d, k)``, with at most KEPT values k."""
    U, S, Vh = decompose(T.flatten(2).flatten(0, 1))
    k = min(KEPT, len(S))
    root = S[:k].sqrt()
    return (U[:, :k] * root).unflatten(0, T.shape[:2]), (Vh[:k].T * root).unflatten(0, T.shape[2:])


def log_partition(beta: Tensor, decompose: object) -> Tensor:
    """The logarithm of the partition function per spin, of ``2**STEPS`` spins."""
    plus, minus = beta.cosh().sqrt(), beta.sinh().sqrt()
    M = torch.stack([torch.stack([plus, minus]), torch.stack([plus, -minus])])
    T = torch.einsum("su,sl,sd,sr->uldr", M, M, M, M)
    total = torch.zeros_like(beta)
    for step in range(STEPS):
        size = T.abs().max()
        T, total = T / size, total + size.log() / 2**step
        P, Q = halves(T, decompose)
        R, S = halves(T.permute(0, 3, 2, 1), decompose)
        T = torch.einsum("eai,baj,bck,ecm->imkj", Q, S, P, R)
    return total + torch.einsum("ijij->", T).log() / 2**STEPS


def onsager(beta: float) -> float:
    """The exact energy per spin of the infinite lattice."""
    k = 2 * math.sinh(2 * beta) / math.cosh(2 * beta) ** 2
    inner = 2 / math.pi * (2 * math.tanh(2 * beta) ** 2 - 1) * ellipk(k**2)
    return -(1 + inner) / math.tanh(2 * beta)


def snapshots(betas: tuple[float, ...], size: int = 96, sweeps: int = 200) -> tuple[Tensor, Tensor]:
    """Spins ``(betas, size, size)`` and energies by a heat bath, one colour of a chessboard at once."""
    generator = torch.Generator().manual_seed(0)
    spins = torch.ones(len(betas), size, size)
    black = torch.arange(size)[:, None].add(torch.arange(size)).remainder(2).bool()
    around = lambda: sum(spins.roll(shift, dim) for shift in (-1, 1) for dim in (1, 2))  # noqa: E731
    energies = []
    for _ in range(sweeps):
        for colour in (black, ~black):
            up = (2 * torch.tensor(betas).view(-1, 1, 1) * around()).sigmoid()
            drawn = 2 * (torch.rand(spins.shape, generator=generator) < up).float() - 1
            spins = torch.where(colour, drawn, spins)
        energies.append(-(spins * around()).mean((1, 2)) / 2)
    return spins, torch.stack(energies[sweeps // 4 :]).mean(0)


# %%

ways = {
    "eg.svd": eg.svd,
    "torch.linalg.svd": lambda A: torch.linalg.svd(A, full_matrices=False),
}
grid = torch.linspace(0.2, 0.7, 26, dtype=torch.float64)
energies: dict[str, list[float]] = {name: [] for name in ways}
for name, decompose in ways.items():
    for value in grid:
        beta = value.clone().requires_grad_()
        (slope,) = torch.autograd.grad(log_partition(beta, decompose), beta)
        energies[name].append(-slope.item())
    finite = sum(math.isfinite(energy) for energy in energies[name])
    print(f"{name:18} {finite} of {len(grid)} energies are numbers")

exact = [onsager(beta) for beta in grid.tolist()]
chosen = (0.38, CRITICAL, 0.5)
pictures, sampled = snapshots(chosen)
figure = plt.figure(figsize=(8, 6.4), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.2))
for axis, beta, picture in zip(top.subplots(1, 3), chosen, pictures, strict=True):
    axis.imshow(picture, cmap="cividis")
    axis.set(title=f"inverse temperature {beta:.2f}", xticks=[], yticks=[])
finite = torch.tensor(energies["torch.linalg.svd"]).isfinite()
left, right = bottom.subplots(1, 2, width_ratios=(1.8, 1))
left.plot(grid, exact, color="0.6", linewidth=5, alpha=0.5, label="Onsager")
left.plot(grid, energies["eg.svd"], "o", ms=5, label="through eg.svd")
left.plot(
    grid[~finite], torch.tensor(exact)[~finite], "x", color="crimson", ms=9, label="torch.linalg.svd: not a number"
)
left.plot(chosen, sampled, "*", color="black", ms=11, label="the pictures above")
right.semilogy(grid, [abs(a - b) for a, b in zip(energies["eg.svd"], exact, strict=True)], "o-", ms=4)
for axis in (left, right):
    axis.axvline(CRITICAL, color="C3", linestyle=":")
    axis.set_xlabel("inverse temperature")
left.set_title("energy per spin")
right.set_title(f"error, {KEPT} values kept")
left.legend(fontsize=9)
plt.show()
