"""Columns of cells -> typed columns, which of them are worth learning from, and what a target is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gristmill.errors import DataError, UsageError
from gristmill.task import TASK_KINDS, Target, TaskKind

ColumnKind = Literal["number", "category", "text", "date"]

MISSING = frozenset({"", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "<NA>"})
"""Cells that mean "not known" in any column."""
MISSING_NUMBER = MISSING | {"?", "-", ".", "None", "none", "inf", "-inf", "Inf", "-Inf"}
"""Cells that mean "not known" among numbers; among words some of these can be a value."""
MOST_CLASSES_OF_NUMBERS = 20
"""A target of whole numbers with more distinct values than this is a quantity, not a set of classes."""

_FEWEST_ROWS_FOR_AN_ID = 10
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{4}( .*)?"
    r"|\d{4}/\d{1,2}/\d{1,2}( .*)?"
)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?|[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_CODE = re.compile(r"[+-]?0\d+")
_ID_NAME = re.compile(
    r"(?:.*[_\-. ])?(?:id|ids|uuid|guid|index|idx|key|row|nr|no)|(?:column 1)|.*[a-z]I[dD]", re.A
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One typed column.

    `values`: float64 with NaN for a missing cell when `kind` is "number", else an object array of str | None.
    `whole`: every number was written without a decimal point.
    """

    name: str
    kind: ColumnKind
    values: np.ndarray
    whole: bool = False

    @property
    def missing(self) -> np.ndarray:
        """bool (rows,): cells without a value."""
        if self.kind == "number":
            return np.asarray(np.isnan(self.values))
        return np.array([v is None for v in self.values.tolist()], dtype=bool)

    def distinct(self, rows: np.ndarray | None = None) -> list[Any]:
        """Different values present among `rows` (bool mask; None: all), in no particular order."""
        values = self.values if rows is None else self.values[rows]
        if self.kind == "number":
            return list(np.unique(values[~np.isnan(values)]))
        return list(set(values.tolist()) - {None})


def column(name: str, cells: Sequence[str] | np.ndarray, *, decimal_comma: bool = False) -> Column:
    """Type a column of text cells (or of an array's values, whose type says it already).

    A column whose every known cell is a number is a number; 0/1 stays a number, true/false, yes/no and codes
    with leading zeros (00015) are categories. With `decimal_comma`, `1,5` is a number too (files separated by
    something else).
    """
    if isinstance(cells, np.ndarray):
        return _typed_array(name, cells)
    texts = {cell: cell.strip() for cell in set(cells)}  # each distinct cell is read once: columns repeat
    numbers = _numbers(set(texts.values()), decimal_comma)
    if numbers is None:
        words = {cell: None if text in MISSING else text for cell, text in texts.items()}
        return _words(name, list(map(words.__getitem__, cells)))
    known = {cell: numbers.get(text, np.nan) for cell, text in texts.items()}
    values = np.fromiter(map(known.__getitem__, cells), dtype=np.float64, count=len(cells))
    whole = bool(numbers) and all(_WHOLE.fullmatch(text) for text in numbers)
    return Column(name=name, kind="number", values=values, whole=whole)


def _numbers(distinct: set[str], decimal_comma: bool) -> dict[str, float] | None:
    """The value of each distinct text, or None when one of them is no number."""
    known = distinct - MISSING_NUMBER
    # float() also reads 1_000, which in a table is an id and no number; and 00015 is a code (a postal code, a
    # class folder) whose zeros belong to it.
    if any("_" in text or _CODE.fullmatch(text) for text in known):
        return None
    if decimal_comma and any("," in text for text in known):
        # 1,234 alone could be a thousand: only a comma that cannot separate thousands proves the habit.
        with_comma = [text for text in known if "," in text]
        if not all(_DECIMAL_COMMA.fullmatch(text) for text in known):
            return None
        if all(re.search(r",\d{3}$", text) for text in with_comma):
            return None
        return {text: float(text.replace(",", ".")) for text in known}
    try:
        numbers = {text: float(text) for text in known}
    except ValueError:
        return None
    return {text: value if np.isfinite(value) else float("nan") for text, value in numbers.items()}


def _words(name: str, values: list[str | None]) -> Column:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    distinct = {value for value in set(values) if value is not None}
    kind: ColumnKind = "category"
    if distinct and all(_DATE.fullmatch(v) for v in distinct):
        kind = "date"
    elif len(distinct) > max(20, 0.3 * (len(values) - values.count(None))):
        words = sum(len(v.split()) for v in distinct) / len(distinct)
        letters = sum(len(v) for v in distinct) / len(distinct)
        kind = "text" if words >= 3 or letters > 60 else "category"
    return Column(name=name, kind=kind, values=array)


def _typed_array(name: str, cells: np.ndarray) -> Column:
    """A column from memory: numbers stay numbers, strings stay categories even if they look like numbers."""
    if cells.dtype.kind in "iuf":
        values = cells.astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        return Column(name=name, kind="number", values=values, whole=cells.dtype.kind in "iu")
    items = [None if _is_missing(v) else v for v in cells.tolist()]
    present = [v for v in items if v is not None]
    if present and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in present):
        values = np.array([np.nan if v is None else float(v) for v in items], dtype=np.float64)
        whole = all(isinstance(v, (int, np.integer)) for v in present)
        return Column(name=name, kind="number", values=values, whole=whole)
    return _words(name, [None if v is None else str(v) for v in items])


def _is_missing(value: object) -> bool:
    # NaN, NaT and pandas' NA are the values that do not equal themselves.
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA refuses to be a bool
        return True


def why_unusable(column: Column, training: np.ndarray) -> str | None:
    """Why a column is left out of the inputs unless the user names it; None when it is worth using.

    Args:
        column: the typed column.
        training: bool (rows,): the rows a model may learn from; test rows do not decide.
    """
    distinct = column.distinct(training)
    present = int(np.sum(training & ~column.missing))
    if not distinct:
        return "every cell is empty"
    if len(distinct) == 1 and present == int(np.sum(training)):
        return f'the same value in every row ("{shown(distinct[0])}")'
    if column.kind == "date":
        return "dates, which this version does not learn from"
    if column.kind == "text":
        return "free text, which this version does not learn from"
    if len(distinct) == present and present >= _FEWEST_ROWS_FOR_AN_ID and _is_id(column, training):
        return "a different value in every row, like an id"
    return None


def _is_id(column: Column, training: np.ndarray) -> bool:
    """All values differ: words are then an id; whole numbers when they count up or are named like one."""
    if column.kind != "number":
        return True
    if not column.whole:
        return False
    values = column.values[training & ~column.missing]
    dense = float(values.max() - values.min()) < 2 * len(values)
    return bool(_ID_NAME.fullmatch(column.name)) or dense or bool(np.all(np.diff(values) > 0))


def target_of(column: Column, training: np.ndarray, *, task: str | None = None) -> tuple[Target, np.ndarray]:
    """What a target column asks for, and its values.

    Numbers with more than 20 distinct values, or any fraction, are a quantity (regression); everything else
    is a set of classes. `task` overrides: regression, classification, binary, multiclass.

    Returns:
        The Target, and int64 codes (-1: no label) or float64 (NaN: no value), one per row.

    Raises:
        DataError: no value at all, only one, or values that do not fit the task.
        UsageError: an unknown task.
    """
    _check_task(task)
    distinct = column.distinct(training)
    if not distinct:
        raise DataError(
            "The target must have values to learn from.",
            got=f'every training cell of "{column.name}" is empty',
            next_step="choose another column with --target",
        )
    if task == "regression" or (task is None and column.kind == "number" and _is_quantity(distinct)):
        return _quantity(column, distinct)
    return _classes(column, distinct, task)


def _check_task(task: str | None) -> None:
    if task == "multilabel":
        raise UsageError(
            "Several labels for one row (multilabel) are not supported by this version.",
            got=task,
            next_step="use one label per row, or one run per label",
        )
    if task is not None and task not in (*TASK_KINDS, "classification"):
        raise UsageError(
            "The task must be one of classification, binary, multiclass, regression.",
            got=task,
            next_step="leave --task out to have it found from the target column",
        )


def _is_quantity(distinct: list[Any]) -> bool:
    return len(distinct) > MOST_CLASSES_OF_NUMBERS or any(v != int(v) for v in distinct)


def _quantity(column: Column, distinct: list[Any]) -> tuple[Target, np.ndarray]:
    if column.kind != "number":
        word = next(v for v in column.values if v is not None and _numbers({v}, False) is None)
        raise DataError(
            "A target of a regression task must hold numbers only.",
            got=f'"{column.name}" holds "{word}"',
            next_step="mend the cells that are no numbers, or use --task classification",
        )
    if len(distinct) < 2:
        raise DataError(
            "A target must have at least two different values.",
            got=f'"{column.name}" is {shown(distinct[0])} in every row',
            next_step="choose another column with --target",
        )
    return Target(name=column.name, task="regression"), column.values


def _classes(column: Column, distinct: list[Any], task: str | None) -> tuple[Target, np.ndarray]:
    if column.kind in ("text", "date") or (len(distinct) > 1000 and column.kind == "number"):
        what = {"text": "free text", "date": "dates"}.get(column.kind, f"{len(distinct)} different numbers")
        raise DataError(
            "A target must hold classes (a few words that repeat) or numbers.",
            got=f'"{column.name}" holds {what}',
            next_step="choose another column with --target",
        )
    everything = column.distinct()
    order = sorted(everything)
    if len(distinct) < 2:
        raise DataError(
            "There must be at least two classes to tell apart.",
            got=f'only one, "{shown(distinct[0])}"',
            next_step="add examples of a second class",
        )
    kind: TaskKind = "binary" if len(order) == 2 else "multiclass"
    if task == "binary" and kind != "binary":
        raise UsageError(
            "A binary task has exactly two classes.",
            got=f'"{column.name}" has {len(order)}',
            next_step="use --task multiclass or leave --task out",
        )
    codes = {value: i for i, value in enumerate(order)}
    if column.kind == "number":
        missing = column.missing
        values = np.searchsorted(np.array(order), column.values).astype(np.int64)
        values[missing] = -1
    else:
        values = np.array([-1 if v is None else codes[v] for v in column.values], dtype=np.int64)
    return Target(name=column.name, task=kind, labels=tuple(shown(v) for v in order)), values


def shown(value: object) -> str:
    """A value as a label: 3.0 is "3"."""
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)
