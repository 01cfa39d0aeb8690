from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gristmill.search.race import RaceSettings
from gristmill.search.study import Study, replay
from gristmill.segment import Learner, Outcome, Resources, Segment
from gristmill.space import Choice, Parameter, Space

from .simulation import PORTFOLIO, SPACE, answer, done, drive, learner, run, settings, study

SLOT = (Resources(),)
NETS: tuple[tuple[dict[str, Any], str], ...] = tuple(
    ({"family": "net", "net.rate": rate}, "all") for rate in (0.01, 0.02, 0.05, 0.1, 0.2)
)


def kinds(asked: list[Segment]) -> list[str]:
    return [s.kind for s in asked]


@pytest.mark.parametrize(
    ("base", "top", "rungs"),
    [
        (900, 24300, (33, 100, 300, 900, 2700, 8100, 24300)),
        (900, 900, (33, 100, 300, 900)),
        (900, 500, (18, 55, 166, 500)),
        (1, 2, (1,)),
    ],
)
def test_rungs_are_absolute(base: int, top: int, rungs: tuple[int, ...]) -> None:
    assert RaceSettings(base_rows=base, max_rows=top).ladder() == rungs


@pytest.mark.parametrize("wrong", [{"base_rows": 0}, {"max_rows": 0}, {"eta": 1}, {"views": ()}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive"):
        RaceSettings(**{"base_rows": 1, "max_rows": 1, **wrong})


def test_the_portfolio_is_the_plan() -> None:
    found = study()
    drive(found, seconds=150)
    entered = [(t.config["family"], t.view) for t in found.trials if t.source == "portfolio"]
    assert entered == [(c["family"], v) for c, v in PORTFOLIO]
    assert all(t.source == "portfolio" for t in found.trials[: len(PORTFOLIO)])


def test_features_are_computed_once_and_read_by_all() -> None:
    asked = drive(study(), seconds=150)
    features = [s for s in asked if s.kind == "features"]
    assert len({s.id for s in features}) == len(features)
    fits = [s for s in asked if s.kind == "fit"]
    by_side = {s.config["side"]: s.id for s in features}
    assert all(s.parents == (by_side[s.config["fit.side"]],) for s in fits)
    assert features[0].config == {"side": 64}
    assert (features[0].from_rows, features[0].to_rows, features[0].view) == (0, 8000, "all")
    assert {s.view for s in fits} == {"all", "deduplicated"}


def test_trunks_climb_rung_by_rung_and_cool_down_beside() -> None:
    asked = drive(study(portfolio=NETS), seconds=150)
    by_config: dict[str, list[Segment]] = {}
    for segment in asked:
        if segment.kind in ("train", "cooldown"):
            by_config.setdefault(f"{segment.config}{segment.view}", []).append(segment)
    for way in by_config.values():
        trains = [s for s in way if s.kind == "train"]
        assert [s.from_rows for s in trains] == [0, *[s.to_rows for s in trains[:-1]]]
        for cooldown in (s for s in way if s.kind == "cooldown"):
            trunk = next(t for t in trains if t.to_rows == cooldown.from_rows)
            assert cooldown.parents == (trunk.id,)
            assert 1.3 <= cooldown.to_rows / trunk.to_rows <= 2.5
    assert sum(s.kind == "cooldown" for s in asked) >= 1


def test_the_best_trunk_never_waits_where_there_are_two_slots() -> None:
    found = study(portfolio=NETS)
    asked = drive(found, seconds=150)
    best = found.best
    assert best is not None
    way = [s for s in asked if dict(s.config) == dict(best.config) and s.kind == "train"]
    entered = next(i for i, s in enumerate(asked) if s.id == way[1].id)
    others = [s for s in asked[entered + 1 :] if s.kind == "train" and s.from_rows >= way[1].to_rows]
    assert others[0].id == way[2].id, "nobody else goes up before it has reached the highest rung that fits"


def test_ids_name_what_they_are() -> None:
    for segment in drive(study(), seconds=100):
        digits, view, kind, rows, seed = segment.id.split("-")
        assert (view, kind, rows, seed) == (segment.view, segment.kind, str(segment.to_rows), "s0")
        assert len(digits) == 12


@pytest.mark.parametrize("seconds", [30, 60, 150, 400, 1000])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_best_trunk_is_always_cooled_down_in_time(seconds: float, workers: int) -> None:
    found = study(portfolio=NETS)
    drive(found, seconds=seconds, workers=workers)
    assert found.best is not None
    assert found.best.cooled
    assert not [o for o in found.outcomes.values() if o.state == "cut"]


@pytest.mark.parametrize("seconds", [60, 75, 90, 105, 120, 150])
def test_what_no_rung_fits_into_goes_into_longer_cooldowns(seconds: float) -> None:
    def last(stretch: float) -> tuple[int, float]:
        found = study(portfolio=NETS, stretch=stretch)
        asked = drive(found, seconds=seconds)
        ends = [line.data["left"] for line in found._journal.lines if line.kind == "ask"]
        assert not [o for o in found.outcomes.values() if o.state == "cut"]
        return max(s.to_rows for s in asked if s.kind == "cooldown"), min(ends)

    (rows, _), (plain, _) = last(5.0), last(1.0)
    assert rows >= plain


def test_a_longer_cooldown_never_takes_the_time_of_a_rung() -> None:
    climbed = []
    for stretch in (1.0, 5.0):
        found = study(portfolio=NETS, stretch=stretch)
        drive(found, seconds=150)
        climbed.append(max(t.rows for t in found.trials if t.cooled))
    assert climbed[0] == climbed[1]


def test_counted_segments_cool_down_as_long_as_they_are_told() -> None:
    asked = drive(study(portfolio=NETS, counted=30))
    lengths = {s.to_rows / s.from_rows for s in asked if s.kind == "cooldown"}
    assert lengths and lengths <= {1.3}


def test_more_time_means_higher_rungs() -> None:
    rows = []
    for seconds in (30, 150, 600):
        found = study(portfolio=NETS)
        drive(found, seconds=seconds)
        rows.append(max(t.rows for t in found.trials if t.cooled))
    assert rows == sorted(set(rows))


def test_promotion_of_the_better_beats_a_new_start() -> None:
    found = study(portfolio=NETS)
    drive(found, seconds=150)
    scores = {t.number: t.curve[0][1] for t in found.trials if t.curve and t.source == "portfolio"}
    climbed = {t.number for t in found.trials if len(t.curve) > 1}
    assert max(scores, key=lambda n: scores[n]) in climbed
    first_proposal = next((t.number for t in found.trials if t.source == "proposal"), None)
    asks = [line.data for line in found._journal.lines if line.kind == "ask"]
    promoted = next(i for i, a in enumerate(asks) if a["segment"]["from_rows"])
    assert first_proposal is None or promoted < next(
        i for i, a in enumerate(asks) if a["trial"] == first_proposal
    )


def test_networks_that_cannot_win_are_not_promoted() -> None:
    def hopeless(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        return (done(segment, 0.1, 6e-4), seconds) if segment.kind == "train" else (outcome, seconds)

    found = study()
    asked = drive(found, seconds=150, answer=hopeless)
    assert all(s.from_rows <= 8000 for s in asked), "one promotion shows that it does not improve"
    assert "cooldown" not in kinds(asked)


def slow(factor: float) -> Any:
    """Networks that cost more than their learner says."""

    def answering(segment: Segment) -> tuple[Outcome, float]:
        if segment.kind != "train":
            return answer(segment)
        per_row = factor * 5e-4 * segment.config["net.width"] / 32
        seconds = 1 + per_row * (segment.to_rows - segment.from_rows)
        if seconds > segment.cap_s:
            facts = {"seconds_per_row": per_row, "startup_s": 1.0}
            return Outcome(id=segment.id, state="cut", rows_seen=segment.from_rows, facts=facts), 1.0
        return done(segment, 0.9, per_row), seconds

    return answering


def test_a_cut_before_training_enters_once_more_with_fewer_rows() -> None:
    found = study(portfolio=NETS[:1])
    first = found.ask(left=150, slots=SLOT)
    assert first is not None and first.to_rows == 8000
    found.tell(slow(20)(first)[0])
    second = found.ask(left=149, slots=SLOT)
    assert second is not None
    assert (second.config, second.to_rows) == (first.config, 2666)
    found.tell(Outcome(id=second.id, state="cut", rows_seen=0, facts={"seconds_per_row": 1.0}))
    assert found.trials[0].reason == "twice nothing could be trained within its time"


def test_what_is_too_slow_even_then_is_refused_with_a_reason() -> None:
    found = study(portfolio=NETS[:1])
    first = found.ask(left=150, slots=SLOT)
    assert first is not None
    found.tell(slow(1000)(first)[0])
    found.ask(left=149, slots=SLOT)
    assert found.trials[0].state == "refused"
    line = next(line for line in found._journal.lines if line.kind == "refuse")
    assert line.data["reason"].startswith("measured: its first segment takes ")
    assert line.seq is not None


def wide(*widths: int) -> tuple[tuple[dict[str, Any], str], ...]:
    return tuple(({"family": "net", "net.width": w}, "all") for w in widths)


def test_the_first_two_with_real_work_may_take_most_of_the_time_later_ones_are_shrunk() -> None:
    found = study(portfolio=wide(64, 63, 62, 61))
    segments = [found.ask(left=40.0, slots=(Resources(),) * 4) for _ in range(4)]
    assert [s.to_rows for s in segments if s is not None] == [8000, 8000, 2666, 2666]


def test_what_is_too_expensive_is_refused_with_a_reason() -> None:
    found = study(portfolio=wide(64, 63, 62, 61))
    drive(found, seconds=6.0)
    refused = [t for t in found.trials if t.state == "refused"]
    assert refused
    assert "it may take" in refused[-1].reason


def test_fewer_rows_are_no_way_in_when_starting_is_the_price() -> None:
    def slow_start(config: Any) -> Any:
        return replace(learner(config), fixed_s=30.0)

    found = Study(space=SPACE, learner=slow_start, portfolio=NETS, settings=study().settings)
    segments = [found.ask(left=100.0, slots=(Resources(),) * 4) for _ in range(3)]
    assert [s.to_rows for s in segments if s is not None] == [8000, 8000]


def test_a_floor_is_not_the_something_that_must_come_of_every_run() -> None:
    def floor(config: Any) -> Any:
        if config["family"] == "fit":
            return Learner(resumable=False, seconds_per_row=1e-6, fixed_s=0.5, rows=8000)
        return learner(config)

    plan = (*PORTFOLIO[:1], *wide(64, 63))
    found = Study(space=SPACE, learner=floor, portfolio=plan, settings=study().settings)
    segments = [found.ask(left=20.0, slots=(Resources(),) * 4) for _ in range(3)]
    assert [s.to_rows for s in segments if s is not None and s.kind == "train"] == [8000, 8000]


def test_no_new_trunk_of_a_family_that_is_far_behind() -> None:
    def behind(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        return (done(segment, -0.5, 6e-4), seconds) if segment.kind == "train" else (outcome, seconds)

    found = study()
    drive(found, seconds=60, answer=behind)
    assert {t.family for t in found.trials if t.source == "proposal"} == {"fit"}


def test_a_family_without_choices_is_not_proposed() -> None:
    space = Space(parameters=(Parameter(name="family", domain=Choice(options=("a", "b")), default="a"),))
    found = Study(
        space=space,
        learner=lambda config: Learner(resumable=False, rows=100),
        portfolio=[({"family": "a"}, "all")],
        settings=study().settings,
    )
    assert len(drive(found, seconds=150, answer=lambda s: (done(s, 0.5), 1.0))) == 1


def test_a_refusal_falls_when_the_run_is_extended() -> None:
    found = study(portfolio=wide(64, 63, 62, 61))
    drive(found, seconds=6.0)
    assert [t for t in found.trials if t.state == "refused"]
    drive(found, seconds=300.0)
    assert not [t for t in found.trials if t.state == "refused"]


def test_counted_mode_asks_so_many_and_no_clock() -> None:
    for count in (1, 2, 3, 7, 20):
        found = study(counted=count)
        asked = drive(found)
        assert len(asked) == count
        assert all(s.cap_s == float("inf") for s in asked)
        assert not found.open


def test_counted_mode_keeps_the_last_segments_for_cooldowns() -> None:
    for count in range(4, 16):
        found = study(portfolio=NETS, counted=count)
        drive(found)
        assert found.best is not None and found.best.cooled, count


def test_a_world_of_one_shot_learners_needs_no_rungs() -> None:
    fits = tuple(({"family": "fit", "fit.c": c}, "all") for c in (1e-3, 1e-2))
    found = run(seconds=40, portfolio=fits, workers=1)
    assert sum(t.score is not None for t in found.trials) > 4
    assert kinds([found.segment(i) for i in found.outcomes]).count("features") <= 2


SHRINKING = Space(
    parameters=tuple(replace(p, shrinks=True) if p.name == "fit.side" else p for p in SPACE.parameters)
)
LARGE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"family": "fit", "fit.side": 128}, "all"),
    ({"family": "fit", "fit.side": 128, "fit.c": 0.1}, "all"),
)


def shrinking(learner_of: Any = learner) -> Study:
    return Study(space=SHRINKING, learner=learner_of, portfolio=LARGE, settings=settings())


@pytest.mark.parametrize(("seconds", "side"), [(60.0, 128), (30.0, 64), (16.0, 32)])
def test_what_is_too_expensive_enters_with_the_largest_size_that_fits(seconds: float, side: int) -> None:
    found = shrinking()
    drive(found, seconds=seconds)
    entered = [t.config["fit.side"] for t in found.trials if t.source == "portfolio" and t.score is not None]
    assert entered[:2] == [side, side], "the second reads the features of the first, smaller or not"
    assert not replay(found._journal.lines, space=SHRINKING, learner=learner, portfolio=LARGE)


def test_nothing_enters_smaller_where_every_size_is_too_expensive() -> None:
    found = shrinking()
    drive(found, seconds=6.0)
    assert not [t for t in found.trials if t.source == "portfolio" and t.state != "refused"]


def test_what_is_barred_enters_with_the_largest_size_that_is_not() -> None:
    def barred(config: Any) -> Learner:
        large = config["family"] == "fit" and config["fit.side"] > 32
        return replace(learner(config), barred="it is too slow" if large else "")

    found = shrinking(barred)
    first = found.ask(left=100.0, slots=SLOT)
    assert first is not None and first.config == {"side": 32}
    assert [t.reason for t in found.trials if t.state == "refused"] == ["it is too slow"]


def test_what_is_barred_is_refused_with_the_reason_and_never_proposed() -> None:
    def limited(config: Any) -> Learner:
        wide = config["family"] == "net" and config["net.width"] > 32
        return replace(learner(config), barred="it is too large" if wide else "")

    portfolio = (({"family": "net", "net.width": 64}, "all"), *NETS)
    for counted in (None, 30):
        found = Study(
            space=SPACE, learner=limited, portfolio=portfolio, settings=study(counted=counted).settings
        )
        drive(found, seconds=150)
        assert [t.reason for t in found.trials if t.state == "refused"] == ["it is too large"]
        entered = [t.config for t in found.trials if t.state != "refused"]
        assert len(entered) > len(NETS)
        assert all(c["net.width"] <= 32 for c in entered if c["family"] == "net")


def test_an_expensive_family_that_starts_high_is_trained_beside_cheap_ones_that_reach_higher_rungs() -> None:
    """Fine-tuning beside small networks from scratch: forty times the price, better after an eighth of the
    data than they ever get. Its rungs lie far below theirs."""
    price = {"cheap": 1e-3, "dear": 0.04}
    choices = Choice(options=("cheap", "dear"))
    rate = Parameter(name="rate", domain=Choice(options=(0.1, 0.2, 0.3), ordered=True), default=0.1)
    space = Space(parameters=(Parameter(name="family", domain=choices, default="cheap"), rate))

    def costs(config: Any) -> Learner:
        least = 1000 if config["family"] == "dear" else 0
        return Learner(resumable=True, seconds_per_row=price[config["family"]], rows=8000, least_rows=least)

    def train(segment: Segment) -> tuple[Outcome, float]:
        dear = segment.config["family"] == "dear"
        error = 0.13 + 0.07 * 0.5 ** (segment.to_rows / 6000) if dear else 0.3 + 300 / (segment.to_rows + 600)
        error += 0.02 * abs(segment.config["rate"] - 0.1)
        per_row = price[segment.config["family"]]
        rows = segment.to_rows - segment.from_rows
        return done(segment, 1.0 - error, per_row), 1.0 + per_row * rows

    portfolio = [
        ({"family": "cheap", "rate": 0.1}, "all"),
        ({"family": "cheap", "rate": 0.2}, "all"),
        ({"family": "dear"}, "all"),
        ({"family": "cheap", "rate": 0.3}, "all"),
    ]
    settings = RaceSettings(base_rows=37_500, max_rows=2_400_000, eta=2)
    found = Study(space=space, learner=costs, portfolio=portfolio, settings=settings)
    drive(found, seconds=500, answer=train)
    assert found.best is not None and found.best.family == "dear"
    assert found.best.cooled and found.best.rows > 4000


def test_what_was_too_expensive_is_looked_at_again_when_only_proposals_compete() -> None:
    """Refused at 15 % of the time left, it may take more once all other entries have had their turn."""

    def per_row(config: dict[str, Any]) -> float:
        return 1.2e-2 if config["net.rate"] == 0.05 else 2e-4

    def learner_of(config: dict[str, Any]) -> Learner:
        if config["family"] != "net":
            return learner(config)
        return Learner(resumable=True, seconds_per_row=per_row(config), rows=8000)

    def answering(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = answer(segment)
        if segment.config.get("family") != "net" or segment.kind not in ("train", "cooldown"):
            return outcome, seconds
        price = per_row(dict(segment.config))
        facts = {"seconds_per_row": price}
        return replace(outcome, facts=facts), 1.0 + price * (segment.to_rows - segment.from_rows)

    order = [{"family": "net", "net.rate": rate} for rate in (0.01, 0.02, 0.05, 0.1)]
    found = Study(
        space=SPACE,
        learner=learner_of,
        portfolio=[(config, "all") for config in order],
        settings=replace(settings(), max_rows=16000),
    )
    drive(found, seconds=180, workers=1, answer=answering)
    kinds_of = [
        (line.kind, (line.data.get("config") or {}).get("net.rate"))
        for line in found._journal.lines
        if line.kind == "refuse" or "config" in line.data
    ]
    first = next(t for t in found.trials if t.config.get("net.rate") == 0.05)
    assert ("refuse", 0.05) in kinds_of, "refused at first: a third of its pass takes 33 of 180 s"
    assert first.state != "refused" and first.score is not None
    entered = [rate for kind, rate in kinds_of if kind == "ask"]
    assert entered.index(0.05) > entered.index(0.1), "after the rest of the portfolio"
