"""CSV and TSV files -> Sheet: text cells by column, each row with the line it stands on.

The `csv` module reads them (and not a faster parser) so that a broken line can be named by its number.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gristmill.errors import DataError

SHEET_ENDINGS = (".csv", ".tsv", ".txt")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE_CHARACTERS = 65_536
_SAMPLE_ROWS = 50


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One delimited file, read as text.

    `columns` holds one list of cells (not stripped) a column; `lines[i]` is the line of the file on which
    row `i` begins (the header is line 1), which is also its row number in a spreadsheet program.
    """

    path: Path
    columns: Mapping[str, list[str]]
    lines: list[int]
    delimiter: str
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows under the header."""
        return len(self.lines)

    @property
    def row_names(self) -> list[str]:
        """How messages name each row: `train.csv row 17`."""
        return [f"{self.path.name} row {line}" for line in self.lines]


def read_sheet(path: Path) -> Sheet:
    """Read a delimited file; the delimiter and the encoding are found by looking.

    Raises:
        DataError: not readable, not text, empty, no header, a column name twice, or a broken line.
    """
    text, notes = _decode(read_bytes(path), path)
    delimiter = _delimiter(text, path)
    records = _records(text, delimiter, path)
    first = next(records, None)
    if first is None:
        raise DataError(
            "A table needs a first line with the column names and rows below it.",
            got=f"{path.name} is empty",
            next_step="check that the right file was exported",
        )
    header, more = _header(first[1], path)
    lines, rows = _rows(records, len(header), path)
    columns = {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}
    return Sheet(path=path, columns=columns, lines=lines, delimiter=delimiter, notes=notes + more)


def peek(path: Path) -> dict[str, list[str]]:
    """The first rows of a delimited file by column; empty when it cannot be read as one.

    Used to guess what a file is for; `read_sheet` says what is wrong with a file that is wanted.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SAMPLE_CHARACTERS)
        cut = start.rfind(b"\n") + 1 if len(start) == _SAMPLE_CHARACTERS else len(start)
        text, _ = _decode(start[: cut or len(start)], path)
        rows = [
            cells
            for cells in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, path))
            if cells
        ]
    except (OSError, DataError, csv.Error):
        return {}
    if not rows:
        return {}
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    return {name.strip(): [row[i] for row in whole] for i, name in enumerate(rows[0])}


def read_bytes(path: Path) -> bytes:
    """The whole file, or a DataError that says why it cannot be read."""
    try:
        return path.read_bytes()
    except PermissionError:
        raise DataError(
            "The data must be readable.", got=f"no permission to read {path}", next_step=f'chmod u+r "{path}"'
        ) from None
    except OSError as error:
        raise DataError(
            "The data must be readable.",
            got=f"{path}: {error.strerror}",
            next_step="check the path, and that the disk or network folder is connected",
        ) from None


def _decode(raw: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace"), (
            f"{path.name} is encoded as UTF-16 and was read as that.",
        )
    if b"\0" in raw[:_SAMPLE_CHARACTERS]:
        raise DataError(
            "A table must be a text file with one row a line.",
            got=f"{path.name} holds binary data",
            next_step="open it in the program that made it and save it as CSV (UTF-8)",
        )
    try:
        return raw.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
    note = f"{path.name} is not encoded as UTF-8 (first seen on line {line}); it was read as"
    try:
        return raw.decode("cp1252"), (f"{note} Windows-1252. If letters look wrong, save it as CSV UTF-8.",)
    except UnicodeDecodeError:
        return raw.decode("latin-1"), (f"{note} Latin-1. If letters look wrong, save it as CSV UTF-8.",)


def _delimiter(text: str, path: Path) -> str:
    """The delimiter that cuts the header into several cells and most rows into as many."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, best_score = ("\t" if path.suffix.lower() == ".tsv" else ","), (0.0, 1)
    for delimiter in DELIMITERS:
        widths = _widths(sample, delimiter)
        if widths and widths[0] > 1:
            score = (sum(w == widths[0] for w in widths) / len(widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _widths(sample: str, delimiter: str) -> list[int]:
    widths: list[int] = []
    try:
        for cells in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if cells:
                widths.append(len(cells))
            if len(widths) == _SAMPLE_ROWS:
                break
    except csv.Error:  # the strict reading names the line; here the rows before it are enough
        pass
    return widths


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which the record begins, cells) of every record that is not an empty line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _broken(path, begins, f"{error}; a quote that is opened must be closed") from None
        if cells is None:
            return
        if cells and not (len(cells) == 1 and not cells[0].strip()):
            yield begins, cells
        begins = reader.line_num + 1


def _rows(
    records: Iterator[tuple[int, list[str]]], width: int, path: Path
) -> tuple[list[int], list[list[str]]]:
    lines: list[int] = []
    rows: list[list[str]] = []
    for line, cells in records:
        if len(cells) != width:
            start = ", ".join(cells)[:60]
            raise _broken(path, line, f"{len(cells)} cells where the header has {width}; it begins: {start}")
        lines.append(line)
        rows.append(cells)
    if not rows:
        raise DataError(
            "A table needs rows below the line with the column names.",
            got=f"{path.name} holds only a header",
            next_step="check that the right file was exported",
        )
    return lines, rows


def _broken(path: Path, line: int, what: str) -> DataError:
    return DataError(
        "Every line of a table must have as many cells as its header.",
        got=f"line {line} of {path.name}: {what}",
        next_step=f"open {path.name} in a text editor, mend or remove line {line}, and run the command again",
    )


def _header(cells: list[str], path: Path) -> tuple[list[str], tuple[str, ...]]:
    names = [name.strip() for name in cells]
    if all(_is_number(name) for name in names):
        raise DataError(
            "The first line of a table must hold the column names.",
            got=f"line 1 of {path.name}: {', '.join(names)[:60]}",
            next_step="add a first line with a name for each column",
        )
    notes = []
    for i, name in enumerate(names):
        if not name:
            names[i] = f"column {i + 1}"
            notes.append(
                f'The {_ordinal(i + 1)} column of {path.name} has no name; it is called "column {i + 1}".'
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        places = ", ".join(str(i + 1) for i, name in enumerate(names) if name == twice[0])
        raise DataError(
            "Every column of a table must have its own name.",
            got=f'"{twice[0]}" names columns {places} of {path.name}',
            next_step=f"rename all but one of them in line 1 of {path.name}",
        )
    return names, tuple(notes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ordinal(n: int) -> str:
    ending = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
