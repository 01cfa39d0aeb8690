"""STEP 1, the first half: a folder, a table or arrays -> Source, the examples and targets, still raw.

    read("photos/")                       class folders, with or without train/valid/test above them
    read("people.csv", target="income")   a plain table, or a table of pictures beside it
    from_arrays(images, labels)           what is already in memory

What was found by looking (layout, types, task) stands in `layout`, `notes` and `ignored`, to be said aloud.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.data import arrays, layouts
from gristmill.data.columns import Column, column, target_of, why_unusable
from gristmill.data.grouping import groups_by_column, groups_by_pattern
from gristmill.data.rows import Choice, Rows, apply_split, join, split_of
from gristmill.errors import DataError, UsageError, did_you_mean
from gristmill.task import InputSpec, Target, Task, check_metric, default_metric, spoken

_GROUPS_ROWS = "groups the rows; not an input"
_NAMED = 8
"""Columns of a kind that the note about them names."""
_TARGET_NAMES = ("target", "label", "labels")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Examples and targets as they were found; row `i` is the same example in every array.

    `names` says how messages name a row: its path below `origin` with forward slashes, or `train.csv row 17`
    (the row as a spreadsheet numbers it; the header is row 1). `inputs`: an image is an object array of
    absolute paths (or PIL pictures or uint8 arrays), a number float64 with NaN for missing, a category an
    object array of str | None. `targets`: int64 codes (-1: no label) or float64 (NaN: no value). `given`:
    "" (free), "train", "valid" or "test". `groups`: an object array with one value per group that must stay
    together (None: the row stands alone), only when the user named one. `ignored`: (column or file, reason).
    `fingerprint`: sha256 over name, size and time of change of every file; over the content in memory.
    """

    origin: str
    layout: str
    task: Task
    names: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    given: np.ndarray
    groups: np.ndarray | None
    notes: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    fingerprint: str

    @property
    def rows(self) -> int:
        """Number of rows, labelled or not."""
        return len(self.names)

    @property
    def labelled(self) -> np.ndarray:
        """bool (rows,): rows with a value of the first target."""
        values = self.targets[self.task.target.name]
        return ~np.isnan(values) if self.task.target.task == "regression" else values >= 0

    def share(self, part: float, why: str) -> Source:
        """This part of the rows, drawn at random and evenly from each label of each given part, as a source
        of its own. `why`: what reading all of them would do, for the note."""
        kept = np.sort(np.concatenate([_drawn(rows, part) for rows in self._strata()]))
        one = "pictures" if self.task.has_images else "rows"
        note = f"{len(kept):,} of {self.rows:,} {one} are used: reading all would {why}."
        text = f"{self.fingerprint} {len(kept)} of {self.rows}"
        return replace(
            self,
            names=tuple(self.names[i] for i in kept),
            inputs={name: values[kept] for name, values in self.inputs.items()},
            targets={name: values[kept] for name, values in self.targets.items()},
            given=self.given[kept],
            groups=None if self.groups is None else self.groups[kept],
            notes=(*self.notes, note),
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        )

    def _strata(self) -> list[np.ndarray]:
        """Row ids by given part, and by label where there are labels."""
        values = self.targets[self.task.target.name]
        labels = np.zeros(self.rows, np.int64) if self.task.target.task == "regression" else values
        _, stratum = np.unique(
            np.stack([np.unique(self.given, return_inverse=True)[1], labels]), axis=1, return_inverse=True
        )
        return [np.flatnonzero(stratum == s) for s in range(int(stratum.max()) + 1)]

    def originals(self, rows: np.ndarray, columns: Sequence[str] | None = None) -> list[Any]:
        """The inputs of some rows as a user would hand them to a bundle: a picture's path, or a mapping
        from column to cell (None: missing); `columns` limits it to those that are there."""
        picture = next((i.name for i in self.task.inputs if i.kind == "image"), None)
        if picture is not None:
            return [self.inputs[picture][i] for i in rows]
        wanted = [i.name for i in self.task.inputs] if columns is None else columns
        kept = {name: self.inputs[name] for name in wanted if name in self.inputs}
        return [{name: _cell(values[i]) for name, values in kept.items()} for i in rows]


def _drawn(rows: np.ndarray, part: float) -> np.ndarray:
    """Of a stratum, but two rows at least where there are two."""
    count = min(len(rows), max(2, math.ceil(part * len(rows))))
    return np.random.default_rng(0).permutation(rows)[:count]


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What the user asked for, None where it is left to us."""

    target: str | None = None
    inputs: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    group: str | None = None
    task: str | None = None
    metric: str | None = None

    @property
    def choice(self) -> Choice:
        """What a reader of layouts needs to know of it."""
        kept_out = {*self.ignore, *([self.target] if self.target else [])}
        return Choice(inputs=self.inputs, kept_out=frozenset(kept_out))


def read(
    path: str | Path,
    *,
    target: str | None = None,
    test: str | Path | None = None,
    valid: str | Path | None = None,
    inputs: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
) -> Source:
    """Read a folder of pictures or a table.

    Args:
        path: class folders, part folders over class folders, a CSV or TSV, or a folder that holds one.
        target: the column to predict; not needed for class folders.
        test, valid: another folder or table of the same layout, or a CSV of paths and parts.
        inputs, ignore: columns to use or to leave out; a comma list or a sequence.
        group: a column, or a pattern over file stems (a regular expression with one group, or a glob whose
            first `*` is the group): rows of one group stay in one part. "none" switches grouping off.
        task: classification, binary, multiclass or regression; found from the target by default.
        metric: the metric that decides; found from the target by default.

    Raises:
        DataError: the data cannot be used; UsageError: an option does not fit them. Both name the next step.
    """
    if target is not None and "," in target:
        raise UsageError(
            "This version predicts one target at a time.",
            got=target,
            next_step="name one column with --target",
        )
    wish = _Wish(
        target=target,
        inputs=None if inputs is None else _names(inputs),
        ignore=_names(ignore or ()),
        group=group,
        task=task,
        metric=metric,
    )
    rows = layouts.find_rows(Path(path).expanduser(), choice=wish.choice)
    for part, extra in (("test", test), ("valid", valid)):
        if extra is not None:
            rows = _with_part(rows, Path(extra).expanduser(), part, wish)
    return _source(rows, wish)


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    names: Sequence[str] | None = None,
    task: str | None = None,
    metric: str | None = None,
    target_name: str = "label",
) -> Source:
    """A Source from what is in memory.

    Args:
        x: a list of paths or of PIL pictures, a uint8 array (N, H, W[, C]), a pandas or polars frame, or a
            numeric array (N, columns).
        y: N labels or numbers, None or NaN where there is none; None: the column `target_name` of the frame.
        names: how messages name each row; by default the path, or `x[17]` (counted from 0).
        task, metric: as in `read`.
        target_name: the name of the target.

    Raises:
        DataError: x and y do not fit each other or cannot be used; UsageError: an option does not fit them.
    """
    rows = arrays.rows_of(x, y, names=names, target_name=target_name)
    return _source(rows, _Wish(target=target_name, task=task, metric=metric))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def _with_part(rows: Rows, path: Path, part: str, wish: _Wish) -> Rows:
    split = split_of(path) if path.is_file() else None
    if split is None:
        return join(rows, layouts.find_rows(path, choice=wish.choice), part)
    if rows.paths is None:
        raise UsageError(
            "A file of paths and parts can only split pictures.",
            got=f"--{part} {path.name} for a table without pictures",
            next_step=f"name a table with the {part} rows",
        )
    return apply_split(rows, split, path.name)


# ---------------------------------------------------------------- Rows -> Source


def _source(rows: Rows, wish: _Wish) -> Source:
    """Type the columns, find the target, choose the inputs."""
    training = np.array([given in ("", "train") for given in rows.given], dtype=bool)
    if not training.any():
        raise DataError(
            "There must be rows to train on.",
            got=f"all {len(rows.names)} rows are in a valid or test part",
            next_step="add training rows",
        )
    _check_columns(rows, wish)
    aim = _typed(rows, _target_name(rows, wish))
    target, values = target_of(aim, training, task=wish.task)
    labelled = ~np.isnan(values) if target.task == "regression" else values >= 0
    _check_classes(rows, target, values, training)
    inputs, kinds, ignored, notes = _choose_inputs(rows, wish, aim.name, training)
    metric, metric_notes = _metric(wish, target, values[training & labelled])
    groups, group_notes = _groups(rows, wish)
    specs = tuple(
        InputSpec(name=name, kind="category" if kind == "category" else kind) for name, kind in kinds
    )
    return Source(
        origin=rows.origin,
        layout=rows.layout,
        task=Task(inputs=specs, targets=(target,), metric=metric),
        names=tuple(rows.names),
        inputs=inputs,
        targets={target.name: values},
        given=np.array(rows.given, dtype=object).astype(str),
        groups=groups,
        notes=rows.notes + _target_notes(rows, target, labelled) + notes + metric_notes + group_notes,
        ignored=rows.ignored + ignored,
        fingerprint=fingerprint_of(rows.stamps),
    )


def _typed(rows: Rows, name: str) -> Column:
    return column(name, rows.cells[name], decimal_comma=rows.decimal_comma)


def _check_columns(rows: Rows, wish: _Wish) -> None:
    """Every column the user named must exist."""
    if rows.paths is not None and rows.picture_column is None:
        known = ["image"]
    else:
        known = [*rows.cells, *(name for name in (rows.picture_column, rows.part_column) if name)]
        known += ["image"] if rows.picture_column else []
    for option, names in (("inputs", wish.inputs or ()), ("ignore", wish.ignore)):
        for name in names:
            if name not in known:
                raise _no_column(name, known, option)


def _no_column(name: str, known: Sequence[str], option: str) -> UsageError:
    near = did_you_mean(name, list(known))
    return UsageError(
        f"--{option} must name columns of the data.",
        got=f'"{name}"; there are: {", ".join(known[:40])}',
        next_step=f"use --{option} {near}" if near else f"choose one of them for --{option}",
    )


def _target_name(rows: Rows, wish: _Wish) -> str:
    """The target the user named, or the only one it can be."""
    known = list(rows.cells)
    if wish.target is None:
        usual = [name for name in known if name.lower() in _TARGET_NAMES]
        if len(usual) == 1 or (rows.paths is not None and len(known) == 1):
            return usual[0] if usual else known[0]
        raise UsageError(
            "The column to predict must be named.",
            got=f"a table with the columns {', '.join(known[:40])}",
            next_step=f"use --target {known[-1] if known else 'COLUMN'}",
        )
    if wish.target not in known:
        raise _no_column(wish.target, known, "target")
    if rows.lacking and wish.target in rows.lacking:
        raise DataError(
            "A test or validation table must have the target column.",
            got=f'{rows.lacking[wish.target]} has no column "{wish.target}"',
            next_step="name a table with known answers, or leave the option out",
        )
    return wish.target


def _check_classes(rows: Rows, target: Target, values: np.ndarray, training: np.ndarray) -> None:
    """Each class can be learned (two training rows) and no given part has a class that training lacks."""
    if target.task == "regression":
        return
    counts = np.bincount(values[training & (values >= 0)], minlength=len(target.labels))
    strangers = [label for label, n in zip(target.labels, counts, strict=True) if n == 0]
    if strangers:
        where = sorted(
            {rows.given[i] for i in np.flatnonzero(~training & (values >= 0)) if counts[values[i]] == 0}
        )
        raise DataError(
            "The test and validation parts may only hold classes that the training part holds.",
            got=f"the {' and '.join(where)} part also holds {_quoted(strangers)}",
            next_step="add training examples of these classes, or take the classes out; check the spelling",
        )
    single = [label for label, n in zip(target.labels, counts, strict=True) if n == 1]
    if single:
        what = "picture" if rows.paths is not None else "row"
        raise DataError(
            f"Every class needs at least two training {what}s: one to learn from and one to check with.",
            got=f"only one {what} of {_quoted(single)}",
            next_step=f"add {what}s of this class (20 or more are better), or take the class out",
        )


def _quoted(labels: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(f'"{label}"' for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


def _metric(wish: _Wish, target: Target, values: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """The metric that decides; and why, when the user did not name it."""
    if wish.metric is not None:
        return check_metric(wish.metric, target.task), ()
    counts = () if target.task == "regression" else np.bincount(values, minlength=len(target.labels)).tolist()
    metric = default_metric(target, counts)
    if target.task == "regression":
        why = "the target is a number"
    elif metric == "accuracy":
        why = "no class is rare"
    else:
        rarest = int(np.argmin(counts))
        why = f'the smallest class, "{target.labels[rarest]}", has {counts[rarest]:,} of {sum(counts):,}'
    said = spoken(metric)
    return metric, (f"{said[:1].upper()}{said[1:]} decides, because {why}. --metric overrides.",)


def _target_notes(rows: Rows, target: Target, labelled: np.ndarray) -> tuple[str, ...]:
    kind = "numbers" if target.task == "regression" else f"{len(target.labels)} classes"
    notes = [f'Predicting "{target.name}": {kind} ({target.task}).']
    without = int(np.sum(~labelled))
    if without:
        first = rows.names[int(np.argmin(labelled))]
        notes.append(
            f'{without:,} rows have no value in "{target.name}" and are not used; the first is {first}.'
        )
    return tuple(notes)


_Chosen = tuple[
    dict[str, np.ndarray], list[tuple[str, Any]], tuple[tuple[str, str], ...], tuple[str, ...]
]  # inputs, (name, kind), ignored, notes


def _choose_inputs(rows: Rows, wish: _Wish, target: str, training: np.ndarray) -> _Chosen:
    if rows.paths is not None:
        return _picture_input(rows, wish, target)
    inputs: dict[str, np.ndarray] = {}
    kinds: list[tuple[str, Any]] = []
    ignored: list[tuple[str, str]] = []
    for name in rows.cells:
        reason = _why_left_out(rows, wish, target, name)
        typed = None if reason else _typed(rows, name)
        if typed is not None and typed.kind == "text" and wish.inputs is not None:
            raise _text_wanted(name)
        if typed is not None and wish.inputs is None:
            reason = why_unusable(typed, training)
        if typed is not None and reason is None:
            inputs[name] = typed.values
            kinds.append((name, "number" if typed.kind == "number" else "category"))
        elif name != target:
            ignored.append((name, reason or "not used"))
    if not inputs:
        raise _nothing_to_learn_from(ignored)
    note = f"Learning from {'; '.join(_named(kinds, kind) for kind in dict.fromkeys(k for _, k in kinds))}."
    dropped = [f"{name} ({reason})" for name, reason in ignored if not reason.startswith("--")]
    left_out = (f"Left out: {'; '.join(dropped)}. --inputs overrides.",) if dropped else ()
    return inputs, kinds, tuple(ignored), (note, *left_out)


def _named(kinds: Sequence[tuple[str, Any]], wanted: str) -> str:
    """`numbers: age, height and 3 more`."""
    names = [name for name, kind in kinds if kind == wanted]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{'numbers' if wanted == 'number' else 'categories'}: {', '.join(names[:_NAMED])}{more}"


def _picture_input(rows: Rows, wish: _Wish, target: str) -> _Chosen:
    images = np.empty(len(rows.names), dtype=object)
    for i, picture in enumerate(rows.paths or ()):
        images[i] = picture
    others = [name for name in rows.cells if name != target]
    ignored = tuple(
        (name, _GROUPS_ROWS if name == wish.group else "columns beside a picture are not used yet")
        for name in others
    )
    notes = (f"Learning from the pictures only; other columns are not used yet: {', '.join(others)}.",)
    return {"image": images}, [("image", "image")], ignored, notes if others else ()


def _why_left_out(rows: Rows, wish: _Wish, target: str, name: str) -> str | None:
    if name == target:
        return "the target"
    if name == wish.group:
        return _GROUPS_ROWS
    if name in wish.ignore:
        return "--ignore names it"
    if wish.inputs is not None and name not in wish.inputs:
        return "--inputs does not name it"
    if rows.lacking and name in rows.lacking:
        return f"{rows.lacking[name]} has no such column"
    return None


def _text_wanted(name: str) -> DataError:
    return DataError(
        "Free text cannot be an input in this version; numbers, categories and pictures can.",
        got=f'the column "{name}"',
        next_step="leave it out of --inputs",
    )


def _nothing_to_learn_from(ignored: list[tuple[str, str]]) -> DataError:
    reasons = "; ".join(f'"{name}": {reason}' for name, reason in ignored[:10])
    text = all("free text" in reason for _, reason in ignored)
    return DataError(
        "At least one column must be left to learn from.",
        got=reasons or "only the target column",
        next_step="add columns of numbers or categories to the table"
        if text
        else "name the columns to use with --inputs, or add columns to the table",
    )


def _groups(rows: Rows, wish: _Wish) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if wish.group is None:
        return None, ()
    if wish.group.lower() == "none" and "none" not in rows.cells:
        alone = np.full(len(rows.names), None, dtype=object)
        return alone, ("Grouping is switched off: every row stands alone.",)
    if wish.group in rows.cells and (rows.paths is None or rows.picture_column):
        cells = column(wish.group, rows.cells[wish.group]).values
        return groups_by_column(wish.group, cells)
    if rows.paths is None:
        raise _no_column(wish.group, list(rows.cells), "group")
    return groups_by_pattern(wish.group, rows.names)


def fingerprint_of(stamps: Sequence[str]) -> str:
    """sha256 over the stamps of all files, whatever their order."""
    digest = hashlib.sha256()
    for stamp in sorted(stamps):
        digest.update(stamp.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
