"""The append-only journal of a run: leaderboard, history, resume and test oracle in one file.

One line is one JSON object, in this order of keys:

    {"v":1,"kind":"ask","seq":4,"t":1767225600.123,"data":{...},"crc":"0a1b2c3d"}

`crc` is the CRC-32 (eight hex digits) of the bytes of the line without it, that is of the line with
`,"crc":"0a1b2c3d"` taken out. `seq` counts decision lines only and is null on all others; `t` is
seconds since the epoch. A last line that is not whole (the power went while it was written) is cut;
an earlier one stops the run and leaves the file untouched.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.errors import ResourceError, RunError

VERSION = 1
_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_TAIL_LENGTH = len(b',"crc":"00000000"}')


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a journal. `seq` is None on lines that are no decision; `t` is seconds since the epoch."""

    kind: str
    data: Mapping[str, Any]
    t: float
    seq: int | None = None
    v: int = VERSION


class Journal:
    """The one writer of a journal. The caller holds the lock of the run; `guard` is called before each
    append and may raise when that lock was taken over.

    Made by `Journal.open` (a file) or `Journal.in_memory` (simulations, tests).
    """

    def __init__(self, lines: Iterable[Line] = (), *, now: Callable[[], float] = time.time) -> None:
        self._lines = list(lines)
        self._seq = sum(line.seq is not None for line in self._lines)
        self._now = now
        self._fd = -1
        self._size = 0
        self._sync = False
        self._guard: Callable[[], None] | None = None
        self.path: Path | None = None

    @staticmethod
    def in_memory(*, now: Callable[[], float] = time.time) -> Journal:
        """A journal without a file; nothing is encoded."""
        return Journal(now=now)

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        sync: bool = True,
        now: Callable[[], float] = time.time,
        guard: Callable[[], None] | None = None,
    ) -> Journal:
        """Open for appending, made when absent; a last line that is not whole is cut away.

        Raises:
            RunError: if an earlier line is damaged (the file stays as it is) or newer than this version.
        """
        target = Path(path)
        data = target.read_bytes() if target.exists() else b""
        parsed = _parse(data, target)
        journal = Journal(parsed.lines, now=now)
        journal.path, journal._sync, journal._guard = target, sync, guard
        binary = getattr(os, "O_BINARY", 0)
        journal._fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | binary, 0o644)
        journal._repair(parsed)
        return journal

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every line so far, in order."""
        return tuple(self._lines)

    def append(self, kind: str, data: Mapping[str, Any], decision: bool = False) -> Line:
        """Write one line and flush it to the disk; only a decision takes a number.

        Raises:
            ResourceError: when the disk is full; nothing of the line stays behind.
        """
        if self._guard is not None:
            self._guard()
        seq = self._seq if decision else None
        line = Line(kind=kind, data=data, t=round(self._now(), 3), seq=seq)
        if self._fd >= 0:
            self._write(encode(line))
        self._lines.append(line)
        self._seq += decision
        return line

    def close(self) -> None:
        """Close the file; nothing can be appended afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._guard = _refuse_closed

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repair(self, parsed: _Parsed) -> None:
        if os.fstat(self._fd).st_size != parsed.whole:
            os.ftruncate(self._fd, parsed.whole)
        self._size = parsed.whole
        if parsed.unended:  # whole but for its line feed: keep the record
            self._write(b"\n")
        if not parsed.lines and self._sync:
            assert self.path is not None
            _sync_folder(self.path.parent)

    def _write(self, data: bytes) -> None:
        try:
            sent = 0
            while sent < len(data):
                sent += os.write(self._fd, data[sent:])
            if self._sync:
                os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise ResourceError(
                "The journal must be writable.",
                got=f"{self.path}: {error.strerror}",
                next_step="free some space on this disk and give the same command again; the run goes on",
            ) from error
        self._size += len(data)


def read(path: str | os.PathLike[str]) -> tuple[Line, ...]:
    """The whole lines of a journal, for readers beside the writer; the file is not touched.

    Raises:
        RunError: if a line before the last is damaged or newer than this version.
    """
    target = Path(path)
    return _parse(target.read_bytes(), target).lines


def encode(line: Line) -> bytes:
    """The bytes of a line, line feed included."""
    record = {"v": line.v, "kind": line.kind, "seq": line.seq, "t": line.t, "data": line.data}
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return b'%s,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def decode(raw: bytes) -> Line | None:
    """The line in `raw` (without its line feed), or None when it is not whole."""
    tail = _TAIL.fullmatch(raw[-_TAIL_LENGTH:])
    body = raw[:-_TAIL_LENGTH] + b"}"
    if tail is None or int(tail[1], 16) != zlib.crc32(body):
        return None
    try:
        record = json.loads(body)
        return Line(kind=record["kind"], data=record["data"], t=record["t"], seq=record["seq"], v=record["v"])
    except (ValueError, KeyError, TypeError):
        return None


def decision_bytes(lines: Iterable[Line]) -> list[bytes]:
    """The decision lines without `t`, `crc` and any `seconds`: in counted mode byte-equal for a seed."""
    records = [
        {"v": x.v, "kind": x.kind, "seq": x.seq, "data": _timeless(x.data)}
        for x in lines
        if x.seq is not None
    ]
    return [json.dumps(record, separators=(",", ":")).encode() for record in records]


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _timeless(v) for k, v in value.items() if k != "seconds"}
    return [_timeless(v) for v in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    lines: tuple[Line, ...] = field(default=())
    whole: int = 0
    """Bytes up to the end of the last whole line."""
    unended: bool = False


def _parse(data: bytes, path: Path) -> _Parsed:
    pieces = data.split(b"\n")
    ended = pieces[-1] == b""
    pieces = pieces[:-1] if ended else pieces
    lines: list[Line] = []
    whole = 0
    for number, piece in enumerate(pieces, start=1):
        line = decode(piece)
        if line is None:
            if number < len(pieces) or _hides_record(piece):
                raise _damaged(path, number)
            return _Parsed(lines=tuple(lines), whole=whole)
        _check(line, lines, path, number)
        lines.append(line)
        whole = min(len(data), whole + len(piece) + 1)
    return _Parsed(lines=tuple(lines), whole=whole, unended=bool(pieces) and not ended)


def _check(line: Line, before: list[Line], path: Path, number: int) -> None:
    if line.v > VERSION:
        raise RunError(
            "A journal can only be read by the version that wrote it or a later one.",
            got=f"{path} of format {line.v}; this version reads up to {VERSION}",
            next_step="install a newer gristmill, or start again with --fresh",
        )
    if line.seq is not None:
        last = next((x.seq for x in reversed(before) if x.seq is not None), -1)
        if line.seq != last + 1:
            raise _damaged(path, number)


def _hides_record(piece: bytes) -> bool:
    """Whether a whole record stands inside, and another line after it: then the line feed between them
    was damaged, and nothing was torn."""
    ends = (m.end() for m in _TAIL.finditer(piece))
    return any(piece[end + 1 : end + 2] == b"{" and decode(piece[:end]) is not None for end in ends)


def _damaged(path: Path, number: int) -> RunError:
    return RunError(
        "Every line of a journal but the last must be whole.",
        got=f"{path}, line {number}, is damaged",
        next_step="restore the file from a copy, or start again with --fresh (this deletes the run)",
    )


def _refuse_closed() -> None:
    raise AssertionError("a closed journal takes no lines")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
