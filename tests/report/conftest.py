"""Reports of made-up runs, one of each kind, built by the real evaluation."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill.evaluation import evaluate, floors
from gristmill.evaluation.interval import intervals, paired
from gristmill.evaluation.metrics import softmax
from gristmill.report import Candidate, DataView, Finding, Rival, RunReport, Span
from gristmill.task import InputSpec, Target, Task

WASTE = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


def _task(kind: str, target: Target, metric: str) -> dict[str, Any]:
    return Task(
        inputs=(InputSpec(name="image" if kind == "image" else "age", kind=kind),),
        targets=(target,),
        metric=metric,
    ).to_json()  # type: ignore[arg-type]


def thumbnail(color: tuple[int, int, int]) -> str:
    """A small picture as a data address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (96, 72), color).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rival(target: Target, y: Any, mine: Any, other: Any, metric: str, title: str) -> Rival:
    found = intervals(
        (metric, *(("mae",) if target.task == "regression" else ("accuracy",))), y, other, target
    )
    gap = paired(metric, y, mine, other, target)
    return Rival(
        title=title,
        metrics={k: {"value": i.value, "low": i.low, "high": i.high} for k, i in found.items()},
        difference={"value": gap.value, "low": gap.low, "high": gap.high},
    )


def pictures(
    labels: tuple[str, ...] = WASTE,
    *,
    rows: int = 500,
    name: str = "trashnet",
    strength: float = 2.6,
    metric: str = "accuracy",
    **changes: Any,
) -> RunReport:
    """A picture task with a rare class, a confused pair and thumbnails."""
    rng = np.random.default_rng(0)
    k = len(labels)
    share = np.linspace(1.4, 0.25, k)
    y = rng.choice(k, size=rows, p=share / share.sum())
    mean = strength * np.eye(k)[y]
    mean[:, 1 % k] += 1.2 * (y == min(4, k - 1))
    draw = rng.normal(size=(rows, k))
    p, other = softmax(mean + draw), softmax(0.75 * mean + draw + 0.4 * rng.normal(size=(rows, k)))
    target = Target(name="label", task="multiclass" if k > 2 else "binary", labels=labels)
    names = [f"{labels[c]}/{labels[c]}_{i:04d}.jpg" for i, c in enumerate(y)]
    found = evaluate(
        target,
        y,
        p,
        metric=metric,
        names=names,
        floor=floors(y, y, target),
        uncalibrated=softmax(1.7 * np.log(p)),
        threshold=0.55,
        answer_set=0.08,
    )
    shown = [n for c in found.confused for n in c.names]
    values: dict[str, Any] = {
        "title": name,
        "task": _task("image", target, metric),
        "version": "0.1.0",
        "created": "2026-01-31 14:05 UTC",
        "bundle": f"{name}.grist",
        "source": f"{name}/",
        "layout": "A folder with one folder of pictures per class.",
        "rows": 5 * rows,
        "notes": (
            "Pictures are stored with 224 pixels on the longest side.",
            "3 copies of one picture stay in one part.",
        ),
        "parts": {"train": 3 * rows, "valid": rows // 2, "calib": rows // 4, "test": rows},
        "class_counts": {
            label: int(3 * n) for label, n in zip(labels, np.bincount(y, minlength=k), strict=True)
        },
        "evaluation": found.to_json(),
        "valid": evaluate(target, y[: rows // 2], p[: rows // 2], metric=metric, part="valid").to_json(),
        "test_reading": 1,
        "selection_bias": 0.004,
        "traditional": _rival(target, y, p, other, metric, "edges (HOG) + logistic regression"),
        "findings": (
            Finding(
                code="duplicates",
                severity="warning",
                message="14 pictures are exact copies of another.",
                names=tuple(names[:14]),
                count=14,
                advice="Delete the copies, or leave them: they stay together.",
            ),
            Finding(
                code="unreadable",
                severity="warning",
                message="2 pictures cannot be read and were left out.",
                names=("glass/broken.jpg", "paper/empty.png"),
                count=2,
                advice="Save them again or remove them.",
            ),
            Finding(
                code="turned",
                severity="info",
                message="31 pictures carry a turn in their EXIF data; it was applied.",
                names=tuple(names[20:51]),
                count=31,
            ),
        ),
        "ignored": (("notes.txt", "not a picture"), ("Thumbs.db", "not a picture")),
        "leaderboard": (
            Candidate(
                id="a",
                title="EfficientNet-Lite0, fine-tuned, 192 px",
                score=0.79,
                noise=0.018,
                rows_seen=21_000,
                seconds=212,
                weight=0.6,
            ),
            Candidate(
                id="b",
                title="Frozen EfficientNet-Lite0 + logistic regression",
                score=0.77,
                noise=0.019,
                rows_seen=1500,
                seconds=24,
                weight=0.4,
                view="deduplicated",
            ),
            Candidate(
                id="c",
                title="Small network from scratch",
                score=0.61,
                noise=0.022,
                rows_seen=54_000,
                seconds=160,
            ),
            Candidate(
                id="d",
                title="Edges (HOG) + logistic regression",
                score=0.58,
                noise=0.023,
                rows_seen=1500,
                seconds=9,
                role="traditional",
            ),
            Candidate(
                id="e",
                title="EfficientNet-Lite0, fine-tuned, 320 px",
                state="refused",
                reason="its first stage would take 38% of the time left",
            ),
            Candidate(
                id="f",
                title="Small network from scratch, high rate",
                state="diverged",
                reason="the loss became not a number twice",
                score=None,
                seconds=31,
            ),
            Candidate(id="g", title="Most frequent class", score=0.0, noise=0.0, seconds=0.02, role="floor"),
        ),
        "views": (
            DataView(
                name="all",
                description="Every usable training picture.",
                rows=3 * rows,
                score=0.79,
                noise=0.018,
                tried=5,
                chosen=True,
            ),
            DataView(
                name="deduplicated",
                description="One picture of each set of copies.",
                rows=3 * rows - 11,
                score=0.77,
                noise=0.019,
                tried=2,
                chosen=True,
            ),
        ),
        "timeline": (
            Span(name="reading and audit", seconds=9),
            Span(name="preparing", seconds=14),
            Span(name="search", seconds=506),
            Span(name="calibration and export", seconds=21),
            Span(name="final test", seconds=12),
            Span(name="report", seconds=1.2),
        ),
        "spent_s": 563.0,
        "budget_s": 600.0,
        "command": f"gristmill fit {name}/ --time 10m",
        "thumbnails": {n: thumbnail(tuple(int(v) for v in rng.integers(60, 220, 3))) for n in shown},  # type: ignore[arg-type]
        "versions": {
            "Python": "3.12.3",
            "torch": "2.13.0",
            "onnxruntime": "1.32.0",
            "Machine": "2 cores, 24 GiB, no GPU",
        },
        "options": {"metric": metric, "test": None, "from_scratch": False},
    }
    return RunReport(**{**values, **changes})


def table(**changes: Any) -> RunReport:
    """Rows of a table with two classes, few of them."""
    base = pictures(("no", "yes"), rows=90, name="loans", strength=1.3, metric="roc_auc")
    task = _task("number", Target(name="defaulted", task="binary", labels=("no", "yes")), "roc_auc")
    found = {**(base.evaluation or {}), "target": "defaulted"}
    for pair in found["confused"]:
        pair["names"] = [f"loans.csv row {17 + 3 * i}" for i in range(len(pair["names"]))]
    for i, one in enumerate(found["mistakes"]):
        one["name"] = f"loans.csv row {20 + i}"
    values: dict[str, Any] = {
        "title": "loans.csv",
        "task": task,
        "evaluation": found,
        "source": "loans.csv",
        "bundle": "loans.grist",
        "layout": "A table: 90 rows, separator “;”.",
        "thumbnails": {},
        "valid": None,
        "class_counts": {"no": 190, "yes": 26},
        "ignored": (
            ("customer_id", "every value is different, like an id"),
            ("country", "one value only: “DE”"),
        ),
        "findings": (
            Finding(
                code="missing", severity="info", message="“income” is missing in 12 of 450 rows.", count=12
            ),
            Finding(
                code="leakage",
                severity="warning",
                message="“closed_at” alone predicts the target almost perfectly.",
                names=("closed_at",),
                count=1,
                advice="If it is only known afterwards, leave it out with --ignore closed_at.",
            ),
        ),
        "command": "gristmill fit loans.csv --target defaulted --metric roc_auc",
    }
    return replace(base, **{**values, **changes})


def number(**changes: Any) -> RunReport:
    """A regression in euros."""
    rng = np.random.default_rng(1)
    y = np.exp(rng.normal(12.3, 0.45, 800))
    noise = 0.09 + 0.12 * (y > 400_000)
    values, other = y * np.exp(noise * rng.normal(size=800)), y * np.exp(1.25 * noise * rng.normal(size=800))
    target = Target(name="price", task="regression", unit="€")
    names = [f"houses.csv row {i + 2}" for i in range(800)]
    found = evaluate(
        target, y, values, metric="rmse", names=names, floor=floors(y, y, target), answer_set=0.2 * 220_000
    )
    base = pictures()
    made: dict[str, Any] = {
        "title": "houses.csv",
        "task": _task("number", target, "rmse"),
        "evaluation": found.to_json(),
        "valid": None,
        "source": "houses.csv",
        "bundle": "my houses.grist",
        "layout": "A table: 4,000 rows, separator “,”.",
        "rows": 4000,
        "class_counts": {},
        "thumbnails": {},
        "ignored": (("id", "every value is different, like an id"),),
        "findings": (
            Finding(
                code="missing",
                severity="info",
                message="“garage” is missing in 310 of 4,000 rows.",
                count=310,
            ),
        ),
        "parts": {"train": 2480, "valid": 480, "calib": 240, "test": 800},
        "notes": (),
        "views": (),
        "traditional": _rival(target, y, values, other, "rmse", "boosted trees"),
        "leaderboard": (
            Candidate(
                id="a",
                title="Network of residual blocks",
                score=0.71,
                noise=0.02,
                rows_seen=80_000,
                seconds=44,
                weight=0.5,
            ),
            Candidate(
                id="b",
                title="Boosted trees",
                score=0.68,
                noise=0.02,
                rows_seen=2480,
                seconds=3,
                weight=0.5,
                role="traditional",
            ),
            Candidate(id="c", title="Linear regression", score=0.49, noise=0.03, rows_seen=2480, seconds=0.3),
        ),
        "command": "gristmill fit houses.csv --target price --time 2m",
        "spent_s": 118.0,
        "budget_s": 120.0,
        "timeline": (
            Span(name="reading and audit", seconds=1),
            Span(name="search", seconds=103),
            Span(name="finish", seconds=14),
        ),
    }
    return replace(base, **{**made, **changes})


@pytest.fixture(scope="session")
def example() -> SimpleNamespace:
    """The makers of reports, by kind, and the labels of the picture task."""
    return SimpleNamespace(pictures=pictures, table=table, number=number, WASTE=WASTE)
