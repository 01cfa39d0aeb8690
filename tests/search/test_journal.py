from __future__ import annotations

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import ResourceError, RunError
from gristmill.search.journal import Journal, Line, decision_bytes, decode, encode, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def journal(path: Path, count: int = 4) -> bytes:
    """Lines of both sorts; every second one is a decision."""
    with Journal.open(path, now=lambda: 1000.0) as opened:
        for number in range(count):
            opened.append("ask" if number % 2 else "note", {"number": number}, decision=bool(number % 2))
    return path.read_bytes()


@given(data=st.dictionaries(st.text(), VALUES, max_size=4), kind=st.text(), t=st.floats(0, 2e9))
def test_every_line_is_read_back(data: dict[str, Any], kind: str, t: float) -> None:
    line = Line(kind=kind, data=data, t=t, seq=3)
    raw = encode(line)
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert decode(raw[:-1]) == line


def test_the_bytes_are_as_documented(tmp_path: Path) -> None:
    first, second, *_ = journal(tmp_path / "j").split(b"\n")
    body = b'{"v":1,"kind":"note","seq":null,"t":1000.0,"data":{"number":0}}'
    assert first == body[:-1] + b',"crc":"%08x"}' % zlib.crc32(body)
    assert list(json.loads(second)) == ["v", "kind", "seq", "t", "data", "crc"]
    assert json.loads(second)["seq"] == 0


def test_only_decisions_take_a_number(tmp_path: Path) -> None:
    journal(tmp_path / "j", 6)
    assert [line.seq for line in read(tmp_path / "j")] == [None, 0, None, 1, None, 2]
    with Journal.open(tmp_path / "j") as again:
        assert again.append("tell", {}, decision=True).seq == 3


def test_truncated_at_any_byte_of_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = journal(path)
    before = whole.rindex(b"\n", 0, -1) + 1
    for length in range(before, len(whole)):
        path.write_bytes(whole[:length])
        kept = 4 if length == len(whole) - 1 else 3
        assert len(read(path)) == kept
        assert path.stat().st_size == length, "reading leaves the file alone"
        with Journal.open(path, now=lambda: 1000.0) as opened:
            assert len(opened.lines) == kept
            if kept == 3:
                opened.append("ask", {"number": 3}, decision=True)
        assert path.read_bytes() == whole


def test_one_flipped_bit_is_cut_at_the_end_and_refused_before(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = journal(path, 3)
    last = whole.rindex(b"\n", 0, -1) + 1
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        if at >= last:
            assert len(read(path)) >= 2
            continue
        with pytest.raises(RunError, match="--fresh") as caught:
            Journal.open(path)
        assert "line" in str(caught.value)
        assert path.read_bytes() == bytes(damaged), "the file stays untouched"


@given(tail=st.binary(min_size=1, max_size=60).filter(lambda b: b"\n" not in b))
def test_any_torn_tail_is_cut(tail: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    whole = journal(path, 2)
    path.write_bytes(whole + tail)
    with Journal.open(path) as opened:
        assert len(opened.lines) == 2
    assert path.read_bytes() == whole


def test_a_missing_decision_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = journal(path, 6).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(RunError, match="damaged"):
        read(path)


def test_a_newer_format_names_the_version(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(encode(Line(kind="ask", data={}, t=0.0, v=2)))
    with pytest.raises(RunError, match="format 2"):
        Journal.open(path)


def test_an_empty_file_is_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.touch()
    with Journal.open(path) as opened:
        assert opened.lines == ()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    whole = journal(path)
    real = os.write
    opened = Journal.open(path)

    def full(fd: int, data: bytes) -> int:
        if len(data) > 7:
            return real(fd, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", lambda fd, data: full(fd, data) if fd == opened._fd else real(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(ResourceError, match="the run goes on"):
        opened.append("ask", {}, decision=True)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    assert opened.append("ask", {}, decision=True).seq == 2
    opened.close()


def test_the_guard_stops_a_driver_that_lost_its_lock(tmp_path: Path) -> None:
    def guard() -> None:
        raise RunError("A run may have one driver.")

    with Journal.open(tmp_path / "j", guard=guard) as opened, pytest.raises(RunError):
        opened.append("ask", {})
    assert (tmp_path / "j").read_bytes() == b""


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    opened = Journal.open(tmp_path / "j")
    opened.close()
    opened.close()
    with pytest.raises(AssertionError):
        opened.append("ask", {})


def test_no_number_that_json_does_not_have(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as opened, pytest.raises(ValueError, match="JSON"):
        opened.append("ask", {"score": float("nan")})


def test_decision_bytes_hold_no_time() -> None:
    kept = Line(kind="ask", data={"a": [{"seconds": 1, "b": 2}], "seconds": 3}, t=1.0, seq=0)
    left_out = Line(kind="outcome", data={}, t=2.0)
    assert decision_bytes([kept, left_out]) == [b'{"v":1,"kind":"ask","seq":0,"data":{"a":[{"b":2}]}}']
