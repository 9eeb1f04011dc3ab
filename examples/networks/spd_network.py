"""
A network on EEG-like covariances
=================================

Imagine moving the left hand, the right hand or the feet, and a rhythm over the part of the brain that would move it
grows weaker. What electrodes record is a mixture, louder in one trial than in the next; what tells the trials apart is
in their covariance. An SPD network maps it bilinearly to a smaller one, ``W C W^T``, takes the logarithm, for which a
louder trial is a shift, and classifies that. ``eg.logm`` and its gradient are exact for the equal eigenvalues
that whitened covariances have. Simulated: 32 electrodes, 15 sources, three of which matter.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

CHANNELS, SOURCES, TIMES, SIZE, STEPS = 32, 15, 200, 8, 100
CLASSES = {"right hand": (-0.5, 0.0), "left hand": (0.5, 0.0), "feet": (0.0, 0.1)}
generator = torch.Generator().manual_seed(0)


def disc(count: int, radius: float) -> Tensor:
    """Points ``(count, 2)``, as the seeds of a sunflower lie."""
    index = torch.arange(count) + 0.5
    distance, angle = radius * (index / count).sqrt(), torch.pi * (1 + 5**0.5) * index
    return torch.stack([distance * angle.cos(), distance * angle.sin()], 1)


electrodes = disc(CHANNELS, 0.95)
sources = torch.cat([torch.tensor(list(CLASSES.values())), disc(SOURCES - 3, 0.8)])
mixing = (-torch.cdist(electrodes, sources).square() / 0.15).exp()


def trials(count: int) -> tuple[Tensor, Tensor]:
    """Covariances ``(count, CHANNELS, CHANNELS)`` of trials, and what was imagined."""
    labels = torch.randint(3, (count,), generator=generator)
    loudness = torch.randn(count, 1, generator=generator)
    power = (loudness + 0.3 * torch.randn(count, SOURCES, generator=generator)).exp()
    power[torch.arange(count), labels] *= 0.3
    signals = power.sqrt().unsqueeze(2) * torch.randn(count, SOURCES, TIMES, generator=generator)
    signals = mixing @ signals + 0.1 * torch.randn(count, CHANNELS, TIMES, generator=generator)
    return signals @ signals.mT / TIMES, labels


class SPDNetwork(nn.Module):
    """Bilinear map, logarithm, linear classifier."""

    def __init__(self, logarithm: bool) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(SIZE, CHANNELS))
        self.linear = nn.Linear(SIZE * SIZE, 3)
        self.logarithm = logarithm

    def forward(self, C: Tensor) -> Tensor:
        """Logits ``(N, 3)``."""
        W = eg.polar(self.W).unitary  # orthonormal rows
        small = W @ C @ W.mT
        return self.linear((eg.logm(small) if self.logarithm else small).flatten(1))

    def filters(self) -> Tensor:
        """For each class the direction ``(3, CHANNELS)`` whose power speaks most against it."""
        votes = self.linear.weight.view(3, SIZE, SIZE)
        directions = eg.eigh((votes + votes.mT) / 2).eigenvectors[..., 0]
        return directions @ eg.polar(self.W).unitary


# %%
# Training, on covariances whitened by their mean.

(train, labels), (test, truth) = trials(300), trials(600)
whitening, colouring = eg.inv_sqrtm(train.mean(0)), eg.sqrtm(train.mean(0))
train, test = (whitening @ C @ whitening for C in (train, test))
curves, models = {}, {}
for name, logarithm in (("logarithm", True), ("covariance itself", False)):
    torch.manual_seed(0)
    model = models[name] = SPDNetwork(logarithm)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    curves[name] = []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(train), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            curves[name].append(100 * (model(test).argmax(1) == truth).float().mean().item())
    print(f"{name:20} {curves[name][-1]:.1f}% of new trials right")

# %%
# Where the weakened rhythms are, and where the network looks for them: its filters, as the patterns that they pick up.

with torch.no_grad():
    found = models["logarithm"].filters() @ colouring
figure = plt.figure(figsize=(8, 8), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.8, 1))
for row, (title, patterns) in zip(top.subplots(2, 3), {"true": mixing.T[:3], "found": found}.items(), strict=True):
    for axis, name, pattern in zip(row, CLASSES, patterns, strict=True):
        pattern = pattern / pattern[pattern.abs().argmax()]
        axis.tricontourf(*electrodes.T, pattern, levels=torch.linspace(-1, 1, 21), cmap="RdBu_r")
        axis.plot(*electrodes.T, ".", color="black", ms=2)
        axis.add_patch(plt.Circle((0, 0), 1, fill=False))
        axis.plot([-0.12, 0, 0.12], [0.99, 1.12, 0.99], color="black", lw=1)
        axis.set(title=f"{name}, {title}", aspect="equal")
        axis.axis("off")
axis = bottom.subplots()
for name, values in curves.items():
    axis.plot(values, label=name)
axis.set(title="new trials right, %", xlabel="step")
axis.legend()
plt.show()
