"""
A network on EEG-like covariances
=================================

A trial of an EEG is many channels over time; what tells two kinds of imagined movement apart is which sources
oscillate more strongly: the covariance. Its size varies from trial to trial. An SPD network maps a covariance
bilinearly to a smaller one, ``W C W^T``, takes its logarithm, and classifies that. The logarithm's gradient is
exact for the equal eigenvalues that a freshly whitened covariance has.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

CHANNELS, SOURCES, TIMES = 16, 16, 128
generator = torch.Generator().manual_seed(0)
mixing = torch.randn(CHANNELS, SOURCES, generator=generator)


def trials(count: int) -> tuple[Tensor, Tensor]:
    """Whitened covariances ``(count, CHANNELS, CHANNELS)`` of three classes: one source each is stronger."""
    labels = torch.randint(3, (count,), generator=generator)
    power = (torch.randn(count, 1, generator=generator) + 0.3 * torch.randn(count, SOURCES, generator=generator)).exp()
    power[torch.arange(count), labels] *= 2
    signals = power.sqrt().unsqueeze(2) * torch.randn(count, SOURCES, TIMES, generator=generator)
    signals = mixing @ signals
    covariance = signals @ signals.mT / TIMES
    whitening = eg.inv_sqrtm(covariance.mean(0))
    return whitening @ covariance @ whitening, labels


class SPDNetwork(nn.Module):
    """Bilinear map to ``size``, logarithm, linear classifier."""

    def __init__(self, size: int, logarithm: bool) -> None:
        super().__init__()
        self.W = nn.Parameter(eg.polar(torch.randn(size, CHANNELS)).unitary)
        self.linear = nn.Linear(size * (size + 1) // 2, 3)
        self.logarithm = logarithm

    def features(self, C: Tensor) -> Tensor:
        """The upper triangle of the small matrix."""
        W = eg.polar(self.W).unitary
        small = W @ C @ W.mT
        small = eg.logm(small) if self.logarithm else small
        row, column = torch.triu_indices(*small.shape[-2:])
        return small[:, row, column]

    def forward(self, C: Tensor) -> Tensor:
        """Logits ``(N, 3)``."""
        return self.linear(self.features(C))


# %%

train, test = trials(400), trials(1000)
curves, models = {}, {}
for name, logarithm in (("logarithm", True), ("covariance itself", False)):
    torch.manual_seed(0)
    model = SPDNetwork(6, logarithm)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    curves[name] = []
    for _ in range(120):
        loss = nn.functional.cross_entropy(model(train[0]), train[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            curves[name].append(100 * (model(test[0]).argmax(1) == test[1]).float().mean().item())
    models[name] = model
    print(f"{name:20} {curves[name][-1]:.1f}% of new trials right")

with torch.no_grad():
    logits = models["logarithm"](test[0])
    plane = (logits - logits.mean(0)) @ eg.eigh((logits - logits.mean(0)).T.cov()).eigenvectors[:, 1:]

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
axes[0].imshow(test[0][test[1] == 0].mean(0) - torch.eye(CHANNELS), cmap="RdBu_r", vmin=-0.3, vmax=0.3)
axes[0].set(title="class 0: mean covariance, less the identity", xticks=[], yticks=[])
for name, values in curves.items():
    axes[1].plot(values, label=name)
axes[1].set(xlabel="step", title="new trials right, %")
axes[1].legend()
axes[2].scatter(*plane.T, c=test[1], cmap="viridis", s=5)
axes[2].set(title="new trials, as the network sees them", xticks=[], yticks=[])
plt.show()
