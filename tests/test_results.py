from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gristmill.evaluation import Evaluation, evaluate, floors
from gristmill.results import Event, Result
from gristmill.task import Target


@pytest.mark.parametrize(
    ("left", "line"),
    [
        (125.0, "[ 2m 05s left] reading"),
        (-3.0, "[     0s left] reading"),
        (float("inf"), "reading"),
    ],
)
def test_a_line_says_the_time_left_where_there_is_a_deadline(left: float, line: str) -> None:
    assert Event(kind="step", text="reading", spent=0.0, left=left).line() == line


def result(found: Evaluation, traditional: float | None = None) -> Result:
    """What a run that ended with this evaluation would return."""
    return Result(
        bundle=Path("a.grist"), report=Path("a.html"), evaluation=found, metric=found.metric,
        score=found.score.value, state="finished", spent=61.0, leaderboard=(), audit={}, headline="Good.",
        traditional=traditional,
    )  # fmt: skip


def figures(found: Evaluation, traditional: float | None = None) -> str:
    return result(found, traditional).summary().splitlines()[1]


def test_the_summary_says_the_metric_that_decides_beside_its_rivals() -> None:
    target = Target(name="y", task="binary", labels=("no", "yes"))
    y = np.arange(200) % 2
    sure = np.where((np.arange(200) % 20 < 18) == (y == 1), 0.9, 0.1)
    outputs, floor = np.stack([1 - sure, sure], 1), floors(y, y, target)
    found = evaluate(target, y, outputs, metric="balanced_accuracy", floor=floor)
    low, high = found.score.low, found.score.high
    assert figures(found, 0.585) == (
        f"Balanced accuracy {found.score.value:.3f} ({low:.3f} to {high:.3f}); "
        "traditional model 0.585; always one answer 0.500"
    )
    assert figures(evaluate(target, y, outputs, metric="log_loss", floor=floor)).startswith("Log loss ")


def test_the_summary_of_numbers_is_in_their_unit() -> None:
    target = Target(name="price", task="regression")
    y = np.linspace(1e5, 3e5, 100)
    line = figures(evaluate(target, y, y + 1234.0, metric="rmse", floor=floors(y, y, target)), 20000.0)
    assert line == "RMSE 1,234 (1,234 to 1,234); traditional model 20,000; always the mean 58,315"


def test_a_result_without_a_floor_or_a_rival_says_its_own_figure_only() -> None:
    target = Target(name="price", task="regression")
    y = np.linspace(0.0, 1.0, 50)
    assert figures(evaluate(target, y, y + 0.25, metric="mae")) == "MAE 0.25 (0.25 to 0.25)"
