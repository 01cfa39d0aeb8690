"""RunReport -> one HTML file. What it shows is gathered here; how it looks is in page.html and style.css."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from gristmill.report import charts, doubts, steps, words
from gristmill.report.record import Candidate, Finding, RunReport
from gristmill.report.text import amount, duration, percent, picture, plural, quoted, short, visible

MATRIX_CLASSES = 15
"""Most classes of a confusion matrix; with more, only the most confused pairs are readable."""
SHOWN_ROWS = 20
"""Lines of a long table that are open at once; the rest unfolds."""
SHOWN_NAMES, SHOWN_PAIRS = 8, 4
UNFINISHED = {
    "failed": "failed",
    "oom": "out of memory",
    "diverged": "diverged",
    "lost": "worker lost",
    "refused": "not tried",
    "cut": "cut short",
    "running": "not finished",
}  # fmt: skip


NOTHING: dict[str, Any] = {
    "n": 0,
    "unit": None,
    "labels": (),
    "metrics": {},
    "floor": {},
    "per_class": (),
    "confusion": (),
    "confused": (),
    "mistakes": (),
    "calibration": None,
    "abstention": (),
    "at_threshold": None,
    "sets": None,
    "residuals": None,
}
"""What stands for the parts that an evaluation does not have, or for having none."""


def render(report: RunReport | Mapping[str, Any]) -> str:
    """The report as one HTML page: no script, nothing loaded from elsewhere, every user string escaped.

    Args:
        report: A `RunReport`, or what its `to_json` gave.
    """
    if not isinstance(report, RunReport):
        report = RunReport.from_json(report)
    if report.evaluation is not None:
        report = replace(report, evaluation={**NOTHING, **report.evaluation})
    return _template().render(**_page(report))


def _page(report: RunReport) -> dict[str, Any]:
    found = report.evaluation or {**NOTHING, "metric": "accuracy"}
    return {
        "r": report,
        "e": found,
        "noun": words.noun(report),
        "regression": words.is_regression(report),
        "target": words.target_of(report)["name"],
        "headline": words.headline(report),
        "subline": words.subline(report),
        "dots": _dots(report),
        "ranked": found["metric"] == "roc_auc",
        "done": words.done(report),
        "bars": charts.comparison(words.bars(report), found["metric"]),
        "metric_rows": _metric_rows(report),
        "doubts": doubts.doubts(report),
        "always": doubts.always(report),
        "improving": steps.improving(report),
        "using": steps.using(report),
        "findings": sorted(report.findings, key=_gravity),
        "classes": _classes(report),
        "heat": _heat(found),
        "pairs": _pairs(report),
        "mistakes": [m | {"thumbnail": _thumbnail(report, m["name"])} for m in found.get("mistakes", ())],
        "board": _board(report),
        "tradeoffs": _tradeoffs(report),
        "views": sorted(report.views, key=lambda v: -1.0 if v.score is None else v.score, reverse=True),
        "spans": [(s.name, s.seconds) for s in report.timeline if s.seconds > 0],
        "charts": _charts(found),
    }


def _gravity(finding: Finding) -> int:
    return {"error": 0, "warning": 1}.get(finding.severity, 2)


def _dots(report: RunReport) -> Markup | None:
    found = report.evaluation
    if found is None or words.is_regression(report):
        return None
    right = found["metrics"][words.share_of(found)]
    return charts.dots(right["value"], right["low"], right["high"])


def _metric_rows(report: RunReport) -> list[dict[str, str]]:
    found = report.evaluation or {}
    unit, rows = found.get("unit"), []
    rival = report.traditional.metrics if report.traditional else {}
    for name, value in found.get("metrics", {}).items():
        low = found.get("floor", {}).get(name)
        rows.append(
            {
                "title": words.TITLES.get(name, name),
                "meaning": words.MEANINGS.get(name, ""),
                "decides": name == found["metric"],
                "mine": words.measured(name, value["value"], unit),
                "span": words.span(name, value["low"], value["high"], unit),
                "rival": words.measured(name, rival[name]["value"], unit) if name in rival else "",
                "floor": "" if low is None else words.measured(name, low, unit),
            }
        )
    return rows


def _classes(report: RunReport) -> list[dict[str, Any]]:
    """Rows of the class table, the worst found first."""
    rows = [
        {**c, "learnt": report.class_counts.get(c["label"]), "bar": charts.recall_bar(c)}
        for c in (report.evaluation or {}).get("per_class", ())
    ]
    return sorted(rows, key=lambda c: 2.0 if c["recall"] is None else c["recall"])


def _heat(found: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of the confusion matrix: label, rows of the class, cells with shade 0..0.7 and kind."""
    labels = found.get("labels", ())
    if not found.get("confusion") or len(labels) > MATRIX_CLASSES:
        return None
    counts = [[0] * len(labels) for _ in labels]
    for true, said, n in found["confusion"]:
        counts[true][said] = n
    return [
        {"label": labels[i], "n": sum(row), "cells": [_cell(i == j, n, sum(row)) for j, n in enumerate(row)]}
        for i, row in enumerate(counts)
    ]


def _cell(right: bool, n: int, total: int) -> dict[str, Any]:
    share = n / total if total else 0.0
    # a tenth of a class gone wrong must be seen at a glance, so mistakes darken faster than right answers
    shade = 0.08 + 0.6 * share if right else min(0.7, 0.12 + 1.1 * share)
    style = f"background-color: rgba(var(--{'heat' if right else 'fault'}), {shade:.2f})" if n else ""
    return {"n": n, "style": style, "share": percent(share)}


def _pairs(report: RunReport) -> list[dict[str, Any]]:
    pairs = []
    for pair in (report.evaluation or {}).get("confused", ()):
        named = list(zip(pair["names"], pair.get("confidences", ()), strict=False))
        shown = [{"name": n, "sure": percent(c), "address": _thumbnail(report, n)} for n, c in named]
        pairs.append({**pair, "pictures": [s for s in shown if s["address"]], "rows": shown})
    return pairs


def _thumbnail(report: RunReport, name: str) -> str | None:
    return picture(report.thumbnails[name]) if name in report.thumbnails else None


def _board(report: RunReport) -> list[Candidate]:
    """Candidates: the finished by score, then the others."""
    return sorted(
        report.leaderboard,
        key=lambda c: (c.state != "done", c.score is None, -(c.score or 0.0), c.seconds, c.id),
    )


def _tradeoffs(report: RunReport) -> list[Candidate]:
    """Candidates that no other beats or equals in score, latency and size at once, best first; nothing
    when there is but one."""
    known = [c for c in _board(report) if None not in (c.score, c.latency_ms, c.size_mb)]

    def needs(c: Candidate) -> tuple[float, float, float]:
        return (-(c.score or 0.0), c.latency_ms or 0.0, c.size_mb or 0.0)

    def beaten(c: Candidate) -> bool:
        return any(
            needs(o) != needs(c) and all(x <= y for x, y in zip(needs(o), needs(c), strict=True))
            for o in known
        )

    kept = {needs(c): c for c in reversed(known) if not beaten(c)}
    chosen = sorted(kept.values(), key=needs)
    return chosen if len(chosen) > 1 else []


def _charts(found: Mapping[str, Any]) -> dict[str, Markup | None]:
    """The charts there is something to draw for; empty when there is none at all."""
    unit, trust, errors = found.get("unit"), found.get("calibration"), found.get("residuals")
    curve = found.get("abstention") or ()
    made = {
        "calibration": charts.calibration(trust["bins"]) if trust and trust["bins"] else None,
        "abstention": charts.abstention(curve, found.get("at_threshold")) if len(curve) > 1 else None,
        "scatter": charts.scatter(errors["points"], unit) if errors and errors["points"] else None,
        "histogram": charts.histogram(errors["edges"], errors["counts"], unit) if errors else None,
    }
    return made if any(made.values()) else {}


def _safe(value: Any) -> Any:
    """Every value the page prints passes here, then through escaping: nothing invisible, no missing word."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else visible(value) if isinstance(value, str) else value


@lru_cache(maxsize=1)
def _template() -> Template:
    folder = files("gristmill.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_safe
    )
    environment.globals.update(
        style=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),  # ours, no user text in it
        SHOWN_ROWS=SHOWN_ROWS,
        SHOWN_NAMES=SHOWN_NAMES,
        SHOWN_PAIRS=SHOWN_PAIRS,
        UNFINISHED=UNFINISHED,
        timeline=charts.timeline,
    )
    environment.filters.update(
        percent=percent,
        amount=amount,
        duration=duration,
        plural=plural,
        short=short,
        quoted=quoted,
        number=lambda text: amount(float(text), digits=6),
    )
    return environment.from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
