"""What a segment leaves behind: safetensors with their description inside, predictions, `outcome.json`.

Every file is written under a temporary name, flushed and renamed, so a kill leaves the old state or the new
one. `outcome.json` comes last: its presence says that the segment is complete, and a repeat returns it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.errors import DataError
from gristmill.segment import Artefact, Outcome, Segment

VERSION = 1
REPEATABLE = ("done", "cut", "diverged")
"""Outcomes that a repeat of the same segment would reach again; the others are tried anew."""

DEPLOYED = "deployed"
"""Role, among the artefacts, of what the deployed model itself says on valid; written with folds only."""

AVERAGED = "average."
"""Prefix of the averaged weights among a checkpoint's tensors."""


@dataclass(frozen=True, kw_only=True)
class Deployable:
    """What export needs of a finished segment.

    `tensors`: for networks the averaged weights by `state_dict` name, for one-shot learners their state.
    `meta`: family, config, preprocessing, views, target (mean and std for regression), shape (tables).
    """

    tensors: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Artefact:
    """Write arrays and a JSON description as one safetensors file, atomically."""
    from safetensors.numpy import save

    text = json.dumps({"version": VERSION, **meta}, allow_nan=False)
    return write(path, save(dict(tensors), metadata={"meta": text}))


def load_tensors(path: Path, sha256: str | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        DataError: if the file is missing, damaged or not the one that was recorded.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or (sha256 is not None and digest(path) != sha256):
        raise DataError(
            "A checkpoint must be the file that its segment wrote.",
            got=path,
            next_step="ask the segment again",
        )
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads(file.metadata()["meta"])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            "A checkpoint must be a safetensors file with a description.",
            got=f"{path}: {error}",
            next_step="ask the segment again",
        ) from None


def save_array(path: Path, array: np.ndarray) -> Artefact:
    """Write one array as .npy, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return write(path, buffer.getvalue())


def load_array(path: Path) -> np.ndarray:
    """Read one .npy array; never a pickle."""
    loaded: np.ndarray = np.load(path, allow_pickle=False)
    return loaded


def deployable(outcome: Outcome, near: Path | None = None) -> Deployable:
    """The deployable part of a finished segment's checkpoint.

    Args:
        near: the segments folder, for a run that was moved since.
    """
    artefact = outcome.artefacts["checkpoint"]
    tensors, meta = load_tensors(locate(artefact, outcome.id, near), artefact.sha256)
    averaged = {k.removeprefix(AVERAGED): v for k, v in tensors.items() if k.startswith(AVERAGED)}
    return Deployable(tensors=averaged or tensors, meta=meta)


def locate(artefact: Artefact, outcome_id: str, near: Path | None = None) -> Path:
    """The file of an artefact: where it was written, else under `near`/`outcome_id` (a moved run)."""
    path = Path(artefact.uri)
    if not path.exists() and near is not None:
        return near / outcome_id / _inside(path, outcome_id)
    return path


def _inside(path: Path, folder: str) -> Path:
    """The part of `path` below the folder of that name; its file name where there is none."""
    parts = path.parts
    if folder not in parts[:-1]:
        return Path(path.name)
    return Path(*parts[len(parts) - parts[::-1].index(folder) :])


def finished(segment: Segment, folder: Path) -> Outcome | None:
    """The outcome of exactly this segment if it is complete and its files are intact, else None."""
    path = folder / "outcome.json"
    try:
        record = json.loads(path.read_text())
        outcome = Outcome.from_json(record["outcome"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if record.get("version") != VERSION or outcome.state not in REPEATABLE:
        return None
    if _key(segment, outcome.state) != record["segment"]:
        return None
    here = {k: Artefact(uri=str(folder.absolute() / _inside(Path(a.uri), folder.name)), sha256=a.sha256)
            for k, a in outcome.artefacts.items()}  # fmt: skip
    if any(not Path(a.uri).is_file() or digest(Path(a.uri)) != a.sha256 for a in here.values()):
        return None
    return replace(outcome, artefacts=here)


def conclude(segment: Segment, folder: Path, outcome: Outcome) -> Outcome:
    """Write `outcome.json`, the last file of a segment, and return the outcome."""
    record = {"version": VERSION, "segment": _key(segment, outcome.state), "outcome": outcome.to_json()}
    write(folder / "outcome.json", json.dumps(record, indent=1, allow_nan=False).encode())
    return outcome


def write(path: Path, data: bytes) -> Artefact:
    """Write bytes under a temporary name in the same folder, flush them to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Artefact(uri=str(path.absolute()), sha256=hashlib.sha256(data).hexdigest())


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(segment: Segment, state: str) -> dict[str, Any]:
    """The segment as it decides the result: the cap only matters where it cut."""
    data = segment.to_json()
    if state != "cut":
        data.pop("cap_s")
    return dict(json.loads(json.dumps(data)))
