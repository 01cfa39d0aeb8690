"""Exact and near copies, and joining sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.duplicates import exact_sets, joined, near_pairs


def objects(*values: object) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_exact_sets() -> None:
    hashes = objects("a", "b", "a", "", "", "b")
    known = np.array([True, True, True, False, False, True])
    assert exact_sets(hashes, known).tolist() == [0, 1, 0, 3, 4, 1]


def test_joined_sets_chain() -> None:
    copies, groups = np.array([0, 1, 2, 3, 1]), objects("p", "p", "q", None, "q")
    assert joined(5, [copies, groups]).tolist() == [0, 0, 0, 3, 0]


@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 5)), max_size=30))
def test_joined_is_the_finest_common_coarsening(members: list[tuple[int, int]]) -> None:
    columns = [np.array([m[i] for m in members], dtype=np.int64) for i in range(2)]
    ids = joined(len(members), columns).tolist()
    linked = list(range(len(members)))  # slow oracle: spread the smallest row until nothing changes
    changed = True
    while changed:
        changed = False
        for column in columns:
            for a in range(len(members)):
                for b in range(len(members)):
                    if column[a] == column[b] != -1 and linked[a] > linked[b]:
                        linked[a], changed = linked[b], True
    assert ids == linked


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8), st.data())
def test_near_pairs_equal_the_slow_way(hashes: list[int], data: st.DataObject) -> None:
    flips = data.draw(
        st.lists(st.tuples(st.integers(0, 7), st.integers(0, 63), st.integers(0, 63)), max_size=6)
    )
    hashes += [hashes[i % len(hashes)] ^ (1 << a) ^ (1 << b) for i, a, b in flips]
    pairs = near_pairs(np.array(hashes, dtype=np.uint64), np.arange(len(hashes)))
    slow = [
        [a, b]
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if (hashes[a] ^ hashes[b]).bit_count() <= 2
    ]
    assert pairs.rows.tolist() == slow and pairs.complete


def test_the_work_is_bounded_and_said() -> None:
    pairs = near_pairs(np.zeros(500, dtype=np.uint64), np.arange(500))
    assert not pairs.complete and len(pairs.rows) < 500 * 25
    assert len(near_pairs(np.zeros(0, dtype=np.uint64), np.arange(0)).rows) == 0
