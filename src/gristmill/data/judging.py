"""New labelled data for a model that exists: its target, labels and inputs are known, nothing is inferred.

What training needs (two classes, two rows of each, a target that varies, rows to learn from) is not asked
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gristmill.data.columns import Column, column, shown
from gristmill.data.layouts import find_rows
from gristmill.data.rows import Choice, Rows
from gristmill.data.source import Source, fingerprint_of
from gristmill.errors import DataError
from gristmill.task import InputSpec, Target, Task


def read_to_judge(path: str | Path, task: Task) -> Source:
    """Read what `read` reads, as rows that judge a model of `task`; of data with a test part, that part.

    `targets` holds codes of the model's labels; `notes` says which part it is.

    Raises:
        DataError: the target or an input is missing, or the rows hold a label that the model does not know.
    """
    target = task.target
    choice = Choice(
        inputs=tuple(spec.name for spec in task.inputs),
        kept_out=frozenset({target.name}),
        judged_labels=target.labels,
    )
    rows, notes = _part_to_judge(find_rows(Path(path).expanduser(), choice=choice))
    answers = _answers(rows, task)
    aim = column(answers, rows.cells[answers], decimal_comma=rows.decimal_comma)
    values = _numbers(aim) if target.task == "regression" else _codes(aim, rows.cells[answers], target)
    return Source(
        origin=rows.origin,
        layout=rows.layout,
        task=task,
        names=tuple(rows.names),
        inputs={spec.name: _cells(rows, spec) for spec in task.inputs},
        targets={target.name: values},
        given=np.array(rows.given, dtype=object).astype(str),
        groups=None,
        notes=rows.notes + notes,
        ignored=rows.ignored,
        fingerprint=fingerprint_of(rows.stamps),
    )


def _part_to_judge(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The rows to score, and a sentence when the data have parts for training."""
    test = [i for i, given in enumerate(rows.given) if given == "test"]
    learnt, count = sum(given in ("train", "valid") for given in rows.given), len(rows.given)
    if test and len(test) < count:
        note = f"Only the test part is scored, {len(test):,} of {count:,} rows; the others are for training."
        return rows.only(test), (note,)
    note = f"{learnt:,} of {count:,} rows lie in a training or validation part: a model that has learnt from"
    return rows, (f"{note} them looks better here than it is.",) if learnt else ()


def _answers(rows: Rows, task: Task) -> str:
    """The column with the answers (class folders have one of their own), when nothing is missing."""
    in_folders = rows.paths is not None and rows.picture_column is None
    answers = "label" if in_folders else task.target.name
    inputs = [spec.name for spec in task.inputs]
    lacking = [] if task.has_images else [name for name in inputs if name not in rows.cells]
    if lacking or answers not in rows.cells or task.has_images != (rows.paths is not None):
        what = "pictures" if rows.paths is not None else "a table"
        raise DataError(
            "New data must hold the target and the inputs that the model was trained on.",
            got=f"{what} with the columns {', '.join(list(rows.cells)[:40])}",
            next_step=f"name the target {task.target.name}, and the inputs {', '.join(inputs)}",
        )
    return answers


def _numbers(aim: Column) -> np.ndarray:
    if aim.kind == "number":
        return aim.values
    known = (v for v in aim.values if v is not None)
    word = next(v for v in known if column(aim.name, [v], decimal_comma=True).kind != "number")
    raise DataError(
        "A model of numbers is judged by numbers only.",
        got=f'"{aim.name}" holds "{word}"',
        next_step="mend the cells that are no numbers",
    )


def _codes(aim: Column, cells: Sequence[str] | np.ndarray, target: Target) -> np.ndarray:
    """Codes of the model's labels, -1 for none. A cell is known by its text, or its value: 1.0 is "1"."""
    codes = {label: i for i, label in enumerate(target.labels)}
    found, unknown = [], set[str]()
    for cell, value, missing in zip(cells, aim.values, aim.missing, strict=True):
        text = str(cell).strip()
        label = text if text in codes else None if missing else shown(value)
        found.append(-1 if label is None else codes.get(label, -1))
        if label is not None and label not in codes:
            unknown.add(label)
    if unknown:
        raise DataError(
            "New data may only hold labels that the model knows.",
            got=", ".join(sorted(unknown)[:5]),
            next_step=f"the model knows {', '.join(target.labels[:10])}",
        )
    return np.array(found, dtype=np.int64)


def _cells(rows: Rows, spec: InputSpec) -> np.ndarray:
    """An input as the bundle takes it: paths, numbers where all are, else the text as it stands."""
    if spec.kind == "image":
        return _objects(rows.paths or ())
    typed = column(spec.name, rows.cells[spec.name], decimal_comma=rows.decimal_comma)
    numbers = spec.kind == "number" and typed.kind == "number"
    return typed.values if numbers else _objects(rows.cells[spec.name])


def _objects(values: Sequence[object] | np.ndarray) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
