from __future__ import annotations

import pytest

from gristmill.search.cost import CostModel
from gristmill.segment import Learner, Outcome, Segment

LEARNER = Learner(resumable=True, seconds_per_row=1e-3, fixed_s=2.0)


def train(
    rows: int, seconds: float, per_row: float | None = None, state: str = "done"
) -> tuple[Segment, Outcome]:
    segment = Segment(id="s", kind="train", config={}, to_rows=rows)
    facts = {} if per_row is None else {"seconds_per_row": per_row}
    seen = rows if state == "done" else 0
    return segment, Outcome(id="s", state=state, seconds=seconds, rows_seen=seen, facts=facts)  # type: ignore[arg-type]


def ask(model: CostModel, key: str = "new", group: str = "net", rows: int = 1000) -> float:
    return model.seconds(key, group, rows, per_row=1e-3, fixed_s=2.0)


def test_begins_with_the_nominal_cost() -> None:
    assert ask(CostModel()) == pytest.approx(3.0)


def test_own_speed_wins_then_the_family_then_the_machine() -> None:
    model = CostModel()
    model.learn("known", "net", *train(1000, 7.0, per_row=4e-3), LEARNER)
    assert ask(model, "known") == pytest.approx(7.0)
    assert ask(model, "new") == pytest.approx(7.0)
    assert ask(model, "new", "other") == pytest.approx(4.0 + 2.0), "another family is believed up to two-fold"


def test_the_imports_of_a_first_segment_are_soon_forgotten() -> None:
    model = CostModel()
    model.learn("k", "net", *train(1000, 11.0, per_row=1e-3), LEARNER)
    model.learn("k", "net", *train(1000, 1.5, per_row=1e-3), LEARNER)
    assert ask(model, "k") == pytest.approx(1.5)
    model.learn("k", "net", *train(1000, 2.5, per_row=1e-3), LEARNER)
    assert ask(model, "k") == pytest.approx(2.0)


def test_learns_from_whole_seconds_when_nothing_was_measured_inside() -> None:
    model = CostModel()
    model.learn("known", "net", *train(1000, 12.0), LEARNER)
    assert ask(model, "known") == pytest.approx(12.0)


def test_a_cut_before_the_first_row_corrects_the_speed() -> None:
    model = CostModel()
    model.learn("slow", "net", *train(1000, 1.0, per_row=0.1, state="cut"), LEARNER)
    assert ask(model, "slow") > 100.0


def test_a_cut_tells_the_time_to_start() -> None:
    model = CostModel()
    segment, outcome = train(1000, 9.0, per_row=1e-3, state="cut")
    facts = {**outcome.facts, "startup_s": 5.0}
    model.learn("k", "net", segment, Outcome(id="s", state="cut", seconds=9.0, facts=facts), LEARNER)
    assert ask(model) == pytest.approx(6.0)


@pytest.mark.parametrize("state", ["failed", "oom", "lost", "diverged"])
def test_failures_say_nothing(state: str) -> None:
    model = CostModel()
    model.learn("known", "net", *train(1000, 50.0, per_row=1.0, state=state), LEARNER)
    assert ask(model) == pytest.approx(3.0)


@pytest.mark.parametrize("fact", [None, "fast", -1.0, 0.0, True, float("inf")])
def test_nonsense_is_not_believed(fact: object) -> None:
    model = CostModel()
    segment, outcome = train(0, 0.0)
    outcome = Outcome(id="s", state="done", facts={"seconds_per_row": fact})
    model.learn("known", "net", segment, outcome, LEARNER)
    assert ask(model) == pytest.approx(3.0)


def test_features_have_a_price_of_their_own() -> None:
    model = CostModel()
    reader = Learner(resumable=False, parent={}, parent_seconds_per_row=1e-2, seconds_per_row=1e-4)
    segment = Segment(id="f", kind="features", config={}, to_rows=100)
    outcome = Outcome(id="f", state="done", seconds=3.0, facts={"seconds_per_row": 2e-2})
    model.learn("p", "features", segment, outcome, reader)
    assert model.seconds("p", "features", 100, per_row=1e-2, fixed_s=1.0) == pytest.approx(3.0)


def test_what_takes_no_time_says_nothing_of_the_machine() -> None:
    model = CostModel()
    model.learn("floor", "constant", *train(1000, 0.02, per_row=3e-3), LEARNER)
    assert ask(model) == pytest.approx(3.0)
