"""Methods compared on the same tasks: mean ranks, and intervals by bootstrap over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks along the first axis, 1 for the smallest value, the mean of their places for equals."""
    below = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def interval(values: Sequence[float] | NDArray[Any]) -> list[float]:
    """95 % interval of the mean by bootstrap over tasks (paired when `values` are differences)."""
    rng = np.random.default_rng(0)
    means = np.asarray(values)[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return [round(float(x), 4) for x in np.quantile(means, (0.025, 0.975))]
