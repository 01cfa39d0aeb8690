"""Look at the data before anything is fitted: Source + Scan -> Audit. Every finding names the rows.

An audit changes nothing. It says which rows cannot be used and why, which rows must stay together, and what
a person should look at; the split and the views of the training data act on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gristmill.data import balance, leakage, pictures
from gristmill.data.balance import class_counts, part_rank
from gristmill.data.duplicates import exact_sets, joined, near_pairs
from gristmill.data.findings import Finding, Severity, counted, finding, listed
from gristmill.data.grouping import groups_by_stem
from gristmill.data.source import Source

MOST_UNREADABLE = 0.05
"""Above this share of unreadable rows the data are not what the user thinks they are, and a run stops."""
_COARSE = 0.2
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")
_MOST_ALIKE = 0.2


class Scanned(Protocol):
    """What the audit needs of a Scan: the facts of each row; a fact that is absent is skipped."""

    @property
    def facts(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What was found.

    `usable`: bool (N,). `excluded`: the reason of every row that is not usable. `duplicates`: int64 (N,), the
    first row of each row's set of exact copies. `groups`: int64 (N,), the same for rows that must stay in one
    part (groups joined with copies). `grouped_by`: where the groups come from, "" when rows stand alone.
    `class_counts`: usable labelled rows by class, all parts together; empty for regression.
    """

    findings: tuple[Finding, ...]
    usable: np.ndarray
    excluded: Mapping[int, str]
    duplicates: np.ndarray
    groups: np.ndarray
    grouped_by: str
    class_counts: Mapping[str, int]

    @property
    def worst(self) -> str:
        """The highest severity found (error, warning, info), "" when nothing was."""
        return next((s for s in _ORDER if any(f.severity == s for f in self.findings)), "")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready summary: findings in full, excluded rows by number with their reason."""
        return {
            "rows": len(self.usable),
            "usable": int(self.usable.sum()),
            "findings": [f.to_json() for f in self.findings],
            "excluded": {str(row): reason for row, reason in self.excluded.items()},
            "grouped_by": self.grouped_by,
            "class_counts": dict(self.class_counts),
        }


def audit(source: Source, scan: Scanned) -> Audit:
    """Examine every row. Reads nothing from disk: about half a second for 10,000 pictures or 50,000 rows."""
    unreadable = _unreadable(source, scan.facts)
    readable = np.ones(source.rows, dtype=bool)
    readable[list(unreadable)] = False
    duplicates, copies = _copies(source, scan.facts, readable)
    leaked, leaks = _leaks(source, duplicates, readable)
    excluded = dict(sorted({**leaked, **unreadable}.items()))
    usable = readable.copy()
    usable[list(leaked)] = False
    names, grouped_by = _groups(source)
    groups = joined(source.rows, [duplicates] if names is None else [duplicates, names])
    counts = class_counts(source, usable)
    found = [
        *_said_unreadable(source, unreadable),
        *leaks,
        *_labels_that_contradict(source, duplicates, readable),
        *balance.classes(source, usable),
        *leakage.findings(source, usable),
        *balance.drift(source, usable),
        *copies,
        *_near(source, scan.facts, readable, duplicates),
        *_said_groups(source, names, grouped_by),
        *(
            pictures.findings(source, scan.facts, readable)
            if source.task.has_images
            else balance.empty_cells(source)
        ),
        *balance.left_out(source),
    ]
    return Audit(
        findings=tuple(sorted(found, key=lambda f: _ORDER.index(f.severity))),
        usable=usable,
        excluded=excluded,
        duplicates=duplicates,
        groups=groups,
        grouped_by=grouped_by,
        class_counts=counts,
    )


# ---------------------------------------------------------------- rows that cannot be used


def _unreadable(source: Source, facts: Mapping[str, np.ndarray]) -> dict[int, str]:
    errors = facts.get("error")
    return {} if errors is None else {row: str(e) for row, e in enumerate(errors.tolist()) if e}


def _said_unreadable(source: Source, unreadable: Mapping[int, str]) -> list[Finding]:
    if not unreadable:
        return []
    share = len(unreadable) / source.rows
    reasons = ", ".join(f"{n:,} x {reason}" for reason, n in Counter(unreadable.values()).most_common(5))
    what = "pictures" if source.task.has_images else "rows"
    many = share > MOST_UNREADABLE
    message = (
        f"{len(unreadable):,} of {counted(source.rows, what[:-1], what)} ({share:.1%}) cannot be read and "
        f"will not be used: {reasons}."
    )
    return [
        finding(
            "unreadable",
            "error" if many else "warning",
            message,
            [source.names[row] for row in unreadable],
            "Copy or export the data again; above 5 % a run stops."
            if many
            else "Mend or delete these files.",
        )
    ]


def _leaks(
    source: Source, duplicates: np.ndarray, readable: np.ndarray
) -> tuple[dict[int, str], list[Finding]]:
    """Training copies of given test or validation rows (and validation copies of test rows) are not used."""
    rank = part_rank(source)
    top = np.zeros(source.rows, dtype=np.int64)
    counting = readable & source.labelled
    np.maximum.at(top, duplicates[counting], rank[counting])
    leaked = np.flatnonzero(readable & (rank < top[duplicates])).tolist()
    if not leaked:
        return {}, []
    at_top = {
        int(duplicates[row]): row
        for row in np.flatnonzero(counting & (rank == top[duplicates])).tolist()[::-1]
    }
    reasons = {}
    for row in leaked:
        twin = at_top[int(duplicates[row])]
        reasons[row] = (
            f"an exact copy of {source.names[twin]}, which is in the given {source.given[twin]} part"
        )
    what = "picture" if source.task.has_images else "row"
    many = counted(len(leaked), f"{what} is an exact copy", f"{what}s are exact copies")
    message = (
        f"{many} of a {what} in a given test or validation part. Such copies are left out, or the score "
        "would be too good."
    )
    advice = "Nothing to do; remove the copies for good when you can."
    return reasons, [
        finding("leak-between-parts", "warning", message, [source.names[r] for r in leaked], advice)
    ]


# ---------------------------------------------------------------- rows that belong together


def _copies(
    source: Source, facts: Mapping[str, np.ndarray], readable: np.ndarray
) -> tuple[np.ndarray, list[Finding]]:
    """Sets of exact copies; in a table of few different rows, equal rows are no copies."""
    alone = np.arange(source.rows, dtype=np.int64)
    hashes = facts.get("sha")
    if hashes is None:
        return alone, []
    ids = exact_sets(hashes, readable)
    sizes = np.bincount(ids, minlength=source.rows)[ids]
    copies = np.flatnonzero(ids != alone)
    if not len(copies):
        return ids, []
    names = [source.names[row] for row in np.flatnonzero(sizes > 1)]
    sets = len(np.unique(ids[copies]))
    if source.task.has_images:
        many = counted(len(copies), "picture is an exact copy", "pictures are exact copies")
        message = f"{many} of another one ({counted(sets, 'set', 'sets')}). Copies stay in one part."
        advice = "Keep one of each; a training run without the copies is tried too."
        return ids, [finding("exact-duplicates", "warning", message, names, advice, count=len(copies))]
    if np.mean(sizes > 1) > _COARSE:
        message = (
            f"{int(np.sum(sizes > 1)):,} rows have the same inputs as another row. The columns take so few "
            "values that this is expected; such rows are treated as different examples."
        )
        return alone, [finding("equal-rows", "info", message, names, "Nothing to do.", count=len(copies))]
    many = counted(len(copies), "row has", "rows have")
    message = (
        f"{many} the same inputs as another one ({counted(sets, 'set', 'sets')}). They stay in one part."
    )
    advice = "Check that rows were not copied by mistake."
    return ids, [finding("exact-duplicates", "info", message, names, advice, count=len(copies))]


def _labels_that_contradict(source: Source, duplicates: np.ndarray, readable: np.ndarray) -> list[Finding]:
    if source.task.target.task == "regression":
        return []
    codes = source.targets[source.task.target.name]
    rows = np.flatnonzero(readable & source.labelled)
    low = np.full(source.rows, np.iinfo(np.int64).max)
    high = np.full(source.rows, -1)
    np.minimum.at(low, duplicates[rows], codes[rows])
    np.maximum.at(high, duplicates[rows], codes[rows])
    torn = rows[low[duplicates[rows]] != high[duplicates[rows]]]
    if not len(torn):
        return []
    torn = torn[np.argsort(duplicates[torn], kind="stable")]
    what = "pictures" if source.task.has_images else "rows"
    labels = source.task.target.labels
    first = torn[duplicates[torn] == duplicates[torn[0]]]
    example = " and ".join(f'{source.names[r]} ("{labels[codes[r]]}")' for r in first[:2])
    return [
        finding(
            "contradicting-labels",
            "warning" if source.task.has_images else "info",
            f"{len(torn):,} {what} have an exact copy with another label, such as {example}.",
            [source.names[row] for row in torn],
            "Decide which label is right and delete the other copy.",
        )
    ]


def _near(
    source: Source, facts: Mapping[str, np.ndarray], readable: np.ndarray, duplicates: np.ndarray
) -> list[Finding]:
    """Pictures that look nearly the same: reported, never acted on, since a hash of 64 bits can be wrong."""
    hashes, spread = facts.get("dhash"), facts.get("std")
    if hashes is None or not source.task.has_images:
        return []
    shown = readable & (duplicates == np.arange(source.rows))
    if spread is not None:
        shown &= spread >= pictures.BLANK_STD  # blank pictures all look the same
    pairs = near_pairs(np.asarray(hashes, dtype=np.uint64), np.flatnonzero(shown))
    alike = len(np.unique(pairs.rows))
    if not alike:
        return []
    if alike > _MOST_ALIKE * shown.sum():
        message = (
            f"{alike:,} pictures look much alike at a coarse glance, as with one background or one kind of "
            "thing. That says nothing about copies; exact copies are found all the same."
        )
        return [finding("alike", "info", message, [], "Nothing to do.", count=alike)]
    least = "" if pairs.complete else ", or more"
    message = (
        f"{counted(alike, 'picture looks', 'pictures look')} nearly the same as another one "
        f"({counted(len(pairs.rows), 'pair', 'pairs')}{least}; named pair by pair)."
    )
    advice = "If they show the same thing again, say what belongs together with --group."
    found = [_pair_finding(source, "near-duplicates", message, pairs.rows, advice)]
    rank = part_rank(source)
    across = pairs.rows[rank[pairs.rows[:, 0]] != rank[pairs.rows[:, 1]]]
    if len(across):
        message = (
            f"{counted(len(np.unique(across)), 'picture looks', 'pictures look')} nearly the same as one in "
            "another given part (named pair by pair)."
        )
        advice = "Look at them: if they show the same thing, the score is too good."
        found.append(_pair_finding(source, "near-duplicates-between-parts", message, across, advice))
    return found


def _pair_finding(source: Source, code: str, message: str, pairs: np.ndarray, advice: str) -> Finding:
    names = [source.names[row] for row in pairs[:100].ravel()]
    return finding(code, "info", message, names, advice, count=len(np.unique(pairs)))


def _groups(source: Source) -> tuple[np.ndarray | None, str]:
    """Group names per row (None: alone) and a sentence about them; by the user's word, else by file names."""
    if source.groups is not None:
        named = any(group is not None for group in source.groups.tolist())
        return (source.groups, "Groups as given with --group.") if named else (None, "")
    files = source.task.has_images and all(isinstance(v, str) for v in source.inputs["image"].tolist())
    free = np.flatnonzero(part_rank(source) < 2)
    if not files or not len(free):
        return None, ""
    codes = source.targets[source.task.target.name]
    labels = np.zeros(len(free), dtype=np.int64) if source.task.target.task == "regression" else codes[free]
    found = groups_by_stem([source.names[row] for row in free], labels)
    if found is None:
        return None, ""
    groups = np.full(source.rows, None, dtype=object)
    groups[free] = found[0]
    return groups, found[1]


def _said_groups(source: Source, names: np.ndarray | None, grouped_by: str) -> list[Finding]:
    if names is None:
        return []
    found = []
    if source.groups is None:
        found.append(finding("groups", "info", grouped_by, [], "Check that this is right."))
    parts: dict[object, set[int]] = {}
    for name, part in zip(names.tolist(), part_rank(source).tolist(), strict=True):
        if name is not None:
            parts.setdefault(name, set()).add(part)
    torn = {name for name, seen in parts.items() if len(seen) > 1}
    if torn:
        rows = [i for i, name in enumerate(names.tolist()) if name in torn]
        message = (
            f"{counted(len(torn), 'group has', 'groups have')} rows in several given parts: "
            f"{listed(sorted(map(str, torn)))}. The given parts are kept, so their scores are too good."
        )
        advice = "Give parts that keep each group whole, or let the split be drawn."
        found.append(
            finding("groups-across-parts", "warning", message, [source.names[i] for i in rows], advice)
        )
    return found
