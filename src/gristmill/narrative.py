"""From what a run knows to the one record that the report shows."""

from __future__ import annotations

import base64
import io
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import gristmill
from gristmill import packages, planning
from gristmill.data.audit import Audit
from gristmill.data.prepare import Prepared
from gristmill.data.source import Source
from gristmill.evaluation.metrics import metric
from gristmill.evaluation.records import Evaluation
from gristmill.evaluation.selection import selection_bias
from gristmill.models import catalog
from gristmill.report import Candidate, DataView, Finding, Prospect, Rival, RunReport, Span
from gristmill.search.journal import Line
from gristmill.search.ledger import Trial
from gristmill.search.outlook import outlook
from gristmill.search.study import Study

LIBRARIES = ("torch", "onnxruntime", "numpy", "scikit-learn", "pillow")
THUMBNAIL = 128
"""Side in pixels of the pictures shown beside a confusion."""
_SHORTEST_COURSE = 4
"""Times at which a better score than the floor's was known; fewer say nothing about more time."""
SHOWN_NAMES = 200
"""Names per finding that a report lists; the audit's record keeps all."""


def candidates(study: Study, weights: Mapping[str, float], reading_s: float = 0.0) -> tuple[Candidate, ...]:
    """The leaderboard as the report and `gristmill runs show` print it; `weights` by outcome id.

    Args:
        reading_s: Seconds to read one input, a part of every latency.
    """
    return tuple(_candidate(study, trial, weights, reading_s) for trial in study.trials)


def _candidate(study: Study, trial: Trial, weights: Mapping[str, float], reading_s: float) -> Candidate:
    state = {"idle": "done", "waiting": "refused"}.get(trial.state, trial.state)
    if trial.state == "stopped":
        state = "done" if trial.score is not None else trial.reason.split(" ")[0].rstrip(":")
    facts = {} if trial.outcome is None else study.outcome(str(trial.outcome)).facts
    known = ("done", "cut", "failed", "oom", "diverged", "lost", "refused", "running")
    return Candidate(
        id=str(trial.outcome or trial.number),
        title=planning.title(trial.config, trial.repeat),
        state=state if state in known else "failed",
        reason=trial.reason,
        score=trial.score,
        noise=trial.noise,
        rows_seen=trial.rows,
        seconds=round(trial.seconds, 2),
        view=trial.view,
        weight=float(weights.get(str(trial.outcome), 0.0)),
        role=catalog.role(trial.config),
        settings=dict(trial.config),
        latency_ms=round(1e3 * (facts["latency_s"] + reading_s), 2) if "latency_s" in facts else None,
        size_mb=round(facts["bytes"] / 1e6, 3) if "bytes" in facts else None,
    )


def views(prepared: Prepared, board: Sequence[Candidate]) -> tuple[DataView, ...]:
    """The ledger of data views: what each keeps, how often it was tried, what its best candidate scored."""
    rows = []
    for name, view in prepared.views.items():
        mine = [c for c in board if c.view == name and c.role != "floor"]
        best = max((c for c in mine if c.score is not None), key=lambda c: c.score or 0.0, default=None)
        rows.append(
            DataView(
                name=name,
                description=view.description,
                rows=len(view.rows),
                tried=len(mine),
                score=best.score if best else None,
                noise=best.noise if best else None,
                chosen=any(c.weight > 0 for c in mine),
            )
        )
    return tuple(rows)


def tell(
    *,
    source: Source,
    prepared: Prepared,
    audit: Audit,
    study: Study,
    weights: Mapping[str, float],
    outputs: Mapping[str, np.ndarray],
    evaluation: Evaluation,
    valid: Evaluation | None,
    rival: Rival | None,
    reading: int,
    output: Path,
    spent: float,
    budget: float | None,
    state: str,
    timeline: Iterable[tuple[str, float]],
    seed: int,
    options: Mapping[str, Any],
    notes: Sequence[str],
    lines: Iterable[Line] = (),
    reading_s: float = 0.0,
) -> RunReport:
    """The report's record. `outputs`: answers on valid of every candidate, for the selection bias. `lines`:
    the journal, for what more time would buy. `reading_s`: seconds to read one input."""
    task, parts = prepared.task, prepared.parts
    target = task.target
    board = candidates(study, weights, reading_s)
    y_valid = np.asarray(prepared.targets[target.name])[parts.valid]
    labels = target.labels if target.task != "regression" else ()
    return RunReport(
        title=Path(source.origin).name or source.origin,
        task=task.to_json(),
        version=gristmill.__version__,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        bundle=output.name,
        place=str(output.parent),
        program=packages.program(),
        source=source.origin,
        layout=source.layout,
        rows=source.rows,
        notes=(*source.notes, *parts.notes, *notes),
        ignored=source.ignored,
        parts={name: len(getattr(parts, name)) for name in ("train", "valid", "calib", "test")},
        folds=0 if parts.folds is None else int(parts.folds.max()) + 1,
        class_counts={label: int(n) for label, n in zip(labels, prepared.class_counts, strict=False)},
        evaluation=evaluation.to_json(),
        valid=None if valid is None else valid.to_json(),
        test_reading=reading,
        selection_bias=selection_bias(outputs, y_valid, task.metric, target) if outputs else None,
        traditional=rival,
        findings=tuple(
            Finding(
                code=f.code,
                severity=f.severity,
                message=f.message,
                names=tuple(f.names[:SHOWN_NAMES]),
                count=f.count,
                advice=f.advice,
            )
            for f in audit.findings
        ),
        leaderboard=board,
        views=views(prepared, board),
        timeline=tuple(Span(name=name, seconds=round(seconds, 2)) for name, seconds in timeline),
        spent_s=round(spent, 1),
        budget_s=budget,
        prospects=() if budget is None else prospects(lines, evaluation, spent),
        state=state,
        thumbnails=thumbnails(prepared, evaluation),
        command=_command(),
        seed=seed,
        options=options,
        versions=versions(),
    )


def prospects(lines: Iterable[Line], evaluation: Evaluation, spent: float) -> tuple[Prospect, ...]:
    """What more time is expected to do to the deciding metric; nothing when the search was hardly one."""
    course, best = list[tuple[float, float]](), float("-inf")
    for line in lines:
        if line.kind == "outcome" and line.data.get("score") is not None:
            best = max(best, float(line.data["score"]))
        elif line.kind == "clock" and best > 0.0:
            course.append((float(line.data["spent"]), best))
    if len(course) < _SHORTEST_COURSE:
        return ()
    now, perfect = evaluation.score.value, metric(evaluation.metric).perfect

    def reached(left: float) -> float:
        return perfect - left * (perfect - now)

    return tuple(
        Prospect(
            seconds=round(o.factor * spent),
            value=reached(o.middle),
            low=reached(o.most),
            high=reached(o.least),
        )
        for o in outlook(course, course[-1][0])
    )


def thumbnails(prepared: Prepared, evaluation: Evaluation) -> dict[str, str]:
    """Small JPEG addresses by row name, for the rows that the evaluation names."""
    if not prepared.task.has_images:
        return {}
    wanted = {n for c in evaluation.confused for n in c.names} | {m.name for m in evaluation.mistakes}
    rows = [i for i, name in enumerate(prepared.names) if name in wanted]
    image = next(i.name for i in prepared.task.inputs if i.kind == "image")
    stored = prepared.store().gather(np.asarray(rows, dtype=np.int64)) if rows else {}
    shown = {}
    for k, row in enumerate(rows):
        height, width = stored[f"{image}.box"][k]
        shown[prepared.names[row]] = _address(stored[image][k][:height, :width])
    return shown


def _address(pixels: np.ndarray) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if max(picture.size) > THUMBNAIL:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results, and the machine."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "cores": str(planning.cores())}


def _command() -> str:
    import shlex

    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    if name in ("gristmill", "__main__.py"):
        return f"{packages.program()} " + " ".join(shlex.quote(a) for a in sys.argv[1:])
    return "gristmill.fit(...)"
