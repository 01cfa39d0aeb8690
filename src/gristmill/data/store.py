"""The store: pixels and columns of a data set in flat files, written once, read by row ids by memory maps.

    CACHE/stores/KEY/           KEY = hash of the content and of how it was prepared
      store.json                version, rows, inputs, bytes of each file
      0.box.npy                 input 0, a picture: int32 (rows, 2), height and width in the padded row
      0.0000.npy 0.0001.npy ..  its pixels: uint8 (shard rows, S, S, C)
      1.npy                     input 1, a number: float64; a category: int32 codes (-1 missing)
      1.json                    and the category's strings in order of the codes
      facts/NAME.npy|json       what preparation measured per row
      derived/0-96-squash.npy   squares made from the pixels: uint8 (rows, 96, 96, C)
      lock                      held (shared) while the store is open, so that nobody evicts it
    CACHE/index/KEY.json        from a data fingerprint to the key of its store

A store appears whole or not at all: it is written under a temporary name, flushed to disk and renamed.
Nothing in it was fitted on the data.
"""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from numpy.typing import NDArray

from gristmill.data import image
from gristmill.data._cache import clear as clear
from gristmill.data._cache import (
    disk_errors_told,
    hold,
    in_order,
    make_room,
    new_folder,
    patient_lock,
    remove,
    replace_file,
    sync_folder,
)
from gristmill.errors import DataError
from gristmill.task import InputSpec

STORE_VERSION = 1
SHARD_BYTES = 256 * 2**20
CHUNK_BYTES = 8 * 2**20
_AGAIN = "run the same command again: the data are prepared anew"

Column = NDArray[Any]


class Store:
    """A data set on disk, opened for reading; made by `Store.open`. Safe to use from several threads."""

    def __init__(self, folder: Path, description: Mapping[str, Any], lock: int | None) -> None:
        self._folder = folder
        self._shard_rows: int = description["shard_rows"]
        self._columns: dict[str, Any] = {}
        self.rows: int = description["rows"]
        self.key: str = description["key"]
        self.inputs: tuple[InputSpec, ...] = tuple(
            InputSpec(name=i["name"], kind=i["kind"], spec=dict(i["spec"])) for i in description["inputs"]
        )
        if lock is not None:
            weakref.finalize(self, os.close, lock)

    @staticmethod
    def open(uri: str | os.PathLike[str]) -> Store:
        """Open the store in a folder (a path or a file:// address) and keep it from being evicted.

        Raises:
            DataError: if no whole store is there, or a newer version wrote it.
        """
        folder = _folder_of(uri)
        lock = hold(folder / "lock")
        try:
            return Store(folder, _description(folder), lock)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    @property
    def uri(self) -> str:
        """Address of the store, for `Store.open` here or on another machine that sees the same folder."""
        return self._folder.as_uri()

    @property
    def folder(self) -> Path:
        """The folder of the store."""
        return self._folder

    def spec(self, name: str) -> InputSpec:
        """The input called `name`."""
        return self.inputs[self._number(name)]

    def gather(
        self, rows: NDArray[np.integer[Any]], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of some rows, by name (all inputs unless `names` picks some), in the order of `rows`.

        A picture: uint8 (n, S, S, C) under its name, and int32 (n, 2) = (height, width) of the picture in the
        top left corner under its name + ".box". A number: float64 (n,), NaN missing. A category: object (n,)
        of str or None.
        """
        ids = rows.astype(np.int64)
        out: dict[str, NDArray[Any]] = {}
        for spec in self.inputs:
            if names is not None and spec.name not in names:
                continue
            if spec.kind == "image":
                out[spec.name] = self._pixels(spec, ids)
                out[spec.name + ".box"] = self.boxes(spec.name)[ids]
            else:
                out[spec.name] = self._column(spec)[ids]
        return out

    def boxes(self, name: str) -> NDArray[np.int32]:
        """Height and width of every picture inside its padded row: int32 (rows, 2); (0, 0) if unreadable."""
        return self._cached(f"{self._number(name)}.box.npy", np.load)

    def squares(self, name: str, size: int, how: image.Fit = "squash", *, threads: int = 2) -> image.Pixels:
        """All pictures as squares: a read-only memory map, uint8 (rows, size, size, C).

        Made once in parallel threads and kept in the store; a second process that asks meanwhile waits for
        the first one's file.

        Raises:
            ResourceError: if they would take more than half of the free disk, or the disk fills up.
        """
        number, side = self._number(name), self.spec(name).spec["size"]
        if size == side and self.rows <= self._shard_rows and bool((self.boxes(name) == side).all()):
            return self._shard(number, 0)
        path = self._folder / "derived" / f"{number}-{size}-{how}.npy"
        if not path.exists():
            with disk_errors_told(path.parent):
                path.parent.mkdir(exist_ok=True)
                with patient_lock(path.with_suffix(".lock")):
                    if not path.exists():
                        self._derive(name, size, how, path, threads)
        return self._cached(f"derived/{path.name}", _memory_map)

    def facts(self) -> dict[str, NDArray[Any]]:
        """What preparation measured, one array of `rows` values per fact (see `prepare.scan`)."""
        facts: dict[str, NDArray[Any]] = {}
        for path in sorted((self._folder / "facts").iterdir()):
            facts[path.stem] = np.load(path) if path.suffix == ".npy" else _read_strings(path)
        return facts

    def _number(self, name: str) -> int:
        names = [i.name for i in self.inputs]
        if name not in names:
            raise KeyError(f"the store has no input {name!r}; it has {', '.join(names)}")
        return names.index(name)

    def _cached(self, file: str, load: Callable[[Path], NDArray[Any]]) -> NDArray[Any]:
        if file not in self._columns:
            self._columns[file] = load(self._folder / file)
        value: NDArray[Any] = self._columns[file]
        return value

    def _shard(self, number: int, shard: int) -> image.Pixels:
        return self._cached(f"{number}.{shard:04d}.npy", _memory_map)

    def _pixels(self, spec: InputSpec, rows: NDArray[np.int64]) -> image.Pixels:
        number, side = self._number(spec.name), spec.spec["size"]
        out = np.empty((len(rows), side, side, spec.spec["channels"]), np.uint8)
        shards = rows // self._shard_rows
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            out[here] = take(self._shard(number, shard), rows[here] - shard * self._shard_rows)
        return out

    def _column(self, spec: InputSpec) -> NDArray[Any]:
        number = self._number(spec.name)
        if spec.kind == "number":
            return self._cached(f"{number}.npy", np.load)
        return self._cached(f"{number}.npy", lambda path: _categories(path))

    def _derive(self, name: str, size: int, how: image.Fit, path: Path, threads: int) -> None:
        spec = self.spec(name)
        shape = (self.rows, size, size, spec.spec["channels"])
        make_room(self._folder.parent, int(np.prod(shape)), keep=self._folder)
        step = max(1, min(256, CHUNK_BYTES // (spec.spec["size"] ** 2 * shape[3])))
        boxes = self.boxes(name)

        def work(start: int) -> image.Pixels:
            rows = np.arange(start, min(start + step, self.rows))
            return image.squares(self._pixels(spec, rows), boxes[rows], size, how)

        with (
            closing(in_order(work, range(0, self.rows, step), threads)) as chunks,
            replace_file(path) as temporary,
        ):
            write_array(temporary, shape, np.dtype(np.uint8), chunks)


def take(array: NDArray[Any], rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Some rows of an array, copied. Pages of a read-only memory map are then given back by this process.

    They stay with the operating system, which may drop them, and no longer count as our memory (600 MiB of
    2,117 in ten minutes on 12,000 photographs). Gathering 64 squares of 96 px takes 0.31 ms instead of 0.16.
    """
    out: NDArray[Any] = np.asarray(array)[rows]
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    forget = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows
    if isinstance(base, mmap.mmap) and forget is not None and not array.flags.writeable:
        base.madvise(forget)
    return out


class StoreWriter:
    """Writes one store; a context manager that leaves nothing behind unless `commit` was reached.

    with StoreWriter(cache, inputs, rows) as writer:
        writer.pictures("image", blocks)        # each block: padded pixels (n, S, S, C) and boxes (n, 2)
        writer.column("age", values)
        writer.facts(facts)
        store = writer.commit(key)

    Raises:
        ResourceError: if the store would take more than half of the free disk, or the disk fills up.
    """

    def __init__(self, cache: Path, inputs: Sequence[InputSpec], rows: int) -> None:
        self._cache = cache
        self._inputs = tuple(inputs)
        self._rows = rows
        row_bytes = max((picture_bytes(i) for i in inputs if i.kind == "image"), default=1)
        self._shard_rows = max(1, SHARD_BYTES // row_bytes)

    def __enter__(self) -> StoreWriter:
        make_room(self._cache / "stores", store_bytes(self._inputs, self._rows))
        with disk_errors_told(self._cache):
            self._folder, self._lock = new_folder(self._cache / "stores")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
        remove(self._folder)  # a no-op after commit: the folder has its final name then

    def pictures(self, name: str, blocks: Iterable[tuple[image.Pixels, NDArray[np.int32]]]) -> None:
        """Write all rows of a picture input, block by block; only one block is held at a time."""
        number, spec = self._number(name)
        side, channels = spec.spec["size"], spec.spec["channels"]
        boxes: list[NDArray[np.int32]] = []

        def pixels() -> Iterator[image.Pixels]:
            for block, block_boxes in blocks:
                boxes.append(block_boxes)
                yield block

        with disk_errors_told(self._cache):
            pieces = _Pieces(pixels())
            for shard, start in enumerate(range(0, self._rows, self._shard_rows)):
                rows = min(self._shard_rows, self._rows - start)
                shape = (rows, side, side, channels)
                write_array(
                    self._folder / f"{number}.{shard:04d}.npy", shape, np.dtype(np.uint8), pieces.take(rows)
                )
            assert next(pieces.blocks, None) is None, f"more than {self._rows} rows came"
            self._save(f"{number}.box.npy", np.concatenate([*boxes, np.zeros((0, 2), np.int32)]))

    def column(self, name: str, values: NDArray[Any]) -> None:
        """Write a number (float64, NaN missing) or category (object of str, None missing) input."""
        number, spec = self._number(name)
        with disk_errors_told(self._cache):
            if spec.kind == "number":
                self._save(f"{number}.npy", np.asarray(values, np.float64))
                return
            known: dict[str, int] = {}
            codes = [-1 if v is None else known.setdefault(v, len(known)) for v in values.tolist()]
            self._save(f"{number}.npy", np.array(codes, np.int32))
            self._save_json(f"{number}.json", list(known))

    def facts(self, facts: Mapping[str, NDArray[Any]]) -> None:
        """Write what was measured per row; object arrays hold str or None."""
        with disk_errors_told(self._cache):
            (self._folder / "facts").mkdir()
            for name, values in facts.items():
                if values.dtype == object:
                    self._save_json(f"facts/{name}.json", values.tolist())
                else:
                    self._save(f"facts/{name}.npy", values)

    def commit(self, key: str) -> Store:
        """Give the store its name and open it. If that store exists already, it is used instead."""
        description = {
            "version": STORE_VERSION,
            "key": key,
            "rows": self._rows,
            "shard_rows": self._shard_rows,
            "inputs": [{"name": i.name, "kind": i.kind, "spec": dict(i.spec)} for i in self._inputs],
            "files": {
                f.relative_to(self._folder).as_posix(): f.stat().st_size
                for f in sorted(self._folder.rglob("*"))
                if f.is_file() and f.name != "lock"
            },
        }
        final = self._cache / "stores" / key
        with disk_errors_told(self._cache):
            self._save_json("store.json", description)
            sync_folder(self._folder)
            try:
                os.rename(self._folder, final)
            except OSError:
                self._settle(final)
            sync_folder(final.parent)
        return Store.open(final)

    def _settle(self, final: Path) -> None:
        """Another store has the name already: keep it when it is whole, replace it when it is damaged."""
        try:
            Store.open(final)
        except DataError:
            doomed = self._folder.with_name(self._folder.name + "-damaged")
            if final.exists():
                os.rename(final, doomed)
            os.rename(self._folder, final)
            remove(doomed)

    def _number(self, name: str) -> tuple[int, InputSpec]:
        return next((n, i) for n, i in enumerate(self._inputs) if i.name == name)

    def _save(self, file: str, values: NDArray[Any]) -> None:
        write_array(self._folder / file, values.shape, values.dtype, [values])

    def _save_json(self, file: str, value: object) -> None:
        with open(self._folder / file, "w", encoding="utf-8") as out:
            json.dump(value, out)
            out.flush()
            os.fsync(out.fileno())


class _Pieces:
    """Cuts a stream of blocks at shard borders."""

    def __init__(self, blocks: Iterator[image.Pixels]) -> None:
        self.blocks = blocks
        self._rest: image.Pixels | None = None

    def take(self, rows: int) -> Iterator[image.Pixels]:
        """The next `rows` rows, in pieces."""
        while rows > 0:
            block = self._rest if self._rest is not None else next(self.blocks)
            piece, rest = block[:rows], block[rows:]
            self._rest = rest if len(rest) else None
            rows -= len(piece)
            yield piece


def picture_bytes(spec: InputSpec) -> int:
    """Bytes of one picture in the store."""
    return int(spec.spec["size"]) ** 2 * int(spec.spec["channels"])


def store_bytes(inputs: Sequence[InputSpec], rows: int) -> int:
    """Bytes that a store will take (categories and facts estimated); known before anything is written."""
    per_row = sum(picture_bytes(i) + 256 if i.kind == "image" else 8 for i in inputs)
    return rows * (per_row + 80) + 65536


def write_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], chunks: Iterable[NDArray[Any]]
) -> None:
    """Write a .npy file from chunks along the first axis, and flush it to the disk.

    Plain writes, not a memory map: a full disk then is an error that can be told, not a SIGBUS.
    """
    written = 0
    with open(path, "wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for chunk in chunks:
            out.write(np.ascontiguousarray(chunk, dtype).reshape(-1).view(np.uint8).data)
            written += len(chunk)
        assert written == shape[0], f"{path.name}: {written} rows came for {shape[0]}"
        out.flush()
        os.fsync(out.fileno())


def _description(folder: Path) -> dict[str, Any]:
    """store.json, after checking that every file it lists is there in full."""
    try:
        found: dict[str, Any] = json.loads((folder / "store.json").read_text("utf-8"))
        damaged = [f for f, size in found["files"].items() if (folder / f).stat().st_size != size]
        newer = found["version"] > STORE_VERSION
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "The prepared data must be in the cache.", got=f"no readable store in {folder}", next_step=_AGAIN
        ) from error
    if newer:
        raise DataError(
            f"A store must be of version {STORE_VERSION} or older.",
            got=f"version {found['version']} in {folder}",
            next_step="use the version of gristmill that wrote it, or another cache (GRISTMILL_CACHE)",
        )
    if damaged:
        raise DataError(
            "The files of a store must be whole.",
            got=f"{damaged[0]} in {folder} is damaged",
            next_step=_AGAIN,
        )
    return found


def _folder_of(uri: str | os.PathLike[str]) -> Path:
    text = os.fspath(uri)
    if text.startswith("file://"):
        path = unquote(urlparse(text).path)
        # file:///C:/store has a slash before the drive
        return Path(path[1:] if os.name == "nt" and path[2:3] == ":" else path)
    return Path(text).absolute()


def _memory_map(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r")
    # An empty map cannot exist; np.load gives it as an ordinary array then.
    assert isinstance(array, np.ndarray)
    return array


def _read_strings(path: Path) -> NDArray[Any]:
    values = json.loads(path.read_text("utf-8"))
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _categories(path: Path) -> NDArray[Any]:
    codes = np.load(path)
    strings = np.append(_read_strings(path.with_suffix(".json")), np.array([None], object))
    values: NDArray[Any] = strings[codes]  # code -1 picks the None at the end
    return values
