"""How many iterations, and what they cost: the questions of the paper's section 3, answered in numbers.

Choosing ``iterations`` for :class:`eigengrad.PowerIteration` is choosing a bound on the gradient
(:func:`gradient_bound`) against the share of the exact gradient that is left out (:func:`remainder`).
"""

import math

from eigengrad.gradients import GradientRule, PowerIteration

__all__ = ["gradient_bound", "iterations_for", "remainder"]


def gradient_bound(
    n: int,
    eps: float,
    *,
    gradient: GradientRule = PowerIteration(),  # noqa: B008 (a frozen value)
    largest: float = 1.0,
) -> float:
    """Bound on ``norm(gA) / norm(gV)`` in the backward of :func:`eigengrad.eigh`: for power iteration, ``n T / eps``.

    This is the paper's bound. The backward pass is an elementwise product with the rule's K between two orthogonal
    changes of basis, so in Frobenius norms it holds even without the factor n.

    Args:
        n: size of the matrix.
        eps: lower bound of its eigenvalues' magnitudes, such as the ``eps`` added to a covariance's diagonal.
        gradient: the rule.
        largest: a lower bound of the largest magnitude; used by the rules whose threshold is relative to it.

    Returns:
        The bound; infinite for :class:`eigengrad.Exact`.

    Raises:
        ValueError: if ``n`` or ``eps`` or ``largest`` is negative.

    Source: Wang et al., NeurIPS 2019, section 3.

    Example:
        >>> import eigengrad as eg
        >>> eg.analysis.gradient_bound(64, eps=1e-4)
        12160000.0
    """
    for name, value in (("n", n), ("eps", eps), ("largest", largest)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    return n * gradient.bound(eps, largest)


def remainder(ratio: float, iterations: int = 19) -> float:
    """Share ``ratio ** iterations`` of the exact gradient that power iteration leaves out, for one pair of eigenvalues.

    Args:
        ratio: ``r = b/a``, the eigenvalue of smaller magnitude divided by the other, in [-1, 1].
        iterations: T of :class:`eigengrad.PowerIteration`.

    Raises:
        ValueError: if ``ratio`` lies outside [-1, 1] or ``iterations`` is negative.

    Source: Wang et al., NeurIPS 2019, section 3.

    Example:
        >>> import eigengrad as eg
        >>> round(eg.analysis.remainder(0.85, iterations=19), 3)
        0.046
    """
    if not -1 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [-1, 1], got {ratio}: divide the smaller magnitude by the larger")
    if iterations < 0:
        raise ValueError(f"iterations must not be negative, got {iterations}")
    return abs(ratio) ** iterations


def iterations_for(ratio: float, share: float = 0.05) -> int:
    """The smallest number of iterations that leaves out at most ``share`` of the exact gradient.

    Args:
        ratio: magnitude of ``r = b/a``, below 1 (at a tie no number of iterations suffices).
        share: the :func:`remainder` allowed, in (0, 1).

    Raises:
        ValueError: if ``abs(ratio)`` is not below 1, or ``share`` lies outside (0, 1).

    Source: Wang et al., NeurIPS 2019, section 3, which picks 19 for a ratio of 0.85 and a share of 5%.

    Example:
        >>> import eigengrad as eg
        >>> eg.analysis.iterations_for(0.85, share=0.05)
        19
    """
    if not -1 < ratio < 1:
        raise ValueError(f"ratio must lie strictly between -1 and 1, got {ratio}")
    if not 0 < share < 1:
        raise ValueError(f"share must lie strictly between 0 and 1, got {share}")
    if abs(ratio) <= share:
        return 1
    iterations = math.ceil(math.log(share) / math.log(abs(ratio)))
    # The logarithms may round across an integer.
    while iterations > 1 and abs(ratio) ** (iterations - 1) <= share:
        iterations -= 1
    while abs(ratio) ** iterations > share:
        iterations += 1
    return iterations
