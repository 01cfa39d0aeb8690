"""From a run's journal to what the report says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gristmill.narrative import prospects
from gristmill.search.journal import Line


def lines(*scores: float | None) -> list[Line]:
    """A journal with one outcome and one clock line for each score, ten seconds apart."""
    found = []
    for i, score in enumerate(scores):
        found.append(Line(kind="outcome", data={"score": score}, t=0.0))
        found.append(Line(kind="clock", data={"spent": 10.0 * (i + 1)}, t=0.0))
    return found


def judged(name: str, value: float) -> Any:
    return SimpleNamespace(metric=name, score=SimpleNamespace(value=value))


def test_prospects_lie_between_the_present_score_and_a_perfect_one() -> None:
    found = prospects(lines(0.0, 0.3, None, 0.5, 0.6, 0.7), judged("accuracy", 0.8), 65.0)
    assert [p.seconds for p in found] == [130, 325, 650]
    for p in found:
        assert 0.8 <= p.low <= p.value <= p.high <= 1.0


def test_an_error_metric_falls_towards_zero() -> None:
    (first, *_) = prospects(lines(0.1, 0.3, 0.5, 0.6, 0.7), judged("rmse", 40.0), 60.0)
    assert 0.0 <= first.high <= first.value <= first.low <= 40.0


@pytest.mark.parametrize("scores", [(), (0.0, 0.0, 0.0, 0.0, 0.0), (None, 0.5, 0.6)])
def test_a_search_that_was_hardly_one_says_nothing(scores: tuple[float | None, ...]) -> None:
    assert prospects(lines(*scores), judged("accuracy", 0.8), 60.0) == ()
