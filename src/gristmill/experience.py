"""What earlier trainings say about the data at hand, and how the user's own runs come to count among them.

The shipped table holds configurations measured on public data; `fit --remember` adds the user's runs to
a local one. A line of it holds numbers and configurations only: no names, labels or paths; the data are told
apart by a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.data.prepare import Prepared
from gristmill.data.source import Source
from gristmill.models import catalog
from gristmill.run import write_bytes
from gristmill.search import metatable
from gristmill.search.journal import Line
from gristmill.search.metatable import PLANNED, VERSION, Table
from gristmill.segment import Config, config_hash
from gristmill.trials import Record, Work, records

KEPT = 200
"""Runs that the local table keeps, the latest."""


def facts_of(prepared: Prepared) -> dict[str, float]:
    """What makes data alike, in numbers (see `gristmill.search.metatable.DataSet`)."""
    task, parts = prepared.task, prepared.parts
    found = {name: float(len(getattr(parts, name))) for name in ("train", "valid", "calib")}
    found["models"] = 1.0 if parts.folds is None else float(np.max(parts.folds)) + 2.0
    found["classes"] = float(len(task.target.labels)) if task.target.task != "regression" else 0.0
    if not task.has_images:
        return {**found, "columns": float(len(task.inputs))}
    channels, size = catalog.picture(task)
    return {**found, "channels": float(channels), "size": float(size)}


def parent_of(config: Config) -> str:
    """A name for the features that a configuration reads; empty when it reads none."""
    features = catalog.family(config["family"]).features(config)
    return "" if features is None else config_hash(features)


def local_path() -> Path:
    """The local table: in GRISTMILL_CACHE, else in the user's data folder."""
    folder = os.environ.get("GRISTMILL_CACHE")
    if not folder:
        import platformdirs

        folder = platformdirs.user_data_dir("gristmill")
    return Path(folder).absolute() / "metatable.jsonl"


def table(*, counted: bool) -> Table:
    """The shipped table, with the local one where there is any; not with counted segments, which decide
    alike on every machine."""
    return metatable.load() if counted else metatable.extended(local_path())


def remember(lines: Sequence[Line], prepared: Prepared, source: Source, speed: float) -> str:
    """Add a run to the local table, in the place of an earlier state of the same run; returns a sentence
    that says where it lies, or why it could not be written.

    Args:
        lines: The journal of the run.
        speed: Seconds of this machine for a nominal second.
    """
    path, name = local_path(), _hash(source.fingerprint)
    record = {
        "version": VERSION,
        "run": _hash(f"{name} {lines[0].t!r}"),
        "name": name,
        "collection": name,
        "modality": "image" if prepared.task.has_images else "table",
        "facts": facts_of(prepared),
        "runs": list(_runs(records(lines), speed)),
    }
    before = [known for known in metatable.local_lines(path)[0] if known.get("run") != record["run"]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(known) + "\n" for known in (*before, record)[-KEPT:])
        write_bytes(path, text.encode())
    except OSError as error:
        return f"this run could not be remembered: {error}"
    return f"later plans on this machine reckon with this run: {path}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _runs(found: Iterable[Record], speed: float) -> Iterator[list[Any]]:
    """(configuration, parent, features_s, curve) of each candidate that was scored on the unchanged data."""
    found = tuple(found)
    every = {str(w.segment["id"]): w for record in found for w in record.work}
    for record in found:
        scored = [w for w in record.work if w.state == "done" and w.score is not None]
        if record.view != "all" or not scored:
            continue
        one_shot = scored[0].segment["kind"] == "fit"
        before = sum(_seconds(every[p], speed) for p in scored[0].segment["parents"]) if one_shot else 0.0
        curve = [[before + p[1] if i == 1 else v for i, v in enumerate(p)] for p in _curve(scored, speed)]
        config = {k: v for k, v in record.config.items() if k not in PLANNED}
        yield [config, parent_of(config), round(before, 3) if one_shot else None, curve]


def _curve(scored: Iterable[Work], speed: float) -> list[list[float]]:
    """Points ascending in seconds; a rung continues its trunk, a cooldown branches off it."""
    until: dict[str, float] = {}
    points = []
    for work in scored:
        parents = [until[p] for p in work.segment["parents"] if p in until]
        seconds = _seconds(work, speed) + max(parents, default=0.0)
        until[str(work.segment["id"])] = seconds
        noise = work.outcome.get("noise")
        rows, score = work.outcome["rows_seen"], float(work.score or 0.0)
        points.append([rows, round(seconds, 3), round(score, 5), round(noise or 0.0, 5)])
    return sorted(points, key=lambda p: p[1])


def _seconds(work: Work, speed: float) -> float:
    """Nominal seconds of one thread."""
    needs: Mapping[str, Any] = work.segment.get("needs", {})
    return float(work.outcome.get("seconds", 0.0)) * int(needs.get("cpu", 1)) / speed
