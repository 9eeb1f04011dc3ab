"""A network's batch normalisation becomes whitening, is trained, and is folded into its convolutions for deployment.

Small images are made here: a class is a direction in which bright stripes run. (For a real experiment:
``eigengrad reproduce table1``.)

    python examples/whitening_in_and_out.py
"""

import math

import torch
from torch import Tensor, nn

import eigengrad as eg

CLASSES, STEPS = 8, 60


def stripes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(count, 1, 16, 16)`` of noisy stripes, and the class of their direction."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle = (math.pi * labels / CLASSES).view(-1, 1, 1)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    images = torch.sin(x * angle.cos() + y * angle.sin() + phase)
    return (images + torch.randn(images.shape, generator=generator)).unsqueeze(1), labels


def network() -> nn.Sequential:
    """Two convolutions with batch normalisation, as anyone would write them."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def train(model: nn.Module, generator: torch.Generator) -> float:
    """Accuracy on fresh images after a few steps, in percent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(STEPS):
        images, labels = stripes(64, generator)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = stripes(2000, generator)
    with torch.no_grad():
        return 100 * (model.eval()(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train with both layers, then fold."""
    for name in ("batch normalisation", "whitening"):
        torch.manual_seed(0)
        model = network()
        if name == "whitening":
            eg.nn.convert(model, group_size=16)
        print(f"{name:20} {train(model, torch.Generator().manual_seed(0)):.1f}% right")

    folded = nn.Sequential(eg.nn.fold(model[1], model[0]), nn.ReLU(), eg.nn.fold(model[4], model[3]), *model[5:])
    images, _ = stripes(100, torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (folded(images) - model(images)).abs().max().item()
    print(f"{'folded':20} {len(model)} layers become {len(folded)}; the output moves by {difference:.0e}")


if __name__ == "__main__":
    main()
