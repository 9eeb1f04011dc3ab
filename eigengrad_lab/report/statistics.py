"""What a few runs can and cannot tell: intervals of shares, and tests of differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

__all__ = ["LEVEL", "Difference", "difference", "same_means", "wilson"]

LEVEL = 0.05
"""Of every test; intervals are of 95%."""


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Wilson's interval of a success rate, in percent (Wilson, *Journal of the ASA*, 1927)."""
    z = float(stats.norm.ppf(1 - LEVEL / 2))
    share, spread = successes / runs, z * z / runs
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / runs + spread / (4 * runs))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


@dataclass(frozen=True)
class Difference:
    """Of two means, in percentage points: its interval, and the p-value of there being none."""

    mean: float
    low: float
    high: float
    p: float
    test: str

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}], p = {self.p:.2g} ({self.test})"


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Of errors by seed. Paired where both have the same seeds, which share weights and order; else Welch's test.

    ``None`` where one of them has fewer than two runs, or nothing varies.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    if ours.keys() == theirs.keys():
        gaps = [ours[seed] - theirs[seed] for seed in ours]
        if max(gaps) - min(gaps) < 1e-9:
            return None
        test, name = stats.ttest_1samp(gaps, 0.0), "paired by seed"
    else:
        if max(ours.values()) == min(ours.values()) and max(theirs.values()) == min(theirs.values()):
            return None
        test, name = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False), "Welch"
    interval = test.confidence_interval(1 - LEVEL)
    mean = math.fsum(ours.values()) / len(ours) - math.fsum(theirs.values()) / len(theirs)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), name)


def same_means(groups: list[list[float]]) -> float | None:
    """p-value of all groups having one mean (one-way analysis of variance); ``None`` where it cannot be had."""
    if len(groups) < 2 or any(len(group) < 2 for group in groups):
        return None
    p = float(stats.f_oneway(*groups).pvalue)
    return None if math.isnan(p) else p
