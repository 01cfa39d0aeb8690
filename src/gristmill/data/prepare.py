"""STEP 1, the second half: read every row once into the store, then write down what training needs.

scan     Source -> Scan: the store, and facts per row (hashes, sizes, brightness, errors) for the audit.
prepare  Source, Scan, Audit, Parts -> Prepared: the task, parts, targets and views in one folder of the run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gristmill.data import image
from gristmill.data._cache import cache_root, disk_errors_told, in_order, replace_file, room, write_text
from gristmill.data.image import PictureError
from gristmill.data.store import CHUNK_BYTES, STORE_VERSION, Store, StoreWriter, write_array
from gristmill.errors import DataError
from gristmill.task import InputSpec, Task

if TYPE_CHECKING:
    from gristmill.data.audit import Audit
    from gristmill.data.source import Source
    from gristmill.data.split import Parts, View

PREPARED_VERSION = 2
_PARTS = ("train", "valid", "calib", "test")
WITH_VALID = "+valid"
Progress = Callable[[int, int], None]
_HEADERS_PER_CHUNK = 256
_MOST_ROWS_PER_CHUNK = 64
_LOOKED_AT = 48  # pictures read to know how long all of them take
_BESIDE_BYTES = 400  # facts, box and hash of a picture, beside its pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Every row read once. `reused`: it was all in the cache already.

    `facts` holds one array per fact, a value per row. Always: `sha` (object of str: sha256 of the picture
    file or of the row's values; "" if unreadable) and `error` (object of str | None: why the row cannot be
    read).
    With pictures also: `dhash` uint64; `width`, `height` int32, of the original after the EXIF turn, 0 if
    unreadable; `mode`, `format` (object of str, as in the file whatever its name says); `turned` and
    `animated` bool (EXIF asked for a turn; the first of several frames was taken); `mean`, `std` float32 in
    grey levels from 0 to 255.
    """

    store: Store
    facts: Mapping[str, NDArray[Any]]
    reused: bool


def scan(
    source: Source,
    *,
    longest: int = 224,
    cache: str | Path | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> Scan:
    """Read every row of `source` once into a store in the cache, and measure it.

    Pictures are decoded in parallel with their longest side at most `longest` pixels. A first pass over the
    headers decides whether the store is grey (only when every picture is) and its size. An unreadable picture
    is no reason to stop: its row is empty and `facts["error"]` says why. Unchanged data are found again by
    their fingerprint, and nothing is read. A kill at any moment leaves nothing half-written.

    Args:
        source: What `read` or `from_arrays` found.
        longest: Longest side of a stored picture in pixels.
        cache: The cache folder; default: GRISTMILL_CACHE, else the user's cache folder.
        threads: Parallel decoders.
        progress: Called with (rows done, rows in all), from this thread.

    Raises:
        ResourceError: if the store would take more than half of the free disk, or the disk fills up.
    """
    root = cache_root(cache)
    remembered = root / "index" / f"{_question(source, longest)}.json"
    found = _reuse(root, remembered)
    if found is not None:
        return found
    fresh = _scan_anew(source, longest, root, threads, progress or (lambda done, total: None))
    with disk_errors_told(root):
        write_text(remembered, json.dumps({"version": STORE_VERSION, "store": fresh.store.key}))
    return fresh


@dataclass(frozen=True, kw_only=True)
class Outlay:
    """What reading a picture of a source takes: `seconds` of one core, and `side`, the longest in pixels of
    those looked at. `room`: bytes that a new store may have. `known`: it is all in the cache already."""

    seconds: float
    side: int
    room: int
    known: bool

    def bytes(self, longest: int) -> int:
        """Of one picture in the store, its longest side at most `longest` pixels."""
        return 3 * min(longest, self.side) ** 2 + _BESIDE_BYTES


def outlay(source: Source, longest: int, *, cache: str | Path | None = None) -> Outlay:
    """Read a few dozen pictures, drawn evenly, and say what they took."""
    root = cache_root(cache)
    known = (root / "index" / f"{_question(source, longest)}.json").exists()
    name = next(i.name for i in source.task.inputs if i.kind == "image")
    count = 0 if known else min(source.rows, _LOOKED_AT)
    chosen = np.unique(np.linspace(0, source.rows - 1, count).astype(int))
    began, side = time.perf_counter(), 1
    for i in chosen:
        try:
            content, _ = _content(source.inputs[name][i])
            decoded = image.decode(content, longest=longest, channels=3, importing=True)
        except PictureError:
            continue
        image.measure([decoded.pixels])
        side = max(side, decoded.width, decoded.height)
    seconds = (time.perf_counter() - began) / max(1, len(chosen))
    return Outlay(seconds=seconds, side=side, room=room(root / "stores"), known=known)


def _reuse(root: Path, remembered: Path) -> Scan | None:
    try:
        key = json.loads(remembered.read_text("utf-8"))["store"]
        store = Store.open(root / "stores" / key)
        facts = store.facts()
    except (OSError, ValueError, KeyError, DataError):
        return None
    # A file that could not be read may have become readable without changing its fingerprint.
    return None if "" in facts["sha"].tolist() else Scan(store=store, facts=facts, reused=True)


def _scan_anew(source: Source, longest: int, root: Path, threads: int, progress: Progress) -> Scan:
    specs = _specs(source, longest, threads)
    facts: dict[str, NDArray[Any]] = {}
    shas: list[NDArray[Any]] = []
    with StoreWriter(root, specs, source.rows) as writer:
        for spec in specs:
            values = source.inputs[spec.name]
            if spec.kind == "image":
                reader = _Pictures(values, spec, threads, progress)
                with closing(reader.blocks()) as blocks:  # ends its threads whatever happens
                    writer.pictures(spec.name, blocks)
                facts |= reader.facts()
                shas.append(facts["sha"])
            else:
                writer.column(spec.name, values)
        plain = [i for i in specs if i.kind != "image"]
        if plain:
            shas.append(_row_hashes([source.inputs[i.name] for i in plain]))
        facts["sha"] = shas[0] if len(shas) == 1 else _joined(shas)
        facts.setdefault("error", np.full(source.rows, None, object))
        writer.facts(facts)
        store = writer.commit(_store_key(facts["sha"], specs))
    return Scan(store=store, facts=facts, reused=False)


def _specs(source: Source, longest: int, threads: int) -> tuple[InputSpec, ...]:
    """The inputs, each picture input with the channels and size of its store."""
    specs = []
    for spec in source.task.inputs:
        if spec.kind == "image":
            channels, size = _survey(source.inputs[spec.name], longest, threads)
            spec = replace(spec, spec={"channels": channels, "size": size})
        specs.append(spec)
    return tuple(specs)


def _survey(pictures: NDArray[Any], longest: int, threads: int) -> tuple[int, int]:
    """Channels (1 when all readable headers are grey) and the longest side, from the headers alone."""

    def work(start: int) -> tuple[bool, int]:
        grey, side = True, 0
        for source in pictures[start : start + _HEADERS_PER_CHUNK]:
            try:
                about = image.header(source, importing=True)
            except PictureError:
                continue
            grey, side = grey and about.grey, max(side, about.width, about.height)
        return grey, side

    all_grey, most = True, 0
    with closing(in_order(work, range(0, len(pictures), _HEADERS_PER_CHUNK), threads)) as seen:
        for grey, side in seen:
            all_grey, most = all_grey and grey, max(most, side)
            if not all_grey and most >= longest:
                break  # the rest cannot change the answer
    return (1 if most and all_grey else 3), max(1, min(longest, most))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Some neighbouring rows: padded pixels, their boxes, and the facts of each."""

    pixels: image.Pixels
    boxes: NDArray[np.int32]
    facts: dict[str, NDArray[Any]]


class _Pictures:
    """Decodes the pictures of one input, block by block in parallel, and gathers their facts on the way."""

    def __init__(self, sources: NDArray[Any], spec: InputSpec, threads: int, progress: Progress) -> None:
        self._sources = sources
        self._side, self._channels = spec.spec["size"], spec.spec["channels"]
        self._threads = threads
        self._progress = progress
        self._facts: list[dict[str, NDArray[Any]]] = []
        self._step = max(1, min(_MOST_ROWS_PER_CHUNK, CHUNK_BYTES // (self._side**2 * self._channels)))

    def blocks(self) -> Generator[tuple[image.Pixels, NDArray[np.int32]], None, None]:
        """Yield (pixels, boxes) of the rows in order."""
        total = len(self._sources)
        for start, block in zip(
            range(0, total, self._step),
            in_order(self._read, range(0, total, self._step), self._threads),
            strict=True,
        ):
            self._facts.append(block.facts)
            self._progress(min(start + self._step, total), total)
            yield block.pixels, block.boxes

    def facts(self) -> dict[str, NDArray[Any]]:
        """The facts of all rows, after the last block."""
        if not self._facts:
            return _blank_facts(0)
        return {name: np.concatenate([f[name] for f in self._facts]) for name in self._facts[0]}

    def _read(self, start: int) -> _Block:
        sources = self._sources[start : start + self._step]
        n = len(sources)
        pixels = np.zeros((n, self._side, self._side, self._channels), np.uint8)
        boxes = np.zeros((n, 2), np.int32)
        facts = _blank_facts(n)
        good: list[int] = []
        for i, source in enumerate(sources):
            try:
                data, facts["sha"][i] = _content(source)
                decoded = image.decode(data, longest=self._side, channels=self._channels, importing=True)
            except PictureError as error:
                facts["error"][i] = error.reason
                continue
            good.append(i)
            boxes[i] = height, width = decoded.pixels.shape[:2]
            pixels[i, :height, :width] = decoded.pixels
            for name in ("width", "height", "mode", "format", "turned", "animated"):
                facts[name][i] = getattr(decoded, name)
        measured = image.measure([pixels[i, : boxes[i, 0], : boxes[i, 1]] for i in good])
        for name, values in measured.items():
            facts[name][good] = values
        return _Block(pixels=pixels, boxes=boxes, facts=facts)


def _blank_facts(rows: int) -> dict[str, NDArray[Any]]:
    """Facts of unreadable pictures."""
    return {
        "sha": np.full(rows, "", object),
        "error": np.full(rows, None, object),
        "dhash": np.zeros(rows, np.uint64),
        "width": np.zeros(rows, np.int32),
        "height": np.zeros(rows, np.int32),
        "mode": np.full(rows, "", object),
        "format": np.full(rows, "", object),
        "turned": np.zeros(rows, bool),
        "animated": np.zeros(rows, bool),
        "mean": np.zeros(rows, np.float32),
        "std": np.zeros(rows, np.float32),
    }


def _content(source: Any) -> tuple[Any, str]:
    """What to decode, and the hash of its content: a file is read once for both."""
    if isinstance(source, np.ndarray):
        head = f"{source.dtype.str} {source.shape} ".encode()
        return source, hashlib.sha256(head + source.tobytes()).hexdigest()
    if hasattr(source, "tobytes"):  # a PIL picture
        image.header(source)  # refuses pixel bombs before their pixels are touched
        try:
            head = f"{source.mode} {source.size} ".encode()
            return source, hashlib.sha256(head + source.tobytes()).hexdigest()
        except OSError as error:
            raise PictureError(f"damaged picture ({error})") from error
    data = image.read_file(source)
    return data, hashlib.sha256(data).hexdigest()


def _row_hashes(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """sha256 of each row's values: equal rows have equal hashes whatever the column order of files was."""
    numbers = [c for c in columns if c.dtype != object]
    words = [c for c in columns if c.dtype == object]
    rows = len(columns[0])
    # + 0.0 makes one zero of two; every NaN becomes the same one.
    matrix = np.array(numbers, np.float64).reshape(len(numbers), rows).T + 0.0
    matrix[np.isnan(matrix)] = np.nan
    out = np.empty(rows, object)
    texts = zip(*(c.tolist() for c in words), strict=True) if words else iter([()] * rows)
    for i, text in enumerate(texts):
        cells = "\x1f".join("\x1e" if t is None else str(t) for t in text)
        digest = hashlib.sha256(matrix[i].tobytes() + cells.encode("utf-8", "surrogatepass"))
        out[i] = digest.hexdigest()
    return out


def _joined(shas: list[NDArray[Any]]) -> NDArray[Any]:
    """One hash of a row's several inputs; "" if one of them is unreadable."""
    out = np.empty(len(shas[0]), object)
    for i, parts in enumerate(zip(*(s.tolist() for s in shas), strict=True)):
        out[i] = hashlib.sha256(" ".join(parts).encode()).hexdigest() if all(parts) else ""
    return out


def _question(source: Source, longest: int) -> str:
    """Name of what is asked of the cache: these rows of these inputs of data with this fingerprint."""
    rows = hashlib.sha256("\0".join(source.names).encode("utf-8", "surrogatepass"))
    for spec in source.task.inputs:
        if spec.kind == "image":
            paths = (str(v) for v in source.inputs[spec.name].tolist() if isinstance(v, (str, Path)))
            rows.update("\0".join(paths).encode("utf-8", "surrogatepass"))
    asked = {
        "fingerprint": source.fingerprint,
        "rows": rows.hexdigest(),
        "inputs": [(i.name, i.kind) for i in source.task.inputs],
        "longest": longest,
        **_preparation(),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _store_key(shas: NDArray[Any], specs: tuple[InputSpec, ...]) -> str:
    """Hash of the content of all rows in order, and of how each input was prepared."""
    made = {"inputs": [(i.name, i.kind, dict(i.spec)) for i in specs], **_preparation()}
    content = "\n".join([json.dumps(made, sort_keys=True), *shas.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _preparation() -> dict[str, Any]:
    """What changes the pixels of a store besides its files: our format, and Pillow's decoders."""
    import PIL

    return {"version": STORE_VERSION, "pillow": PIL.__version__}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What training reads: everything of the data but the model.

    `task`: each picture input's spec holds {"channels", "size"} of its store. `store_uri`: address of the
    store. `parts`: row ids of train, valid, calib and test. `targets`: all rows, int64 codes (-1: no label)
    or float64 (NaN: no value). `views`: training rows to learn from, by name. `names`: how messages name a
    row.
    """

    task: Task
    store_uri: str
    parts: Parts
    targets: Mapping[str, NDArray[Any]]
    views: Mapping[str, View]
    names: tuple[str, ...]

    @staticmethod
    def open(folder: str | Path) -> Prepared:
        """Read what `prepare` wrote.

        Raises:
            DataError: if it is not there, or damaged.
        """
        folder = Path(folder)
        try:
            return _read_prepared(folder, json.loads((folder / "prepared.json").read_text("utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                "The run folder must hold the prepared data.",
                got=f"{folder} ({error})",
                next_step="run the same command again with --fresh",
            ) from error

    def store(self) -> Store:
        """Open the store, keeping it from being evicted while the result lives.

        Raises:
            DataError: if it is no longer in the cache.
        """
        return Store.open(self.store_uri)

    def batch_targets(self, rows: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """The targets of some rows, by name."""
        return {name: values[rows] for name, values in self.targets.items()}

    def view(self, name: str) -> View:
        """The view called `name`; `NAME+valid` is the view with all validation rows added.

        The latter is for fitting a chosen one-shot learner once more, when nothing is left to choose.
        """
        view = self.views[name.removesuffix(WITH_VALID)]
        if not name.endswith(WITH_VALID):
            return view
        weights = view.weights
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(self.parts.valid), weights.dtype)])
        rows = np.concatenate([view.rows, self.parts.valid])
        from gristmill.data.split import view as make_view

        return make_view(name, rows, f"{view.description}, and the validation rows", weights)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Training rows per label of the first target, int64 (K,); empty for regression."""
        target = self.task.target
        if target.task == "regression":
            return np.zeros(0, np.int64)
        codes = self.targets[target.name][self.parts.train]
        return np.bincount(codes[codes >= 0], minlength=len(target.labels)).astype(np.int64)


def prepare(source: Source, scan: Scan, audit: Audit, parts: Parts, folder: str | Path) -> Prepared:
    """Write what training needs into `folder`; done when `prepared.json` appears, which happens last.

    Raises:
        ResourceError: if the disk is full.
    """
    from gristmill.data.split import views

    folder = Path(folder)
    known = {i.name: i for i in scan.store.inputs}
    prepared = Prepared(
        task=replace(source.task, inputs=tuple(known[i.name] for i in source.task.inputs)),
        store_uri=scan.store.uri,
        parts=parts,
        targets=source.targets,
        views=views(source, audit, parts),
        names=source.names,
    )
    with disk_errors_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        description = _write_arrays(prepared, folder)
        write_text(folder / "prepared.json", json.dumps(description))
    _remove_older(folder, json.dumps(description))
    return prepared


def _write_arrays(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Write every array to a file of its own; the description that names them all."""
    parts, views = prepared.parts, prepared.views
    return {
        "version": PREPARED_VERSION,
        "task": prepared.task.to_json(),
        "store": prepared.store_uri,
        "parts": {p: _save_array(folder, p, getattr(parts, p)) for p in _PARTS},
        "folds": None if parts.folds is None else _save_array(folder, "folds", parts.folds),
        "notes": list(parts.notes),
        "targets": {n: _save_array(folder, "target", v) for n, v in prepared.targets.items()},
        "views": [
            {
                "name": v.name,
                "rows": _save_array(folder, "view", v.rows),
                "weights": None if v.weights is None else _save_array(folder, "weights", v.weights),
                "description": v.description,
                "hash": v.hash,
            }
            for v in views.values()
        ],
        "names": list(prepared.names),
    }


def _read_prepared(folder: Path, data: Mapping[str, Any]) -> Prepared:
    from gristmill.data.split import Parts, View

    if data["version"] > PREPARED_VERSION:
        raise ValueError(f"version {data['version']} is newer than this program")

    def array(name: str) -> NDArray[Any]:
        return np.asarray(np.load(folder / name))

    views = [
        View(
            name=v["name"],
            rows=array(v["rows"]),
            weights=None if v["weights"] is None else array(v["weights"]),
            description=v["description"],
            hash=v["hash"],
        )
        for v in data["views"]
    ]
    return Prepared(
        task=Task.from_json(data["task"]),
        store_uri=data["store"],
        parts=Parts(
            **{p: array(data["parts"][p]) for p in _PARTS},
            notes=tuple(data["notes"]),
            folds=array(data["folds"]) if data.get("folds") else None,
        ),
        targets={name: array(file) for name, file in data["targets"].items()},
        views={v.name: v for v in views},
        names=tuple(data["names"]),
    )


def _save_array(folder: Path, name: str, values: NDArray[Any]) -> str:
    """Save under a name that holds the content's hash, so that files of two versions never mix."""
    content = np.ascontiguousarray(values)
    digest = hashlib.sha256(content.dtype.str.encode() + content.tobytes()).hexdigest()[:12]
    path = folder / f"{name}.{digest}.npy"
    if not path.exists():
        with replace_file(path) as temporary:
            write_array(temporary, content.shape, content.dtype, [content])
    return path.name


def _remove_older(folder: Path, description: str) -> None:
    for path in folder.glob("*.npy"):
        if path.name not in description:
            path.unlink(missing_ok=True)
