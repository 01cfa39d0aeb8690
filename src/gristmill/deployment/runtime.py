"""A bundle in use: load, predict, features. onnxruntime, NumPy and Pillow; no torch.

model = load("photos.grist")
for p in model.predict(["a.jpg", "b.png"]): print(p.input, p.label, p.probabilities, p.abstain, p.error)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gristmill.data.image import PictureError, decode
from gristmill.data.table import parse_rows
from gristmill.deployment import manifest as manifests
from gristmill.deployment.archive import Archive
from gristmill.deployment.intake import Item, items
from gristmill.deployment.manifest import Manifest
from gristmill.deployment.member import Array, Runner
from gristmill.deployment.member import seconds_per_row as seconds_per_row
from gristmill.deployment.prediction import Output as Output
from gristmill.deployment.prediction import Prediction as Prediction
from gristmill.errors import DataError
from gristmill.evaluation.calibrate import apply_temperature, conformal_set
from gristmill.evaluation.ensemble import combine
from gristmill.task import Task

BATCH_PIXELS = 2**18
"""Pixels that the squares of one batch hold: 16 pictures of 128 x 128. Eight times as many took 1,537 MiB
instead of 329 for a bundle of four members, and no less time."""
MOST_PICTURES = 256
BATCH_ROWS = 8192
SMALL_SIDE = 32
"""A picture is decoded to this side when no member looks at it, to tell whether it is readable."""


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Model:
    """Open a bundle, check it and make it ready. The file is not needed afterwards.

    Args:
        threads: Threads that decode and compute; None: all cores this process may use.

    Raises:
        BundleError: damaged, changed since it was made, refused, or in a newer format.
    """
    with Archive(path) as archive:
        return from_archive(archive, threads=threads)


def from_archive(archive: Archive, *, threads: int | None = None) -> Model:
    """The model of an open archive; every member that is used is hashed first."""
    manifest = manifests.read(archive)

    def read(file: str) -> bytes:
        return archive.read_hashed(file, manifest.files[file].sha256)

    return assemble(manifest, read, archive.refused, threads=threads, sha256=archive.digest())


def assemble(
    manifest: Manifest,
    read: Callable[[str], bytes],
    refused: Callable[[str], Any],
    *,
    threads: int | None = None,
    sha256: str = "",
) -> Model:
    """A model from its parts. `read` gives a member file's bytes, `refused` the error for a sentence."""
    count = threads or cores()
    width = manifest.target.width
    runners = [Runner(m, read(m.file), width, count, refused) for m in manifest.members]
    return Model(manifest, runners, count, sha256)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Some items, decoded: of the readable ones `pixels` by (longest, channels) and columns; all errors."""

    items: Sequence[Item]
    errors: Sequence[str | None]
    good: Sequence[int]
    pixels: Mapping[tuple[int, int], Sequence[Array]]
    columns: Mapping[str, Array]


class Model:
    """A bundle, ready to predict. Safe to share between threads. Made by `load`.

    Attributes:
        manifest: Everything the bundle says about itself.
        task: Inputs, targets and metric. sha256: of the file it came from. runners: its loaded members.
        threads: Threads of one call.
    """

    def __init__(self, manifest: Manifest, runners: Sequence[Runner], threads: int, sha256: str = "") -> None:
        self.manifest = manifest
        self.task: Task = manifest.task
        self.threads = threads
        self.sha256 = sha256
        self.runners = tuple(runners)
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 and self.task.has_images else None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the first target in the order of the outputs; empty for regression."""
        return self.manifest.target.labels

    @property
    def has_features(self) -> bool:
        """Whether `features` works."""
        return any(r.has_features for r in self.runners)

    def predict(self, inputs: Any) -> list[Prediction]:
        """Predict; one `Prediction` per input, in order. A bad input gets an error and stops nothing.

        Args:
            inputs: One or several of: path of a picture, folder of pictures or CSV; bytes of a picture file;
                PIL picture; uint8 array (H, W[, C]); mapping of columns; pandas or polars frame. Mixed too.
        """
        found: list[Prediction] = []
        for batch in self._batches(items(inputs, self.task)):
            found.extend(self._predictions(batch))
        return found

    def logits(self, inputs: Any) -> Array:
        """What the ensemble says before calibration, for evaluation: log-probabilities float32 (n, K); for
        regression values (n, 1) in the target's unit. A row that cannot be read is NaN."""
        width = self.manifest.target.width
        return self._rows(inputs, lambda b: self._combined(b), width)

    def outputs(self, inputs: Any) -> Array:
        """Calibrated probabilities float32 (n, K), or values (n, 1). A row that cannot be read is NaN."""
        width = self.manifest.target.width
        return self._rows(inputs, lambda b: self.calibrated(self._combined(b)), width)

    def features(self, inputs: Any) -> Array:
        """Features float32 (n, d) of the heaviest member that has some, for search or clustering.

        A row that cannot be read is NaN.

        Raises:
            DataError: if no member of the bundle has features.
        """
        able = [r for r in self.runners if r.has_features]
        if not able:
            raise DataError(
                "Only bundles with a network or a features model have features.",
                got=", ".join(r.member.family or "?" for r in self.runners),
                next_step="use predict",
            )
        chosen = max(able, key=lambda r: r.member.weight)
        return self._rows(inputs, lambda b: chosen.features(self._arrays(chosen, b)), None)

    def calibrated(self, combined: Array) -> Array:
        """Probabilities of combined log-probabilities; values as they are."""
        if self.manifest.target.task == "regression":
            return combined
        return np.exp(apply_temperature(combined, self.manifest.target.calibration.temperature))

    def warm_up(self) -> None:
        """Run every member once, so that the first request is as fast as the others."""
        if self.task.has_images:
            self.outputs([np.zeros((SMALL_SIDE, SMALL_SIDE), np.uint8)])
        else:
            self.outputs([{}])

    # -------------------------------------------------------------- inside

    def _rows(self, inputs: Any, compute: Callable[[_Batch], Array], width: int | None) -> Array:
        parts = []
        for batch in self._batches(items(inputs, self.task)):
            values = compute(batch)
            full = np.full((len(batch.items), values.shape[1]), np.nan, np.float32)
            full[batch.good] = values
            parts.append(full)
        return np.concatenate(parts) if parts else np.zeros((0, width or 0), np.float32)

    def _batches(self, every: Sequence[Item]) -> Iterator[_Batch]:
        size = BATCH_ROWS
        if self.task.has_images:
            side = max((r.picture.size for r in self.runners if r.picture), default=SMALL_SIDE)
            size = min(MOST_PICTURES, max(1, BATCH_PIXELS // side**2))
        for start in range(0, len(every), size):
            yield self._read(every[start : start + size])

    def _read(self, batch: Sequence[Item]) -> _Batch:
        """Decode every picture once per size that members want, parse every row."""
        columns, errors = parse_rows([i.row for i in batch], self.task.inputs)
        errors = [item.error or error for item, error in zip(batch, errors, strict=True)]
        pixels: dict[tuple[int, int], list[Array]] = {}
        if self.task.has_images:
            wanted = sorted({(r.picture.longest, r.picture.channels) for r in self.runners if r.picture})
            wanted = wanted or [(SMALL_SIDE, 3)]
            decoded = list(self._map(partial(_decoded, wanted), batch, errors))
            errors = [error for _, error in decoded]
            for i, size in enumerate(wanted):
                pixels[size] = [found[i] for found, error in decoded if error is None]
        good = [i for i, error in enumerate(errors) if error is None]
        columns = {name: values[good] for name, values in columns.items()}
        return _Batch(items=batch, errors=errors, good=good, pixels=pixels, columns=columns)

    def _map(self, work: Callable[..., Any], *columns: Sequence[Any]) -> Iterable[Any]:
        return map(work, *columns) if self._pool is None else self._pool.map(work, *columns)

    def _arrays(self, runner: Runner, batch: _Batch) -> dict[str, Array]:
        picture = runner.picture
        pixels = batch.pixels[picture.longest, picture.channels] if picture else ()
        return runner.arrays(pixels, batch.columns, len(batch.good))

    def _combined(self, batch: _Batch) -> Array:
        """Weighted mean of the members on the readable items, as `evaluation.combine` gives it."""
        if not batch.good:
            return np.zeros((0, self.manifest.target.width), np.float32)
        outputs = [r.run(self._arrays(r, batch)) for r in self.runners]
        weights = [r.member.weight for r in self.runners]
        combined = combine(outputs, weights, self.task.target)
        # `combine` makes a broken member harmless while searching; in a bundle it must be seen
        broken = ~np.all([np.isfinite(o).all(axis=1) for o in outputs], axis=0)
        combined[broken] = np.nan
        return combined

    def _predictions(self, batch: _Batch) -> list[Prediction]:
        values = self.calibrated(self._combined(batch))
        sets = self._sets(values)
        by_item = dict(zip(batch.good, range(len(values)), strict=True))
        found = []
        for i, item in enumerate(batch.items):
            error = batch.errors[i]
            if error is None and not np.isfinite(values[by_item[i]]).all():
                error = "the model gave no finite answer"
            if error is not None:
                found.append(Prediction(input=item.name, error=error))
                continue
            row = by_item[i]
            inside = None if sets is None else sets[row]
            output = self._output(values[row], inside)
            found.append(Prediction(input=item.name, outputs={self.task.target.name: output}))
        return found

    def _sets(self, values: Array) -> Array | None:
        least = self.manifest.target.calibration.least
        if least is None or self.manifest.target.task == "regression" or not len(values):
            return None
        return conformal_set(values, least)

    def _output(self, values: Array, inside: Array | None) -> Output:
        target, calibration = self.manifest.target, self.manifest.target.calibration
        if target.task == "regression":
            value, width = float(values[0]), calibration.half_width
            interval = None if width is None else (value - width, value + width)
            return Output(task=target.task, value=value, interval=interval)
        order = np.argsort(-values, kind="stable").tolist()
        return Output(
            task=target.task,
            value=target.labels[order[0]],
            probabilities={target.labels[i]: float(values[i]) for i in order},
            abstain=calibration.threshold is not None and float(values[order[0]]) < calibration.threshold,
            labels=None if inside is None else tuple(target.labels[i] for i in order if inside[i]),
        )


def _decoded(
    wanted: Sequence[tuple[int, int]], item: Item, error: str | None
) -> tuple[list[Array], str | None]:
    """The pixels of one picture at every size wanted, or why there are none."""
    if error is not None:
        return [], error
    if item.picture is None:
        return [], "there is no picture"
    try:
        # The user's own files are read as in training (GIF and TIFF too); bytes that were sent are not.
        own = isinstance(item.picture, os.PathLike)
        return [decode(item.picture, longest=s, channels=c, importing=own).pixels for s, c in wanted], None
    except PictureError as refusal:
        return [], refusal.reason
