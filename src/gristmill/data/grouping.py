"""Which rows belong together: by a column, by a pattern, or by what file names have in common."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Sequence

import numpy as np

from gristmill.errors import UsageError

_FEWEST_GROUPS = 5
_FEWEST_PICTURES = 10
_TOKEN = re.compile(r"[_\-. ]+")


def groups_by_column(name: str, cells: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Groups from a column: rows with the same value stay together, a row with an empty cell stands alone."""
    missing = [v is None or v != v for v in cells]
    groups = np.empty(len(cells), dtype=object)
    groups[:] = [None if gone else str(v) for v, gone in zip(cells, missing, strict=True)]
    count = len(set(groups) - {None})
    if count < 2:
        raise UsageError(
            "A column of groups needs at least two different values.",
            got=f'"{name}" has {count}',
            next_step="name another column with --group, or leave it out",
        )
    notes = [f'Rows with the same "{name}" stay in the same part ({count:,} groups).']
    if any(missing):
        notes.append(f'{sum(missing):,} rows have no "{name}"; each of them stands alone.')
    return groups, tuple(notes)


def groups_by_pattern(pattern: str, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Groups from file names.

    Args:
        pattern: a regular expression with one group, or a glob whose first `*` is the group. It is matched
            with the stem (file name without ending); with the path below the data folder, without its
            ending, when the pattern holds a slash.
        names: paths with forward slashes.

    Raises:
        UsageError: not a pattern, or it matches no name.
    """
    expression = _expression(pattern)
    groups = np.empty(len(names), dtype=object)
    for i, name in enumerate(names):
        stem = posixpath.splitext(name if "/" in pattern else posixpath.basename(name))[0]
        match = expression.search(stem)
        groups[i] = match.group(1) if match else None
    count = len(set(groups) - {None})
    if count < 2:
        example = posixpath.splitext(posixpath.basename(names[0]))[0]
        raise UsageError(
            "A --group pattern must find at least two groups among the file names.",
            got=f'"{pattern}" finds {count}; a name is "{example}"',
            next_step='use a pattern with one group, such as "(patient_[0-9]+)_" or "patient_*_scan*"',
        )
    alone = sum(group is None for group in groups)
    notes = [f'Pictures with the same "{pattern}" in their name stay in the same part ({count:,} groups).']
    if alone:
        first = names[next(i for i, group in enumerate(groups) if group is None)]
        notes.append(f"{alone:,} names do not fit the pattern, such as {first}; each of them stands alone.")
    return groups, tuple(notes)


def _expression(pattern: str) -> re.Pattern[str]:
    try:
        if "(" in pattern:
            expression = re.compile(pattern)
        elif "*" in pattern:
            expression = re.compile(_glob(pattern))
        else:
            expression = re.compile("")
    except re.error as error:
        raise _no_pattern(pattern, str(error)) from None
    if expression.groups != 1:
        raise _no_pattern(pattern, f"{expression.groups} groups")
    return expression


def _glob(pattern: str) -> str:
    """A glob as a regular expression whose first `*` is a group, as short as it can be."""
    first, _, rest = pattern.partition("*")
    before, after = (re.sub(r"\\[zZ]$", "", fnmatch.translate(part)) for part in (first, rest))
    return rf"\A{before}(.+?){after}\Z"


def _no_pattern(pattern: str, why: str) -> UsageError:
    return UsageError(
        "--group must be a column, or a pattern over file names with exactly one group.",
        got=f'"{pattern}" ({why})',
        next_step='use a pattern with one pair of brackets, such as "(patient_[0-9]+)_", or "none"',
    )


def groups_by_stem(names: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Groups that file names show by themselves, or None.

    Names such as `00012_00003` or `patient_12_scan_3` share a beginning with the other pictures of the same
    thing. Accepted only when the habit is clear: four of five names share their beginning, there are well
    fewer beginnings than names, and every class of ten pictures or more keeps at least five groups, so that
    plain running numbers (`cat_17`, `cardboard17`) are never taken for groups.

    Args:
        names: paths with forward slashes, one per picture.
        labels: int64 (N,): class codes (all equal for regression).

    Returns:
        object array (N,) of group names (None: stands alone) and a sentence about them.
    """
    stems = [posixpath.splitext(posixpath.basename(name))[0] for name in names]
    folders = [posixpath.dirname(name) for name in names]
    for beginning in (_before_word_and_number, _before_last_token):
        heads = [beginning(stem) for stem in stems]
        groups = _scoped(heads, folders)
        if _is_habit(groups, labels):
            count = len(set(groups) - {None})
            example = names[next(i for i, group in enumerate(groups) if group is not None)]
            sentence = (
                f"File names show which pictures belong together, as in {example}: {count:,} groups of "
                f"{len(names) / count:.1f} pictures on average. Each group stays in one part; "
                f"--group decides otherwise (--group none switches it off)."
            )
            return groups, sentence
    return None


def _before_last_token(stem: str) -> str | None:
    """`00012_00003` -> `00012`; None when there is nothing before the last token."""
    tokens = list(_TOKEN.finditer(stem))
    return stem[: tokens[-1].start()] or None if tokens else None


def _before_word_and_number(stem: str) -> str | None:
    """`patient_12_scan_3` -> `patient_12`; None when the name does not end in a word and a number."""
    match = re.fullmatch(r"(.*\d)[_\-. ]+[^\W\d_]+[_\-. ]*\d+", stem)
    return match.group(1) if match else None


def _scoped(heads: list[str | None], folders: list[str]) -> np.ndarray:
    """Numbers counted anew in every folder mean another thing in each; other heads mean the same."""
    by_folder: dict[str, set[str]] = {}
    for head, folder in zip(heads, folders, strict=True):
        if head is not None:
            by_folder.setdefault(folder, set()).add(head)
    anew = sum(_counts_up(found) for found in by_folder.values()) > 0.5 * len(by_folder)
    groups = np.empty(len(heads), dtype=object)
    groups[:] = [
        None if head is None else f"{folder}/{head}" if anew else head
        for head, folder in zip(heads, folders, strict=True)
    ]
    return groups


def _counts_up(heads: set[str]) -> bool:
    if not all(head.isascii() and head.isdigit() for head in heads):
        return False
    numbers = [int(head) for head in heads]
    return min(numbers) <= 1 and max(numbers) - min(numbers) < 1.2 * len(numbers)


def _is_habit(groups: np.ndarray, labels: np.ndarray) -> bool:
    known = np.array([group is not None for group in groups], dtype=bool)
    if known.sum() < 0.8 * len(groups) or len(groups) < _FEWEST_PICTURES:
        return False
    _, ids, sizes = np.unique(groups[known].astype(str), return_inverse=True, return_counts=True)
    if sizes[sizes > 1].sum() < 0.8 * len(groups) or len(sizes) > 0.6 * len(groups):
        return False
    for label in np.unique(labels[labels >= 0]):
        members = labels[known] == label
        if members.sum() >= _FEWEST_PICTURES and len(np.unique(ids[members])) < _FEWEST_GROUPS:
            return False
    return True
