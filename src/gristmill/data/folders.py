"""Walk folders of pictures: what is there, what is left out and why. One `stat` a file; links stay inside."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gristmill.errors import DataError

PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)  # fmt: skip
PHONE_ENDINGS = frozenset({".heic", ".heif", ".avif"})
"""Endings of phone pictures that Pillow alone does not read."""
_OWN_ENDINGS = (".grist", ".run")
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})


class Picture(NamedTuple):
    """One picture file: where it is, how messages name it, and what tells that it has not changed."""

    path: str
    name: str
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What lies under a folder: pictures by name, and (name, reason) of everything left out."""

    pictures: tuple[Picture, ...]
    strays: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One listing of a folder: names of its visible subfolders and files, and what was left out."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    strays: tuple[tuple[str, str], ...]


def shown(name: str) -> str:
    """A file name that can be printed and stored: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def same_name(name: str) -> str:
    """A form in which two spellings of one name are equal (macOS decomposes accents, others do not)."""
    return unicodedata.normalize("NFC", shown(name))


def relative_name(path: str, root: str) -> str:
    """The path below `root` with forward slashes; the whole path when it lies elsewhere."""
    if path == root or not path.startswith(root.rstrip(os.sep) + os.sep):
        return same_name(path)
    return same_name(path[len(root.rstrip(os.sep)) + 1 :].replace(os.sep, "/"))


def look(folder: str, root: str) -> Look:
    """List one folder, not what is below. `root`: what names are relative to and links may not leave."""
    folders, files, strays = [], [], []
    for entry in _entries(folder):
        name = relative_name(entry.path, root)
        reason = _why_skipped(entry, root)
        if reason:
            strays.append((name, reason))
        elif entry.is_dir():
            folders.append(entry.name)
        else:
            files.append(entry.name)
    return Look(folders=tuple(folders), files=tuple(files), strays=tuple(strays))


def walk(folder: str, root: str) -> Walk:
    """All pictures below a folder, at any depth."""
    pictures: list[Picture] = []
    strays: list[tuple[str, str]] = []
    _descend(folder, root, pictures, strays)
    return Walk(pictures=tuple(pictures), strays=tuple(strays))


def _descend(folder: str, root: str, pictures: list[Picture], strays: list[tuple[str, str]]) -> None:
    for entry in _entries(folder):
        name = relative_name(entry.path, root)
        reason = _why_skipped(entry, root)
        if reason is None and entry.is_dir():
            _descend(entry.path, root, pictures, strays)
        elif reason is None and ending(entry.name) in PICTURE_ENDINGS:
            pictures.append(Picture(entry.path, name, stamp(name, entry.stat())))
        else:
            strays.append((name, reason or why_no_picture(entry.name)))


def has_pictures(folder: str, depth: int = 2) -> bool:
    """Whether a picture lies in the folder or, `depth` levels down, below it. Stops at the first."""
    below = []
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            below.append(entry.path)
        elif ending(entry.name) in PICTURE_ENDINGS:
            return True
    return depth > 0 and any(has_pictures(path, depth - 1) for path in below)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        raise DataError(
            "Every folder of the data must be readable.",
            got=f"no permission to open {shown(folder)}",
            next_step=f'chmod -R u+rX "{shown(folder)}"',
        ) from None
    except OSError as error:
        raise DataError(
            "Every folder of the data must be readable.",
            got=f"{shown(folder)}: {error.strerror}",
            next_step="check the path, and that the disk or network folder is connected",
        ) from None


def _why_skipped(entry: os.DirEntry[str], root: str) -> str | None:
    if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
        return "hidden or a system file"
    if entry.is_symlink():
        return _why_link_skipped(entry, root)
    if entry.name.endswith(_OWN_ENDINGS):
        return "a result of an earlier run"
    return None


def _why_link_skipped(entry: os.DirEntry[str], root: str) -> str | None:
    real = os.path.realpath(entry.path)
    if not os.path.exists(real):
        return "a link to something that does not exist"
    if not real.startswith(os.path.realpath(root).rstrip(os.sep) + os.sep):
        return "a link that leads out of the data folder"
    if entry.is_dir():
        return "a link to another folder of the data, which is read where it is"
    return None


def ending(name: str) -> str:
    """The ending of a file name in lower case, with its dot; empty when there is none."""
    return os.path.splitext(name)[1].lower()


def stamp(name: str, info: os.stat_result) -> str:
    """One line of the fingerprint: name, size in bytes, time of the last change in nanoseconds."""
    return f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n"


def stamp_of(path: str, name: str) -> str:
    """`stamp` of a path; size -1 when there is no such file."""
    try:
        return stamp(name, os.stat(path))
    except (OSError, ValueError):
        return f"{name}\0-1\0-1\n"


def why_no_picture(name: str) -> str:
    """Why a file is not read as a picture."""
    if ending(name) in PHONE_ENDINGS:
        return f"{ending(name)[1:].upper()} pictures are not supported by this version"
    return "not a picture"


def no_pictures(folder: Path, strays: Sequence[tuple[str, str]]) -> DataError:
    """The error for a folder in which nothing can be used: it says what is there instead."""
    seen = [(name, why) for name, why in strays if not why.startswith(("hidden", "a folder"))]
    if not seen:
        return DataError(
            "The data folder must hold pictures or a table.",
            got=f"{folder} is empty",
            next_step="put the pictures into one folder per class, or name a CSV file",
        )
    if any(ending(name) in PHONE_ENDINGS for name, _ in seen):
        return _phone_pictures(folder, [name for name, _ in seen if ending(name) in PHONE_ENDINGS])
    links = [name for name, reason in seen if reason.startswith("a link")]
    if links:
        return DataError(
            "Links that lead out of the data folder are not followed.",
            got=f"{len(links)} such links, the first is {links[0]}",
            next_step="copy the pictures into the folder, or name the folder they are in",
        )
    tables = [name for name, _ in seen if ending(name) in (".csv", ".tsv")]
    kinds = Counter(ending(name) or "no ending" for name, _ in seen)
    return DataError(
        "The data folder must hold pictures (JPEG, PNG, WebP, BMP, GIF, TIFF) or a table (CSV, TSV).",
        got=f"{len(seen)} other files in {folder}: "
        + ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)),
        next_step=f"name one table, for example {folder / tables[0]}"
        if tables
        else "put the pictures into one folder per class, or name a CSV file",
    )


def _phone_pictures(folder: Path, names: list[str]) -> DataError:
    return DataError(
        "HEIC, HEIF and AVIF pictures are not supported by this version.",
        got=f"{len(names)} of them in {folder}, the first is {names[0]}",
        next_step="convert them to JPEG, for example with Pillow after: pip install pillow-heif",
    )
