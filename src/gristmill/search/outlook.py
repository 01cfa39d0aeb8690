"""What more time would buy: the score now, and the score to be expected after 2, 5 and 10 times the time.

From the course of a finished search, by a rule learnt from many others: the logarithm of the error that is
left after k times the time, over the error now, is a line in the logarithm of what the second half of the
search took off the error. The line and the spread around it (`outlook.json`) come from simulated searches on
learning-curve tables, `benchmarks/outlook.py`, which also judges them on tasks that it did not learn from.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

Course = Sequence[tuple[float, float]]
"""(seconds of search, best score so far), ascending in both."""
_STEEPEST = 1.5  # a halving of the time that took more than exp(1.5) off says no more than that
_LEAST = 1e-4  # a perfect score leaves no error to reduce


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The score (1 = perfect) to be expected with `factor` times the time: the middle, and the ends
    between which it lies in 8 of 10 cases."""

    factor: float
    score: float
    low: float
    high: float


def outlook(course: Course, seconds: float, score: float) -> tuple[Outlook, ...]:
    """The expected scores after more time.

    Args:
        course: How the best score rose; at least one entry.
        seconds: How long was searched.
        score: The score of the final model, from which the improvement is reckoned.
    """
    slope = halving(course, seconds)
    return tuple(_ahead(float(factor), rule, slope, score) for factor, rule in _rules().items())


def halving(course: Course, seconds: float) -> float:
    """Logarithm of the error at the end over the error at half the time, from -1.5 to 0; -1.5 too where
    there was no score at half the time."""
    times = [t for t, _ in course]
    middle = bisect_right(times, seconds / 2.0)
    if not middle:
        return -_STEEPEST
    before, now = (max(_LEAST, 1.0 - s) for s in (course[middle - 1][1], course[-1][1]))
    return min(0.0, max(-_STEEPEST, math.log(now / before)))


def _ahead(factor: float, rule: dict[str, float], slope: float, score: float) -> Outlook:
    error, middle = max(0.0, 1.0 - score), rule["level"] + rule["slope"] * slope

    def reached(logarithm: float) -> float:
        return 1.0 - error * math.exp(min(0.0, logarithm))

    return Outlook(
        factor=factor,
        score=reached(middle),
        low=reached(middle + rule["above"]),
        high=reached(middle + rule["below"]),
    )


@lru_cache(maxsize=1)
def _rules() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("outlook.json").read_text(encoding="utf-8")
    rules: dict[str, dict[str, Any]] = json.loads(text)["factors"]
    return rules
