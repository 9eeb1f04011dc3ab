"""
Whitening a network
===================

Batch normalisation makes each channel's variance one; whitening removes the correlations between channels as well.
The layer has the same interface and the same promises, so ``eg.nn.convert`` swaps it into a network that someone
else wrote. Data: scikit-learn's digits.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigengrad as eg

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
labels = torch.tensor(labels)
train, test = torch.arange(0, 1400), torch.arange(1400, len(labels))


def network() -> nn.Sequential:
    """A small convolutional network, as anyone would write it."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def fit(model: nn.Module, epochs: int = 4) -> list[float]:
    """Train, and return the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(epochs):
        for chosen in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def correlations(model: nn.Sequential) -> Tensor:
    """Of the channels behind the second normalisation, which sees the test images as one batch."""
    with torch.no_grad():
        features = copy.deepcopy(model).train()[:5](images[test])
    return features.transpose(0, 1).flatten(1).corrcoef()


# %%
# The same network, and the same with whitening.

models, curves, accuracy = {}, {}, {}
for name in ("batch normalisation", "whitening"):
    torch.manual_seed(0)
    model = network()
    if name == "whitening":
        model = eg.nn.convert(model, group_size=8)
    curves[name] = fit(model)
    models[name] = model
    with torch.no_grad():
        accuracy[name] = (model.eval()(images[test]).argmax(1) == labels[test]).float().mean().item()
    print(f"{name:20} {100 * accuracy[name]:.1f}% of the test images right")

# %%
# What the layer does, and what it does to training.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", width_ratios=(1, 1, 1.4))
off_diagonal = {}
for axis, (name, model) in zip(axes, models.items(), strict=False):
    shown = correlations(model)
    off_diagonal[name] = (shown - shown.diag().diag()).abs().mean().item()
    picture = axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_title(f"{name}\nmean correlation {off_diagonal[name]:.2f}", fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
figure.colorbar(picture, ax=axes[:2], shrink=0.8, label="correlation of channels")
for name, losses in curves.items():
    axes[2].semilogy(torch.tensor(losses).unfold(0, 10, 1).mean(1), label=name)
axes[2].set_xlabel("step")
axes[2].set_ylabel("training loss")
axes[2].legend()
plt.show()
