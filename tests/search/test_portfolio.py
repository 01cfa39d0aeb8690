from __future__ import annotations

import pytest

from gristmill.search.portfolio import load, shipped
from gristmill.space import Choice, Float, Parameter, Space

SPACE = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("a", "b")), default="a"),
        Parameter(name="a.rate", domain=Float(low=0.0, high=1.0), default=0.5, when=("family", ("a",))),
    )
)


def test_entries_are_fitted_to_the_space() -> None:
    entries = [
        {"config": {"family": "gone"}},
        {"config": {"family": "b", "b.unknown": 3}},
        {"config": {"family": "a", "a.rate": 7.0}},
        {"config": {"family": "a"}, "view": "deduplicated"},
        {"config": {"family": "a"}, "view": "all"},
    ]
    assert load("image", SPACE, entries=entries) == [
        ({"family": "b"}, "all"),
        ({"family": "a", "a.rate": 0.5}, "all"),
    ]


def test_views_that_the_data_do_not_have_are_left_out() -> None:
    entries = [{"config": {"family": "a"}, "view": v} for v in ("all", "deduplicated", "other")]
    found = load("table", SPACE, views=("all", "deduplicated"), entries=entries)
    assert [view for _, view in found] == ["all", "deduplicated"]


@pytest.mark.parametrize("modality", ["image", "table"])
def test_the_shipped_lists_say_why(modality: str) -> None:
    entries = shipped(modality)  # type: ignore[arg-type]
    assert len(entries) >= 5
    assert all(set(e) <= {"config", "view", "why", "fixed", "same"} and e["why"] for e in entries)
    assert entries[0].get("fixed"), "the floor comes first, whatever a table says"
    assert all("family" in e["config"] for e in entries)
