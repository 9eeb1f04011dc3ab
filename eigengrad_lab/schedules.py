"""How the learning rate moves during a training, as shares of its largest value."""

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_share"]

Schedule = Literal["steps", "one-cycle", "cosine"]
RISE = 0.2
"""Of a one-cycle schedule, the share of the training during which the learning rate rises."""


def learning_rate_share(
    schedule: Schedule, epoch: float, epochs: int, milestones: tuple[int, ...], warmup_epochs: float
) -> float:
    """The share after ``epoch`` of ``epochs``, whole or not.

    ``steps`` divides by ten at each milestone, as the paper does. ``one-cycle`` rises linearly from a hundredth and
    falls linearly to zero (Smith and Topin, *Super-Convergence*, 2019). ``cosine`` falls as a half cosine (Loshchilov
    and Hutter, *SGDR*, 2017). All rise linearly over ``warmup_epochs`` before.
    """
    if warmup_epochs and epoch < warmup_epochs:
        return max(epoch / warmup_epochs, 0.01)
    done = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)
    match schedule:
        case "steps":
            return 0.1 ** sum(epoch >= milestone for milestone in milestones)
        case "one-cycle":
            return 0.01 + 0.99 * done / RISE if done < RISE else max(1 - done, 0.0) / (1 - RISE)
        case "cosine":
            return (1 + math.cos(math.pi * min(done, 1.0))) / 2
