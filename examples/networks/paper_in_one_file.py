"""
The paper in one file
=====================

A network with a whitening layer, trained by several gradients of the same eigenvectors. The forward pass is the same
for all, the singular value decomposition of the channels' covariance. The 64 channels of a 3 x 3 convolution of grey
images span 9 dimensions, so that 55 of 64 eigenvalues meet. The exact gradient, ``1 / (l_i - l_j)``, is then huge or
infinite, and one step of it ends the training. Power iteration's, a truncated geometric series, is bounded and trains.

Wang, Dang, Hu, Fua, Salzmann, *Backpropagation-Friendly Eigendecomposition*, NeurIPS 2019, section 4.1. Needs torch,
eigengrad, and scikit-learn for its 1,797 scans of digits.
"""

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import eigengrad as eg

CHANNELS, EPOCHS, BATCH, EPS, MOMENTUM = 64, 4, 128, 1e-4, 0.1
Decompose = Callable[[Tensor], tuple[Tensor, Tensor]]


class Whitening(nn.Module):
    """ZCA whitening written out: ``(X - mean) V L^(-1/2) V^T``, then a scale and an offset.

    ``decompose`` gives eigenvalues and eigenvectors; how it is differentiated is all that varies below. (The library's
    own layer, ``eigengrad.nn.ZCAWhitening``, is this, in groups, and faster.)
    """

    def __init__(self, decompose: Decompose) -> None:
        super().__init__()
        self.decompose = decompose
        self.weight, self.bias = nn.Parameter(torch.ones(CHANNELS)), nn.Parameter(torch.zeros(CHANNELS))
        self.register_buffer("running_mean", torch.zeros(CHANNELS))
        self.register_buffer("running_covariance", torch.eye(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, 64, H, W)``."""
        samples = x.transpose(0, 1).flatten(1)  # (64, N H W)
        mean = samples.mean(1) if self.training else self.running_mean
        centred = samples - mean.unsqueeze(1)
        covariance = centred @ centred.T / samples.shape[1] if self.training else self.running_covariance
        L, V = self.decompose(covariance + EPS * torch.eye(CHANNELS))
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_covariance.lerp_(covariance, MOMENTUM)
        white = ((V * L.rsqrt()) @ V.T @ centred).view(x.transpose(0, 1).shape).transpose(0, 1)
        return white * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def network(decompose: Decompose) -> nn.Sequential:
    """A convolution, the layer under test, and a small rest."""
    first = (nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), Whitening(decompose), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(CHANNELS, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, 10))


digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(digits.target)
x = (x - x.mean()) / x.std()
test = torch.arange(len(x)) % 5 == 0
training = torch.arange(len(x))[~test]


def train(decompose: Decompose, seed: int = 0) -> tuple[list[float], str]:
    """Train; the gradient's norm at each step, and how it ended."""
    torch.manual_seed(seed)
    model, norms = network(decompose), list[float]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, EPOCHS * math.ceil(len(training) / BATCH))
    for _ in range(EPOCHS):
        for chosen in training[torch.randperm(len(training))].split(BATCH):
            try:
                loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            except torch.linalg.LinAlgError:
                return norms, f"failed at step {len(norms) + 1}: no decomposition"
            optimizer.zero_grad()
            loss.backward()
            norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            if not math.isfinite(norms[-1]):
                return norms[:-1], f"failed at step {len(norms)}: the gradient is not finite"
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        error = 100 * (model.eval()(x[test]).argmax(1) != y[test]).float().mean().item()
    return norms, f"{error:.1f}% test error"


# %%

rules = {"exact": eg.Exact(), "power iteration": eg.PowerIteration(19), "Taylor": eg.Taylor(9)}
runs = {name: train(lambda A, rule=rule: eg.eigh(A, gradient=rule, solver="svd")) for name, rule in rules.items()}
for name, (norms, end) in runs.items():
    print(f"{name:16} {end}, largest gradient norm {max(norms, default=math.nan):.3g}")

# %%
# Eigenvalues of the first batch's covariance, and what each gradient makes of them.

torch.manual_seed(0)
features = network(torch.linalg.eigh)[0](x[:BATCH]).detach().transpose(0, 1).flatten(1)
figure, axes = plt.subplots(2, 1, figsize=(8, 7), layout="constrained")
axes[0].semilogy((torch.linalg.eigvalsh(features.cov()).clamp_min(0) + EPS).flip(0), "o", ms=3, color="black")
axes[0].set(title="64 channels, 9 dimensions", xlabel="index", ylabel="eigenvalue, with eps")
lines = {"exact": ("crimson", 2), "power iteration": ("lightskyblue", 6), "Taylor": ("tab:green", 1)}
for name, (norms, end) in runs.items():
    colour, width = lines[name]
    axes[1].semilogy(range(1, len(norms) + 1), norms, color=colour, lw=width, label=f"{name}: {end}")
    if "failed" in end:
        axes[1].plot(len(norms) or 1, norms[-1] if norms else 1, "X", color=colour, ms=12, zorder=3)
axes[1].set(title="norm of the gradient", xlabel="step")
axes[1].legend(loc="upper right")
plt.show()
