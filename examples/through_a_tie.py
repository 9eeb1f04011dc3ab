"""Descend through a tie: a loss of eigenvectors whose minimum has equal eigenvalues.

A symmetric matrix is trained until its two leading eigenvalues are equal and their plane is a given one. On the way the
eigenvalues meet, which is where the exact gradient ends.

    python examples/through_a_tie.py
"""

from collections.abc import Callable

import torch
from torch import Tensor

import eigengrad as eg

STEPS = 300


def loss(L: Tensor, V: Tensor, plane: Tensor) -> Tensor:
    """How far the two leading eigenvalues are from 1, and how much of their vectors lies outside the plane."""
    outside = V[:, -2:] - plane @ (plane.T @ V[:, -2:])
    return (L[-2:] - 1).square().sum() + outside.square().sum()


def descend(decompose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[int, float]:
    """Steps taken before the first that is not finite, and the last finite loss."""
    plane = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))[0]
    A = torch.diag(torch.tensor([0.1, 0.2, 0.5, 0.8])).requires_grad_()
    optimizer, last = torch.optim.SGD([A], lr=0.05), float("nan")
    for step in range(STEPS):
        value = loss(*decompose(A), plane)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if not A.isfinite().all():
            return step, last
        last = value.item()
    return STEPS, last


def main() -> None:
    """Compare torch's gradient with each rule."""
    ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"torch.linalg.eigh": torch.linalg.eigh}
    for rule in (eg.Lorentzian(), eg.Lorentzian(width=1e-3), eg.Masked(), eg.Taylor(), eg.PowerIteration()):
        ways[repr(rule)] = lambda A, rule=rule: eg.eigh(A, gradient=rule)
    for name, decompose in ways.items():
        steps, last = descend(decompose)
        end = f"loss {last:.1e}" if steps == STEPS else f"not finite after {steps} steps"
        print(f"{name:30} {end}")


if __name__ == "__main__":
    main()
