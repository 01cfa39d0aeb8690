"""benchmarks/meta/build.py: rows become the shipped format, and lists are judged on what they never saw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gristmill.search.metatable import Table

from .loading import loaded


@pytest.fixture(scope="module")
def build() -> Any:
    return loaded("meta_build", "meta/build.py")


def row(name: str, config: dict[str, Any], *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    curve = [[1000 * (k + 1), s, score, 0.0123456] for k, (s, score) in enumerate(points)]
    facts = {"classes": 10, "size": 32, "channels": 3, "train": 4000, "valid": 700, "calib": 300}
    return {
        "set": name, "collection": name, "modality": "image", "facts": facts, "config": config, "seed": 0,
        "curve": curve, **more,
    }  # fmt: skip


def lite0(resolution: int) -> dict[str, Any]:
    return {"family": "features", "features.backbone": "lite0", "features.resolution": resolution}


CONSTANT = {"family": "constant"}
NETWORK = {"family": "convstack", "convstack.resolution": 32, "convstack.width": 24, "aug.flip": "on"}
HOG = {"family": "features", "features.backbone": "hog", "features.resolution": 64}


def rows(name: str) -> list[dict[str, Any]]:
    """Large features are dear; the network that no hand-made list has is cheap and best."""
    return [
        row(name, CONSTANT, (0.1, 0.0), features_s=0.0),
        row(name, lite0(224), (80.0, 0.8), features_s=70.0),
        row(name, lite0(64), (9.0, 0.6), features_s=7.0),
        row(name, HOG, (5.0, 0.5), features_s=2.0),
        row(name, NETWORK, (8.0, 0.7), (16.0, 0.85), cooled=[2600, 20.0, 0.9, 0.01]),
        row(name, {**NETWORK, "convstack.width": 64}, state="failed"),
    ]


def test_rows_become_the_shipped_format(build: Any) -> None:
    other = {**NETWORK, "aug.flip": "off"}
    again = row("a", NETWORK, (8.0, 0.1), cooled=None) | {"seed": 1}
    built = build.built_from([again, *rows("a"), row("b", other, (8.0, 0.7), cooled=None)])
    assert len(built["configs"]) == 5, "mirrors are no part of a configuration; what failed has no place"
    table = Table.from_json(json.loads(json.dumps(built)))
    assert table.collections("image") == ("a", "b")
    table = build.as_measured(built)
    network = next(e for e in table.entries if e.config["family"] == "convstack")
    assert network.curve[-1] == (2600.0, 20.0, 0.9, 0.01)
    assert network.features_s is None
    assert {e.parent for e in table.entries if e.config["family"] == "constant"} == {""}
    assert len({e.parent for e in table.entries if e.config["family"] == "features"}) == 3
    assert network.data.facts["models"] == 1


def test_rows_of_small_data_had_folds(build: Any) -> None:
    folded = row("a", CONSTANT, (0.1, 0.0), features_s=0.0)
    folded["facts"] |= {"train": 900, "valid": 450, "calib": 450}
    assert build.built_from([folded])["sets"][0]["facts"]["models"] == 6


def test_lists_are_judged_on_collections_that_they_never_saw(build: Any) -> None:
    table = build.as_measured(build.built_from([r for name in "abc" for r in rows(name)]))
    found = {(r["seconds"], r["list"]): r for r in build.judged(table, random_orders=20)}
    assert {s for s, _ in found} == set(build.BUDGETS)
    for seconds in build.BUDGETS:
        built, made, drawn = (found[seconds, name] for name in ("conditioned", "hand-made", "random"))
        assert built["anytime"]["mean"] < drawn["anytime"]["mean"]
        assert built["regret"]["mean"] == pytest.approx(0.0), "no hand-made list has the network"
        assert made["regret"]["minus_hand_made"] == 0.0
        assert built["anytime"]["minus_hand_made_interval"][1] < 0.0
        assert set(built["regret"]["collections"]) == {"a", "b", "c"}
    hand_made = [found[s, "hand-made"]["regret"]["mean"] for s in (30.0, 180.0)]
    assert hand_made == pytest.approx([0.3, 0.1]), "features at a side that fits the time"
    assert "| image | 30 s | hand-made | 0.300" in build.as_table(list(found.values()))


def test_the_shipped_seconds_are_nominal(build: Any) -> None:
    built = build.built_from(rows("a"))
    speed = built["sets"][0]["speed"]
    assert speed == build.speed_of(rows("a")) != 1.0
    nominal, measured = Table.from_json(built), build.as_measured(built)
    for one, other in zip(nominal.entries, measured.entries, strict=True):
        assert one.curve[-1][1] * speed == pytest.approx(other.curve[-1][1])
        assert (one.features_s or 0.0) * speed == pytest.approx(other.features_s or 0.0)
    assert build.speed_of(rows("a")[:1]) == 1.0, "nothing frozen was measured"


def test_two_collections_are_too_few_to_judge(build: Any) -> None:
    table = build.as_measured(build.built_from([r for name in "ab" for r in rows(name)]))
    assert build.judged(table) == []
    assert "too few" in build.as_table([])


def test_an_interval_holds_the_mean_of_the_collections(build: Any) -> None:
    low, high = build.interval([0.0, 0.1, 0.2, 0.3])
    assert low < 0.15 < high
    assert build.interval([0.1]) == [0.1, 0.1]
