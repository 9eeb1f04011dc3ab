"""A gradient rule, a layer and a network of one's own, beside the paper's: what the laboratory takes by import path.

In this folder, each is one command; ``docs/laboratory.md`` goes through them:

    eigengrad train --gradient own_method:Half --group-size 16
    eigengrad train --layer own_method:decorrelation
    eigengrad train --model own_method:network --method ours --group-size 8
    eigengrad reproduce table1 --method half=own_method:Half --method mine=layer=own_method:decorrelation

Run by itself, this file trains one small network with the rule and one with the paper's method, side by side:

    python own_method.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import eigengrad as eg


@dataclass(frozen=True)
class Half:
    """The exact weight of wide gaps; of narrow ones less and less; 0 of a tie.

    Narrow: below a share ``width`` of the trace norm. A rule is any object with these two methods;
    ``eigengrad.testing.check_gradient_rule(Half())`` holds it to its contract.
    """

    width: float = 1e-3

    def kernel(self, eigenvalues: Tensor) -> Tensor:
        """Weights ``K (*, n, n)`` of ``v_i`` in ``dv_j`` for ascending ``eigenvalues (*, n)``; 0 on the diagonal."""
        gaps = eigenvalues.unsqueeze(-2) - eigenvalues.unsqueeze(-1)  # (i, j): l_j - l_i
        narrow = self.width * eigenvalues.abs().sum(-1)[..., None, None]
        wide = gaps.abs() > narrow
        narrow = torch.where(narrow > 0, narrow, 1)
        return torch.where(wide, 1 / torch.where(wide, gaps, 1), gaps / narrow / (2 * narrow))

    def bound(self, smallest: float, largest: float) -> float:
        """The largest weight, over all spectra of these magnitudes."""
        return 1 / (self.width * smallest) if smallest > 0 else float("inf")


def decorrelation(channels: int, group_size: int = 16) -> nn.Module:
    """A layer is what a function makes of a number of channels, and of ``group_size`` where it has such an argument."""
    return nn.Sequential(nn.BatchNorm2d(channels), eg.nn.ZCAWhitening(channels, group_size=group_size, affine=False))


def network(layer: Callable[[int], nn.Module], *, inputs: int, classes: int) -> nn.Module:
    """A network is what a function makes of the layer under test, which may stand anywhere and more than once."""
    return nn.Sequential(
        nn.Conv2d(inputs, 32, 3, padding=1),
        layer(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        layer(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 64, classes),
    )


def accuracy(gradient: eg.gradients.GradientRule) -> float:
    """Of the network above on scikit-learn's digits, in percent, after a few epochs."""
    from eigengrad_lab.data import load

    torch.manual_seed(0)
    digits = load("digits")
    mean, std = digits.moments()
    train, test = ((images.float() - mean) / std for images in (digits.train_images, digits.test_images))
    model = network(
        lambda channels: eg.nn.ZCAWhitening(channels, group_size=16, gradient=gradient, solver="svd"),
        inputs=1,
        classes=10,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        for chosen in torch.randperm(len(train)).split(64):
            loss = nn.functional.cross_entropy(model(train[chosen]), digits.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * (model.eval()(test).argmax(1) == digits.test_labels).float().mean().item()


if __name__ == "__main__":
    for rule in (Half(), eg.PowerIteration(19)):
        print(f"{rule!r:30} {accuracy(rule):.1f}% right")
