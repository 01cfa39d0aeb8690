"""The zip file of a bundle, read as if it came from an enemy. Standard `zipfile` behind our own checks.

Everything is checked before a member is read, every member is hashed from the bytes that are then used (the
file is opened once, so it cannot be swapped between check and use), and nothing is ever extracted to disk.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gristmill.errors import BundleError

MANIFEST = "manifest.json"
MOST_MEMBERS = 200
MOST_BYTES = 8 * 2**30
"""Largest bundle that is opened."""
MOST_JSON = 32 * 2**20
"""Largest JSON member that is parsed."""
LONGEST_NAME = 200
AGAIN = "copy it again from where it was made, or run gristmill fit again"
"""What to do about a bundle that is damaged."""

ENDINGS = (".json", ".onnx", ".png", ".jpg", ".bmp", ".webp", ".html", ".md", ".txt", ".safetensors")
"""Kinds of members. Data only: no kind that a loader could run."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}", re.ASCII)
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LOCAL_HEADER = 30
_LAST_RECORD = struct.Struct("<4s4H2LH")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


class Archive:
    """An open bundle whose list of members has passed every check; use it in a `with` block.

    Raises:
        BundleError: with the rule that the file breaks. Nothing of its contents has been used then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _opened(self.path)
        try:
            self._zip = self._central()
            members = checked(self._zip.infolist(), self._members_end, self.refused)
            self._infos = {info.filename: info for info in members}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, in the order of the file."""
        return tuple(self._infos)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each member."""
        return {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        """The bytes of a member, its CRC-32 checked."""
        info = self._infos.get(name)
        if info is None:
            raise self.refused(f"{name} is missing")
        if info.file_size > most:
            raise self.refused(f"{name} is larger than {most >> 20} MB")
        try:
            return self._zip.read(info)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise self.refused(f"{name} is damaged ({error})") from None

    def read_hashed(self, name: str, sha256: str) -> bytes:
        """The bytes of a member that has this SHA-256."""
        data = self.read(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self.refused(f"{name} is not the file that the manifest describes (SHA-256 differs)")
        return data

    def digest(self) -> str:
        """SHA-256 of the whole file, from the opened descriptor."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]

    def refused(self, what: str) -> BundleError:
        """The error that says what is wrong with this file."""
        return BundleError(
            "A bundle must be whole and unchanged since it was made.",
            got=f"{self.path.name}: {what}",
            next_step=AGAIN,
        )

    def _central(self) -> zipfile.ZipFile:
        self._size = os.fstat(self._file.fileno()).st_size
        if self._size > MOST_BYTES:
            raise self.refused(f"it is larger than {MOST_BYTES >> 30} GB")
        if self._file.read(4) != b"PK\x03\x04":
            raise self.refused("it does not begin like a bundle" if self._size else "it is empty (0 bytes)")
        self._members_end = self._directory_start()
        try:
            return zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise self.refused(f"it is cut off or damaged ({error})") from None

    def _directory_start(self) -> int:
        """Where the members end, from the last record of the file: nothing may lie behind or before it."""
        self._file.seek(max(0, self._size - _LAST_RECORD.size))
        last = self._file.read(_LAST_RECORD.size)
        if len(last) < _LAST_RECORD.size or not last.startswith(b"PK\x05\x06"):
            raise self.refused("it is cut off, or something was added at its end")
        _, _, _, here, total, length, start, comment = _LAST_RECORD.unpack(last)
        if here != total or comment or start + length + _LAST_RECORD.size != self._size:
            raise self.refused("its table of contents contradicts itself")
        return int(start)


def checked(
    infos: Sequence[zipfile.ZipInfo], size: int, refused: Callable[[str], BundleError]
) -> Iterable[zipfile.ZipInfo]:
    """The members of a zip, in the order of the file, once all of them are harmless.

    Args:
        size: Where the members end and the table of contents begins.
        refused: Makes the error for a sentence.
    """
    if len(infos) > MOST_MEMBERS:
        raise refused(f"it has {len(infos)} members, more than {MOST_MEMBERS}")
    seen: set[str] = set()
    for info in infos:
        fault = _fault(info) or ("its name is there twice" if info.filename.casefold() in seen else "")
        if fault:
            raise refused(f"member {info.filename[:60]!r}: {fault}")
        seen.add(info.filename.casefold())
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        # Members follow each other without gap or overlap, from the first byte: nothing hides between.
        if info.header_offset != end:
            raise refused(f"member {info.filename[:60]!r} overlaps another, or something hides before it")
        end += _LOCAL_HEADER + len(info.orig_filename.encode()) + info.file_size
        if end > size:
            raise refused(f"member {info.filename[:60]!r} is longer than the file")
    if end != size:
        raise refused("something hides between its members and its table of contents")
    return sorted(infos, key=lambda i: i.header_offset)


def _fault(info: zipfile.ZipInfo) -> str:
    """What is wrong with a member by its entry alone, or the empty string."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.split("/")
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or info.filename != name:
        return "its name is not a plain relative path"
    if any(_DEVICE.fullmatch(p) or p.endswith(".") for p in parts):
        return "its name means something else on some systems"
    if not name.endswith(ENDINGS):
        return "it is of a kind that no bundle holds"
    if kind not in (0, stat.S_IFREG):
        return "it is a link or another special file"
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return "it is compressed, or its sizes contradict each other"
    if info.extra or info.comment:
        return "it carries hidden fields"
    return ""


def _opened(path: Path) -> IO[bytes]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BundleError(
                "A bundle must be a .grist file.", got=path, next_step="give the path of the .grist file"
            )
        return open(path, "rb")
    except OSError as error:
        why = (
            "there is no such file"
            if isinstance(error, FileNotFoundError)
            else (error.strerror or str(error))
        )
        raise BundleError(
            "A bundle must be a readable .grist file.", got=f"{path}: {why}", next_step="check the path"
        ) from None


def write(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a stored zip of these members at `path` (not atomic: the caller renames), flushed to disk.

    The same members give the same bytes: times are fixed, nothing is compressed.
    """
    path.unlink(missing_ok=True)  # a left-over, or a link that somebody planted: never followed
    with open(path, "xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
            for name, data in members.items():
                info = zipfile.ZipInfo(name, _FIXED_TIME)
                info.create_system = 3  # the same on every system
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, data)
        file.flush()
        os.fsync(file.fileno())


def parse_json(data: bytes, refused: Callable[[str], BundleError], name: str) -> Any:
    """JSON without its traps: no NaN, no key twice, no nesting that ends the stack.

    Raises:
        BundleError: made by `refused`.
    """
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON number")

    try:
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8").read()
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise refused(f"{name} is no readable JSON ({str(error)[:100]})") from None
