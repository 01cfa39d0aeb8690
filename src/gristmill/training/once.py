"""Learners that need one shot: the constant, linear models, trees; and the features of frozen backbones."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill import device
from gristmill.errors import DataError, UsageError
from gristmill.evaluation import metrics
from gristmill.models.catalog import family, picture
from gristmill.segment import Outcome, Segment
from gristmill.training import checkpoint, outcomes
from gristmill.training.objective import Scale, scale_of, standardised
from gristmill.training.pace import CLOSING_S, Pace

if TYPE_CHECKING:
    from gristmill.data import Prepared, Store
    from gristmill.data.table import CategoryCoding, NumberScaling

FEATURES_BATCH_PIXELS = 2**18
"""Pixels per batch when features are extracted: 16 pictures of 128 x 128; 64 take 1.02 times as long
and, with the lower half of mbconv, 280 MiB more."""

ENCODINGS: Mapping[str, tuple[NumberScaling, CategoryCoding]] = {
    "linear": ("standard", "onehot"),
    "trees": ("raw", "codes"),
}
"""How numbers and categories of a table are encoded for a family."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a one-shot learner reads: training rows, then the rows it is evaluated on (valid, calib)."""

    train: np.ndarray
    evaluated: np.ndarray
    meta: Mapping[str, Any]
    kept: np.ndarray | None = None
    """Which rows of the view `train` has, bool; None: all (features may have been cut short)."""


def fit_once(
    segment: Segment, prepared: Prepared, folder: Path, parents: Mapping[str, Outcome], *, threads: int
) -> Outcome:
    """Fit a one-shot learner on a view and predict valid and calib.

    The state (see the learner's module; `constant`: `bias` (K,) of log shares, or zero) is saved as the
    checkpoint, with everything that export and deployment need in its description.

    Raises:
        DataError: if a parent's features do not cover the rows.
    """
    known = checkpoint.finished(segment, folder)
    if known is not None:
        return known
    pace = Pace(segment.cap_s)
    device.threads(threads)
    view, target = prepared.view(segment.view), prepared.task.target
    columns = _columns(segment, prepared, folder, parents)
    kept = np.ones(len(view.rows), bool) if columns.kept is None else columns.kept
    values = np.asarray(prepared.targets[target.name])[view.rows[kept]]
    scale = scale_of(values) if target.task == "regression" else None
    y = values if scale is None else standardised(values, scale)
    weights = None if view.weights is None else view.weights[kept]
    startup = pace.seconds
    state, outputs = _fitted(segment, prepared, columns, y, weights, pace, threads)
    return checkpoint.conclude(
        segment,
        folder,
        _outcome(segment, prepared, folder, (state, outputs), columns.meta, scale, pace, startup),
    )


def extract(
    segment: Segment, prepared: Prepared, folder: Path, *, threads: int, halvings: int = 0
) -> Outcome:
    """Features of a frozen backbone for the rows valid, calib, train (see `featured_rows`; no test row).

    `segment.from_rows` and `to_rows` (0: the end) choose a slice of that list; the artefact `features` is
    float16 (n, d). Cut by its cap it keeps the rows done: `facts["to_rows"]` says up to where. It is refused
    at once when two timed batches show that less than half would fit.
    """
    known = checkpoint.finished(segment, folder)
    if known is not None:
        return known
    from gristmill.models import features

    pace = Pace(segment.cap_s)
    backbone, side = str(segment.config["backbone"]), int(segment.config["resolution"])
    channels, _ = picture(prepared.task)
    rows = featured_rows(prepared)[segment.from_rows : segment.to_rows or None]
    size = max(1, FEATURES_BATCH_PIXELS // side**2 >> halvings)
    store, name = prepared.store(), _picture_name(prepared)
    batches = (_squares(store, name, rows[i : i + size], side) for i in range(0, len(rows), size))
    pace.begin()
    done: list[np.ndarray] = []
    path, mirror = features.backbone_onnx(backbone, side, channels), bool(segment.config.get("mirror"))
    for part in features.extract(path, batches, threads, mirror=mirror):
        done.append(part.astype(np.float16))
        count = sum(len(d) for d in done)
        pace.tick(count)
        left = pace.cap_s - pace.seconds - CLOSING_S
        if len(done) == 3 and (len(rows) - count) * pace.seconds_per_row > 2 * max(0.0, left):
            done = []
            break
        if size * pace.seconds_per_row > left:
            break
    return checkpoint.conclude(segment, folder, _extracted(segment, folder, done, len(rows), pace))


def featured_rows(prepared: Prepared) -> np.ndarray:
    """The rows whose features are extracted, in order: valid, calib, then train in a seeded random order.

    So features that were cut short still serve: every judged row is there, and an even share of training.
    With folds every row is judged: all of them once, ascending, the same for the model of every fold.
    """
    parts = prepared.parts
    if parts.folds is not None:
        return np.unique(np.concatenate([parts.train, parts.valid, parts.calib]).astype(np.int64))
    shuffled = np.random.default_rng(0).permutation(parts.train)
    return np.concatenate([parts.valid, parts.calib, shuffled]).astype(np.int64)


def _squares(store: Store, name: str, rows: np.ndarray, side: int) -> np.ndarray:
    """Pictures of some rows as squares, made for this one pass: kept ones would only fill disk and memory."""
    from gristmill.data.image import squares

    stored = store.gather(rows, [name])
    return squares(stored[name], stored[f"{name}.box"], side, "squash")


def _extracted(segment: Segment, folder: Path, done: list[np.ndarray], wanted: int, pace: Pace) -> Outcome:
    count = sum(len(d) for d in done)
    artefacts = (
        {"features": checkpoint.save_array(folder / "features.npy", np.concatenate(done))} if done else {}
    )
    short = f"{count} of {wanted} rows fitted under the cap of {pace.cap_s:.1f} s"
    return Outcome(
        id=segment.id,
        state="done" if count == wanted else "cut",
        reason="" if count == wanted else short,
        seconds=pace.seconds,
        rows_seen=segment.from_rows + count,
        peak_memory=outcomes.peak_memory(),
        artefacts=artefacts,
        facts={
            "seconds_per_row": pace.seconds_per_row or (pace.seconds - pace.startup_s) / max(1, count),
            "startup_s": pace.startup_s,
            "from_rows": segment.from_rows,
            "to_rows": segment.from_rows + count,
            "width": int(done[0].shape[1]) if done else 0,
        },
    )


def _columns(segment: Segment, prepared: Prepared, folder: Path, parents: Mapping[str, Outcome]) -> Columns:
    name = segment.config["family"]
    if name == "constant":
        nothing = np.zeros((prepared.store().rows, 0), np.float32)
        return _of_table(nothing, prepared, segment.view, {"preprocessing": {}})
    if name == "features":
        return _of_features(segment, prepared, folder, parents)
    if name not in ENCODINGS:
        raise UsageError("This family is not fitted in one shot.", got=name, next_step="use kind train")
    from gristmill.data import TableEncoder

    numbers, categories = ENCODINGS[name]
    store, task = prepared.store(), prepared.task
    table = store.gather(np.arange(store.rows))
    encoder = TableEncoder.fit(
        table, task.inputs, prepared.view(segment.view).rows, numbers=numbers, categories=categories
    )
    encoded, codes = encoder.transform(table)
    meta = {
        "inputs": [i.name for i in task.inputs],
        "preprocessing": {"table": encoder.to_json()},
        "shape": {"numbers": int(encoded.shape[1]), "cardinalities": [int(c) for c in encoder.cardinalities]},
    }
    full = np.concatenate([encoded, codes.astype(np.float32)], axis=1) if codes.shape[1] else encoded
    return _of_table(full, prepared, segment.view, meta)


def _of_table(full: np.ndarray, prepared: Prepared, view: str, meta: Mapping[str, Any]) -> Columns:
    evaluated = np.concatenate([prepared.parts.valid, prepared.parts.calib]).astype(np.int64)
    return Columns(train=full[prepared.view(view).rows], evaluated=full[evaluated], meta=meta)


def _of_features(
    segment: Segment, prepared: Prepared, folder: Path, parents: Mapping[str, Outcome]
) -> Columns:
    """Features of the evaluated rows and of those of the view that were reached, joined from all slices."""
    slices = sorted(
        (o for o in parents.values() if "features" in o.artefacts),
        key=lambda o: int(o.facts.get("from_rows", 0)),
    )
    arrays = [
        checkpoint.load_array(checkpoint.locate(o.artefacts["features"], o.id, folder.parent)) for o in slices
    ]
    every = featured_rows(prepared)
    reached = sum(len(a) for a in arrays)
    position = np.full(int(every.max()) + 1, -1)
    position[every[:reached]] = np.arange(reached)
    judged = position[np.concatenate([prepared.parts.valid, prepared.parts.calib]).astype(np.int64)]
    rows = position[prepared.view(segment.view).rows]
    kept = rows >= 0
    if (judged < 0).any() or not kept.any():
        raise DataError(
            "The features of all valid and calib rows and of some training rows are needed.",
            got=f"{reached} of {len(every)} rows",
            next_step="extract the missing slices first",
        )
    joined = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    chosen = family("features").features(segment.config) or {}
    channels, longest = picture(prepared.task)
    side = int(chosen["resolution"])
    image = {"longest": longest, "channels": channels, "size": side, "how": "squash"}
    meta = {
        "inputs": [_picture_name(prepared)],
        "backbone": chosen["backbone"],
        "resolution": side,
        "preprocessing": {"image": image},
        "views": ["identity", "mirror"] if chosen.get("mirror") else ["identity"],
    }
    return Columns(
        train=joined[rows[kept]].astype(np.float32),
        evaluated=joined[judged].astype(np.float32),
        meta=meta,
        kept=kept,
    )


def _picture_name(prepared: Prepared) -> str:
    return str(next(i.name for i in prepared.task.inputs if i.kind == "image"))


def _fitted(
    segment: Segment,
    prepared: Prepared,
    columns: Columns,
    y: np.ndarray,
    weights: np.ndarray | None,
    pace: Pace,
    threads: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The learner's state, and its outputs (n, K) on the evaluated rows."""
    name, task = segment.config["family"], prepared.task
    if name == "constant":
        state = _constant(y, prepared)
        return state, np.tile(state["bias"], (len(columns.evaluated), 1))
    learner: Any = importlib.import_module(f"gristmill.models.{_module(segment.config)}")
    team = {"threads": threads} if name == "trees" else {}  # the linear learner follows torch's threads
    left = pace.cap_s - pace.seconds - CLOSING_S
    state = learner.fit(
        columns.train, y, weights, task, segment.config, segment.seed, seconds=max(0.1, left), **team
    )
    return state, learner.logits(state, columns.evaluated)


def _module(config: Mapping[str, Any]) -> str:
    """The file in `gristmill.models` that fits a configuration."""
    if config["family"] == "features":
        return "perceptron" if family("features").get(config, "head") == "mlp" else "linear"
    return "trees" if config["family"] == "trees" else "linear"


def _constant(y: np.ndarray, prepared: Prepared) -> dict[str, np.ndarray]:
    target = prepared.task.target
    if target.task == "regression":
        return {"bias": np.zeros(1, np.float32)}
    shares = metrics.constant_outputs(y, 1, target)[0]
    return {"bias": np.log(shares).astype(np.float32)}


def _outcome(
    segment: Segment,
    prepared: Prepared,
    folder: Path,
    fitted: tuple[dict[str, np.ndarray], np.ndarray],
    meta: Mapping[str, Any],
    scale: Scale | None,
    pace: Pace,
    startup: float,
) -> Outcome:
    state, outputs = fitted
    rows = len(prepared.view(segment.view).rows)
    score, noise = outcomes.scored(prepared, outputs, scale)
    described = {
        "family": segment.config["family"],
        "config": dict(segment.config),
        "views": ["identity"],
        "target": {} if scale is None else {"mean": scale.mean, "std": scale.std},
        "parameters": int(sum(v.size for v in state.values())),
        "rows_seen": rows,
        "seed": segment.seed,
        **meta,
    }
    artefacts = {
        "predictions": outcomes.saved_predictions(folder, outputs, scale),
        "checkpoint": checkpoint.save_tensors(folder / "checkpoint.safetensors", state, described),
    }
    facts = {
        "seconds_per_row": (pace.seconds - startup) / max(1, rows),
        "startup_s": startup,
        "views": described["views"],
        "target": described["target"],
        "parameters": described["parameters"],
        **({"strength": float(state["strength"])} if "strength" in state else {}),
    }
    return Outcome(
        id=segment.id,
        state="done",
        score=score,
        noise=noise,
        seconds=pace.seconds,
        rows_seen=rows,
        peak_memory=outcomes.peak_memory(),
        artefacts=artefacts,
        facts=facts,
    )
