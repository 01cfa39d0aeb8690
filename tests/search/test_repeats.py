"""The best model again with other seeds, in time that nothing else needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gristmill.search.journal import Line
from gristmill.search.ledger import Trial
from gristmill.search.study import Study
from gristmill.segment import Config, Learner, Outcome, Segment

from .simulation import PORTFOLIO, SPACE, answer, drive, learner, settings
from .test_study import differences

NET: tuple[tuple[dict[str, Any], str], ...] = (({"family": "net", "net.rate": 0.05}, "all"),)


def seeded(config: Config) -> Learner:
    return replace(learner(config), seeded=config["family"] == "net")


class Nothing:
    """A sampler with nothing to propose, so that the portfolio leaves time."""

    def propose(self, *_: object) -> None:
        return None


def searched(
    seconds: float = 150.0, portfolio: Any = NET, known: Any = seeded, answer: Any = answer, **changes: Any
) -> tuple[Study, list[Segment]]:
    found = Study(
        space=SPACE,
        learner=known,
        portfolio=portfolio,
        settings=settings(max_rows=16000, **changes),
        sampler=Nothing(),
    )
    return found, drive(found, seconds=seconds, answer=answer)


def repeats(found: Study) -> list[Trial]:
    return [t for t in found.trials if t.repeat]


def test_left_over_time_trains_the_best_again_with_other_seeds() -> None:
    found, asked = searched()
    best = next(t for t in found.trials if not t.repeat)
    assert [t.repeat for t in repeats(found)] == [1, 2, 3]
    for trial in repeats(found):
        assert (trial.config, trial.view, trial.source) == (best.config, best.view, "repeat")
        assert trial.cooled and trial.rows >= best.rows
    seeds = {s.seed for s in asked}
    assert len(seeds) == 4 and len({s.id for s in asked}) == len(asked)


def test_a_repeat_goes_as_far_in_one_segment_as_the_best_went_in_rungs() -> None:
    _, asked = searched(seconds=400.0)
    ways: dict[int, list[tuple[str, int, int]]] = {}
    for s in asked:
        ways.setdefault(s.seed, []).append((s.kind, s.from_rows, s.to_rows))
    first = ways.pop(0)
    trained = [way for way in first if way[0] == "train"]
    assert len(ways) == 3
    for way in ways.values():
        assert way[0] == ("train", 0, trained[-1][2])
        assert [kind for kind, _, _ in way] == ["train", "cooldown"]


def test_no_repeat_is_begun_that_could_not_be_finished() -> None:
    for seconds in (20, 30, 40, 60):
        found, _ = searched(seconds=float(seconds))
        assert all(t.cooled for t in repeats(found))
        assert not [o for o in found.outcomes.values() if o.state == "cut"]


@pytest.mark.parametrize("most", [0, 1])
def test_the_number_of_repeats_is_a_setting(most: int) -> None:
    found, _ = searched(repeats=most)
    assert len(repeats(found)) == most


def partnered(workers: int = 2, known: Any = seeded, **changes: Any) -> tuple[Study, list[Segment]]:
    """With proposals until the end, and one network far better than what they bring."""
    found = Study(
        space=SPACE,
        learner=known,
        portfolio=NET,
        settings=settings(base_rows=1000, max_rows=64000, **changes),
    )
    return found, drive(found, seconds=60.0, workers=workers, answer=lone)


def _lines(found: Study) -> list[Line]:
    return [line for line in found._journal.lines if line.kind in ("ask", "outcome")]


def lone(segment: Segment) -> tuple[Outcome, float]:
    outcome, seconds = answer(segment)
    if outcome.score is None or segment.config.get("net.rate") == 0.05:
        return outcome, seconds
    return replace(outcome, score=0.5 * outcome.score), seconds


def test_the_best_gets_a_partner_with_another_seed_before_it_is_too_late() -> None:
    found, asked = partnered()
    best = found.best
    partner = next(t for t in repeats(found))
    assert best is not None and partner.config == best.config
    assert partner.cooled and partner.rows >= max(t.rows for t in found.trials if not t.repeat) // 4
    begun = next(s.id for s in asked if s.seed != 0)
    last = next(s.id for s in reversed(asked) if s.seed == 0 and s.config == best.config)
    order = [
        (x.kind, x.data["segment"]["id"] if x.kind == "ask" else x.data.get("id")) for x in _lines(found)
    ]
    assert order.index(("ask", begun)) < order.index(("outcome", last)), "beside the best, not after it"
    assert not [o for o in found.outcomes.values() if o.state == "cut"]
    given = {"learner": seeded, "portfolio": NET}
    assert differences(found, **given) == []


@pytest.mark.parametrize(
    "changes",
    [{"workers": 1}, {"known": learner}, {"repeats": 0}],
    ids=["one slot", "no seeds", "none wanted"],
)
def test_there_is_no_partner(changes: dict[str, Any]) -> None:
    found, _ = partnered(**changes)
    assert not repeats(found)


def test_what_no_seed_changes_is_not_repeated() -> None:
    found, _ = searched(known=learner)
    assert repeats(found) == []


def test_the_best_is_not_repeated_when_nothing_better_could_be_noticed() -> None:
    def perfect(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        return replace(outcome, score=None if outcome.score is None else 0.995), seconds

    found, _ = searched(answer=perfect)
    assert repeats(found) == []


def test_counted_segments_are_never_repeats() -> None:
    found = Study(space=SPACE, learner=seeded, portfolio=PORTFOLIO, settings=settings(counted=40))
    drive(found)
    assert repeats(found) == []


def test_repeats_are_decided_anew_from_the_journal_and_teach_no_sampler() -> None:
    found, _ = searched()
    assert repeats(found)
    given = {"learner": seeded, "portfolio": NET, "sampler": Nothing()}
    assert differences(found, **given) == []
    again = Study(
        space=SPACE,
        learner=seeded,
        portfolio=NET,
        journal=found._journal,
        settings=settings(max_rows=16000),
        sampler=Nothing(),
    )
    assert again.trials == found.trials
    assert len(found._ledger.history) == len(found.trials) - len(repeats(found))
