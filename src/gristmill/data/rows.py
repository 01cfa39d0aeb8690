"""Rows: what a reader found, still raw; joining given parts to them and applying a split file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gristmill.data import folders
from gristmill.data.delimited import SHEET_ENDINGS, peek, read_sheet
from gristmill.errors import DataError, UsageError

PARTS = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How folders, files and cells may call the parts, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a reader found: one entry per row, nothing typed and nothing left out yet.

    `paths`: absolute picture paths, or None for a plain table. `cells`: all columns but the picture, as text
    (or as an array whose type already says what it is). `stamps`: what the fingerprint is made of.
    `picture_column`, `part_column`: the columns of a table that name the pictures and the parts.
    `lacking`: columns that a joined file does not have, with the file's name.
    """

    origin: str
    layout: str
    names: list[str]
    given: list[str]
    paths: list[str] | None
    cells: Mapping[str, Sequence[str] | np.ndarray]
    stamps: list[str]
    picture_column: str | None = None
    part_column: str | None = None
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    lacking: Mapping[str, str] | None = None

    def only(self, kept: Sequence[int]) -> Rows:
        """Some of the rows, in that order."""
        return replace(
            self,
            names=[self.names[i] for i in kept],
            given=[self.given[i] for i in kept],
            paths=None if self.paths is None else [self.paths[i] for i in kept],
            cells={
                name: cells[list(kept)] if isinstance(cells, np.ndarray) else [cells[i] for i in kept]
                for name, cells in self.cells.items()
            },
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Columns of a table that the user named: `inputs` (None: all that are useful) and those `kept_out`.

    `judged_labels`: of the model that the rows shall judge; None: rows to learn from.
    """

    inputs: tuple[str, ...] | None = None
    kept_out: frozenset[str] = frozenset()
    judged_labels: tuple[str, ...] | None = None

    @property
    def to_judge(self) -> bool:
        """Whether the rows only judge a model: what training needs is not asked for."""
        return self.judged_labels is not None

    @property
    def fewest_classes(self) -> int:
        """Folders with pictures that there must be."""
        return 1 if self.to_judge and "image" in (self.inputs or ()) else 2

    def are_parts(self, folders: Sequence[str], parts: Sequence[str]) -> bool:
        """Whether some of these `folders` with pictures are `parts` above the class folders."""
        if "train" in parts or not self.to_judge:
            return "train" in parts
        return bool(folders) and len(parts) == len(folders) and not {*folders} & {*(self.judged_labels or ())}

    def may_be_picture(self, name: str) -> bool:
        """Whether a column of paths may be the picture of its rows."""
        return name not in self.kept_out and (
            self.inputs is None or name in self.inputs or "image" in self.inputs
        )

    def may_say_parts(self, name: str) -> bool:
        """Whether a column of part names may say the part of each row."""
        return name not in self.kept_out and name not in (self.inputs or ())


def join(rows: Rows, extra: Rows, part: str) -> Rows:
    """Append the rows of another folder or file of the same layout as a given part (test or valid)."""
    if any(extra.given) or part in rows.given:
        where = rows.origin if part in rows.given else extra.origin
        raise UsageError(
            f"There can be only one {part} part.",
            got=f"{where} already has parts of its own",
            next_step=f"leave --{part} out, or name a folder that holds only that part",
        )
    if (rows.paths is None) != (extra.paths is None):
        raise DataError(
            f"The {part} part must be laid out like the data.",
            got=f"pictures in one, a table without pictures in the other ({Path(extra.origin).name})",
            next_step=f"name a {part} folder or file of the same layout",
        )
    lacking = {name: Path(extra.origin).name for name in rows.cells if name not in extra.cells}
    blank = [""] * len(extra.names)
    prefix = "" if extra.picture_column or extra.paths is None else f"{Path(extra.origin).name}/"
    return replace(
        rows,
        layout=f"{rows.layout}; the {part} part is {Path(extra.origin).name} ({len(extra.names):,} rows)",
        names=rows.names + [prefix + name for name in extra.names],
        given=rows.given + [part] * len(extra.names),
        paths=None if rows.paths is None or extra.paths is None else rows.paths + extra.paths,
        cells={name: _concatenate(cells, extra.cells.get(name, blank)) for name, cells in rows.cells.items()},
        stamps=rows.stamps + [f"{part}/{stamp}" for stamp in extra.stamps],
        notes=rows.notes + extra.notes,
        ignored=rows.ignored + tuple((prefix + name, why) for name, why in extra.ignored),
        lacking={**(rows.lacking or {}), **lacking},
    )


def _concatenate(a: Sequence[str] | np.ndarray, b: Sequence[str] | np.ndarray) -> Sequence[str] | np.ndarray:
    if isinstance(a, np.ndarray):
        return np.concatenate([a, np.asarray(b, dtype=object)])
    return [*a, *b]


# ---------------------------------------------------------------- splits


def split_of(path: Path) -> Mapping[str, str] | None:
    """Part by picture name when a CSV holds only paths and parts (a split, not a data set), else None."""
    if folders.ending(path.name) not in SHEET_ENDINGS or not split_columns(peek(path)):
        return None
    sheet = read_sheet(path)
    columns = split_columns(sheet.columns)
    if columns is None:
        return None
    paths, parts = (sheet.columns[name] for name in columns)
    return {_tidy(name): PARTS[part.strip().lower()] for name, part in zip(paths, parts, strict=True)}


def split_columns(columns: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The names of the path and the part column of a table that holds nothing else, else None."""
    if len(columns) != 2:
        return None
    for paths, parts in (tuple(columns), tuple(columns)[::-1]):
        if are_parts(columns[parts]) and are_pictures(columns[paths]):
            return paths, parts
    return None


def are_parts(cells: Sequence[str]) -> bool:
    """Whether every cell is the name of a part."""
    return bool(cells) and all(cell in PARTS for cell in {cell.strip().lower() for cell in cells})


def are_pictures(cells: Sequence[str]) -> bool:
    """Whether nine of ten known cells (of the first 500) are names of picture files."""
    known = [cell for cell in cells[:500] if cell.strip()]
    named = sum(
        folders.ending(cell.strip()) in folders.PICTURE_ENDINGS | folders.PHONE_ENDINGS for cell in known
    )
    return bool(known) and named >= 0.9 * len(known)


def _tidy(name: str) -> str:
    return folders.same_name(name.strip().replace("\\", "/").removeprefix("./"))


def apply_split(rows: Rows, split: Mapping[str, str], file: str) -> Rows:
    """Give each row the part that a split file names for its picture.

    Raises:
        DataError: when the file names none of the pictures.
    """
    given = [split.get(name, "") for name in rows.names]
    known = set(rows.names)
    strangers = [name for name in split if name not in known]
    if not any(given):
        raise DataError(
            "A split file must name the pictures by their path in the data folder.",
            got=f'{file} names "{next(iter(split), "")}", the data hold "{rows.names[0]}"',
            next_step=f"mend the paths in {file}, or move it out of the folder to have a split drawn",
        )
    notes = [f"{file} says which pictures are in which part."]
    if strangers:
        notes.append(f"{file} names {len(strangers)} pictures that do not exist, such as {strangers[0]}.")
    without = given.count("")
    if without:
        first = rows.names[given.index("")]
        notes.append(
            f"{file} does not name {without} of the pictures, such as {first}; they count as training rows."
        )
    parts = ", ".join(f"{given.count(part):,} {part}" for part in ("train", "valid", "test") if part in given)
    return replace(
        rows,
        given=given,
        layout=f"{rows.layout}, parts from {file} ({parts})",
        notes=rows.notes + tuple(notes),
    )
