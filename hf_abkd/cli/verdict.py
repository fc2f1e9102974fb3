"""Verdict: by how much one method was better than another, seed by seed, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

from hf_abkd.wording import listed

# Of the interval.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The difference of two methods in percentage points, over the seeds that both were trained with.

    Attributes:
        mean: Its mean.
        low: Where the 95 % confidence interval of the mean begins (Student's t over seeds); infinite for one seed.
        high: Where it ends.
        seeds: How many seeds there are.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """Say it in words: "+11.2 points (95 % interval +9.8 to +12.6 over 3 seeds)"."""
        if self.seeds == 1:
            return f"{self.mean:+.1f} points (one seed: no interval)"
        return f"{self.mean:+.1f} points (95 % interval {self.low:+.1f} to {self.high:+.1f} over {self.seeds} seeds)"


def difference(ones: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """Return by how much accuracies are above others, paired by seed; None if no seed has both.

    Args:
        ones: Accuracies by seed, shares in [0, 1].
        others: Likewise.

    Example:
        >>> str(difference({0: 0.80, 1: 0.82, 2: 0.81}, {0: 0.70, 1: 0.71, 2: 0.72}))
        '+10.0 points (95 % interval +7.5 to +12.5 over 3 seeds)'
    """
    pairs = [100 * (ones[seed] - others[seed]) for seed in ones if seed in others]
    if not pairs:
        return None
    middle = mean(pairs)
    if len(pairs) == 1:
        return Difference(middle, -math.inf, math.inf, 1)
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(pairs) - 1)) * stdev(pairs) / math.sqrt(len(pairs))
    return Difference(middle, middle - reach, middle + reach, len(pairs))


def verdict(accuracies: Mapping[str, Mapping[int, float]], alone: str) -> str:
    """Return in a sentence what distillation brought: the last method against each of those before it.

    Args:
        accuracies: Of each method the accuracies by seed, shares in [0, 1], in the order of the table.
        alone: What the method without a teacher is called.
    """
    *before, last = accuracies
    found = {name: difference(accuracies[last], accuracies[name]) for name in before}
    told = [f"{one} against {name}" for name, one in found.items() if one is not None]
    if not told:
        return ""
    unclear = [name for name, one in found.items() if one is not None and one.seeds > 1 and not one.is_clear]
    what = f"What distillation brought: {last} {listed(told)}" if alone in found else f"{last}: {listed(told)}"
    return what + (f"; against {listed(unclear)} that is within the spread" if unclear else "") + "."
