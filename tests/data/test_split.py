"""Parts: disjoint, complete, groups whole, classes spread, repeatable. Views of the training rows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.audit import Audit, audit
from gristmill.data.duplicates import joined
from gristmill.data.source import Source, read
from gristmill.data.split import FOLDS, FOLDS_BELOW, Parts, view, views
from gristmill.data.split import split as split_by_size
from gristmill.errors import DataError
from gristmill.task import InputSpec, Target, Task

PART_NAMES = ("train", "valid", "calib", "test")
split = partial(split_by_size, folds_below=0)
"""One hold-out, whatever the size; folds have their own tests below."""


def source_of(values: np.ndarray, given_parts: np.ndarray | None = None) -> Source:
    numbers = values.dtype.kind == "f"
    labels = () if numbers else tuple(f"c{i}" for i in range(max(2, int(values.max(initial=0)) + 1)))
    target = Target(name="y", task="regression" if numbers else "multiclass", labels=labels)
    rows = len(values)
    return Source(
        origin="memory",
        layout="",
        task=Task(inputs=(InputSpec(name="x", kind="number"),), targets=(target,), metric="rmse"),
        names=tuple(f"x[{i}]" for i in range(rows)),
        inputs={"x": np.arange(rows, dtype=np.float64)},
        targets={"y": values},
        given=np.full(rows, "") if given_parts is None else given_parts,
        groups=None,
        notes=(),
        ignored=(),
        fingerprint="f",
    )


def audit_of(
    source: Source, groups: np.ndarray | None = None, copies: np.ndarray | None = None, **changes: Any
) -> Audit:
    alone = np.arange(source.rows, dtype=np.int64)
    duplicates = alone if copies is None else copies
    fields: dict[str, Any] = {
        "findings": (),
        "usable": np.ones(source.rows, dtype=bool),
        "excluded": {},
        "duplicates": duplicates,
        "groups": joined(source.rows, [duplicates, alone if groups is None else groups]),
        "grouped_by": "",
        "class_counts": {},
        **changes,
    }
    return Audit(**fields)


def rows_of(parts: Parts) -> dict[str, np.ndarray]:
    return {name: getattr(parts, name) for name in PART_NAMES}


def part_of(parts: Parts, rows: int) -> np.ndarray:
    part = np.full(rows, -1)
    for i, ids in enumerate(rows_of(parts).values()):
        part[ids] = i
    return part


def test_shares_by_class() -> None:
    codes = np.repeat([0, 1, 2], [600, 300, 100])
    parts = split(source_of(codes), audit_of(source_of(codes)))
    for name, share in zip(PART_NAMES, (0.62, 0.12, 0.06, 0.2), strict=True):
        counts = np.bincount(codes[rows_of(parts)[name]], minlength=3)
        assert np.abs(counts - share * np.array([600, 300, 100])).max() <= 1, name
    assert any("20%" in note and "seed 0" in note for note in parts.notes)


def test_numbers_are_spread_by_tenths() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    parts = split(source_of(values), audit_of(source_of(values)))
    means = [values[rows].mean() for rows in rows_of(parts).values()]
    assert max(means) - min(means) < 0.15
    edges = np.quantile(values, np.linspace(0, 1, 11)[1:-1])
    for rows in rows_of(parts).values():
        assert np.bincount(np.searchsorted(edges, values[rows])).min() > 0.08 * len(rows)


def test_large_groups_land_near_the_shares() -> None:
    rng = np.random.default_rng(0)
    codes, groups = np.repeat(np.arange(10), 200), np.repeat(np.arange(400), 5)
    source = source_of(codes)
    parts = split(source, audit_of(source, groups=groups))
    part = part_of(parts, 2000)
    assert all(len(set(part[groups == g])) == 1 for g in range(400))
    for i, share in enumerate((0.62, 0.12, 0.06, 0.2)):
        assert np.abs(np.bincount(codes[part == i], minlength=10) - share * 200).max() <= 10
    mixed = rng.integers(0, 50, 2000)  # groups that hold rows of every class
    part = part_of(split(source, audit_of(source, groups=mixed)), 2000)
    assert abs((part == 3).mean() - 0.2) < 0.06 and abs((part == 0).mean() - 0.62) < 0.08


def test_given_parts_are_kept() -> None:
    codes = np.tile([0, 1], 200)
    given_parts = np.array(["train"] * 200 + ["valid"] * 100 + ["test"] * 100)
    parts = split(source_of(codes, given_parts), audit_of(source_of(codes, given_parts)))
    assert parts.train.tolist() == list(range(200)) and parts.test.tolist() == list(range(300, 400))
    assert len(parts.valid) == len(parts.calib) == 50
    assert sorted([*parts.valid, *parts.calib]) == list(range(200, 300))
    assert np.bincount(codes[parts.valid]).tolist() == [25, 25]


def test_a_given_test_part_alone() -> None:
    codes = np.tile([0, 1], 500)
    given_parts = np.array([""] * 800 + ["test"] * 200)
    parts = split(source_of(codes, given_parts), audit_of(source_of(codes, given_parts)))
    assert [len(rows) for rows in rows_of(parts).values()] == [620, 120, 60, 200]


def test_a_test_part_without_answers_is_replaced_aloud() -> None:
    codes = np.tile([0, 1], 100)
    codes[150:] = -1
    given_parts = np.array([""] * 150 + ["test"] * 50)
    parts = split(source_of(codes, given_parts), audit_of(source_of(codes, given_parts)))
    assert len(parts.test) == 30 and parts.test.max() < 150
    assert any("no usable row with a known answer" in note for note in parts.notes)


def test_only_usable_labelled_rows() -> None:
    codes = np.tile([0, 1, -1, 0], 100)
    usable = np.arange(400) % 8 != 0
    parts = split(source_of(codes), audit_of(source_of(codes), usable=usable))
    assert np.array_equal(np.flatnonzero(part_of(parts, 400) >= 0), np.flatnonzero(usable & (codes >= 0)))


def test_valid_and_calib_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gristmill.data.split"], "MOST_ROWS", 30)
    codes = np.tile([0, 1], 500)
    parts = split(source_of(codes), audit_of(source_of(codes)))
    assert (len(parts.valid), len(parts.calib), len(parts.test)) == (30, 30, 200)
    given_parts = np.array(["train"] * 900 + ["valid"] * 100)
    parts = split(source_of(codes, given_parts), audit_of(source_of(codes, given_parts)))
    assert (len(parts.valid), len(parts.calib)) == (30, 30) and set(parts.train) <= set(range(900))
    assert any("40 rows of the large given validation part are not used" in note for note in parts.notes)


def test_a_class_of_three_is_in_train_and_valid() -> None:
    codes = np.array([0] * 100 + [1] * 100 + [2] * 3 + [3] * 2)
    for seed in range(10):
        part = part_of(split(source_of(codes), audit_of(source_of(codes)), seed=seed), len(codes))
        assert {0, 1} <= set(part[codes == 2].tolist()) and 0 in part[codes == 3]


def test_the_smallest_data_that_can_be_split() -> None:
    codes = np.array([0, 0, 0, 1, 1, 1])
    parts = split(source_of(codes), audit_of(source_of(codes)))
    assert [len(rows) for rows in rows_of(parts).values()] == [2, 2, 1, 1]
    assert set(codes[parts.train]) == set(codes[parts.valid]) == {0, 1}
    codes = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="no row left for"):
        split(source_of(codes), audit_of(source_of(codes), groups=np.array([0, 0, 1, 1])))
    given_parts = np.array(["valid", "", "", ""])
    with pytest.raises(DataError, match="calib") as error:
        split(source_of(codes, given_parts), audit_of(source_of(codes, given_parts)))
    assert "given validation part" in str(error.value.next_step)


problems = st.integers(12, 80).flatmap(
    lambda rows: st.fixed_dictionaries(
        {
            "codes": st.lists(st.integers(-1, 3), min_size=rows, max_size=rows),
            "groups": st.lists(st.one_of(st.just(-1), st.integers(0, 15)), min_size=rows, max_size=rows),
            "copies": st.lists(st.one_of(st.just(-1), st.integers(0, 9)), min_size=rows, max_size=rows),
            "usable": st.lists(st.sampled_from([True, True, True, False]), min_size=rows, max_size=rows),
            "numbers": st.booleans(),
            "seed": st.integers(0, 3),
        }
    )
)


@given(problems)
def test_what_always_holds(problem: dict[str, Any]) -> None:
    codes = np.array(problem["codes"], dtype=np.int64)
    values = np.where(codes < 0, np.nan, codes + 0.5) if problem["numbers"] else codes
    source = source_of(values)
    copies = joined(len(codes), [np.array(problem["copies"])])
    found = audit_of(source, np.array(problem["groups"]), copies, usable=np.array(problem["usable"]))
    try:
        parts = split(source, found, seed=problem["seed"])
    except DataError as error:
        used = found.usable & source.labelled
        assert error.next_step and len(np.unique(found.groups[used])) < 12
        return
    part = part_of(parts, len(codes))
    assert sum(map(len, rows_of(parts).values())) == (part >= 0).sum()  # disjoint
    assert np.array_equal(part >= 0, found.usable & source.labelled)  # complete
    for ids in (found.groups, found.duplicates):
        for group in np.unique(ids):
            assert len(set(part[(ids == group) & (part >= 0)].tolist())) <= 1
    again = split(source, found, seed=problem["seed"])
    assert all(
        np.array_equal(a, b) for a, b in zip(rows_of(parts).values(), rows_of(again).values(), strict=True)
    )
    assert all((np.diff(rows) > 0).all() and rows.dtype == np.int64 for rows in rows_of(parts).values())


@given(st.lists(st.sampled_from(["", "train", "valid", "test"]), min_size=40, max_size=90), st.integers(0, 3))
def test_given_rows_stay_where_they_are(where: list[str], seed: int) -> None:
    given_parts = np.array(where)
    source = source_of(np.arange(len(where)) % 3, given_parts)
    try:
        part = part_of(split(source, audit_of(source), seed=seed), len(where))
    except DataError:
        assert where.count("valid") == 1 or where.count("") + where.count("train") < 12
        return
    assert (part >= 0).all()
    assert (part[given_parts == "test"] == 3).all() and np.isin(part[given_parts == "valid"], [1, 2]).all()
    if "test" in where:
        assert (part[(given_parts == "") | (given_parts == "train")] != 3).all()


@given(st.lists(st.integers(3, 12), min_size=2, max_size=6), st.integers(0, 5))
def test_every_class_of_three_single_rows_trains_and_chooses(sizes: list[int], seed: int) -> None:
    codes = np.repeat(np.arange(len(sizes)), sizes)
    part = part_of(split(source_of(codes), audit_of(source_of(codes)), seed=seed), len(codes))
    for code in range(len(sizes)):
        assert {0, 1} <= set(part[codes == code].tolist())


def test_another_seed_is_another_split() -> None:
    codes = np.tile([0, 1], 100)
    source = source_of(codes)
    first, second = (split(source, audit_of(source), seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.test, second.test)


# ---------------------------------------------------------------- folds


def folds_of(parts: Parts, rows: int) -> np.ndarray:
    """The fold of every row; -1 where it is in none."""
    assert parts.folds is not None
    found = np.full(rows, -1)
    found[parts.train] = parts.folds
    return found


def test_small_data_are_folded_and_large_data_and_given_validation_parts_are_not() -> None:
    def folded(rows: int, given_parts: np.ndarray | None = None) -> bool:
        source = source_of(np.tile([0, 1], rows // 2), given_parts)
        return split_by_size(source, audit_of(source)).folds is not None

    most = int(FOLDS_BELOW / 0.8)
    assert folded(most)
    assert not folded(most + 10)
    assert folded(FOLDS_BELOW + 200, np.array(["test"] * 200 + [""] * FOLDS_BELOW))
    assert not folded(400, np.array(["valid"] * 100 + [""] * 300))


def test_single_rows_are_spread_exactly() -> None:
    codes = np.repeat([0, 1, 2, 3], [403, 61, 7, 2])
    source = source_of(codes)
    parts = split_by_size(source, audit_of(source), seed=3)
    folds = folds_of(parts, len(codes))
    assert FOLDS == 5
    for code in range(4):
        mine = np.bincount(folds[(codes == code) & (folds >= 0)], minlength=FOLDS)
        assert mine.max() - mine.min() <= 1, code
    sizes = np.bincount(folds[folds >= 0])
    assert sizes.max() - sizes.min() <= 1
    halves = [np.bincount(codes[rows], minlength=4) for rows in (parts.valid, parts.calib)]
    assert np.abs(halves[0] - halves[1]).max() <= 1
    assert any("5 folds" in note and "all 379 other rows teach" in note for note in parts.notes)
    assert not any("given validation part" in note for note in parts.notes)


def test_the_parts_of_large_data_do_not_depend_on_folds() -> None:
    source = source_of(np.tile([0, 1], 5000))
    one, other = split_by_size(source, audit_of(source)), split(source, audit_of(source))
    assert all(
        np.array_equal(a, b) for a, b in zip(rows_of(one).values(), rows_of(other).values(), strict=True)
    )


def test_few_groups_make_few_folds_and_one_makes_none() -> None:
    codes = np.tile([0, 1], 40)
    given_parts = np.array(["test"] * 20 + [""] * 60)
    source = source_of(codes, given_parts)
    groups = np.where(np.arange(80) < 20, 9, np.arange(80) % 3)
    parts = split_by_size(source, audit_of(source, groups=groups))
    assert parts.folds is not None
    assert int(parts.folds.max()) + 1 == 3
    with pytest.raises(DataError, match="no row left for"):
        split_by_size(source, audit_of(source, groups=np.where(np.arange(80) < 20, 9, 0)))


@given(problems)
def test_what_always_holds_of_folds(problem: dict[str, Any]) -> None:
    codes = np.array(problem["codes"], dtype=np.int64)
    values = np.where(codes < 0, np.nan, codes + 0.5) if problem["numbers"] else codes
    source = source_of(values)
    copies = joined(len(codes), [np.array(problem["copies"])])
    found = audit_of(source, np.array(problem["groups"]), copies, usable=np.array(problem["usable"]))
    used = found.usable & source.labelled
    try:
        parts = split_by_size(source, found, seed=problem["seed"])
    except DataError as error:
        assert error.next_step
        assert len(np.unique(found.groups[used])) < 3
        return
    folds = folds_of(parts, len(codes))
    assert np.array_equal(np.sort(np.concatenate([parts.valid, parts.calib])), parts.train)  # halves, no more
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.test])), np.flatnonzero(used))
    assert min(len(rows) for rows in rows_of(parts).values()) >= 1
    half = np.isin(np.arange(len(codes)), parts.valid)
    for ids in (found.groups, found.duplicates):
        for group in np.unique(ids[parts.train]):
            rows = parts.train[ids[parts.train] == group]
            assert len(set(folds[rows].tolist())) == len(set(half[rows].tolist())) == 1
            assert not (ids[parts.test] == group).any()
    assert sorted(set(folds[parts.train].tolist())) == list(range(int(folds.max()) + 1))  # none is empty
    assert folds.max() >= 1
    again = split_by_size(source, found, seed=problem["seed"])
    assert np.array_equal(folds_of(again, len(codes)), folds)
    assert all((np.diff(rows) > 0).all() and rows.dtype == np.int64 for rows in rows_of(parts).values())


# ---------------------------------------------------------------- views


def test_one_view_without_copies_and_two_with() -> None:
    codes = np.tile([0, 1], 20)
    source = source_of(codes)
    parts = Parts(
        train=np.arange(30), valid=np.arange(30, 34), calib=np.arange(34, 36), test=np.arange(36, 40)
    )
    assert list(views(source, audit_of(source), parts)) == ["all"]
    copies = np.arange(40)
    copies[[2, 4, 6]] = 2  # three times the same, one label
    copies[[8, 9]] = 8  # one picture under two labels
    copies[[31, 33]] = 31  # not in training
    found = views(source, audit_of(source, copies=copies), parts)
    assert found["all"].rows.tolist() == list(range(30))
    assert set(range(30)) - set(found["deduplicated"].rows.tolist()) == {4, 6, 8, 9}
    assert (
        "4 rows fewer" in found["deduplicated"].description
        and "contradicting" in found["deduplicated"].description
    )
    assert found["all"].weights is None and found["all"].hash != found["deduplicated"].hash


def test_the_hash_of_a_view_follows_rows_and_weights() -> None:
    a = view("a", [1, 2, 3], "")
    assert a.hash == view("b", np.array([1, 2, 3]), "other words").hash
    weighted = view("a", [1, 2, 3], "", weights=np.array([1, 1, 2]))
    assert len({a.hash, weighted.hash, view("a", [1, 2, 4], "").hash}) == 3
    assert weighted.weights is not None and weighted.weights.dtype == np.float32


def test_real_tracks_stay_whole(shared_data: Path) -> None:
    class Nothing:
        facts: dict[str, np.ndarray] = {}

    source = read(shared_data / "gtsrb-mini")
    found = audit(source, Nothing())
    parts = split(source, found)
    groups = [set(found.groups[rows].tolist()) for rows in rows_of(parts).values()]
    assert all(not (groups[a] & groups[b]) for a in range(4) for b in range(a))
    assert min(np.bincount(source.targets["label"][parts.valid], minlength=43)) >= 1
