"""Groups by column, by pattern and by what file names show."""

from __future__ import annotations

import numpy as np
import pytest

from gristmill.data.grouping import groups_by_column, groups_by_pattern, groups_by_stem
from gristmill.errors import UsageError


def by_stem(names: list[str], labels: list[int] | None = None) -> np.ndarray | None:
    found = groups_by_stem(names, np.array(labels or [0] * len(names)))
    return None if found is None else found[0]


def test_by_column() -> None:
    groups, notes = groups_by_column("who", np.array(["ann", "bob", None, "ann"], dtype=object))
    assert groups.tolist() == ["ann", "bob", None, "ann"]
    assert "2 groups" in notes[0] and "1 rows" in notes[1]
    numbers, _ = groups_by_column("n", np.array([1.0, np.nan, 2.0]))
    assert numbers.tolist() == ["1.0", None, "2.0"]
    with pytest.raises(UsageError, match="at least two"):
        groups_by_column("who", np.array(["ann", "ann", None], dtype=object))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"(p\d+)_", ["p1", "p1", "p2", None]),
        ("p*_scan*", ["1", "1", "2", None]),
        (r"(cat/p\d+)_", ["cat/p1", None, "cat/p2", None]),
    ],
)
def test_by_pattern(pattern: str, expected: list[str | None]) -> None:
    names = ["cat/p1_scan1.jpg", "dog/p1_scan2.jpg", "cat/p2_scan1.jpg", "dog/other.jpg"]
    groups, notes = groups_by_pattern(pattern, names)
    assert groups.tolist() == expected
    assert "do not fit" in notes[-1]


@pytest.mark.parametrize("pattern", [r"(\d+", r"(a)(b)", "plain", r"(?:a)b", "(zzz)"])
def test_patterns_that_are_none_or_find_nothing(pattern: str) -> None:
    with pytest.raises(UsageError) as error:
        groups_by_pattern(pattern, ["a/p1_1.jpg", "a/p2_1.jpg"])
    assert error.value.next_step


def test_tracks_counted_anew_in_every_class_are_groups_of_the_class() -> None:
    names = [f"train/{c}/{t:05d}_{f:05d}.png" for c in "ab" for t in range(7) for f in (3, 9, 15)]
    groups = by_stem(names, [0] * 21 + [1] * 21)
    assert groups is not None and len(set(groups)) == 14


def test_patients_are_the_same_in_every_class() -> None:
    names = [f"{c}/patient_{p}_scan_{s}.png" for c in "ab" for p in range(100, 110) for s in (1, 2)]
    groups = by_stem(names, [0] * 20 + [1] * 20)
    assert groups is not None and set(groups) == {f"patient_{p}" for p in range(100, 110)}


def test_left_and_right_belong_together() -> None:
    groups = by_stem([f"eye/{p}_{side}.jpg" for p in (17, 29, 31, 44, 58, 73) for side in ("left", "right")])
    assert groups is not None and len(set(groups)) == 6


@pytest.mark.parametrize(
    "names",
    [
        [f"cardboard/cardboard{i}.jpg" for i in range(50)],
        [f"cat/{i:04d}.jpg" for i in range(50)],
        [f"cat/cat.{i}.jpg" for i in range(50)],
        [f"cat/IMG_{i:04d}.jpg" for i in range(50)],
        [f"cat/{g}_{i}.jpg" for g in "abc" for i in range(20)],  # three groups only
        [f"cat/{i}_{i * 7}.jpg" for i in range(50)],  # nothing shared
        [f"cat/a{i}_1.jpg" for i in range(3)],  # too few to tell
    ],
)
def test_running_numbers_are_no_groups(names: list[str]) -> None:
    assert by_stem(names) is None
