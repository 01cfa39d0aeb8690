"""What to do next: concrete, most useful first, with the command where there is one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gristmill.report.doubts import FEW_TO_LEARN, FEW_TO_TEST
from gristmill.report.record import RunReport
from gristmill.report.text import (
    amount,
    duration,
    listed,
    percent,
    plural,
    quoted,
    short,
    time_option,
    visible,
)
from gristmill.report.words import is_regression, measured, noun, span

GOOD_RECALL = 0.8


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do. `command` can be copied into a terminal as it is."""

    title: str
    text: str
    command: str = ""


def improving(report: RunReport) -> list[Step]:
    """What would make the model better."""
    steps = [Step(title="Said by the run", text=text) for text in report.advice]
    found = report.evaluation
    if found is not None:
        made = (
            _mend(report),
            _needy(report, found),
            _look(report, found),
            _hard_values(found),
            _longer(report),
        )
        return [*steps, *(s for s in made if s)]
    return [
        *steps,
        _longer(report) or Step(title="Run it again", text="The same command with a larger --time."),
    ]


def _mend(report: RunReport) -> Step | None:
    told = [f for f in report.findings if f.severity in ("warning", "error") and f.advice]
    if not told:
        return None
    return Step(
        title="Mend the data", text=" ".join(f"{short(f.advice, 200).rstrip('.')}." for f in told[:3])
    )


def _needy(report: RunReport, found: Mapping[str, Any]) -> Step | None:
    """Classes that are found badly or seldom seen; the weakest first."""
    weak = [
        c for c in found.get("per_class", ())
        if (c["recall"] is not None and c["recall"] < GOOD_RECALL and c["n"] >= FEW_TO_TEST)
        or report.class_counts.get(c["label"], FEW_TO_LEARN) < FEW_TO_LEARN
    ]  # fmt: skip
    if not weak:
        return None
    weak.sort(key=lambda c: 1.0 if c["recall"] is None else c["recall"])
    pieces = [_state_of(report, c) for c in weak[:3]]
    names, what = [quoted(c["label"]) for c in weak], noun(report)
    return Step(
        title=f"Add {what}s of " + (listed(names) if len(weak) <= 3 else "the weakest classes"),
        text=f"{'; '.join(pieces)}. Twice as many of a weak class often help more than a longer search.",
    )


def _state_of(report: RunReport, one: Mapping[str, Any]) -> str:
    has = report.class_counts.get(one["label"])
    learnt = f"{plural(has, noun(report))} to learn from" if has is not None else ""
    found = f"{percent(one['recall'])} found" if one["recall"] is not None and one["n"] >= FEW_TO_TEST else ""
    return f"{quoted(one['label'])}: {', '.join(filter(None, (learnt, found)))}"


def _look(report: RunReport, found: Mapping[str, Any]) -> Step | None:
    pairs = found.get("confused", ())
    if not pairs or pairs[0]["count"] < 2:
        return None
    worst = pairs[0]
    return Step(
        title=f"Look at {quoted(worst['true'])} taken for {quoted(worst['predicted'])}",
        text=f"It is the most frequent mistake ({plural(worst['count'], noun(report))}). If labels are "
        "wrong, correct them and run again. If even you cannot tell them apart, the model will not either.",
    )


def _hard_values(found: Mapping[str, Any]) -> Step | None:
    errors = found.get("residuals")
    if not errors or len(errors["slices"]) < 2:
        return None
    worst = max(errors["slices"], key=lambda s: s["mae"])
    if worst["mae"] < 1.3 * found["metrics"]["mae"]["value"]:
        return None
    unit = found.get("unit")
    return Step(
        title=f"Add rows between {amount(worst['low'])} and {amount(worst['high'], unit)}",
        text=f"The error is largest there: {amount(worst['mae'], unit)} on average.",
    )


def _longer(report: RunReport) -> Step | None:
    if not report.budget_s or not report.command:
        return None
    longer = time_option(2 * report.budget_s)
    text = f"The same command with --time {longer} goes on where this run ended; nothing is trained twice."
    return Step(title="Or give it more time", text=f"{text} {_expected(report)}".strip())


def _expected(report: RunReport) -> str:
    found = report.evaluation
    if found is None or not report.prospects:
        return ""
    name, unit = found["metric"], found.get("unit")
    pieces = [
        f"about {measured(name, p.value, unit)} ({span(name, min(p.low, p.high), max(p.low, p.high), unit)}) "
        f"after {duration(p.seconds)} in all"
        for p in report.prospects
    ]
    return (
        f"By the course of this search its {name.replace('_', ' ')} would become {listed(pieces)}: "
        "an estimate from how other searches (simulated ones, on tables) went on, right in 8 of 10 of them."
    )


def using(report: RunReport) -> list[Step]:
    """How the model is used; empty when there is none."""
    if not report.bundle or report.evaluation is None:
        return []
    program = visible(report.program)
    name = shlex.quote(visible(str(PurePath(report.place, report.bundle))))
    name = f"./{name}" if name.startswith("-") else name  # or the command takes it for an option
    new = "new_pictures/" if report.has_pictures else "new_rows.csv"
    known = "labelled_pictures/" if report.has_pictures else "labelled_rows.csv"
    answer = (
        "one number and its range" if is_regression(report) else "a label, its probability and “I don’t know”"
    )
    drop = "drop a picture on" if report.has_pictures else "fill in a row on"
    return [
        Step(
            title="Use it",
            text=f"For each {noun(report)}: {answer}.",
            command=f"{program} predict {name} {new}",
        ),
        Step(
            title="Serve it",
            text=f"An HTTP address for programs, and a page to {drop}.",
            command=f"{program} serve {name}",
        ),
        Step(
            title="Check it on newer data",
            text="The same figures on data with known answers.",
            command=f"{program} evaluate {name} {known}",
        ),
    ]
