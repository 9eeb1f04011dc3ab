"""Pose from correspondences with outliers: a network learns which points to trust, through the fit itself.

Half of the points are matched wrongly. The network sees each pair of points and gives it a weight; ``eg.procrustes``
turns the weights into a rotation, and the rotation's error is the loss. Its gradient divides by sums of singular
values, never by differences.

    python examples/robust_pose.py
"""

import torch
from torch import Tensor, nn

import eigengrad as eg

POINTS, BATCH, STEPS = 40, 64, 300


def clouds(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points X and Y ``(BATCH, POINTS, 3)`` and the rotation between them; half of Y lies anywhere."""
    X = torch.randn(BATCH, POINTS, 3, generator=generator)
    rotation = eg.procrustes(*torch.randn(2, BATCH, 4, 3, generator=generator)).rotation
    Y = X @ rotation.mT + 0.02 * torch.randn(X.shape, generator=generator)
    Y[:, ::2] = torch.randn(BATCH, POINTS // 2, 3, generator=generator)
    return X, Y, rotation


def error(fit: Tensor, rotation: Tensor) -> Tensor:
    """Mean squared Frobenius distance between rotations."""
    return (fit - rotation).square().sum((-2, -1)).mean()


class Weights(nn.Module):
    """A weight for each pair of points, from the pair and what is left of it after a first fit."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        """Weights ``(*, N)``, refined twice."""
        weights = torch.ones_like(X[..., 0])
        for _ in range(3):
            fit = eg.procrustes(X, Y, weights=weights)
            moved = X @ fit.rotation.mT + fit.translation.unsqueeze(-2)
            seen = torch.stack([(moved - Y).norm(dim=-1), X.norm(dim=-1), Y.norm(dim=-1)], dim=-1)
            weights = self.network(seen).squeeze(-1).softmax(dim=-1)
        return weights


def main() -> None:
    """Train, then compare with equal weights on fresh clouds."""
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(0), Weights()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(STEPS):
        X, Y, rotation = clouds(generator)
        loss = error(eg.procrustes(X, Y, weights=network(X, Y)).rotation, rotation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3}  loss {loss.item():.4f}")
    X, Y, rotation = clouds(generator)
    print(f"equal weights    {error(eg.procrustes(X, Y).rotation, rotation).item():.4f}")
    print(f"learned weights  {error(eg.procrustes(X, Y, weights=network(X, Y)).rotation, rotation).item():.4f}")


if __name__ == "__main__":
    main()
