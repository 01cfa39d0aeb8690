"""Rows that are copies of each other, exact or nearly so, and sets that must stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEAR_BITS = 2
"""Two pictures are nearly the same when at most this many of the 64 bits of their dHash differ."""
_BANDS = ((0, 22), (22, 21), (43, 21))
_NEIGHBOURS = 24


def exact_sets(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ids of exact-duplicate sets.

    Args:
        hashes: object array (N,): a content hash per row.
        known: bool (N,): rows whose hash counts (readable ones); the others stand alone.

    Returns:
        int64 (N,): the first row of each row's set; the row itself when it has no copy.
    """
    ids = np.arange(len(hashes), dtype=np.int64)
    first: dict[object, int] = {}
    for row in np.flatnonzero(known).tolist():
        ids[row] = first.setdefault(hashes[row], row)
    return ids


def joined(count: int, memberships: Sequence[np.ndarray]) -> np.ndarray:
    """Sets of rows that are linked by any of several memberships (union-find).

    Args:
        count: number of rows N.
        memberships: arrays (N,): rows with the same value belong together; None and -1 belong to nobody.

    Returns:
        int64 (N,): the smallest row of each row's set.
    """
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for membership in memberships:
        first: dict[object, int] = {}
        for row, member in enumerate(membership.tolist()):
            if member is None or member == -1:
                continue
            a, b = root(first.setdefault(member, row)), root(row)
            parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Nearly equal pictures: int64 (M, 2) rows, the smaller first, sorted; `complete`: none was skipped."""

    rows: np.ndarray
    complete: bool


def near_pairs(hashes: np.ndarray, candidates: np.ndarray) -> Pairs:
    """Pairs of rows whose dHash differs in at most two bits.

    Two differing bits leave at least one of three bands of the hash untouched, so sorting by each band
    brings every pair together. The work is bounded: 3 bands x 24 neighbours a row; in a longer run of
    equal bands (very uniform pictures) pairs can be missed, and `complete` says so.

    Args:
        hashes: uint64 (N,).
        candidates: int64 (n,): the rows to compare.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    complete = True
    for start, width in _BANDS:
        bands = (hashes[candidates] >> np.uint64(start)) & np.uint64((1 << width) - 1)
        order = np.lexsort((hashes[candidates], bands))
        rows, bands = candidates[order], bands[order]
        for offset in range(1, min(_NEIGHBOURS, len(rows) - 1) + 1):
            same = bands[offset:] == bands[:-offset]
            if not same.any():
                break
            a, b = rows[:-offset][same], rows[offset:][same]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS
            found.append(np.stack([np.minimum(a, b)[near], np.maximum(a, b)[near]], axis=1))
        over = _NEIGHBOURS + 1
        complete &= len(rows) <= over or not bool(np.any(bands[over:] == bands[:-over]))
    return Pairs(rows=np.unique(np.concatenate(found), axis=0), complete=complete)
