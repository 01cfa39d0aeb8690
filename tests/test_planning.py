from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gristmill import data, planning
from gristmill.data import Prepared
from gristmill.deadline import Deadline, VirtualClock
from gristmill.errors import UsageError
from gristmill.limits import Limits
from gristmill.models import catalog
from gristmill.search.metatable import DataSet, Entry, Table

HOG_64 = {"family": "features", "features.backbone": "hog", "features.resolution": 64}


def prepared(folder: Path, pictures: Path) -> Prepared:
    source = data.read(pictures)
    scan = data.scan(source, cache=folder / "cache")
    audit = data.audit(source, scan)
    return data.prepare(source, scan, audit, data.split(source, audit), folder / "prepared")


def draw(folder: Path, shapes: dict[str, np.ndarray], count: int = 60) -> Path:
    """`count` noisy, slightly moved copies of each shape (16 x 16, grey)."""
    rng = np.random.default_rng(0)
    for label, shape in shapes.items():
        (folder / label).mkdir(parents=True)
        for i in range(count):
            moved = np.roll(shape, rng.integers(-1, 2, 2), (0, 1))
            noisy = np.clip(moved + rng.integers(0, 60, shape.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / label / f"{rng.integers(10**9)}x{i}.png")
    return folder


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Left or right: a mirror changes the label."""
    left = np.zeros((16, 16), np.uint8)
    left[2:14, 2:6] = 190
    left[7:9, 2:14] = 190
    folder = tmp_path_factory.mktemp("arrows")
    return prepared(folder, draw(folder / "p", {"left": left, "right": left[:, ::-1].copy()}))


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Standing or lying: a mirror keeps the label."""
    standing = np.zeros((16, 16), np.uint8)
    standing[2:14, 7:9] = 190
    folder = tmp_path_factory.mktemp("bars")
    return prepared(folder, draw(folder / "p", {"standing": standing, "lying": standing.T.copy()}))


def plan(of: Prepared, seconds: float, *, pretrained: bool = False) -> planning.Plan:
    return planning.make(of, Deadline.after(seconds, clock=VirtualClock()), 2, pretrained=pretrained)


def test_pictures_are_mirrored_only_where_the_label_survives(arrows: Prepared, bars: Prepared) -> None:
    assert not plan(arrows, 60).flips
    assert plan(bars, 60).flips
    flips = {c.get("aug.flip") for c, _ in plan(arrows, 60).portfolio}
    assert "on" not in flips
    assert "on" not in {c.get("features.mirror") for c, _ in plan(arrows, 60).portfolio}


def test_more_time_buys_resolution_and_longer_trainings(bars: Prepared) -> None:
    short, long = plan(bars, 20), plan(bars, 600)
    assert long.resolution >= short.resolution
    assert long.base_rows >= short.base_rows
    assert long.horizon > short.horizon


def test_a_latency_limit_takes_resolution(bars: Prepared) -> None:
    free = plan(bars, 600)
    limits = Limits(latency_s=catalog.predict_seconds(HOG_64, bars.task) * free.speed * 1.3)
    deadline = Deadline.after(600, clock=VirtualClock())
    limited = planning.make(bars, deadline, 2, pretrained=False, limits=limits)
    assert limited.resolution < free.resolution
    assert limited.learner({"family": "resnet", "resnet.width": 64, "resnet.depth": 3}).barred
    assert not any(limited.learner(c).barred for c, _ in limited.portfolio if c["family"] == "features")


def test_the_plan_begins_with_the_floor_and_holds_the_traditional_model(bars: Prepared) -> None:
    families = [c["family"] for c, _ in plan(bars, 60).portfolio]
    assert families[0] == "constant"
    assert any(c.get("features.backbone") == "hog" for c, _ in plan(bars, 60).portfolio)
    assert not any(c.get("features.backbone") == "lite0" for c, _ in plan(bars, 60).portfolio), "from scratch"


def test_learners_say_what_search_must_know(bars: Prepared) -> None:
    made = plan(bars, 60)
    by_family = {c["family"]: made.learner(c) for c, _ in made.portfolio}
    assert by_family["convstack"].resumable
    hog = {"family": "features", "features.backbone": "hog", "features.resolution": 64}
    assert made.learner(hog).parent == {"backbone": "hog", "resolution": 64}
    assert by_family["features"].parent is not None
    assert by_family["constant"].parent is None


def test_with_folds_a_network_costs_as_much_as_all_its_models(bars: Prepared) -> None:
    """Rows are those of one model; features are extracted once for each row."""
    rows = len(bars.parts.train)
    half = bars.parts.train[: rows // 2]
    alone = replace(bars, parts=replace(bars.parts, folds=None, valid=half[:0], calib=half[:0]))
    folded, held_out = plan(bars, 60), plan(alone, 60)
    assert (folded.models, held_out.models) == (6, 1)
    configs = {c["family"]: c for c, _ in folded.portfolio}
    for family, nominal in (("convstack", True), ("features", False)):
        mine, other = folded.learner(configs[family]), held_out.learner(configs[family])
        assert mine.rows == other.rows == rows
        assert mine.parent_seconds_per_row == pytest.approx(
            other.parent_seconds_per_row * folded.speed / held_out.speed
        )
        ratio = mine.seconds_per_row / other.seconds_per_row
        assert ratio == pytest.approx(6 * folded.speed / held_out.speed if nominal else 6)
    assert folded.base_rows <= held_out.base_rows * max(1.0, held_out.speed / folded.speed)
    assert folded.to_json()["models"] == 6


def test_the_probe_before_fine_tuning_is_paid_at_the_start(bars: Prepared) -> None:
    known = plan(bars, 600)
    upper = {"family": "mbconv", "mbconv.resolution": 128, "mbconv.tune": "upper", "mbconv.pretrained": True}
    scratch = {"family": "mbconv", "mbconv.resolution": 128, "mbconv.pretrained": False, "mbconv.width": 1.0}
    rows, judged = known.sizes["train"], known.sizes["valid"] + known.sizes["calib"]
    forward = catalog.predict_seconds(upper, bars.task) * known.speed

    def start(config: dict[str, object]) -> float:
        learner = known.learner(config)
        return learner.fixed_s - judged * learner.seconds_per_row / known.models / 3.0

    assert start(upper) - start(scratch) == pytest.approx(rows * forward)


def test_titles_are_for_people() -> None:
    assert planning.title({"family": "trees"}) == "gradient-boosted trees"
    assert "64 px" in planning.title({"family": "convstack", "convstack.resolution": 64})
    mlp = planning.title({"family": "features", "features.head": "mlp", "features.backbone": "lite0"})
    assert mlp == "a network with a hidden layer on the features of a frozen picture network (lite0)"
    assert "mirror" not in planning.title({"backbone": "hog", "resolution": 32})


def test_a_forecast_says_what_more_time_would_buy(bars: Prepared) -> None:
    text = planning.forecast(bars, 60.0, 1.0, 2, pretrained=False).summary()
    assert "1m 00s" in text
    assert "With more time (and what that costs):" in text
    assert "(1m 00s more of 2 cores, 0.067 core hours in all)" in text
    assert "10m 00s" in text


def earlier(*scores: float) -> Table:
    """HOG features on as many small picture sets, each of its own collection."""
    facts = {"train": 90.0, "valid": 45.0, "calib": 45.0, "models": 6.0, "classes": 2.0, "size": 16.0}
    return Table(
        entries=tuple(
            Entry(
                data=DataSet(name=str(i), collection=str(i), modality="image", facts=facts),
                config=HOG_64,
                curve=((90.0, 2.0, score, 0.01),),
                features_s=1.0,
                parent="hog",
            )
            for i, score in enumerate(scores)
        )
    )


def test_a_forecast_says_what_score_to_expect(bars: Prepared) -> None:
    found = planning.forecast(bars, 60.0, 1.0, 2, pretrained=False, table=earlier(0.6, 0.8, 0.9))
    now = found.expectations[0]
    assert [e.seconds for e in found.expectations] == [60.0, 120.0, 300.0, 600.0]
    assert now.left == pytest.approx((0.1, 0.2, 0.4), abs=0.02)
    assert now.values is not None
    assert now.values[1] == pytest.approx(0.9, abs=0.02), "half of the answers are right by guessing"
    text = found.summary()
    assert "most frequent class" in text
    assert "20 % of the error left (10 to 40 %)" in text
    assert text.count("nothing that long was measured") == 3, "a second of training is all there is"
    assert found.to_json()["expected"][0]["left"] == pytest.approx([0.1, 0.2, 0.4], abs=0.02)


def test_a_forecast_keeps_the_limits_that_fit_would_keep(bars: Prepared) -> None:
    limits = Limits.of(None, 1.001)
    found = planning.forecast(bars, 60.0, 1.0, 2, pretrained=False, limits=limits)
    free = planning.forecast(bars, 60.0, 1.0, 2, pretrained=False)
    assert {found.plan.limits, *(plan.limits for _, plan in found.more)} == {limits}
    barred = [c for c, _ in found.plan.portfolio if found.plan.learner(c).barred]
    assert barred and not any(planning.title(c) in found.summary().splitlines() for c in barred)
    assert found.summary().count("\n") < free.summary().count("\n"), "what fit would refuse is not listed"


def test_a_forecast_says_when_nothing_is_known(bars: Prepared) -> None:
    found = planning.forecast(bars, 60.0, 1.0, 2, pretrained=False, table=earlier(0.6, 0.8))
    assert found.expectations == ()
    assert "What score to expect is not known" in found.summary()
    assert found.to_json()["expected"] == []


def test_a_run_goes_on_with_the_order_that_it_began_with(bars: Prepared) -> None:
    entries = [{"config": {"family": "constant"}}, {"config": {"family": "convstack", "convstack.width": 32}}]
    deadline = Deadline.after(60, clock=VirtualClock())
    made = planning.make(bars, deadline, 2, pretrained=False, entries=entries, table=earlier(0.6, 0.8, 0.9))
    assert [c["family"] for c, _ in made.portfolio] == ["constant", "convstack"]
    assert list(made.entries) == entries
    again = planning.make(bars, deadline, 2, pretrained=False, entries=plan(bars, 60).entries)
    assert [c["family"] for c, _ in again.portfolio] == [c["family"] for c, _ in plan(bars, 60).portfolio]


def test_a_time_too_short_is_refused() -> None:
    with pytest.raises(UsageError, match="at least"):
        planning.check_time(1.0)
    planning.check_time(10.0)
