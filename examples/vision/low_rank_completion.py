"""
Filling in what is missing, by low rank
=======================================

Half of the pixels of every picture are lost. A matrix whose rows are the pictures is close to one of low rank, and
the classical way to fill it in alternates between what is known and a *soft threshold* of the singular values
(soft-impute). Here a dozen such iterations are a network: each has a threshold and a momentum, each pixel a weight, and
all are learned by gradients through ``eg.soft_threshold``, which are right where singular values are zero or meet.
Only known pixels are used: a fifth of them are hidden, and predicted from the others. Data: scikit-learn's digits.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import eigengrad as eg

PICTURES, ITERATIONS, KNOWN = 400, 12, 0.5
generator = torch.Generator().manual_seed(0)
pictures = torch.tensor(load_digits().data[:PICTURES]).double() / 16


def chosen(share: float) -> Tensor:
    """A random mask of this share of all pixels."""
    return (torch.rand(pictures.shape, generator=generator) < share).double()


known = chosen(KNOWN)
mean = (pictures * known).sum(0) / known.sum(0).clamp_min(1)


def complete(known: Tensor, thresholds: Tensor, momenta: Tensor, weights: Tensor) -> Tensor:
    """All pixels ``(pictures, pixels)`` from the known ones, by an iteration for each threshold."""
    now = before = torch.zeros_like(pictures)
    for threshold, momentum in zip(thresholds, momenta, strict=True):
        ahead = now + momentum * (now - before)
        filled = torch.lerp(ahead, pictures - mean, known)
        now, before = eg.soft_threshold(filled * weights, threshold) / weights, now
    return now + mean


def error(completed: Tensor, where: Tensor) -> Tensor:
    """Root of the mean squared error of these pixels."""
    return ((completed - pictures).square() * where).sum().div(where.sum()).sqrt()


# %%
# The textbook's iteration, with the best of many thresholds and three times as many iterations.

textbook = {}
for threshold in torch.logspace(-0.3, 0.6, 8, dtype=torch.float64):
    with torch.no_grad():
        result = complete(known, threshold.expand(36), torch.zeros(36), torch.ones(64))
    textbook[error(result, 1 - known).item()] = result
best = min(textbook)

# %%
# The learned one.

thresholds, momenta, weights = (torch.zeros(n, dtype=torch.float64) for n in (ITERATIONS, ITERATIONS, 64))
thresholds += 1
parameters = [parameter.requires_grad_() for parameter in (thresholds, momenta, weights)]
optimizer = torch.optim.Adam(parameters, lr=0.05)
for _ in range(50):
    shown = known * chosen(0.8)
    loss = error(complete(shown, thresholds.exp(), momenta, weights.exp()), known - shown)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    result = complete(known, thresholds.exp(), momenta, weights.exp())
learned = error(result, 1 - known).item()
print(f"error of the lost pixels: {best:.3f} by the textbook, {learned:.3f} learned")

# %%


def sheet(pictures: Tensor) -> Tensor:
    """Sixty-four of them, as one picture."""
    framed = torch.nn.functional.pad(pictures[:64].view(8, 8, 8, 8), (1, 1, 1, 1), value=torch.nan)
    return framed.permute(0, 2, 1, 3).reshape(80, 80)


shown = {
    "half of the pixels": pictures.where(known.bool(), torch.nan),
    f"low rank, error {best:.3f}": textbook[best],
    f"low rank, learned, error {learned:.3f}": result,
    "all of the pixels": pictures,
}
colours = plt.get_cmap("magma").with_extremes(bad="tab:gray")
figure, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
for axis, (title, values) in zip(axes.flat, shown.items(), strict=True):
    axis.imshow(sheet(values), cmap=colours, vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
