"""Looking back: a bundle on new data, the report of a run or bundle, the candidates of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.data.judging import read_to_judge
from gristmill.deployment import bundle as bundles
from gristmill.deployment import runtime
from gristmill.errors import UsageError
from gristmill.evaluation.evaluate import evaluate
from gristmill.evaluation.metrics import floors
from gristmill.report import RunReport, render
from gristmill.run import check_folder, read_json, write_bytes


def score(bundle: str | os.PathLike[str], path: Any) -> dict[str, Any]:
    """The evaluation of a bundle on new labelled data, what could not be read, and what was scored.

    Raises:
        DataError: if the data lack the target or an input, or hold labels that the bundle does not know.
    """
    model = runtime.load(bundle)
    source = read_to_judge(path, model.task)
    target = model.task.target
    y = source.targets[target.name]
    rows = np.flatnonzero(source.labelled)
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
    return {"evaluation": found, "unreadable": bad, "notes": source.notes}


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
