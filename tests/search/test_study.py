from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.errors import RunError, UsageError
from gristmill.search.journal import Journal, decision_bytes, read
from gristmill.search.study import Study, replay
from gristmill.segment import Outcome, Resources, Segment

from .simulation import PORTFOLIO, SPACE, answer, drive, learner, run, study

SLOT = (Resources(),)


def differences(found: Study, **changes: Any) -> list[str]:
    return replay(
        found._journal.lines, **{"space": SPACE, "learner": learner, "portfolio": PORTFOLIO, **changes}
    )


def decisions(path: Path) -> list[bytes]:
    return decision_bytes(read(path))


# resume


def test_counted_decisions_are_the_same_after_a_kill_at_any_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(whole, counted=14)
    lines = whole.read_bytes().splitlines(keepends=True)
    wanted = decisions(whole)
    assert sum(line.kind == "ask" for line in read(whole)) == 14
    for kept in range(len(lines)):
        path = tmp_path / f"{kept}"
        path.write_bytes(b"".join(lines[:kept]))
        run(path, counted=14)
        assert decisions(path) == wanted, f"after the kill behind line {kept}"


@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_counted_decisions_do_not_depend_on_who_is_faster(tmp_path: Path, factor: float) -> None:
    def shuffled(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        return outcome, seconds * (factor if segment.to_rows % 3 else 1.0) + len(segment.id) % 5

    run(tmp_path / "a", counted=20)
    run(tmp_path / "b", counted=20, answer=shuffled)
    assert decisions(tmp_path / "a") == decisions(tmp_path / "b")


def test_counted_decisions_differ_by_seed(tmp_path: Path) -> None:
    run(tmp_path / "a", counted=20)
    run(tmp_path / "b", counted=20, seed=1)
    assert decisions(tmp_path / "a") != decisions(tmp_path / "b")


def test_counted_losses_enter_no_decision(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def lossy(segment: Segment) -> tuple[Outcome, float]:
        seen[segment.id] = seen.get(segment.id, 0) + 1
        if seen[segment.id] <= 2:
            return Outcome(id=segment.id, state="lost", reason="killed"), 0.5
        return answer(segment)

    run(tmp_path / "a", counted=12)
    run(tmp_path / "b", counted=12, answer=lossy)
    assert decisions(tmp_path / "a") == decisions(tmp_path / "b")


def test_a_timed_run_asks_its_open_segments_again_unchanged(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(whole, seconds=150)
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines), 3):
        path = tmp_path / f"{kept}"
        path.write_bytes(b"".join(lines[:kept]))
        before = read(path)
        open_ids = {x.data["segment"]["id"]: x.data["segment"] for x in before if x.kind == "ask"}
        for line in before:
            if line.kind == "tell":
                open_ids.pop(line.data["id"])
        with Journal.open(path) as journal:
            resumed = study(journal)
            arrived = {x.data["id"] for x in before if x.kind == "outcome"}
            assert [s.to_json() for s in resumed.open] == [v for k, v in open_ids.items() if k not in arrived]
            for wanted in resumed.open:
                assert resumed.ask(left=math.inf, slots=SLOT) == wanted
            assert replay(journal.lines, space=SPACE, learner=learner, portfolio=PORTFOLIO) == []


def test_a_resumed_cap_does_not_pass_the_time_left(tmp_path: Path) -> None:
    run(tmp_path / "j", seconds=150, stop_after=2)
    with Journal.open(tmp_path / "j") as journal:
        again = study(journal).ask(left=3.0, slots=SLOT)
    assert again is not None
    assert again.cap_s == 3.0


def test_an_extended_run_goes_higher(tmp_path: Path) -> None:
    path = tmp_path / "j"
    short = run(path, seconds=60)
    longer = run(path, seconds=600)
    assert max(t.rows for t in longer.trials) > max(t.rows for t in short.trials)
    assert longer.best is not None and short.best is not None
    assert (longer.best.score or 0) > (short.best.score or 0)
    assert differences(longer) == []


def test_other_lines_in_the_journal_are_left_alone(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        journal.append("command", {"line": "fit"})
        drive(study(journal, counted=4))
        journal.append("clock", {"spent": 3.0})
        assert not study(journal, counted=4).open


def test_another_seed_or_count_is_another_run(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        study(journal, counted=4)
        for changes in ({"counted": 5}, {"counted": 4, "seed": 1}, {"counted": None}):
            with pytest.raises(RunError, match="--fresh"):
                study(journal, **changes)


def test_rungs_keep_the_rows_a_run_began_with(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        study(journal)
        again = study(journal, base_rows=5, max_rows=10**7)
    assert (again.settings.base_rows, again.settings.max_rows) == (8000, 10**7)


# tells


def test_a_lost_segment_is_asked_again_once_unchanged() -> None:
    found = study()
    first = found.ask(left=150, slots=SLOT)
    assert first is not None
    lost = Outcome(id=first.id, state="lost", reason="killed by SIGKILL")
    found.tell(lost)
    assert found.ask(left=150, slots=SLOT) == first
    found.tell(lost)
    assert found.outcome(first.id).state == "lost"
    assert found.trials[0].reason == "its features: lost killed by SIGKILL"
    kinds = [line.kind for line in found._journal.lines]
    assert kinds == ["start", "ask", "lost", "retry", "outcome", "tell"]


def test_three_failures_alike_stop_a_family_with_one_message() -> None:
    def broken(segment: Segment) -> tuple[Outcome, float]:
        if segment.kind == "train":
            reason = f"ValueError: batch {segment.to_rows} of {len(segment.id)} is bad"
            return Outcome(id=segment.id, state="failed", reason=reason), 1.0
        return answer(segment)

    found = run(seconds=150, answer=broken)
    assert sum(t.family == "net" for t in found.trials) in (3, 4)  # one may have been running
    assert len(found.messages) == 1
    assert "The family net is left out from here on: 3 of its segments" in found.messages[0]
    told = [line for line in found._journal.lines if "stopped" in line.data]
    assert [line.data["stopped"] for line in told] == list(found.messages)
    assert found.best is not None and found.best.family == "fit"


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_has_diverged(score: float) -> None:
    found = study()
    first = found.ask(left=150, slots=SLOT)
    assert first is not None
    found.tell(Outcome(id=first.id, state="done", score=score, facts={"loss": math.nan}))
    assert found.outcome(first.id).state == "diverged"
    assert found.outcome(first.id).facts == {"loss": None}


def test_strange_and_second_tells_are_ignored() -> None:
    found = study()
    first = found.ask(left=150, slots=SLOT)
    assert first is not None
    found.tell(Outcome(id="unknown", state="done"))
    found.tell(answer(first)[0])
    before = found._journal.lines
    found.tell(answer(first)[0])
    assert found._journal.lines == before


def test_a_diverged_promotion_leaves_the_trunk_to_be_cooled_down() -> None:
    def unstable(segment: Segment) -> tuple[Outcome, float]:
        if segment.kind == "train" and segment.from_rows:
            return Outcome(
                id=segment.id, state="diverged", reason=segment.id, rows_seen=segment.from_rows
            ), 5.0
        return answer(segment)

    found = run(seconds=150, answer=unstable, portfolio=PORTFOLIO[2:5])
    topped = [t for t in found.trials if t.reason.startswith("diverged")]
    assert topped
    assert any(t.cooled for t in topped)


def test_nothing_is_asked_without_slots_or_time() -> None:
    found = study()
    assert found.ask(left=150, slots=()) is None
    assert found.ask(left=0.0, slots=SLOT) is None


def test_a_portfolio_outside_its_space_is_refused() -> None:
    with pytest.raises(UsageError, match="portfolio"):
        study(portfolio=[({"family": "fit", "fit.d": 3}, "all")])


def test_a_segment_asks_for_a_core_whatever_the_slots_offer() -> None:
    """So a run goes on where slots are narrower, and counted decisions are the same on every machine."""
    segment = study().ask(left=150, slots=(Resources(cpu=1), Resources(cpu=2)))
    assert segment is not None and segment.needs == Resources(cpu=1)


# what is known


def test_the_leaderboard_ranks_what_can_be_deployed() -> None:
    found = run(seconds=150)
    scores = [t.score for t in found.leaderboard]
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    assert found.best == found.leaderboard[0]
    assert found.best is not None and found.best.outcome is not None
    assert found.outcome(found.best.outcome).score == found.best.score
    assert found.trial_of(found.best.outcome) == found.best
    assert found.segment(found.best.outcome).id == found.best.outcome
    assert not found.open


def test_an_empty_study_has_no_best() -> None:
    assert study().best is None
    assert study().leaderboard == ()


# every course of events

STATES = st.sampled_from(["done", "done", "done", "done", "cut", "failed", "oom", "diverged", "lost"])
EVENTS = st.lists(
    st.tuples(STATES, st.floats(-0.5, 1.0), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=20
)


def world(events: list[tuple[str, float, int, int]]) -> Any:
    """Answers taken from `events` by the segment's name, so that a segment asked again ends alike."""

    def answering(segment: Segment) -> tuple[Outcome, float]:
        state, score, seconds, part = events[sum(segment.id.encode()) % len(events)]
        seen = (
            segment.from_rows + (segment.to_rows - segment.from_rows) * (2 if state == "done" else part) // 2
        )
        has_score = segment.kind != "features" and (state == "done" or (state == "cut" and part > 0))
        facts = {"seconds_per_row": seconds / max(1, segment.to_rows)}
        outcome = Outcome(
            id=segment.id,
            state=state,  # type: ignore[arg-type]
            reason=f"event {part}",
            score=score if has_score else None,
            noise=0.01,
            rows_seen=seen,
            facts=facts,
        )
        return outcome, min(seconds, segment.cap_s)

    return answering


@settings(max_examples=40)
@given(events=EVENTS, seconds=st.floats(1.0, 120.0), workers=st.integers(1, 3), seed=st.integers(0, 3))
def test_every_course_of_events_is_legal_and_repeatable(
    events: list[tuple[str, float, int, int]], seconds: float, workers: int, seed: int
) -> None:
    found = study(seed=seed)
    told: dict[str, Outcome] = {}
    asked = drive(found, seconds=seconds, workers=workers, answer=world(events))
    told.update(found.outcomes)
    ids = [s.id for s in asked]
    lost = [line.data["id"] for line in found._journal.lines if line.kind == "retry"]
    assert len(ids) == len(set(ids)) + len(lost), "each is asked once, and once more when it was lost"
    for segment in asked:
        assert 0 < segment.cap_s <= max(0.5, seconds)
        assert segment.from_rows < segment.to_rows
        for parent in segment.parents:
            assert told[parent].state in ("done", "cut")
        if segment.kind == "cooldown":
            longest = segment.from_rows + max(1, round(1.5 * segment.from_rows))
            assert segment.from_rows + max(1, round(0.3 * segment.from_rows)) <= segment.to_rows <= longest
            assert told[segment.parents[0]].rows_seen >= segment.from_rows
        if segment.kind == "fit":
            assert told[segment.parents[0]].state == "done"
    assert differences(found) == []


@settings(max_examples=25)
@given(events=EVENTS, count=st.integers(1, 25), cut=st.integers(0, 60), workers=st.integers(1, 3))
def test_every_counted_course_survives_a_kill(
    events: list[tuple[str, float, int, int]],
    count: int,
    cut: int,
    workers: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("counted")
    options: dict[str, Any] = {"counted": count, "workers": workers, "answer": world(events)}
    run(folder / "a", **options)
    run(folder / "b", stop_after=1 + cut, **options)
    run(folder / "b", **options)
    assert decisions(folder / "a") == decisions(folder / "b")
    asked = [line for line in read(folder / "b") if line.kind == "ask"]
    assert len(asked) <= count
