"""The rules that save time: an early end, a settled ranking, rungs that fill first, comparable scores."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from gristmill.search.journal import Journal, read
from gristmill.search.ledger import Candidate, Rung, Trend
from gristmill.search.study import Study, replay
from gristmill.segment import Learner, Outcome, Segment

from .simulation import PORTFOLIO, SPACE, answer, done, drive, learner, run, study

FITS: tuple[tuple[dict[str, Any], str], ...] = (({"family": "fit"}, "all"),)


def flat(segment: Segment) -> tuple[Outcome, float]:
    """A world in which all candidates are the same."""
    outcome, seconds = answer(segment)
    return (outcome if segment.kind == "features" else done(segment, 0.9)), seconds


def drawn(segment: Segment) -> float:
    """Evenly from 0 to 1, by the segment's name."""
    return zlib.crc32(segment.id.encode()) / 2**32


def test_the_search_ends_early_when_nothing_can_be_gained_and_says_why() -> None:
    found = study()
    asked = drive(found, seconds=3000, answer=flat)
    assert len(asked) < 200
    assert not found.open
    assert "more candidates fit into the" in found.stopped
    stops = [line for line in found._journal.lines if line.kind == "stop"]
    assert stops[-1].data["reason"] == found.stopped, "once more when the best trunk had gone on meanwhile"
    assert stops[0].seq is not None
    assert sum(t.score is not None for t in found.trials) >= found.settings.least_candidates
    assert replay(found._journal.lines, space=SPACE, learner=learner, portfolio=PORTFOLIO) == []


def test_no_early_end_while_better_candidates_are_found() -> None:
    def improving(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        if segment.kind == "features":
            return outcome, seconds
        return done(segment, 0.5 + 0.4 * drawn(segment)), seconds

    found = study()
    drive(found, seconds=600, answer=improving)
    assert sum(t.score is not None for t in found.trials) > found.settings.least_candidates
    assert found.stopped == ""


def test_the_noise_of_the_score_decides_what_can_be_noticed() -> None:
    def noisy(noise: float) -> Any:
        def answering(segment: Segment) -> tuple[Outcome, float]:
            outcome, seconds = answer(segment)
            if segment.kind == "features":
                return outcome, seconds
            score = 0.9 + 0.05 * drawn(segment)
            return Outcome(
                id=segment.id, state="done", score=score, noise=noise, rows_seen=segment.to_rows
            ), seconds

        return answering

    exact, coarse = study(portfolio=FITS), study(portfolio=FITS)
    drive(exact, seconds=400, answer=noisy(0.0))
    drive(coarse, seconds=400, answer=noisy(0.2))
    assert exact.stopped == ""
    assert coarse.stopped
    assert len(coarse.outcomes) < len(exact.outcomes)


def test_a_run_that_ended_early_is_resumed_as_it_was_and_goes_on_when_gains_return(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = run(path, seconds=3000, answer=flat)
    assert first.stopped
    with Journal.open(path, sync=False) as journal:
        resumed = study(journal)
        assert resumed.stopped == first.stopped
        lines = len(journal.lines)
        drive(resumed, seconds=2000, answer=flat)
        assert resumed.stopped == first.stopped
        assert len(journal.lines) == lines, "it is not written twice"
    assert replay(read(path), space=SPACE, learner=learner, portfolio=PORTFOLIO) == []


def test_counted_segments_are_all_run() -> None:
    found = study(counted=80)
    assert len(drive(found, answer=flat)) == 80
    assert found.stopped == ""


def test_trunks_that_are_good_are_finished_before_the_early_end() -> None:
    found = study(portfolio=PORTFOLIO[2:5], least_candidates=1, least_gain=0.99)
    drive(found, seconds=3000)
    assert found.stopped
    assert found.best is not None and found.best.cooled


def test_a_settled_ranking_says_what_a_trunk_must_reach() -> None:
    rung = Rung()
    for number, (before, score) in enumerate([(0.5, 0.6), (0.7, 0.8), (0.6, 0.7)]):
        rung.put(score, number, before)
    assert rung.settled(2) == float("-inf"), "three are too few to confirm a ranking of two"
    rung.put(0.5, 3, 0.4)
    assert rung.settled(2) == 0.6
    rung.put(0.9, 4, 0.3)
    assert rung.settled(2) == float("-inf"), "the last of the lower rung came first"


def nets(scores: dict[float, tuple[float, float]]) -> Any:
    """Networks by rate: score at the first rung, and above."""

    def answering(segment: Segment) -> tuple[Outcome, float]:
        low, high = scores.get(segment.config.get("net.rate", 0.0), (0.1, 0.1))
        return done(segment, low if segment.to_rows <= 8000 else high, 5e-4), 4.0

    return answering


@pytest.mark.parametrize(
    ("order", "goes_on"), [((0.80, 0.79, 0.78, 0.77), False), ((0.77, 0.78, 0.79, 0.80), True)]
)
def test_once_settled_only_the_best_go_up(order: tuple[float, ...], goes_on: bool) -> None:
    rates = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    first = (0.70, 0.69, 0.68, 0.67, 0.66, 0.65)
    scores = dict(zip(rates, zip(first, (*order, 0.75, 0.75), strict=True), strict=True))
    plan = [({"family": "net", "net.rate": rate}, "all") for rate in rates]
    found = study(portfolio=plan, eta=1 + 1, max_rows=16000)
    ledger, race = found._ledger, found._race
    for config, view in plan:
        _tell(found, config, view, 0, 8000, scores)
    for config, view in plan[:4]:
        _tell(found, config, view, 8000, 16000, scores)
    bound = race._least_to_go_on(ledger, 8000)
    assert (bound < 0.65) == goes_on
    if not goes_on:
        assert bound == 0.69


def _tell(found: Study, config: dict[str, Any], view: str, begin: int, end: int, scores: Any) -> None:
    """Fold a segment and its outcome as a journal would."""
    ledger = found._ledger
    key = ledger.key(SPACE.complete(config), view)
    known = ledger.by_key.get(key)
    segment = Segment(
        id=f"{key}-{end}", kind="train", config=SPACE.complete(config), from_rows=begin, to_rows=end
    )
    data = {"trial": len(ledger.candidates) if known is None else known.number, "left": 100.0, "cost": 1.0}
    ledger.ask(segment, data | {"config": segment.config, "view": view, "source": "proposal"})
    ledger.tell(nets(scores)(segment)[0])


def test_a_rung_fills_before_it_sends_the_first_up() -> None:
    found = study(portfolio=(), ripe=3)
    asked = drive(found, seconds=400, workers=1)
    nets_asked = [s for s in asked if s.kind == "train"]
    first_up = next(i for i, s in enumerate(nets_asked) if s.from_rows)
    assert first_up >= 3
    eager = drive(study(portfolio=(), ripe=1), seconds=400, workers=1)
    eager_nets = [s for s in eager if s.kind == "train"]
    assert next(i for i, s in enumerate(eager_nets) if s.from_rows) < first_up


def candidate(*points: tuple[int, float]) -> Candidate:
    found = Candidate(
        number=0,
        config={},
        view="all",
        defaults={},
        family="",
        source="proposal",
        learner=Learner(resumable=True),
    )
    found.points = [(rows, score, 0.0) for rows, score in points]
    found.best = Outcome(id="o", state="done", score=points[-1][1])
    return found


def test_forecasts_put_the_scores_of_all_rungs_on_one_scale() -> None:
    trend = Trend()
    low = candidate((100, 0.8))
    assert trend.forecast(low) == 0.8
    assert trend.learn([(100, 0.6, 0.0), (200, 0.8, 0.0)])
    assert trend.learn([(200, 0.8, 0.0), (400, 0.9, 0.0)])
    odds = (0.1 / 0.9) / (0.4 / 0.6)
    assert trend.forecast(low) == pytest.approx(1 / (1 + 0.2 / 0.8 * odds))
    odds = (0.1 / 0.9) / (0.2 / 0.8)
    assert trend.forecast(candidate((100, 0.6), (200, 0.85))) == pytest.approx(1 / (1 + 0.15 / 0.85 * odds))
    assert trend.forecast(candidate((200, 0.5), (400, 0.7))) == 0.7
    assert not trend.learn([(100, 0.6, 0.0), (200, 0.8, 0.0)]), "nothing new"


def test_a_poor_trunk_is_not_forecast_to_come_near_to_a_leader_whose_curve_was_steep() -> None:
    trend = Trend()
    leader = [(100, 0.34, 0.01), (200, 0.62, 0.01), (400, 0.93, 0.01), (800, 0.974, 0.01)]
    for reached in (2, 3, 4):
        trend.learn(leader[:reached])
    assert trend.forecast(candidate((100, 0.33))) > 0.9
    assert trend.forecast(candidate((100, 0.06))) < 0.85
    assert trend.forecast(candidate((100, 0.0))) < 0.1, "at the floor nothing can be said"
    assert trend.forecast(candidate((100, -0.2))) < 0.1


def test_what_goes_no_further_is_worth_what_it_reached() -> None:
    trend = Trend()
    trend.learn([(100, 0.6, 0.0), (200, 0.8, 0.0)])
    stuck = candidate((100, 0.8))
    stuck.topped = "diverged"
    assert trend.forecast(stuck) == 0.8


def test_mutations_start_from_trunks_of_every_rung_at_their_true_worth() -> None:
    found = study(portfolio=PORTFOLIO[2:5])
    drive(found, seconds=400)
    best = found.best
    assert best is not None
    top = found._ledger.history.top(1)[0]
    assert top.value <= best.score + 0.05, "no optimistic bound of an early stop stands first"
