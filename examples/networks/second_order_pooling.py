"""
Second-order pooling on textures
================================

A texture is what its filters' responses have in common, not where they are. Averaging each response over the
picture forgets which respond together; their covariance remembers. ``eg.nn.CovariancePooling`` takes the
covariance's square root, which its derivative passes exactly, repeated eigenvalues included. The textures: three
gratings, each in half of every picture; which two of them stand together is the class.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

SIZE, CLASSES = 24, 3
PAIRS = ((0, 1), (1, 2), (2, 0))
generator = torch.Generator().manual_seed(0)
row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")


def grating(which: Tensor) -> Tensor:
    """Gratings ``(N, SIZE, SIZE)`` at one of three angles, with random phases."""
    angle = (math.pi * which / 3).view(-1, 1, 1)
    phase = 2 * math.pi * torch.rand(len(which), 1, 1, generator=generator)
    return torch.sin(0.9 * (column * angle.cos() + row * angle.sin()) + phase)


def textures(count: int) -> tuple[Tensor, Tensor]:
    """Stripes of two gratings together, and of the third alone: every grating fills half of every picture."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pairs = torch.tensor(PAIRS)[labels]
    third = 3 - pairs.sum(1)
    window = (torch.sin(0.5 * column + 2 * math.pi * torch.rand(count, 1, 1, generator=generator)) > 0).float()
    both = grating(pairs[:, 0]) + grating(pairs[:, 1])
    images = window * both + (1 - window) * grating(third)
    return (images + 0.7 * torch.randn(images.shape, generator=generator)).unsqueeze(1), labels


def network(head: nn.Module, features: int) -> nn.Sequential:
    """The same filters under either head."""
    filters = nn.Sequential(nn.Conv2d(1, 12, 7, padding=3), nn.BatchNorm2d(12), nn.ReLU())
    return nn.Sequential(filters, head, nn.Linear(features, CLASSES))


heads = {
    "average pooling": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 12),
    "covariance pooling": (eg.nn.CovariancePooling(), 12 * 13 // 2),
}
test_images, test_labels = textures(400)
curves: dict[str, list[float]] = {}
for name, (head, features) in heads.items():
    torch.manual_seed(0)
    model = network(head, features)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    curves[name] = []
    for step in range(90):
        images, labels = textures(48)
        loss = nn.functional.cross_entropy(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 6 == 5:
            with torch.no_grad():
                right = model.eval()(test_images).argmax(1) == test_labels
            curves[name].append(100 * right.float().mean().item())
    print(f"{name:20} {curves[name][-1]:.1f}% of new textures right")

# %%

figure = plt.figure(figsize=(8.4, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
for label, line in enumerate(left.subplots(3, 3)):
    for axis, image in zip(line, test_images[test_labels == label], strict=False):
        axis.imshow(image[0], cmap="cividis")
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(f"class {label}")
axis = right.add_subplot()
for name, values in curves.items():
    axis.plot(range(6, 91, 6), values, "o-", label=name)
axis.axhline(100 / CLASSES, color="0.7", linestyle=":", label="chance")
axis.set_xlabel("step")
axis.set_ylabel("new textures right, %")
axis.legend()
plt.show()
