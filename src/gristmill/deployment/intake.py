"""Whatever a caller hands in -> one list of named items. A folder becomes its pictures, a CSV its rows.

Nothing is decoded here, and nothing raises for one bad item: it stays in the list with its error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.data.delimited import SHEET_ENDINGS, read_sheet
from gristmill.data.folders import PHONE_ENDINGS
from gristmill.errors import GristmillError
from gristmill.task import Task

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".jpe", ".jfif", ".gif", ".tif", ".tiff")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image", "image_path", "picture")


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One input: `picture` (what `data.image.decode` takes) or a `row` of cells by column, or an `error`."""

    name: str
    picture: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def items(inputs: Any, task: Task) -> list[Item]:
    """Every input of `inputs` in order.

    Args:
        inputs: One or an iterable of: path of a picture, folder or CSV; bytes of a picture file; PIL picture;
            uint8 array (H, W[, C]), or (N, H, W, C) for several; mapping of columns; pandas or polars frame.
    """
    picture = next((i.name for i in task.inputs if i.kind == "image"), None)
    found: list[Item] = []
    for one in _several(inputs):
        found.extend(_items(one, len(found) + 1, picture))
    return found if picture else [_checked(item, [i.name for i in task.inputs]) for item in found]


def _checked(item: Item, columns: list[str]) -> Item:
    """A row that holds only foreign columns was meant for another model; missing ones are allowed."""
    if item.error is not None or not item.row or any(c in item.row for c in columns):
        return item
    return Item(name=item.name, error=f"it has none of the model's columns: {', '.join(columns)[:80]}")


def _several(inputs: Any) -> Iterable[Any]:
    if isinstance(inputs, np.ndarray):
        return list(inputs) if inputs.ndim == 4 else [inputs]
    single = isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, Mapping))
    if single or _is_frame(inputs) or not hasattr(inputs, "__iter__"):
        return [inputs]
    return list(inputs)


def _is_frame(one: Any) -> bool:
    """Whether it is a table, pandas' way or polars' way; a single column is a list of items."""
    return hasattr(one, "columns") and (hasattr(one, "to_dict") or hasattr(one, "to_dicts"))


def _items(one: Any, number: int, picture: str | None) -> Iterator[Item]:
    if isinstance(one, (str, os.PathLike)):
        yield from _of_path(Path(one), str(one), picture)
    elif isinstance(one, Mapping):
        yield _of_row(one, f"row {number}", picture)
    elif _is_frame(one) and hasattr(one, "to_dicts"):
        yield from (_of_row(r, f"row {number + i}", picture) for i, r in enumerate(one.to_dicts()))
    elif _is_frame(one):
        named = one.rename(columns=str)  # pandas has columns that are named by numbers
        records = named.to_dict(orient="records")
        yield from (_of_row(r, f"row {number + i}", picture) for i, r in enumerate(records))
    elif picture is None:
        wanted = "a row must map column names to values"
        yield Item(name=f"row {number}", error=f"{wanted}; got {type(one).__name__}")
    else:
        yield _of_picture(one, f"picture {number}")


def _of_picture(one: Any, name: str) -> Item:
    if isinstance(one, (bytes, bytearray, memoryview)):
        return Item(name=name, picture=bytes(one))
    if isinstance(one, np.ndarray) or type(one).__module__.startswith("PIL."):
        return Item(name=getattr(one, "filename", "") or name, picture=one)
    return Item(
        name=name, error=f"a picture must be a path, bytes, PIL image or array; got {type(one).__name__}"
    )


def _of_path(path: Path, name: str, picture: str | None) -> Iterator[Item]:
    if path.suffix.lower() in SHEET_ENDINGS and not path.is_dir():
        yield from _of_sheet(path, picture)
    elif picture is None:
        yield Item(name=name, error="this model reads rows: give a CSV file")
    elif path.is_dir():
        pictures = sorted(_pictures(path))
        if not pictures:
            yield Item(name=name, error="there are no pictures in this folder")
        yield from (Item(name=str(p), picture=p) for p in pictures)
    else:
        yield Item(name=name, picture=path)


def _pictures(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if not file.startswith(".") and file.lower().endswith((*PICTURE_ENDINGS, *PHONE_ENDINGS)):
                yield Path(where) / file


def _of_sheet(path: Path, picture: str | None) -> Iterator[Item]:
    try:
        sheet = read_sheet(path)
    except GristmillError as error:
        yield Item(name=str(path), error=str(error).splitlines()[0])
        return
    names = list(sheet.columns)
    rows = zip(*sheet.columns.values(), strict=True)
    if picture is None:
        for name, cells in zip(sheet.row_names, rows, strict=True):
            yield Item(name=name, row=dict(zip(names, cells, strict=True)))
        return
    column = next((n for n in names if n == picture or n.strip().lower() in PATH_COLUMNS), None)
    if column is None:
        yield Item(name=str(path), error=f"no column with paths of pictures; it has {', '.join(names)[:80]}")
        return
    for cell in sheet.columns[column]:
        yield Item(name=cell, picture=path.parent / cell.strip())


def _of_row(row: Mapping[str, Any], name: str, picture: str | None) -> Item:
    if picture is None:
        return Item(name=name, row=row)
    if picture not in row:
        return Item(name=name, error=f"the row has no picture under {picture!r}")
    one = row[picture]
    if isinstance(one, (str, os.PathLike)):
        return Item(name=str(one), picture=Path(one), row=row)
    found = _of_picture(one, name)
    return Item(name=name, picture=found.picture, row=row, error=found.error)
