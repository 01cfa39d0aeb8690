"""Looking back: a bundle on new data, the report of a run or bundle, the candidates of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gristmill import data
from gristmill.data.source import Source
from gristmill.deployment import bundle as bundles
from gristmill.deployment import runtime
from gristmill.errors import DataError, UsageError
from gristmill.evaluation.evaluate import evaluate
from gristmill.evaluation.metrics import floors
from gristmill.report import RunReport, render
from gristmill.run import check_folder, read_json, write_bytes


def score(bundle: str | os.PathLike[str], path: Any) -> dict[str, Any]:
    """The evaluation of a bundle on new labelled data, and what could not be read.

    Raises:
        DataError: if the data lack the target, or hold labels that the bundle does not know.
    """
    model = runtime.load(bundle)
    source = _read(model, path)
    target = model.task.target
    y = (
        _codes(source, target.labels)
        if target.task != "regression"
        else np.asarray(next(iter(source.targets.values())))
    )
    rows = np.flatnonzero(np.isfinite(y) if target.task == "regression" else y >= 0)
    given = source.originals(rows, [i.name for i in model.task.inputs])
    raw = model.logits(given)
    readable = np.isfinite(raw).all(axis=1)
    outputs = model.calibrated(raw[readable])
    calibration = model.manifest.target.calibration
    found = evaluate(
        target,
        y[rows[readable]],
        outputs,
        metric=model.task.metric,
        part="new data",
        names=source.names,
        rows=rows[readable],
        floor=_floor(model, y[rows[readable]]),
        threshold=calibration.threshold,
        answer_set=calibration.least if target.task != "regression" else calibration.half_width,
    )
    why = model.predict([given[i] for i in np.flatnonzero(~readable)])
    bad = tuple((source.names[i], p.error) for i, p in zip(rows[~readable], why, strict=True))
    return {"evaluation": found, "unreadable": bad}


def _read(model: runtime.Model, path: Any) -> Source:
    """New data in the shape of the training data: the same target and inputs.

    Raises:
        DataError: if a column of the training data is missing.
    """
    try:
        return _as_trained(model, path)
    except UsageError as error:  # about options that the user never gave
        target, inputs = model.task.target, model.task.inputs
        raise DataError(
            "New data must hold the target and the inputs that the model was trained on.",
            got=error.got,
            next_step=f"name the target {target.name}, and the inputs {', '.join(i.name for i in inputs)}",
        ) from None


def _as_trained(model: runtime.Model, path: Any) -> Source:
    target, inputs = model.task.target, model.task.inputs
    task = "regression" if target.task == "regression" else "multiclass"  # a third class is told by its name
    if model.task.has_images:
        is_table = isinstance(path, (str, os.PathLike)) and Path(path).is_file()
        return data.read(path, target=target.name if is_table else None, task=task, group="none")
    names = ",".join(i.name for i in inputs)
    return data.read(path, target=target.name, inputs=names, task=task)


def _codes(source: Source, labels: Sequence[str]) -> np.ndarray:
    """Label codes of the bundle for the labels of the new data."""
    given = source.task.target.labels
    unknown = sorted(set(given) - set(labels))
    if unknown:
        raise DataError(
            "New data may only hold labels that the model knows.",
            got=", ".join(unknown[:5]),
            next_step=f"the model knows {', '.join(labels[:10])}",
        )
    table = np.asarray([labels.index(label) for label in given] + [-1])
    codes = np.asarray(next(iter(source.targets.values())))
    return np.asarray(table[codes])


def _floor(model: runtime.Model, y: np.ndarray) -> Mapping[str, float]:
    """Metrics of the training majority on these rows; unknown for regression (no training mean is kept)."""
    target = model.task.target
    counts = model.manifest.reference.get("classes", {})
    if target.task == "regression" or not counts:
        return {}
    most = np.repeat(np.arange(len(target.labels)), [int(counts.get(label, 0)) for label in target.labels])
    return floors(most, y, target)


def write_report(path: Path, out: Path | None) -> Path:
    """Write the report of a run folder or bundle as one HTML file; returns its path.

    Raises:
        UsageError: if `path` is neither, the run has no report yet, or none can be written at `out`.
    """
    if out is not None:
        check_folder(out)
        if out.is_dir():
            raise UsageError("A report is one file.", got=out, next_step=f"use --out {out / 'report.html'}")
    if path.is_dir():
        record = path / "report.json"
        if not (path / "run.json").exists():
            raise UsageError(
                "The path must be a run folder or a .grist file.", got=path, next_step="gristmill runs"
            )
        if not record.exists():
            raise UsageError(
                "A run must be finished to have a report.",
                got=path,
                next_step="the same fit command goes on with it",
            )
        page = render(RunReport.from_json(read_json(record)))
        target = out or path / "report.html"
    elif path.is_file():
        page = bundles.read_text(path, "report.html")
        target = out or path.with_suffix(".html")
    else:
        raise UsageError(
            "The path must be a run folder or a .grist file.", got=path, next_step="gristmill runs"
        )
    write_bytes(target, page.encode())
    return target


def leaderboard(run: Path) -> Sequence[Mapping[str, Any]]:
    """The candidates of a finished run, best first.

    Raises:
        UsageError: if it is no run folder, or the run is not finished.
    """
    if not (run / "run.json").exists():
        raise UsageError("A run folder must hold run.json.", got=run, next_step="gristmill runs")
    if not (run / "result.json").exists():
        raise UsageError(
            "The run must be finished.", got=run, next_step="the same fit command goes on with it"
        )
    rows: list[dict[str, Any]] = read_json(run / "result.json")["leaderboard"]
    return sorted(rows, key=lambda r: -(r["score"] if r["score"] is not None else -9e9))
