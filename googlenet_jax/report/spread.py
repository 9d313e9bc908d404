"""Statistics of runs that differ in their seed: means, deviations and 95 % intervals."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Self

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """A quantity over several seeds.

    Attributes:
      mean: Mean over the seeds.
      std: Sample standard deviation (n - 1); None for a single seed.
      n: Number of seeds.
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean, by Student's t; None for a single seed."""
        if self.std is None:
            return None
        half = _quantile(self.n - 1) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Spread | None:
    """The differences, first minus second, of the runs that share a seed; None if none does.

    Args:
      first: Values by seed.
      second: Likewise.
    """
    shared = sorted(first.keys() & second.keys())
    return Spread.of([first[seed] - second[seed] for seed in shared]) if shared else None


def unpaired(first: Spread, second: Spread) -> tuple[float, float] | None:
    """The 95 % interval of the difference of two means whose runs share nothing, by Welch's t.

    Returns:
      Its ends, for first minus second; None if one of them has a single seed.
    """
    if first.std is None or second.std is None:
        return None
    variances = [each.std**2 / each.n for each in (first, second) if each.std is not None]
    difference, variance = first.mean - second.mean, sum(variances)
    if not variance:
        return difference, difference
    freedom = variance**2 / sum(
        part**2 / (each.n - 1) for part, each in zip(variances, (first, second), strict=True)
    )
    half = _quantile(freedom) * math.sqrt(variance)
    return difference - half, difference + half


def show(interval: tuple[float, float] | None, form: str = ".2f") -> str:
    """An interval as text; "" if there is none."""
    return f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else ""


def binomial_error(accuracy: float, examples: int) -> float:
    """The standard error of an accuracy that is due to the choice of the test images.

    It says nothing about training again with another seed.

    Args:
      accuracy: Share of the images that are classified correctly.
      examples: Number of images.
    """
    return math.sqrt(accuracy * (1 - accuracy) / examples)


def _quantile(freedom: float) -> float:
    from scipy import stats  # here, since importing it takes a second

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
