"""What to doubt: each function looks for one reason not to believe the score, and says it in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.report.record import RunReport
from gristmill.report.text import amount, listed, percent, plural, quoted, short
from gristmill.report.words import beats_guess, direction, guess, is_regression, measured, noun

FEW_TO_LEARN, FEW_TO_TEST, SMALL_TEST = 30, 10, 100
"""Training rows, test rows of a class, and rows of a whole test part below which figures say little."""
WEAK_RECALL = 0.5
LOOSE_CONFIDENCE = 0.05
"""Expected calibration error from which a stated confidence is off by more than people expect."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One reason for doubt. `level`: bad, warn or note."""

    level: Literal["bad", "warn", "note"]
    title: str
    text: str


Check = Callable[[RunReport, Mapping[str, Any]], Doubt | None]


def doubts(report: RunReport) -> list[Doubt]:
    """All reasons for doubt, the gravest first."""
    found = [Doubt(level="warn", title="Said by the run", text=t) for t in report.doubts]
    if report.state != "finished":
        found.append(
            Doubt(
                level="note",
                title="The run was stopped early",
                text="This is the best model at that moment. The same command goes on where it stopped.",
            )
        )
    if report.evaluation is not None:
        found += [d for d in (check(report, report.evaluation) for check in CHECKS) if d]
    order = {"bad": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda d: order[d.level])


def _worthless(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    beats = beats_guess(found)
    if beats is False:
        return Doubt(
            level="bad",
            title="It does not beat guessing",
            text=f"{_first(guess(report))} does as well. The inputs may hold "
            "no information about the target, or there are too few examples to find it.",
        )
    if beats is None and found["metric"] in found.get("floor", {}):
        return Doubt(
            level="bad",
            title="It may be no better than guessing",
            text=f"On {plural(found['n'], noun(report))}, the gain over {guess(report)} is within chance.",
        )
    return None


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _majority(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    """The deciding figure is fine, yet plain guessing is right more often: unequal classes."""
    mine, floor = found["metrics"].get("accuracy"), found.get("floor", {}).get("accuracy")
    if mine is None or floor is None or found["metric"] == "accuracy" or mine["value"] >= floor:
        return None
    if beats_guess(found) is False:
        return None
    return Doubt(
        level="warn",
        title="Guessing is right more often",
        text=f"{_first(guess(report))} is right for {percent(floor)}, this model for "
        f"{percent(mine['value'])}: the classes are of very unequal size. It was made for another figure "
        f"({found['metric']}) and finds the rarer classes, at the price of false alarms.",
    )


def _traditional(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    rival = report.traditional
    if rival is None or rival.difference is None or rival.difference["low"] > 0:
        return None
    if rival.difference["high"] < 0:
        return Doubt(
            level="bad",
            title="The traditional model is better",
            text=f"{short(rival.title)} scores higher on the same {noun(report)}s, by more than chance.",
        )
    return Doubt(
        level="note",
        title="Not clearly better than a traditional model",
        text=f"The difference to {short(rival.title)} is within chance on these {noun(report)}s.",
    )


def _readings(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    if found["part"] != "test":
        bias = report.selection_bias
        size = f" Expect about {_points(found, bias)} less." if bias else ""
        return Doubt(
            level="warn",
            title=f"The {noun(report)}s that tested it also chose it",
            text=f"The best of many candidates always looks a little better than it is.{size}",
        )
    if report.test_reading > 1:
        return Doubt(
            level="warn",
            title=f"The test {noun(report)}s were read {report.test_reading} times",
            text="Each look that leads to a change makes the score flatter. New test data would settle it.",
        )
    return None


def _points(found: Mapping[str, Any], size: float) -> str:
    name = found["metric"]
    return f"{amount(100 * size)} points" if direction(name) > 0 else amount(size, found.get("unit"))


def _small_test(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    if found["n"] >= SMALL_TEST:
        return None
    return Doubt(
        level="warn",
        title=f"Only {plural(found['n'], noun(report))} to test on",
        text="The true score may lie anywhere in the interval. More test data would narrow it.",
    )


def _shrinking(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    name = found["metric"]
    if report.valid is None or found["part"] != "test" or name not in report.valid["metrics"]:
        return None
    here, there = found["metrics"][name], report.valid["metrics"][name]
    error = math.hypot(here["high"] - here["low"], there["high"] - there["low"]) / 3.92
    gap = direction(name) * (there["value"] - here["value"])
    if abs(gap) <= 2.0 * error:
        return None
    unit = found.get("unit")
    shown = f"{measured(name, there['value'], unit)} there, {measured(name, here['value'], unit)} on the test"
    if gap < 0:
        text = f"It did better on the test than on the rows that chose it: {shown}."
        return Doubt(level="note", title="The test part may be easy", text=text)
    text = f"It did better on the rows that chose it ({shown}), by more than chance. Believe the test figure."
    return Doubt(level="warn", title="It shrank on the test", text=text)


def _rare(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    rare = [k for k, n in report.class_counts.items() if n < FEW_TO_LEARN]
    untested = [c["label"] for c in found.get("per_class", ()) if c["n"] < FEW_TO_TEST]
    if not rare and not untested:
        return None
    told = []
    if rare:
        told.append(f"{_names(rare)} had fewer than {FEW_TO_LEARN} {noun(report)}s to learn from.")
    if untested:
        told.append(
            f"{_names(untested)} had fewer than {FEW_TO_TEST} to be tested on, so their figures say little."
        )
    count = len(set(rare) | set(untested))
    return Doubt(level="warn", title=f"Few {noun(report)}s in {plural(count, 'class')}", text=" ".join(told))


def _names(labels: list[str]) -> str:
    return listed([quoted(label) for label in labels], 4)


def _weak(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    weak = [c for c in found.get("per_class", ()) if c["n"] >= FEW_TO_TEST and c["recall"] < WEAK_RECALL]
    if not weak:
        return None
    weak.sort(key=lambda c: c["recall"])
    pieces = [f"{quoted(c['label'])} ({percent(c['recall'])})" for c in weak]
    return Doubt(
        level="warn",
        title="Some classes are mostly missed",
        text=f"Found less than half of the time: {listed(pieces, 5)}.",
    )


def _confidence(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    calibration = found.get("calibration")
    if not calibration or calibration["after"]["ece"] < LOOSE_CONFIDENCE or found["n"] < SMALL_TEST:
        return None
    bins = calibration["bins"]
    lean = sum(b["n"] * (b["confidence"] - b["accuracy"]) for b in bins)
    return Doubt(
        level="warn",
        title="Its confidence is not reliable",
        text=f"It is {'surer than it should be' if lean > 0 else 'more careful than it needs to be'}: stated "
        f"confidence and share of right answers differ by {amount(100 * calibration['after']['ece'])} points "
        "on average.",
    )


def _promise(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    sets = found.get("sets")
    if not sets or found["n"] < SMALL_TEST or sets["coverage"] >= 0.9 - 2.5 * math.sqrt(0.09 / found["n"]):
        return None
    what = "range" if is_regression(report) else "list of possible answers"
    return Doubt(
        level="warn",
        title=f"The {what} holds the truth too rarely",
        text=f"It should 90% of the time and did {percent(sets['coverage'])}: the test data are different.",
    )


def _leaning(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    errors = found.get("residuals")
    if not errors or found["n"] < 20:
        return None
    unit, average = found.get("unit"), found["metrics"]["mae"]["value"]
    if abs(errors["bias"]) > 0.35 * average:
        side = "high" if errors["bias"] > 0 else "low"
        text = f"Its answers are too {side} by {amount(abs(errors['bias']), unit)} on average."
        return Doubt(level="warn", title=f"It leans {side}", text=text)
    worst = max(errors["slices"], key=lambda s: s["mae"], default=None)
    if worst is None or worst["mae"] < 2.0 * average:
        return None
    text = (
        f"For true values from {amount(worst['low'])} to {amount(worst['high'], unit)} the average error is "
        f"{amount(worst['mae'], unit)}, against {amount(average, unit)} over all rows."
    )
    return Doubt(level="note", title="Some values are much harder", text=text)


def _audit(report: RunReport, found: Mapping[str, Any]) -> Doubt | None:
    grave = [f for f in report.findings if f.severity in ("warning", "error")]
    if not grave:
        return None
    grave.sort(key=lambda f: f.severity != "error")
    told = " ".join(f"{short(f.message, 200).rstrip('.')}." for f in grave[:2])
    more = f" And {len(grave) - 2} more below." if len(grave) > 2 else ""
    level: Literal["bad", "warn"] = "bad" if grave[0].severity == "error" else "warn"
    return Doubt(level=level, title=f"The data have {plural(len(grave), 'problem')}", text=told + more)


CHECKS: tuple[Check, ...] = (
    _worthless,
    _majority,
    _traditional,
    _readings,
    _shrinking,
    _small_test,
    _rare,
    _weak,
    _confidence,
    _promise,
    _leaning,
    _audit,
)


def always(report: RunReport) -> str:
    """The doubt that holds for every model."""
    if report.has_pictures:
        return (
            "All of this holds for pictures like yours. Another camera, other light or another kind of "
            "object is new ground: try a few dozen such pictures with known answers before you rely on it."
        )
    return (
        "All of this holds for rows like yours. Another time, place or way of measuring is new ground: try "
        "some such rows with known answers before you rely on it."
    )
