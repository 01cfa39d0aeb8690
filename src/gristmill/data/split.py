"""Source + Audit -> Parts: which rows train, choose (valid), calibrate, test; and Views of the training rows.

Rows of one group and exact copies never straddle parts, every class (for numbers: every tenth) is spread
evenly, given parts are kept, and the same seed gives the same parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.data.audit import Audit
from gristmill.data.source import Source
from gristmill.errors import DataError

FOLDS = 5
FOLDS_BELOW = 1_000
"""Up to this many training rows (and without a given validation part) folds take the place of a hold-out."""
VALID_SHARE = 0.15
CALIB_SHARE = 0.075
MOST_ROWS = 10_000
"""valid and calib hold at most this many rows each: more would slow every comparison and sharpen none."""
_QUANTILE_BINS = 10
_FEWEST_FOR_VALID = 3
_TRAIN, _VALID, _CALIB, _TEST = range(4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Row ids (int64, ascending) of the four parts, and what was decided.

    Models learn from `train`; choices look at `valid` only, calibration at `calib` only; `test` is read once.
    `folds`: None, or the fold (int64, from 0) of each row of `train`: then valid and calib are two halves of
    `train`, and their predictions are out of fold, each by a model that has not learnt from the row's fold.
    """

    train: np.ndarray
    valid: np.ndarray
    calib: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()
    folds: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A choice of training rows: row ids (int64), a weight each (float32; None: all 1), a hash of both."""

    name: str
    rows: np.ndarray
    weights: np.ndarray | None
    description: str
    hash: str


def split(
    source: Source, audit: Audit, *, seed: int = 0, test_share: float = 0.2, folds_below: int | None = None
) -> Parts:
    """Deal the usable, labelled rows into four parts.

    A given test part is kept, else `test_share` of the rows is drawn. The rest: up to `folds_below` rows
    (default: FOLDS_BELOW) all train in folds, and valid and calib are halves of them; of more rows 15 %
    become valid and 7.5 % calib. A given validation part is halved into valid and calib whatever the size.
    valid and calib hold at most 10,000 rows each.

    Raises:
        DataError: fewer than four rows (with folds: three) or groups of rows that can be kept apart.
    """
    used = audit.usable & source.labelled
    strata = _strata(source, used)
    rng = np.random.default_rng(seed)
    part = np.full(source.rows, -1, dtype=np.int64)
    part[used & (source.given == "test")] = _TEST
    held = np.flatnonzero(used & (source.given == "valid"))
    free = np.flatnonzero(used & (source.given != "test") & (source.given != "valid"))
    has_test = bool((part == _TEST).any())
    learning = len(free) * (1.0 if has_test else 1.0 - test_share)
    if not len(held) and learning <= (FOLDS_BELOW if folds_below is None else folds_below):
        return _in_folds(source, audit, part, free, 0.0 if has_test else test_share, seed)
    shares = _shares(len(free), len(held) > 0, has_test, test_share)
    part[free] = _deal(audit.groups[free], strata[free], shares, rng)
    notes = list(_notes(source, audit, shares, seed, has_test))
    if len(held):
        cap = min(0.5, MOST_ROWS / len(held))
        dealt = _deal(audit.groups[held], strata[held], np.array([1 - 2 * cap, cap, cap, 0.0]), rng)
        part[held] = np.where(dealt == _TRAIN, -1, dealt)
        if 2 * cap < 1:
            notes.append(
                f"{int(np.sum(dealt == _TRAIN)):,} rows of the large given validation part are not used."
            )
    _check(part, held)
    rows = [np.flatnonzero(part == p) for p in range(4)]
    return Parts(train=rows[0], valid=rows[1], calib=rows[2], test=rows[3], notes=tuple(notes))


def _strata(source: Source, used: np.ndarray) -> np.ndarray:
    """int64 (N,): what must be spread evenly: the class, or the tenth in which a number lies."""
    values = source.targets[source.task.target.name]
    if source.task.target.task != "regression":
        return np.asarray(values, dtype=np.int64)
    edges = (
        np.quantile(values[used], np.linspace(0, 1, _QUANTILE_BINS + 1)[1:-1]) if used.any() else np.empty(0)
    )
    return np.asarray(np.searchsorted(edges, np.nan_to_num(values)), dtype=np.int64)


def _shares(rows: int, has_valid: bool, has_test: bool, test_share: float) -> np.ndarray:
    """float64 (4,): share of the free rows for each part."""
    test = 0.0 if has_test else test_share
    rest = 1.0 - test
    most = MOST_ROWS / max(1, rows)
    valid = 0.0 if has_valid else min(VALID_SHARE * rest, most)
    calib = 0.0 if has_valid else min(CALIB_SHARE * rest, most)
    return np.array([rest - valid - calib, valid, calib, test])


def _in_folds(
    source: Source, audit: Audit, part: np.ndarray, free: np.ndarray, test_share: float, seed: int
) -> Parts:
    """The parts of small data: the `free` rows train in folds, or become test rows where none are given.

    Args:
        part: int64 (N,): _TEST where a row is a given test row, else -1.
    """
    rng = np.random.default_rng(seed)
    strata = _strata(source, audit.usable & source.labelled)
    shares = np.array([1 - test_share, 0.0, 0.0, test_share])
    part[free] = _deal(audit.groups[free], strata[free], shares, rng)
    train = np.flatnonzero(part == _TRAIN)
    groups, count = audit.groups[train], len(np.unique(audit.groups[train]))
    test = np.flatnonzero(part == _TEST)
    if count < 2 or not len(test):
        raise DataError(
            "There must be enough rows (or groups of rows) for training, choosing, calibrating and testing.",
            got=f"{count} to learn from; no row left for {'test' if count > 1 else 'valid, calib'}",
            next_step="add rows or groups to the data",
        )
    folds = _dealt_evenly(groups, strata[train], min(FOLDS, count), rng)
    half = _dealt_evenly(groups, strata[train], 2, rng)
    notes = [
        *_notes(source, audit, shares, seed, test_share == 0.0, folds=True),
        f"The data are small, so all {len(train):,} other rows teach: in {int(folds.max()) + 1} folds, each "
        "row is predicted once by a model that has not seen it. Half of these predictions choose, half "
        "calibrate.",
    ]
    return Parts(
        train=train,
        valid=train[half == 0],
        calib=train[half == 1],
        test=test,
        notes=tuple(notes),
        folds=folds,
    )


def _notes(
    source: Source, audit: Audit, shares: np.ndarray, seed: int, has_test: bool, *, folds: bool = False
) -> list[str]:
    notes = []
    if has_test:
        notes.append("The given test part is kept for the final score.")
    else:
        notes.append(f"{shares[_TEST]:.0%} of the rows are kept aside for the final score (seed {seed}).")
        if (source.given == "test").any():
            notes.append(
                "The given test part has no usable row with a known answer, so a test part was drawn."
            )
    if shares[_VALID] == 0 and not folds:
        notes.append(
            "The given validation part is halved: one half to choose with, one half to calibrate with."
        )
    if audit.grouped_by:
        notes.append(f"Each group of rows lies in one {'fold or part' if folds else 'part'} as a whole.")
    return notes


def _check(part: np.ndarray, held: np.ndarray) -> None:
    """No part may be empty."""
    counts = [int(np.sum(part == p)) for p in range(4)]
    if min(counts) == 0:
        short = ", ".join(
            n for n, count in zip(("train", "valid", "calib", "test"), counts, strict=True) if not count
        )
        where = (
            "the given validation part"
            if len(held) and min(counts[_VALID], counts[_CALIB]) == 0
            else "the data"
        )
        raise DataError(
            "There must be enough rows (or groups of rows) for training, choosing, calibrating and testing.",
            got=f"no row left for {short}",
            next_step=f"add rows or groups to {where}",
        )


# ---------------------------------------------------------------- dealing


def _deal(groups: np.ndarray, strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Part (0..3) of each row: whole groups, each stratum near its shares.

    Large groups first, each to the part where it disturbs the wanted counts least; then single rows fill up
    every stratum exactly; then a class that a part must have and lacks gets its smallest group.
    """
    _, rows_to_group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, strata = np.unique(strata, return_inverse=True)
    if not len(groups):
        return np.empty(0, dtype=np.int64)
    counts = np.zeros((len(sizes), int(strata.max()) + 1))  # (groups, strata)
    np.add.at(counts, (rows_to_group, strata), 1.0)
    wanted = shares[:, None] * counts.sum(axis=0)
    part = np.full(len(sizes), -1, dtype=np.int64)
    have = np.zeros_like(wanted)
    order = rng.permutation(len(sizes))
    several = order[np.argsort(-sizes[order], kind="stable")]
    for group in several[sizes[several] > 1].tolist():
        part[group] = _least_disturbed(counts[group], have, wanted)
        have[part[group]] += counts[group]
    singles = order[sizes[order] == 1]
    stratum = counts[singles].argmax(axis=1)
    for s in np.unique(stratum).tolist():
        mine = singles[stratum == s]
        part[mine] = _fill(len(mine), np.maximum(0.0, wanted[:, s] - have[:, s]), shares)
    _mend(part, counts, sizes, shares)
    return part[rows_to_group]


def _dealt_evenly(groups: np.ndarray, strata: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The share (0 to count - 1) of each row: whole groups, each stratum spread evenly, all of like size.

    Large groups first, each to where it disturbs its strata least; then every single row to the share that
    has the fewest rows of its stratum, the smallest one of several. None stays empty.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, strata = np.unique(strata, return_inverse=True)
    counts = np.zeros((len(sizes), int(strata.max()) + 1))  # (groups, strata)
    np.add.at(counts, (member, strata), 1.0)
    wanted = np.tile(counts.sum(axis=0) / count, (count, 1))
    have = np.zeros_like(wanted)
    share = np.full(len(sizes), -1, dtype=np.int64)
    order = rng.permutation(len(sizes))
    stratum = counts.argmax(axis=1)
    # large groups first, then single rows stratum by stratum: so totals never differ by more than they must
    for group in order[np.lexsort((stratum[order], -sizes[order]))].tolist():
        empty = np.flatnonzero(have.sum(axis=1) == 0)
        if len(empty) and len(empty) >= np.sum(share < 0):
            share[group] = empty[0]
        elif sizes[group] > 1:
            share[group] = _least_disturbed(counts[group], have, wanted)
        else:
            share[group] = np.lexsort((have.sum(axis=1), have[:, stratum[group]]))[0]
        have[share[group]] += counts[group]
    return share[member]


def _least_disturbed(counts: np.ndarray, have: np.ndarray, wanted: np.ndarray) -> int:
    """The part whose squared relative misfit grows least when it takes the group."""
    s = np.flatnonzero(counts)
    open_parts = wanted[:, s] > 0
    cost = counts[s] * (2 * (have[:, s] - wanted[:, s]) + counts[s]) / np.where(open_parts, wanted[:, s], 1.0)
    return int(np.where(open_parts, cost, np.inf).sum(axis=1).argmin())


def _fill(count: int, need: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """`count` part numbers in proportion to what is needed, rounded by largest remainder."""
    ideal = count * (need / need.sum() if need.sum() > 0 else shares / shares.sum())
    whole = np.floor(ideal + 1e-9).astype(np.int64)
    left = count - int(whole.sum())
    remainders = np.where(ideal > 0, ideal - whole, -1.0)
    whole[np.argsort(-remainders, kind="stable")[:left]] += 1
    return np.repeat(np.arange(len(shares)), whole)


def _mend(part: np.ndarray, counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> None:
    """Give every class a training group, a class of three groups a validation group; leave no part empty."""
    per_class = (counts > 0).sum(axis=0)
    for s in np.argsort(per_class, kind="stable").tolist():
        for p, fewest in ((_TRAIN, 1), (_VALID, _FEWEST_FOR_VALID)):
            members = counts[:, s] > 0
            if shares[p] > 0 and per_class[s] >= fewest and not (members & (part == p)).any():
                _move(part, counts, sizes, members, p)
    for p in np.flatnonzero(shares > 0).tolist():
        if not (part == p).any():
            _move(part, counts, sizes, np.ones(len(part), dtype=bool), p)


def _move(part: np.ndarray, counts: np.ndarray, sizes: np.ndarray, members: np.ndarray, to: int) -> None:
    """Move the smallest group that its own part can spare, if there is one, from training rather than others.

    Training and valid never spare the last group of a class, and no part its last group; but training itself
    may take a class from any part.
    """
    held = np.bincount(part, minlength=4)
    classes = np.stack([(counts[part == p] > 0).sum(axis=0) for p in range(4)])  # groups per part and class
    candidates = np.flatnonzero(members & (part != to)).tolist()
    for group in sorted(candidates, key=lambda g: (part[g] != _TRAIN, sizes[g], -held[part[g]], g)):
        source = part[group]
        keeps_classes = source not in (_TRAIN, _VALID) or (classes[source][counts[group] > 0] > 1).all()
        if to == _TRAIN or (held[source] > 1 and keeps_classes):
            part[group] = to
            return


# ---------------------------------------------------------------- views


def views(source: Source, audit: Audit, parts: Parts) -> dict[str, View]:
    """The ways in which the training rows can be used, by name.

    "all": every training row. "deduplicated", when training rows have exact copies: one row of each set of
    copies, and none of a set whose copies contradict each other.
    """
    found = [view("all", parts.train, "all training rows")]
    values = source.targets[source.task.target.name]
    sets = audit.duplicates[parts.train]
    _, first, inverse, sizes = np.unique(sets, return_index=True, return_inverse=True, return_counts=True)
    if (sizes > 1).any():
        torn = np.zeros(len(first), dtype=bool)
        torn[inverse[values[parts.train] != values[parts.train][first][inverse]]] = True
        rows = np.sort(parts.train[first[~torn]])
        gone = len(parts.train) - len(rows)
        text = f"one of each set of exact copies ({gone:,} rows fewer"
        text += f"; {int(torn.sum()):,} sets with contradicting labels left out)" if torn.any() else ")"
        found.append(view("deduplicated", rows, text))
    return {v.name: v for v in found}


def view(
    name: str, rows: Sequence[int] | np.ndarray, description: str, weights: np.ndarray | None = None
) -> View:
    """A View with its hash."""
    ids = np.ascontiguousarray(rows, dtype=np.int64)
    floats = None if weights is None else np.ascontiguousarray(weights, dtype=np.float32)
    digest = hashlib.sha256(ids.astype("<i8").tobytes())
    digest.update(b"|" if floats is None else b"|" + floats.astype("<f4").tobytes())
    return View(name=name, rows=ids, weights=floats, description=description, hash=digest.hexdigest()[:16])
