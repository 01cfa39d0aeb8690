"""What is already in memory -> Rows: lists of paths or pictures, image arrays, frames, numeric arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gristmill import packages
from gristmill.data import folders
from gristmill.data.rows import Rows
from gristmill.errors import DataError, UsageError


def rows_of(x: Any, y: Any, *, names: Sequence[str] | None, target_name: str) -> Rows:
    """Rows of examples in memory; see `gristmill.data.source.from_arrays`."""
    if isinstance(x, np.ndarray) and x.ndim == 2:
        x = _named_columns(x)
        return _table(x, y, names, target_name, f"a numeric array with {len(x)} columns")
    frame = None if isinstance(x, (list, tuple, np.ndarray)) else _frame(x)
    if frame is not None:
        return _table(frame, y, names, target_name, f"a data frame with {len(frame)} columns")
    return _pictures(x, y, names, target_name)


def _named_columns(x: np.ndarray) -> dict[str, np.ndarray]:
    if x.dtype.kind not in "iufb":
        raise DataError(
            "An array of columns must be numeric; use a data frame for mixed columns.",
            got=f"dtype {x.dtype}",
            next_step="pass a pandas or polars DataFrame",
        )
    return {f"x{i}": x[:, i] for i in range(x.shape[1])}


def _frame(x: Any) -> dict[str, np.ndarray] | None:
    """The columns of a pandas, polars or other eager frame, or None when it is none."""
    nw = packages.needed("narwhals", "A data frame")
    try:
        frame = nw.from_native(x, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise DataError(
            "Every column of a table must have its own name.",
            got=" ".join(str(error).split()),
            next_step="rename all but one of them",
        ) from None
    if not isinstance(frame, nw.DataFrame):
        return None
    columns = {}
    for name, series in zip(frame.columns, frame.iter_columns(), strict=True):  # names may be numbers
        if series.dtype == nw.Boolean or not series.dtype.is_numeric():
            columns[str(name)] = _objects(series.to_list())
        else:
            columns[str(name)] = (
                np.asarray(series.cast(nw.Float64).to_numpy()) if _holey(series) else series.to_numpy()
            )
    return columns


def _holey(series: Any) -> bool:
    return bool(series.null_count())


def _objects(items: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def _table(
    columns: Mapping[str, np.ndarray], y: Any, names: Sequence[str] | None, target_name: str, layout: str
) -> Rows:
    columns = dict(columns)
    if y is not None:
        columns[target_name] = _targets(y)
    elif target_name not in columns:
        raise UsageError(
            "The column to predict must be in the frame, or its values given as y.",
            got=f'target_name "{target_name}"; there are: {", ".join(list(columns)[:40])}',
            next_step="pass target_name= or y=",
        )
    count = len(columns[target_name])
    for name, values in columns.items():
        if len(values) != count:
            raise _lengths(len(values), count)
        if name != target_name and values.ndim != 1:
            raise DataError(
                "A column must have one value a row.",
                got=f'"{name}" has shape {values.shape}',
                next_step="give each of its values a column of its own, or leave it out",
            )
    stamps = [f"{name}\0{_digest(values)}\n" for name, values in columns.items()]
    return Rows(
        origin="memory",
        layout=f"{layout}, {count:,} rows",
        names=_row_names(names, count),
        given=[""] * count,
        paths=None,
        cells=columns,
        stamps=stamps,
    )


def _pictures(x: Any, y: Any, names: Sequence[str] | None, target_name: str) -> Rows:
    pictures, layout = _picture_list(x)
    if y is None:
        raise UsageError(
            "Pictures in memory need their labels.", got="y=None", next_step="pass y=, one label per picture"
        )
    values = _targets(y)
    if len(values) != len(pictures):
        raise _lengths(len(pictures), len(values))
    paths = all(isinstance(p, str) for p in pictures)
    shown = names if names is not None or not paths else [folders.shown(str(p)) for p in pictures]
    row_names = _row_names(shown, len(pictures))
    if paths:
        pictures = [os.path.abspath(p) for p in pictures]
    stamps = [_stamp(picture, name) for picture, name in zip(pictures, row_names, strict=True)]
    if paths and all(stamp.endswith("\0-1\0-1\n") for stamp in stamps):
        raise DataError(
            "The pictures must exist.",
            got=f"none of {len(pictures)} paths does, the first is {pictures[0]}",
            next_step="check the paths; they start in the current folder",
        )
    return Rows(
        origin="memory",
        layout=f"{len(pictures):,} {layout}",
        names=row_names,
        given=[""] * len(pictures),
        paths=pictures,
        cells={target_name: values},
        stamps=[*stamps, f"{target_name}\0{_digest(values)}\n"],
    )


def _picture_list(x: Any) -> tuple[list[Any], str]:
    if isinstance(x, np.ndarray) and x.dtype != object:
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)):
            raise DataError(
                "An array of pictures must be uint8 (0 to 255) of shape (N, H, W) or (N, H, W, 1, 3 or 4).",
                got=f"dtype {x.dtype}, shape {x.shape}",
                next_step="scale to 0..255 and call .astype('uint8'); move the channels to the end",
            )
        return list(x), f"pictures in an array of {x.shape[2]} x {x.shape[1]} pixels"
    items = [os.fspath(item) if isinstance(item, os.PathLike) else item for item in x]
    if not items:
        raise DataError(
            "There must be at least two classes to tell apart.",
            got="no pictures at all",
            next_step="give a list of paths or pictures, and a label for each",
        )
    if all(isinstance(item, str) for item in items):
        return items, "pictures from a list of paths"
    for i, item in enumerate(items):
        if not (
            hasattr(item, "tobytes") and (hasattr(item, "mode") or getattr(item, "dtype", None) == np.uint8)
        ):
            raise DataError(
                "A list of pictures must hold paths only, or PIL pictures or uint8 arrays only.",
                got=f"{type(item).__name__} at position {i}",
                next_step="pass one kind of item",
            )
    return items, "pictures from memory"


def _targets(y: Any) -> np.ndarray:
    """Labels or numbers as an array whose type says which: float64 or int for numbers, objects for words."""
    if not isinstance(y, (list, tuple)) and hasattr(y, "to_list"):
        y = y.to_list()
    items = y.tolist() if isinstance(y, np.ndarray) else list(y)
    if (isinstance(y, np.ndarray) and y.ndim != 1) or any(
        isinstance(item, (list, tuple, dict)) for item in items
    ):
        raise DataError(
            "y must hold one label or number per row.", got="several", next_step="pass a one-dimensional y"
        )
    return _objects(items)


def _row_names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [f"x[{i}]" for i in range(count)]
    if len(names) != count:
        raise _lengths(len(names), count)
    return [str(name) for name in names]


def _lengths(a: int, b: int) -> DataError:
    return DataError(
        "There must be one label and one name per row.",
        got=f"{a:,} and {b:,}",
        next_step="pass lists of equal length",
    )


def _stamp(picture: Any, name: str) -> str:
    if isinstance(picture, str):
        return folders.stamp_of(picture, name)
    head = f"{getattr(picture, 'mode', '')}{getattr(picture, 'size', '')}{getattr(picture, 'shape', '')}"
    return f"{name}\0{head}\0{hashlib.sha256(picture.tobytes()).hexdigest()}\n"


def _digest(values: np.ndarray) -> str:
    data = (
        repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
    )
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + data).hexdigest()
