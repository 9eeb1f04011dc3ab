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


def fit(model: nn.Sequential, epochs: int = 4) -> float:
    """Train; the percentage of test images that are then misread."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for chosen in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * (model.eval()(images[test]).argmax(1) != labels[test]).float().mean().item()


# %%
# The same networks, from the same seeds, as they are and converted.

SEEDS = 5
models, errors = {}, {"batch normalisation": [], "whitening": []}
for name, found in errors.items():
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = network()
        if name == "whitening":
            model = eg.nn.convert(model, group_size=32, relative_eps=0.01)
        found.append(fit(model))
        models.setdefault(name, model)
    print(f"{name:20} {sum(found) / SEEDS:.1f}% of the test images misread, mean of {SEEDS} seeds")

# %%
# What the second layer passes on, for one digit and for all test images: 32 channels that repeat each other, and 32
# that do not.


def features(model: nn.Sequential) -> Tensor:
    """Of the test images as one batch, behind the second normalisation, ``(N, 32, 8, 8)``."""
    with torch.no_grad():
        return copy.deepcopy(model).train()[:5](images[test])


def sheet(channels: Tensor) -> Tensor:
    """32 channels of 8 x 8 as one picture."""
    framed = nn.functional.pad(channels.view(4, 8, 8, 8), (1, 1, 1, 1), value=torch.nan)
    return framed.permute(0, 2, 1, 3).reshape(40, 80)


figure = plt.figure(figsize=(8, 8), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(2.2, 1))
off_diagonal = {}
for row, (name, model) in zip(top.subplots(2, 2, width_ratios=(2, 1)), models.items(), strict=True):
    passed = features(model)
    shown = passed.transpose(0, 1).flatten(1).corrcoef()
    off_diagonal[name] = (shown - shown.diag().diag()).abs().mean().item()
    row[0].imshow(sheet(passed[7]), cmap="PuOr_r", vmin=-3, vmax=3)
    row[0].set(title=f"{name}: the channels of one digit", xticks=[], yticks=[])
    row[1].imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
    row[1].set(title=f"correlations, mean {off_diagonal[name]:.2f}", xticks=[], yticks=[])
axis = bottom.subplots()
axis.plot(list(errors.values()), [0, 1], color="lightgray", zorder=0)
for place, (found, colour) in enumerate(zip(errors.values(), ("tab:purple", "tab:green"), strict=True)):
    axis.plot(found, [place] * SEEDS, "o", color=colour, ms=9)
axis.set(title="test images misread, %", yticks=[0, 1], yticklabels=errors, ylim=(1.4, -0.4), xlim=(0, None))
plt.show()
