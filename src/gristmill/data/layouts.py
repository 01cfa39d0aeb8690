"""One reader per layout: a folder or a file -> Rows, still raw.

Layouts, in the order in which they are tried: a table of pictures (CSV with a path column), train/valid/test
folders over class folders, class folders, a folder that holds one plain table, a plain table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gristmill.data import folders
from gristmill.data.delimited import DELIMITERS, SHEET_ENDINGS, Sheet, peek, read_sheet
from gristmill.data.folders import Picture
from gristmill.data.rows import (
    PARTS,
    Choice,
    Rows,
    apply_split,
    are_parts,
    are_pictures,
    join,
    split_columns,
    split_of,
)
from gristmill.errors import DataError, UsageError, did_you_mean

_PART_COLUMNS = ("split", "part", "subset", "set", "partition", "fold")
_MANY = 5


def find_rows(path: Path, *, choice: Choice | None = None) -> Rows:
    """Read a folder or a file by whatever layout it has.

    Args:
        path: the folder or file.
        choice: which columns of a table the user set aside or named.

    Raises:
        DataError: missing, empty, unreadable, or of no layout that is known.
    """
    choice = choice or Choice()
    root = Path(os.path.abspath(_existing(path)))
    if root.is_dir():
        return _read_folder(root, choice)
    if folders.ending(root.name) in SHEET_ENDINGS:
        return _read_file(root, choice)
    raise _wrong_file(root)


# ---------------------------------------------------------------- folders


def _read_folder(root: Path, choice: Choice) -> Rows:
    seen = folders.look(str(root), str(root))
    sheets = [root / name for name in seen.files if folders.ending(name) in (".csv", ".tsv")]
    splits = [path for path in sheets if split_columns(peek(path))]
    tables = [path for path in sheets if path not in splits]
    pictured = [name for name in seen.folders if folders.has_pictures(str(root / name))]
    if tables and (
        len(pictured) < choice.fewest_classes or any(_picture_columns(peek(path), choice) for path in tables)
    ):
        return _read_tables(root, tables, choice)
    found = {PARTS[name.lower()]: name for name in pictured if name.lower() in PARTS}
    in_parts = choice.are_parts(pictured, list(found))
    rows = _read_parts(root, seen, found) if in_parts else _read_classes(root, seen, choice)
    if len(splits) > 1:
        raise _ambiguous(root, [path.name for path in splits])
    if splits and not any(rows.given):
        rows = apply_split(rows, split_of(splits[0]) or {}, splits[0].name)
    others = tuple((path.name, "a table that does not say anything about the pictures") for path in tables)
    return replace(rows, ignored=rows.ignored + others)


def _read_classes(root: Path, seen: folders.Look, choice: Choice) -> Rows:
    pictures, labels, strays = _classes(root, "", seen)
    if not pictures:
        loose = [name for name in seen.files if folders.ending(name) in folders.PICTURE_ENDINGS]
        raise _loose(root, loose) if loose else folders.no_pictures(root, strays)
    count = len(set(labels))
    if count < choice.fewest_classes:
        raise DataError(
            "There must be at least two classes to tell apart.",
            got=f'one folder with pictures, "{labels[0]}", in {root}',
            next_step="make one folder per class and put its pictures into it",
        )
    layout = f"class folders: {len(pictures):,} pictures in {count} folders, one folder a class"
    return _picture_rows(root, layout, pictures, labels, [""] * len(pictures), strays)


def _read_parts(root: Path, seen: folders.Look, found: Mapping[str, str]) -> Rows:
    pictures: list[Picture] = []
    labels: list[str] = []
    given: list[str] = []
    strays = list(seen.strays)
    strays += [
        (name, "lies beside the part folders") for name in seen.files if not name.lower().endswith(".csv")
    ]
    strays += [(n, "lies beside the part folders") for n in seen.folders if n not in found.values()]
    for part, folder in ((part, found[part]) for part in ("train", "valid", "test") if part in found):
        inside = folders.look(str(root / folder), str(root))
        more, classes, left = _classes(root, folder, inside)
        if not more:
            loose = [name for name in inside.files if folders.ending(name) in folders.PICTURE_ENDINGS]
            raise _loose(root / folder, loose)
        pictures += more
        labels += classes
        given += [part] * len(more)
        strays += left
    parts = ", ".join(f"{given.count(part):,} in {found[part]}" for part in dict.fromkeys(given))
    layout = f"class folders in part folders: {parts}; {len(set(labels))} classes"
    return _picture_rows(root, layout, pictures, labels, given, strays)


def _classes(
    root: Path, below: str, seen: folders.Look
) -> tuple[list[Picture], list[str], list[tuple[str, str]]]:
    """Pictures and labels of the class folders in `root/below`, and what is left out there."""
    pictures: list[Picture] = []
    labels: list[str] = []
    strays = list(seen.strays)
    for name in seen.folders:
        walked = folders.walk(str(root / below / name), str(root))
        pictures += walked.pictures
        labels += [folders.same_name(name)] * len(walked.pictures)
        strays += walked.strays
        if not walked.pictures:
            strays.append((_below(below, name), "a folder without pictures, so not a class"))
    for name in seen.files:
        if folders.ending(name) not in (".csv", ".tsv"):
            strays.append((_below(below, name), _why_loose(name)))
    return pictures, labels, strays


def _below(folder: str, name: str) -> str:
    return folders.shown(f"{folder}/{name}" if folder else name)


def _why_loose(name: str) -> str:
    if folders.ending(name) in folders.PICTURE_ENDINGS:
        return "a picture outside every class folder"
    return folders.why_no_picture(name)


def _picture_rows(
    root: Path,
    layout: str,
    pictures: list[Picture],
    labels: list[str],
    given: list[str],
    strays: list[tuple[str, str]],
) -> Rows:
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return Rows(
        origin=str(root),
        layout=layout,
        names=[picture.name for picture in pictures],
        given=given,
        paths=[picture.path for picture in pictures],
        cells={"label": array},
        stamps=[picture.stamp for picture in pictures],
        ignored=tuple(strays),
    )


# ---------------------------------------------------------------- tables


def _read_tables(root: Path, tables: list[Path], choice: Choice) -> Rows:
    """The one table of a folder; or its train.csv with the test.csv and valid.csv beside it."""
    parts = {PARTS[path.stem.lower()]: path for path in tables if path.stem.lower() in PARTS}
    if len(tables) > 1 and ("train" not in parts or len(parts) < len(tables)):
        raise _ambiguous(root, [path.name for path in tables])
    main = parts.get("train", tables[0])
    rows = _read_file(main, choice)
    for part in ("valid", "test"):
        if part in parts and parts[part] != main:
            rows = _join_beside(rows, _read_file(parts[part], choice), part)
    return rows


def _join_beside(rows: Rows, extra: Rows, part: str) -> Rows:
    name = Path(extra.origin).name
    lacking = [column for column in rows.cells if column not in extra.cells]
    if lacking:
        note = f'{name} lies beside the data but has no column "{lacking[0]}": it is not used.'
        return replace(rows, notes=(*rows.notes, note))
    return join(rows, extra, part)


def _read_file(path: Path, choice: Choice) -> Rows:
    if split_of(path):
        raise UsageError(
            "A file with paths and parts only is a split, not a data set.",
            got=path.name,
            next_step=f"name the folder with the pictures: it uses {path.name} when the file lies in it",
        )
    sheet = read_sheet(path)
    columns = _picture_columns(sheet.columns, choice)
    rows = _table_rows(sheet) if not columns else _pictured_rows(sheet, columns[0])
    return _take_parts(rows, choice)


def _picture_columns(columns: Mapping[str, Sequence[str]], choice: Choice) -> list[str]:
    return [name for name, cells in columns.items() if choice.may_be_picture(name) and are_pictures(cells)]


def _table_rows(sheet: Sheet) -> Rows:
    between = DELIMITERS[sheet.delimiter]
    size = f"{sheet.rows:,} rows, {len(sheet.columns)} columns separated by {between}"
    return Rows(
        origin=str(sheet.path),
        layout=f"a table: {sheet.path.name}, {size}",
        names=sheet.row_names,
        given=[""] * sheet.rows,
        paths=None,
        cells=sheet.columns,
        stamps=[folders.stamp_of(str(sheet.path), sheet.path.name)],
        decimal_comma=sheet.delimiter != ",",
        notes=sheet.notes,
    )


def _pictured_rows(sheet: Sheet, column: str) -> Rows:
    """A table with a path column: rows without a path are left out by name."""
    cells = [cell.strip() for cell in sheet.columns[column]]
    keep = [i for i, cell in enumerate(cells) if cell]
    places = _places(sheet.path.parent, [cells[i] for i in keep])
    root = str(sheet.path.parent)
    names = [folders.relative_name(place, root) for place in places]
    stamps = [folders.stamp_of(place, name) for place, name in zip(places, names, strict=True)]
    notes = list(sheet.notes)
    absent = [name for name, mark in zip(names, stamps, strict=True) if mark.endswith("\0-1\0-1\n")]
    if len(absent) == len(names):
        raise _no_such_pictures(sheet, column, names[0])
    if absent:
        notes.append(f"{len(absent)} pictures named in {sheet.path.name} do not exist, such as {absent[0]}.")
    layout = f'a table of pictures: {sheet.path.name}, {len(keep):,} rows, pictures from column "{column}"'
    row_names = sheet.row_names
    return Rows(
        origin=str(sheet.path),
        layout=layout,
        names=names,
        given=[""] * len(keep),
        paths=places,
        cells={name: [values[i] for i in keep] for name, values in sheet.columns.items() if name != column},
        stamps=[folders.stamp_of(str(sheet.path), sheet.path.name), *stamps],
        picture_column=column,
        decimal_comma=sheet.delimiter != ",",
        notes=tuple(notes),
        ignored=tuple(
            (row_names[i], "no picture named in this row") for i, cell in enumerate(cells) if not cell
        ),
    )


def _places(folder: Path, cells: list[str]) -> list[str]:
    """Absolute paths of the pictures a table names: beside the table, else in a subfolder that has them."""
    tidy = [cell.replace("\\", "/") if "\\" in cell else cell for cell in cells]
    bases = [folder]
    if not _present(folder, tidy[:_MANY]):
        bases += [folder / name for name in folders.look(str(folder), str(folder)).folders]
    base = max(bases, key=lambda base: _present(base, tidy[:_MANY]))
    return [os.path.normpath(os.path.join(base, cell)) for cell in tidy]


def _present(base: Path, cells: list[str]) -> int:
    return sum(os.path.exists(os.path.join(base, cell)) for cell in cells)


def _take_parts(rows: Rows, choice: Choice) -> Rows:
    """Use a column named "split" whose cells are all train, valid or test as the given parts."""
    for name, cells in rows.cells.items():
        if (
            name.lower() in _PART_COLUMNS
            and choice.may_say_parts(name)
            and not isinstance(cells, np.ndarray)
            and are_parts(cells)
        ):
            given = [PARTS[cell.strip().lower()] for cell in cells]
            if "train" not in given and not choice.to_judge:
                continue
            rest = {other: values for other, values in rows.cells.items() if other != name}
            note = f'The column "{name}" says which rows are in which part.'
            return replace(
                rows,
                given=given,
                cells=rest,
                part_column=name,
                notes=(*rows.notes, note),
                ignored=(*rows.ignored, (name, "says the part of each row; not an input")),
            )
    return rows


# ---------------------------------------------------------------- what is wrong


def _existing(path: Path) -> Path:
    try:
        os.stat(path)
    except PermissionError:
        raise DataError(
            "The data must be readable.",
            got=f"no permission to reach {path}",
            next_step="ask whoever owns the folder",
        ) from None
    except (OSError, ValueError):
        raise _missing(path) from None
    return path


def _missing(path: Path) -> DataError:
    parent = path.parent
    near = did_you_mean(path.name, sorted(os.listdir(parent))) if os.access(parent, os.R_OK) else None
    hint = (
        f'did you mean "{parent / near}"?'
        if near
        else "check the spelling; paths start in the current folder"
    )
    return DataError("The data must exist.", got=f"no such file or folder: {path}", next_step=hint)


def _wrong_file(path: Path) -> DataError:
    ending = folders.ending(path.name)
    rule = "The data must be a folder of pictures or a table (CSV, TSV)."
    if ending in (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".bz2", ".xz"):
        return DataError(rule, got=f"an archive, {path.name}", next_step="unpack it and name the folder")
    if ending in (".xlsx", ".xls", ".ods", ".numbers"):
        return DataError(
            rule, got=f"a spreadsheet, {path.name}", next_step="save it as CSV (UTF-8) and name that file"
        )
    if ending in folders.PICTURE_ENDINGS | folders.PHONE_ENDINGS:
        return DataError(
            rule, got=f"one picture, {path.name}", next_step="name the folder with the class folders"
        )
    if ending in (".parquet", ".jsonl", ".json", ".feather"):
        return DataError(
            rule, got=f"{path.name}, a kind of file this version does not read", next_step="save it as CSV"
        )
    return DataError(
        rule, got=path.name, next_step="put pictures into one folder per class, or save a table as CSV"
    )


def _loose(folder: Path, loose: list[str]) -> DataError:
    what = f"{len(loose)} pictures lie directly in it" if loose else "it has no folder with pictures"
    return DataError(
        "Pictures must lie in folders named like their classes, or be named with their label in a CSV.",
        got=f"{folder}: {what}",
        next_step="make one folder per class, or write a CSV with columns path and label beside them",
    )


def _ambiguous(root: Path, names: list[str]) -> UsageError:
    return UsageError(
        "It must be clear which table to use.",
        got=f"{len(names)} in {root}: {', '.join(names[:_MANY])}",
        next_step=f"name one, for example {root / names[0]}",
    )


def _no_such_pictures(sheet: Sheet, column: str, first: str) -> DataError:
    return DataError(
        "The pictures that a table names must exist; their paths start in the folder of the table.",
        got=f'none of those in column "{column}" of {sheet.path.name} exists, the first is {first}',
        next_step=f"move {sheet.path.name} beside the pictures, or mend the paths",
    )
