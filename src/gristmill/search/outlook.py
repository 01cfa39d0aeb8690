"""What more time would buy: how much of the error is expected to be left after 2, 5 and 10 times the time.

From the course of a finished search, by a rule learnt from many others: the logarithm of the error that is
left after k times the time, over the error now, is a line in the logarithm of what the second half of the
search took off the error. The line and the spread around it (`outlook.json`) come from simulated searches on
learning-curve tables, `benchmarks/outlook.py`, which also judges them on tasks that it did not learn from.
There the slope came out near zero: how fast a race rose lately says little of what it will still find.
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
    """After `factor` times the time, the share of the present error (what lacks to a perfect score) that is
    left: the `middle`, and `least` and `most`, between which it lies in 8 of 10 cases."""

    factor: float
    middle: float
    least: float
    most: float


def outlook(course: Course, seconds: float) -> tuple[Outlook, ...]:
    """What more time is expected to do to the error, on the scale of any metric.

    Args:
        course: How the best score rose; at least one entry.
        seconds: How long was searched.
    """
    slope = halving(course, seconds)
    return tuple(_ahead(float(factor), rule, slope) for factor, rule in _rules().items())


def halving(course: Course, seconds: float) -> float:
    """Logarithm of the error at the end over the error at half the time, from -1.5 to 0; -1.5 too where
    there was no score at half the time."""
    times = [t for t, _ in course]
    middle = bisect_right(times, seconds / 2.0)
    if not middle:
        return -_STEEPEST
    before, now = (max(_LEAST, 1.0 - s) for s in (course[middle - 1][1], course[-1][1]))
    return min(0.0, max(-_STEEPEST, math.log(now / before)))


def _ahead(factor: float, rule: dict[str, float], slope: float) -> Outlook:
    middle = min(0.0, rule["level"] + rule["slope"] * slope)
    ends = (math.exp(min(0.0, middle + rule[end])) for end in ("below", "above"))
    least, most = ends
    return Outlook(factor=factor, middle=math.exp(middle), least=least, most=most)


@lru_cache(maxsize=1)
def _rules() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("outlook.json").read_text(encoding="utf-8")
    rules: dict[str, dict[str, Any]] = json.loads(text)["factors"]
    return rules
