"""
Deep canonical correlation analysis
===================================

Two networks look at two views of the same thing, and are trained until what they see is correlated as much as
possible. The loss whitens both outputs; implementations go through eigenvectors and report NaN "after the first
batch". With ``eg.inv_sqrtm`` it is a function of covariances, whatever their spectrum. Views: a spiral seen through
two nonlinear maps, each with noise of its own.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import eigengrad as eg

generator = torch.Generator().manual_seed(0)


def views(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two views ``(count, 8)`` and what is behind them, ``(count,)``."""
    hidden = torch.rand(count, generator=generator) * 3
    noise = torch.randn(2, count, 6, generator=generator)
    one = torch.stack([hidden * (4 * hidden).cos(), hidden * (4 * hidden).sin()], 1)
    two = torch.stack([(5 * hidden).sin() + 0.3 * hidden, (5 * hidden).cos()], 1)
    return torch.cat([one, noise[0]], 1), torch.cat([two, noise[1]], 1), hidden


def canonical_correlations(X: Tensor, Y: Tensor, shrinkage: float = 1e-3) -> Tensor:
    """Singular values of the whitened cross-covariance of ``X, Y (N, d)``."""
    X, Y = X - X.mean(0), Y - Y.mean(0)
    eye = shrinkage * torch.eye(X.shape[1])
    whiten_x, whiten_y = eg.inv_sqrtm(X.T @ X / len(X) + eye), eg.inv_sqrtm(Y.T @ Y / len(Y) + eye)
    return torch.linalg.svdvals(whiten_x @ (X.T @ Y / len(X)) @ whiten_y)


def network() -> nn.Sequential:
    """From a view to two numbers."""
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


# %%

torch.manual_seed(0)
f, g = network(), network()
optimizer = torch.optim.Adam([*f.parameters(), *g.parameters()], lr=3e-3)
curve = []
for _ in range(400):
    x, y, _ = views(256)
    loss = -canonical_correlations(f(x), g(y)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(-loss.item() / 2)

x, y, hidden = views(1500)
with torch.no_grad():
    linear = canonical_correlations(x, y)[:2].mean().item()
    deep = canonical_correlations(f(x), g(y)).mean().item()
    seen = f(x)
print(f"mean canonical correlation on fresh data: linear {linear:.2f}, deep {deep:.2f}")

figure, axes = plt.subplots(2, 2, figsize=(8, 7.6), layout="constrained")
axes = axes.flat
for axis, (title, points) in zip(axes, {"view 1": x, "view 2": y, "learned from view 1": seen}.items(), strict=False):
    axis.scatter(*points[:, :2].T, c=hidden, cmap="viridis", s=8)
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
axes[3].plot(curve)
axes[3].axhline(linear, color="0.6", linestyle=":", label="linear")
axes[3].set_xlabel("step")
axes[3].set_title("mean canonical correlation")
axes[3].legend()
plt.show()
