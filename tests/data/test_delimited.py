"""CSV files: delimiters, encodings, and every broken file named by its line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gristmill.data.delimited import DELIMITERS, Sheet, peek, read_sheet
from gristmill.errors import DataError


def sheet(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> Sheet:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sheet(path)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["a", "b c"], ["1", "x"], ["2", "y"]))
    read = sheet(tmp_path, text)
    assert read.delimiter == delimiter
    assert read.columns == {"a": ["1", "2"], "b c": ["x", "y"]}


def test_a_comma_inside_numbers_does_not_beat_the_semicolon(tmp_path: Path) -> None:
    read = sheet(tmp_path, "a;b\n1,5;2,25\n3,5;4,75\n")
    assert read.columns == {"a": ["1,5", "3,5"], "b": ["2,25", "4,75"]}


def test_one_column_is_a_table(tmp_path: Path) -> None:
    assert sheet(tmp_path, "a\n1\n\n2\n").columns == {"a": ["1", "2"]}


def test_rows_are_named_by_their_line(tmp_path: Path) -> None:
    read = sheet(tmp_path, 'a,b\n1,"two\nlines"\n\n3,4\n')
    assert read.lines == [2, 5]
    assert read.row_names == ["t.csv row 2", "t.csv row 5"]


@pytest.mark.parametrize(
    ("content", "cell", "said"),
    [
        ("name,x\ncafé,1\n".encode(), "café", None),
        ("\ufeffname,x\ncafé,1\n".encode(), "café", None),
        ("name,x\ncafé,1\n".encode("cp1252"), "café", "Windows-1252"),
        ("name,x\ncaf\x81é,1\n".encode("latin-1"), "caf\x81é", "Latin-1"),
        ("name,x\ncafé,1\n".encode("utf-16"), "café", "UTF-16"),
    ],
)
def test_the_encoding_is_found_and_said(tmp_path: Path, content: bytes, cell: str, said: str | None) -> None:
    read = sheet(tmp_path, content)
    assert read.columns["name"] == [cell]
    assert (said is None) == (not read.notes)
    assert said is None or said in read.notes[0]


def test_a_wrong_encoding_is_said_with_the_line(tmp_path: Path) -> None:
    read = sheet(tmp_path, b"a,b\n1,2\n3,caf\xe9\n")
    assert "line 3" in read.notes[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n1,2,3\n1,2\n", "line 3 of t.csv: 3 cells where the header has 2"),
        ("a,b\n1,2\n7\n", "line 3 of t.csv: 1 cells"),
        ('a,b\n"1\n2",3\n4\n', "line 4 of t.csv: 1 cells"),
        ('a,b\n1,2\n"open,2\n3,4\n', "line 3 of t.csv"),
        ('a,b\n1,2\n"x"y,2\n', "line 3 of t.csv"),
        ("a,b,a\n1,2,3\n", '"a" names columns 1, 3'),
        ("", "t.csv is empty"),
        ("\n\n", "t.csv is empty"),
        ("a,b\n", "only a header"),
        ("1,2\n3,4\n", "line 1 of t.csv: 1, 2"),
        (b"PK\x03\x04\x00\x00\x00", "binary data"),
    ],
)
def test_a_broken_file_is_named_with_the_next_step(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(DataError) as error:
        sheet(tmp_path, content)
    assert says in str(error.value)
    assert error.value.next_step


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="no permission") as error:
        read_sheet(path)
    assert "chmod" in str(error.value)


def test_a_column_without_a_name_gets_one_aloud(tmp_path: Path) -> None:
    read = sheet(tmp_path, ",b\n0,x\n1,y\n")
    assert list(read.columns) == ["column 1", "b"]
    assert "1st column" in read.notes[0]


def test_peek_reads_the_beginning_and_never_raises(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 50_000)
    start = peek(path)
    assert list(start) == ["a", "b"] and 1_000 < len(start["a"]) < 50_000
    path.write_bytes(b"\0\0\0")
    assert peek(path) == {} == peek(tmp_path / "absent.csv")


cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=6)
    ),
    delimiter=st.sampled_from(list(DELIMITERS)),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_what_was_written_is_read(
    table: list[list[str]], delimiter: str, newline: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    header = [f"name {i}" for i in range(len(table[0]))]
    assume(not any(other in "".join(map("".join, table)) for other in DELIMITERS if other != delimiter))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *table])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    read = read_sheet(path)
    assert list(read.columns) == header
    assert [list(row) for row in zip(*read.columns.values(), strict=True)] == table


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_sentence(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(content)
    try:
        read = read_sheet(path)
    except DataError as error:
        assert error.next_step
    else:
        assert all(len(column) == read.rows for column in read.columns.values())
