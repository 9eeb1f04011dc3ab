"""
A drum in tune
==============

A drum has no pitch, since the frequencies of a round membrane are not multiples of one. The Indian tabla has: Raman
found in 1934 that the black spot glued to its skin brings its first nine modes to the ratios 2 : 3 : 4 : 5, several of
them equal. Here gradient descent finds where to put weight, and finds another place than the tabla's makers.
``eg.eigsh`` takes the ten lowest modes of a membrane of 665 points by products alone; its gradient goes through modes
that are equal from the start, by symmetry, and through others that become so.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import eigengrad as eg

SIZE, MODES, STEPS = 31, 10, 70
HARMONICS = torch.tensor([2, 3, 3, 4, 4, 4, 5, 5, 5, 5], dtype=torch.float64)

y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE, dtype=torch.float64)] * 2, indexing="ij")
inside = x.hypot(y) < 0.97
rows, columns = inside.nonzero().T
number = torch.full((SIZE, SIZE), -1)
number[inside] = torch.arange(len(rows))


def laplacian() -> Tensor:
    """Of the points inside, zero on the rim."""
    n = len(rows)
    K = torch.zeros(n, n, dtype=torch.float64)
    K.fill_diagonal_(4.0)
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        neighbour = number[rows + down, columns + right]
        there = neighbour >= 0
        K[torch.arange(n)[there], neighbour[there]] = -1.0
    return K.to_sparse()


K = laplacian()


def modes(density: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Frequencies ``(MODES,)`` and shapes ``(points, MODES)`` of ``K v = w^2 density v``."""

    def products(X: Tensor, scale: Tensor) -> Tensor:
        return scale * (K @ (scale * X))

    scale = density.rsqrt().unsqueeze(1)
    found = eg.eigsh(products, MODES, which="smallest", n=len(K), params=[scale], start=start, tol=1e-9)
    return found.eigenvalues.sqrt(), found.eigenvectors


# %%
# Logarithms of the frequencies are to be those of the harmonics, up to a constant, the pitch. The weight is smooth,
# and free to break the drum's symmetry.

offsets = torch.arange(-4, 5, dtype=torch.float64)
blur = (-(offsets**2 + offsets[:, None] ** 2) / 4.5).exp()
heights = 0.1 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
optimizer = torch.optim.Adam([heights.requires_grad_()], lr=0.15)


def density() -> Tensor:
    """Of the skin, at each point inside."""
    spread = torch.nn.functional.conv2d(heights.exp()[None, None], blur[None, None] / blur.sum(), padding=4)
    return 1 + spread[0, 0][inside]


shapes, history, losses = None, [], []
for _ in range(STEPS):
    frequencies, shapes = modes(density(), shapes)
    intervals = frequencies.log() - HARMONICS.log()
    loss = (intervals - intervals.mean()).square().mean().sqrt()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    shapes = shapes.detach()
    history.append((frequencies / (intervals.mean().exp())).detach())
    losses.append(loss.item())
cents = [1200 / torch.log(torch.tensor(2.0)).item() * loss for loss in (losses[0], losses[-1])]
print(f"out of tune by {cents[0]:.0f} cents before, {cents[1]:.1f} after (a semitone has 100)")

# %%


def picture(values: Tensor) -> Tensor:
    """Of a function on the membrane."""
    return torch.full((SIZE, SIZE), torch.nan, dtype=torch.float64).index_put((rows, columns), values)


figure = plt.figure(figsize=(8, 7), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
left, middle = top.subfigures(1, 2)
axis = left.subplots()
shown = axis.imshow(picture(density().detach()), cmap="copper_r")
axis.set(title="weight of the skin", xticks=[], yticks=[], frame_on=False)
left.colorbar(shown, ax=axis, shrink=0.7)
axis = middle.subplots()
axis.hlines(range(2, 6), 0, STEPS, color="tab:orange", lw=6, alpha=0.3)
axis.plot(torch.stack(history), color="black", lw=1)
axis.set(title=f"modes: {cents[0]:.0f} cents off, then {cents[1]:.1f}", xlabel="step", ylabel="multiple of the pitch")
for axis, shape, harmonic in zip(
    bottom.subplots(2, 5).flat, density().detach().rsqrt() * shapes.T, HARMONICS, strict=True
):
    axis.imshow(picture(shape), cmap="RdBu_r", vmin=-shape.abs().max(), vmax=shape.abs().max())
    axis.set(title=f"{harmonic:.0f}", xticks=[], yticks=[], frame_on=False)
plt.show()
