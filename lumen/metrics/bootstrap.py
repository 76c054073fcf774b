"""How sure a difference between two models is that answered the same questions: the paired bootstrap."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lumen.errors import DataError

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval.

    Args:
        value: The figure itself.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def lies_within(self, margin: float) -> bool:
        """Return whether the whole interval lies between ``-margin`` and ``margin``."""
        return -margin < self.low and self.high < margin


def resampled_means(
    values: Float[np.ndarray, "n columns"], *, draws: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "draws columns"]:
    """Return the means of columns over rows that are drawn with replacement, as many as there are.

    The rows of a draw are the same in all columns, and the same at each call with equal ``n``, ``draws`` and ``seed``:
    a difference of two columns is paired.

    Args:
        values: One row per question, one column per model.
        draws: How often all rows are drawn.
        seed: Of the drawing.

    Raises:
        DataError: There is no row.

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: percentile intervals.
    """
    num_rows = len(values)
    if not num_rows:
        raise DataError("there is nothing to draw from: no question was answered")
    rng, means = np.random.default_rng(seed), []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        # How often each row is drawn, by draw; then all columns in one product.
        drawn = rng.integers(num_rows, size=(size, num_rows)) + np.arange(size)[:, None] * num_rows
        counts = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)
        means.append(counts @ values / num_rows)
    return np.concatenate(means)


def interval(value: float, resampled: Float[np.ndarray, " draws"], level: float = 0.95) -> Interval:
    """Return a figure with the interval that holds the middle ``level`` of its resampled values."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
