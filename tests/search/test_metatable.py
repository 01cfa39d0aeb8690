from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.search.metatable import (
    Case,
    DataSet,
    Entry,
    Reached,
    Table,
    expected,
    extended,
    followed,
    greedy,
    load,
    local_lines,
    order,
    settled,
)
from gristmill.search.portfolio import shipped
from gristmill.space import Choice, Int, Parameter, Space

NETWORK, FEATURES = ("family", ("net",)), ("family", ("features",))
SPACE = Space(
    parameters=(
        Parameter(
            name="family", domain=Choice(options=("constant", "features", "net", "trees")), default="net"
        ),
        Parameter(name="net.width", domain=Int(low=1, high=64), default=16, when=NETWORK),
        Parameter(name="aug.flip", domain=Choice(options=("on", "off")), default="off", when=NETWORK),
        Parameter(
            name="features.backbone", domain=Choice(options=("lite0", "hog")), default="hog", when=FEATURES
        ),
        Parameter(name="features.resolution", domain=Int(low=32, high=224), default=64, when=FEATURES),
        Parameter(
            name="features.head", domain=Choice(options=("linear", "mlp")), default="linear", when=FEATURES
        ),
    )
)
FACTS = {"train": 1000.0, "valid": 300.0, "calib": 200.0, "models": 1.0, "classes": 10.0, "size": 32.0}


def data(name: str, collection: str = "", **facts: float) -> DataSet:
    return DataSet(name=name, collection=collection or name, modality="image", facts={**FACTS, **facts})


def net(of: DataSet, width: int, *points: tuple[float, float], noise: float = 0.01, **more: Any) -> Entry:
    """A network with points (seconds, score)."""
    curve = tuple((1000.0 * (k + 1), s, score, noise) for k, (s, score) in enumerate(points))
    return Entry(data=of, config={"family": "net", "net.width": width, **more}, curve=curve)


def frozen(of: DataSet, head: str, seconds: float, score: float, features_s: float) -> Entry:
    config = {"family": "features", "features.backbone": "hog", "features.head": head}
    curve = ((of.facts["train"], seconds, score, 0.01),)
    return Entry(data=of, config=config, curve=curve, features_s=features_s, parent="hog-64")


def case(seconds: float = 600.0, facts: Mapping[str, float] | None = FACTS, **more: Any) -> Case:
    return Case(modality="image", space=SPACE, facts=facts, seconds=seconds, **more)


def widths(found: Sequence[Mapping[str, Any]]) -> list[int]:
    return [c["net.width"] for c in found if c["family"] == "net"]


def three(*make: Any) -> Table:
    """The same entries on three sets of three collections."""
    return Table(entries=tuple(one(data(name)) for name in "abc" for one in make))


# the order


def test_each_pick_gains_most_per_second() -> None:
    table = Table(
        entries=(
            net(data("a"), 1, (100.0, 0.8)),
            net(data("a"), 2, (10.0, 0.7)),
            net(data("a"), 3, (20.0, 0.69)),
        )
    )
    assert widths(greedy(table, case())) == [2, 1], "and what gains nothing over the others is no pick"


def test_what_does_not_fit_is_no_pick() -> None:
    table = Table(entries=(net(data("a"), 1, (100.0, 0.8)), net(data("a"), 2, (10.0, 0.7), (200.0, 0.75))))
    assert widths(greedy(table, case(60.0))) == [2]
    assert widths(greedy(table, case(60.0, scale=0.5))) == [2, 1]
    assert widths(greedy(table, case(60.0, scale=10.0))) == []


def test_features_are_paid_once() -> None:
    table = Table(
        entries=(
            frozen(data("a"), "linear", 52.0, 0.70, 50.0),
            frozen(data("a"), "mlp", 54.0, 0.72, 50.0),
            net(data("a"), 1, (20.0, 0.73)),
        )
    )
    found = greedy(table, case(facts={**FACTS, "models": 0.0001}))
    assert [c["family"] for c in found] == ["net"], "a network that is free is the better"
    found = greedy(replace(table, entries=table.entries[:2]), case())
    assert [c["features.head"] for c in found] == ["linear", "mlp"]


def test_one_shot_costs_grow_with_the_rows_and_networks_with_the_models() -> None:
    table = Table(entries=(frozen(data("a"), "linear", 20.0, 0.7, 15.0), net(data("a"), 1, (30.0, 0.8))))
    larger = {"train": 10_000.0, "valid": 3000.0, "calib": 2000.0}
    assert len(greedy(table, case(60.0))) == 2
    assert widths(greedy(table, case(60.0, {**FACTS, **larger}))) == [1], (
        "features of ten times the rows: 200 s"
    )
    folded = greedy(table, case(60.0, {**FACTS, "models": 6.0}))
    assert [c["family"] for c in folded] == ["features"], "six networks: 180 s"


def test_data_like_the_users_count_most() -> None:
    small, large = data("small", train=500.0), data("large", train=60_000.0)
    table = Table(
        entries=(
            net(small, 1, (10.0, 0.9)),
            net(small, 2, (10.0, 0.5)),
            net(large, 1, (10.0, 0.5)),
            net(large, 2, (10.0, 0.9)),
        )
    )
    assert widths(greedy(table, case(facts={**FACTS, "train": 600.0})))[0] == 1
    assert widths(greedy(table, case(facts={**FACTS, "train": 50_000.0})))[0] == 2


def test_a_collection_counts_as_one() -> None:
    many = [data(name, "one") for name in "abc"]
    table = Table(
        entries=(
            *(net(d, 1, (10.0, 0.6)) for d in many),
            *(net(d, 2, (10.0, 0.5)) for d in many),
            *(net(data(name), 2, (10.0, 0.6)) for name in "de"),
            *(net(data(name), 1, (10.0, 0.5)) for name in "de"),
        )
    )
    assert widths(greedy(table, case(facts=None)))[0] == 2


def test_mirrors_are_the_plans_affair() -> None:
    on, off = data("a"), data("b")
    table = Table(
        entries=(
            net(on, 1, (10.0, 0.6), **{"aug.flip": "on"}),
            net(off, 1, (10.0, 0.6), **{"aug.flip": "off"}),
        )
    )
    assert len(greedy(table, case())) == 1


def test_what_the_space_does_not_offer_as_measured_is_no_pick() -> None:
    gone = Entry(data=data("a"), config={"family": "gone"}, curve=((1.0, 1.0, 0.9, 0.0),))
    table = Table(entries=(gone, net(data("a"), 999, (1.0, 0.9)), net(data("a"), 3, (1.0, 0.4))))
    assert widths(greedy(table, case())) == [3]


@given(st.permutations(range(9)), st.sampled_from([5.0, 40.0, 1e9, float("inf")]))
def test_the_order_of_the_entries_changes_nothing(places: list[int], seconds: float) -> None:
    entries = [net(data(n), w, (w * 10.0, 0.5 + w / 10)) for n in "abc" for w in (1, 2, 3)]
    shuffled = Table(entries=tuple(entries[i] for i in places))
    assert greedy(shuffled, case(seconds)) == greedy(Table(entries=tuple(entries)), case(seconds))


def test_with_few_collections_the_hand_made_list_remains() -> None:
    table = Table(entries=tuple(net(data(n, "one"), 1, (10.0, 0.9)) for n in "abcd"))
    found = order(table, case(), by_table=True)
    assert [e["config"] for e in found] == [e["config"] for e in shipped("image")]
    assert found == order(three(lambda d: net(d, 1, (9.0, 0.9))), case(), by_table=False)


def test_the_floor_is_first_and_what_is_promised_comes_early() -> None:
    nets = [lambda d, w=w: net(d, w, (5.0 * w, 0.5 + w / 20)) for w in range(1, 9)]
    found = order(three(*nets), case(), by_table=True)
    assert found[0]["config"] == {"family": "constant"}
    promised = [e["config"] for e in shipped("image") if e.get("fixed")]
    assert [e["config"] for e in found[3:5]] == promised[1:]
    assert [e["config"] for e in found[-len(shipped("image")) :]] == [e["config"] for e in shipped("image")]


def test_a_pick_like_a_promised_entry_stands_for_it() -> None:
    hog = {"family": "features", "features.backbone": "hog", "features.resolution": 32}
    measured = [lambda d, r=r: Entry(
        data=d, config={**hog, "features.resolution": r}, curve=((1000.0, r / 8.0, r / 100.0, 0.0),),
        features_s=1.0, parent=str(r),
    ) for r in (32, 48)]  # fmt: skip
    found = order(three(*measured), case(), by_table=True)
    resolutions = [e["config"]["features.resolution"] for e in found[1:3]]
    assert resolutions == [64, 48], "the promised one in the place of the first, then what was measured"


# what to expect


def test_nothing_is_expected_of_few_collections() -> None:
    assert expected(Table(), case()) is None
    assert expected(Table(entries=(net(data("a"), 1, (1.0, 0.9)),)), case()) is None


def test_more_time_is_expected_to_leave_less() -> None:
    hog = {"family": "features", "features.backbone": "hog", "features.resolution": 64}
    scores = {"a": 0.4, "b": 0.6, "c": 0.8}
    table = Table(
        entries=tuple(
            Entry(data=data(n), config=hog, curve=((1000.0, 10.0, s, 0.01),), features_s=5.0)
            for n, s in scores.items()
        )
    )
    assert expected(table, case(5.0)) == (1.0, 1.0, 1.0), "nothing fits, so the floor's error stays"
    low, middle, high = expected(table, case(60.0)) or (0, 0, 0)
    assert (low, middle, high) == pytest.approx((0.2, 0.4, 0.6))
    assert expected(table, case(5.0, scale=0.1)) == pytest.approx((0.2, 0.4, 0.6))


def test_the_highest_of_many_noisy_scores_is_not_what_to_expect() -> None:
    reached = [Reached(seconds=1.0, score=s, noise=0.05) for s in (0.70, 0.72, 0.74, 0.3)]
    assert settled(reached) == pytest.approx(0.72)
    assert settled([]) == 0.0
    assert settled([Reached(seconds=1.0, score=-0.5, noise=0.1)]) == 0.0


def test_a_list_is_followed_on_all_workers() -> None:
    table = Table(entries=tuple(net(data("a"), w, (20.0, w / 10), (40.0, w / 10 + 0.05)) for w in (1, 2, 3)))
    entries = [{"config": {"family": "net", "net.width": w}} for w in (1, 2, 99, 3, 1)]
    found = followed(entries, table, "a", case(60.0, workers=2))
    assert [(r.seconds, round(r.score, 9)) for r in found] == [(40.0, 0.15), (40.0, 0.25), (60.0, 0.3)]


# reading


def line(**changes: Any) -> str:
    config = {"family": "net", "net.width": 7}
    record = {
        "version": 1,
        "name": "f0",
        "collection": "f0",
        "modality": "image",
        "facts": FACTS,
        "runs": [[config, "", None, [[1000, 5.0, 0.5, 0.01]]]],
    }
    return json.dumps({**record, **changes})


def test_the_users_own_runs_extend_the_table(tmp_path: Path) -> None:
    path = tmp_path / "metatable.jsonl"
    assert extended(path, Table()) == Table(), "nothing was remembered"
    path.write_text(line() + "\n" + line(name="f1", collection="f1") + "\n")
    table = extended(path, Table())
    assert table.collections("image") == ("f0", "f1")
    assert table.entries[0].curve == ((1000.0, 5.0, 0.5, 0.01),)
    assert table.notes == ()


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "null",
        "7",
        line(version=99),
        line(facts={}),
        line(facts={**FACTS, "train": "many"}),
        line(runs=[[{"family": 3}, "", None, []]]),
        line(runs=[[{"family": "net", "net.width": [1]}, "", None, []]]),
        line(runs=[[{"family": "net"}, "", None, [[1, 2, 3]]]]),
        line(runs=[[{"family": "net"}, "", None, [[1, 2, float("nan"), 0]]]]),
        line(runs=[[{"family": "net"}, "", None, [[1, 2, 7.0, 0]]]]),
        line(facts={**FACTS, "models": 0}),
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_left_out_with_one_note(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metatable.jsonl"
    path.write_text(f"{bad}\n{line()}\n{bad}\n")
    table = extended(path, Table())
    assert len(table.entries) == 1
    assert len(table.notes) == 1
    assert "2 of its runs" in table.notes[0]


@given(st.binary(max_size=200))
def test_no_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("local") / "metatable.jsonl"
    path.write_bytes(noise + b"\n" + line().encode() + b"\n" + noise)
    records, damaged = local_lines(path)
    assert json.loads(line()) in records
    assert len(extended(path, Table()).notes) == bool(damaged)


def test_a_folder_in_its_place_is_a_note(tmp_path: Path) -> None:
    assert len(extended(tmp_path, Table()).notes) == 1


def test_the_shipped_table_is_small_and_whole() -> None:
    text = resources.files("gristmill.search").joinpath("metatable.json").read_text(encoding="utf-8")
    assert len(text) < 150_000
    table = load()
    assert table == Table.from_json(json.loads(text))
    assert not any("aug.flip" in e.config for e in table.entries)
    assert all(e.curve and 0.0 <= max(p[2] for p in e.curve) <= 1.0 for e in table.entries)
