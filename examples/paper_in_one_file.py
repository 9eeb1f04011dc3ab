"""The paper's claim in one file: a network with a whitening layer, trained by three gradients of the same eigenvectors.

The forward pass is the same for all, the singular value decomposition of each group's covariance. The 64 channels of a
3 x 3 convolution of grey images span 9 dimensions, so that 55 of 64 eigenvalues meet. The exact gradient ``1 / (l_i -
l_j)`` is then huge or infinite, and one step of it ends the training. Power iteration's gradient, a truncated geometric
series, is bounded and trains.

Wang, Dang, Hu, Fua, Salzmann, *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019, section 4.1. Needs torch,
eigengrad, and scikit-learn for its 1,797 scans of digits; half a minute on one core.

    python examples/paper_in_one_file.py
"""

import math
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigengrad as eg

CHANNELS, GROUP, EPOCHS, BATCH = 64, 64, 5, 128
EPS, MOMENTUM = 1e-4, 0.1

Decompose = Callable[[Tensor], tuple[Tensor, Tensor]]


class Whitening(nn.Module):
    """ZCA whitening of groups of channels, written out: ``(X - mean) V L^(-1/2) V^T``, then a scale and an offset.

    ``decompose`` gives eigenvalues and eigenvectors; how it is differentiated is all that varies below. (The library's
    own layer, :class:`eigengrad.nn.ZCAWhitening`, is this and faster.)
    """

    def __init__(self, decompose: Decompose) -> None:
        super().__init__()
        self.decompose = decompose
        self.weight, self.bias = nn.Parameter(torch.ones(CHANNELS)), nn.Parameter(torch.zeros(CHANNELS))
        self.register_buffer("running_mean", torch.zeros(CHANNELS))
        self.register_buffer("running_covariance", torch.eye(GROUP).repeat(CHANNELS // GROUP, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, 64, H, W)``."""
        samples = x.transpose(0, 1).flatten(1)  # (64, N H W)
        mean = samples.mean(1) if self.training else self.running_mean
        groups = (samples - mean.unsqueeze(1)).unflatten(0, (-1, GROUP))
        covariance = groups @ groups.mT / samples.shape[1] if self.training else self.running_covariance
        L, V = self.decompose(covariance + EPS * torch.eye(GROUP))
        W = (V * L.rsqrt().unsqueeze(-2)) @ V.mT
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_covariance.lerp_(covariance, MOMENTUM)
        white = (W @ groups).flatten(0, 1).view(x.transpose(0, 1).shape).transpose(0, 1)
        return white * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def network(decompose: Decompose) -> nn.Module:
    """A convolution, the layer under test, and a small rest."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        Whitening(decompose),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(CHANNELS, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 64, 10),
    )


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images ``(N, 1, 8, 8)`` and labels; every fifth image is for testing."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    x = (x - x.mean()) / x.std()
    test = torch.arange(len(x)) % 5 == 0
    return x[~test], y[~test], x[test], y[test]


def train(decompose: Decompose, seed: int = 0) -> str:
    """Train, and say how it ended."""
    torch.manual_seed(seed)
    model, (x, y, test_x, test_y) = network(decompose), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step, largest = 0, 0.0
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x)).split(BATCH):
            step += 1
            try:
                loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            except torch.linalg.LinAlgError:
                return f"failed at step {step}: no decomposition"
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
            if not math.isfinite(norm):
                return f"failed at step {step}: the gradient is not finite"
            largest = max(largest, norm)
            optimizer.step()
    with torch.no_grad():
        error = 100 * (model.eval()(test_x).argmax(1) != test_y).float().mean().item()
    return f"{error:.1f}% test error, largest gradient norm {largest:.3g}"


if __name__ == "__main__":
    for name, rule in (("exact", eg.Exact()), ("power iteration", eg.PowerIteration(19)), ("Taylor", eg.Taylor(9))):
        print(f"{name:16} {train(lambda A, rule=rule: eg.eigh(A, gradient=rule, solver='svd'))}")
