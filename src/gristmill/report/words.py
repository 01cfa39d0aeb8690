"""The report in plain sentences: what it is worth, what was done. No word that the page does not explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.report.record import RunReport
from gristmill.report.text import amount, duration, listed, percent, plural, quoted, short

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "r2")
"""Metrics shown as per cent and higher is better; all others are errors or losses, lower is better."""

TITLES = {
    "accuracy": "Labelled right",
    "balanced_accuracy": "Labelled right, classes counted the same",
    "macro_f1": "Average F1 of the classes",
    "log_loss": "Log loss",
    "roc_auc": "Area under the ROC curve",
    "rmse": "Typical error (RMSE)",
    "mae": "Average error",
    "r2": "Share of the spread explained (R²)",
}

MEANINGS = {
    "accuracy": "the share of answers that were right",
    "balanced_accuracy": "the share of right answers within each class, averaged, so that rare classes count",
    "macro_f1": "the balance of finding a class and being right when naming it, averaged over the classes",
    "log_loss": "how surprised the model was by the truth: confident mistakes cost most, 0 is perfect",
    "roc_auc": "how often a row of a class is ranked above a row of another class, 50% is a coin",
    "rmse": "one large error weighs more than several small ones",
    "mae": "the size of the error, averaged over rows",
    "r2": "how much of the ups and downs of the target the model explains, 0% is always saying the mean",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of the comparison: `value` and interval in the metric's unit, `shown` as text."""

    name: str
    role: str
    value: float
    shown: str
    low: float | None = None
    high: float | None = None


def noun(report: RunReport) -> str:
    """What one example is called."""
    return "picture" if report.has_pictures else "row"


def target_of(report: RunReport) -> Mapping[str, Any]:
    """The target that the evaluation is about, or the first."""
    targets = report.task["targets"]
    wanted = (report.evaluation or {}).get("target")
    return next((t for t in targets if t["name"] == wanted), targets[0])


def is_regression(report: RunReport) -> bool:
    """Whether the target is a number."""
    return bool(target_of(report)["task"] == "regression")


def measured(name: str, value: float, unit: str | None) -> str:
    """A metric's value as people read it."""
    if name in SHARES:
        return percent(value)
    return amount(value, unit if name in ("rmse", "mae") else None)


def span(name: str, low: float, high: float, unit: str | None) -> str:
    """`81% to 85%`, `11 to 13 €`."""
    first = measured(name, low, unit if name in SHARES else None)
    last = measured(name, high, unit)
    if name not in ("rmse", "mae"):
        first = measured(name, low, unit)
    return f"{first} to {last}"


def direction(name: str) -> int:
    """+1 when higher is better."""
    return 1 if name in SHARES else -1


def guess(report: RunReport) -> str:
    """The answer of a model without inputs."""
    if is_regression(report):
        return "always answering the mean"
    if not report.class_counts:
        return "always giving the most frequent answer"
    return f"always answering {quoted(max(report.class_counts, key=lambda k: report.class_counts[k]))}"


def beats_guess(evaluation: Mapping[str, Any]) -> bool | None:
    """Whether it surely (True), perhaps (None) or not at all (False) beats the majority or the mean."""
    name = evaluation["metric"]
    if name not in evaluation.get("floor", {}):
        return None
    sign, found, low = direction(name), evaluation["metrics"][name], evaluation["floor"][name]
    worst = found["low"] if sign > 0 else found["high"]
    if sign * (found["value"] - low) <= 0:
        return False
    return True if sign * (worst - low) > 0 else None


def headline(report: RunReport) -> str:
    """The result in one or two sentences that need no training in statistics."""
    found = report.evaluation
    if found is None:
        return "There is no model yet: the run ended before one was finished."
    told = _error_sentence(report, found) if is_regression(report) else _hundred(report, found)
    if beats_guess(found) is False:
        return f"This model is no better than {guess(report)}. {told}"
    return told


def share_of(found: Mapping[str, Any]) -> str:
    """The metric that the headline and the dots count: what decided, if it can be counted in hundreds."""
    name = str(found["metric"])
    return name if name in ("balanced_accuracy", "roc_auc") else "accuracy"


def _hundred(report: RunReport, found: Mapping[str, Any]) -> str:
    share = share_of(found)
    right, what = found["metrics"][share], noun(report)
    base, about, low, high = natural(right["value"], right["low"], right["high"])
    if share == "roc_auc":
        start = f"Out of {base:,} pairs of new {what}s from different classes,"
        end = "be ranked the right way round"
    else:
        even = ", as many of each class," if share == "balanced_accuracy" else ","
        start = f"Out of {base:,} new {what}s like yours{even}"
        end = "be labelled right" if report.has_pictures else f"be given the right {quoted(found['target'])}"
    if right["value"] == 1.0:
        return f"{start} at least {low:,} would {end}: all {found['n']:,} tested were."
    return f"{start} about {about:,} would {end} (between {low:,} and {high:,})."


def natural(value: float, low: float, high: float) -> tuple[int, int, int, int]:
    """(base, about, low, high): a share as counts out of 100, or 1,000 where 100 would hide mistakes."""
    base = 1000 if value < 1.0 and (low > 0.985 or round(100 * value) == 100) else 100
    return base, round(base * value), round(base * low), round(base * high)


def _error_sentence(report: RunReport, found: Mapping[str, Any]) -> str:
    off, unit = found["metrics"]["mae"], found.get("unit")
    return (
        f"For a new {noun(report)} like yours, the predicted {quoted(found['target'])} would be off by about "
        f"{amount(off['value'], unit)} on average (between {amount(off['low'])} and {amount(off['high'])})."
    )


def subline(report: RunReport) -> list[str]:
    """The sentences under the headline: compared with what, on which rows."""
    found = report.evaluation
    if found is None:
        return []
    lines = [_against_guess(report, found), _against_traditional(report, found), _abstaining(report, found)]
    if is_regression(report):
        lines[2] = _inside(found)
    return [line for line in (*lines, _tested_on(report, found)) if line]


def _against_guess(report: RunReport, found: Mapping[str, Any]) -> str:
    floor = found.get("floor", {})
    if is_regression(report):
        told = amount(floor["mae"], found.get("unit")) if "mae" in floor else ""
        return f"{_capital(guess(report))} would be off by {told}." if told else ""
    share = share_of(found)
    if share == "roc_auc" and "accuracy" in floor:
        mine = found["metrics"]["accuracy"]["value"]
        return (
            f"Pure chance ranks 50 of 100 right. Taking its likeliest answer, {percent(mine)} are right; "
            f"{guess(report)} is right for {percent(floor['accuracy'])}."
        )
    if share not in floor:
        return ""
    base, about, _, _ = natural(floor[share], floor[share], floor[share])
    return f"{_capital(guess(report))} would be right for {about:,} of {base:,}."


def _against_traditional(report: RunReport, found: Mapping[str, Any]) -> str:
    rival = report.traditional
    if rival is None or rival.difference is None:
        return ""
    gap, name = rival.difference, found["metric"]
    size, title = _gap(name, abs(gap["value"]), found.get("unit")), short(rival.title)
    counted = name in ("accuracy", "balanced_accuracy", "roc_auc", "mae")
    by = "" if counted else f" by {TITLES.get(name, name)[:1].lower()}{TITLES.get(name, name)[1:]}"
    if gap["low"] > 0:
        return f"This model is {size} better than a traditional one ({title}){by}."
    if gap["high"] < 0:
        return f"A traditional model ({title}) is {size} better than this one{by}."
    return f"A traditional model ({title}) does about as well: the difference is within chance."


def _gap(name: str, size: float, unit: str | None) -> str:
    if name in SHARES:
        return f"{amount(100 * size)} points"
    return amount(size, unit if name in ("rmse", "mae") else None)


def _abstaining(report: RunReport, found: Mapping[str, Any]) -> str:
    point = found.get("at_threshold")
    if not point or point["coverage"] >= 0.999 or point["coverage"] <= 0.0:
        return ""
    return (
        f"When unsure it says “I don’t know”: it then answers {percent(point['coverage'])} of the "
        f"{noun(report)}s, and {percent(point['accuracy'])} of those answers are right."
    )


def _inside(found: Mapping[str, Any]) -> str:
    sets = found.get("sets")
    if not sets or sets.get("half_width") is None:
        return ""
    width = amount(sets["half_width"], found.get("unit"))
    held = percent(sets["coverage"])
    return f"The true value lay within ±{width} of the answer for {held} of the tested rows."


def _tested_on(report: RunReport, found: Mapping[str, Any]) -> str:
    count = plural(found["n"], noun(report))
    if found["part"] == "test":
        return f"Measured on {count} that were kept aside and took no part in making the model."
    if report.folds:
        return (
            f"Measured on {count}, each answered by a model that had not seen it; but they helped to choose "
            "the model, so it is a little flattering."
        )
    return f"Measured on {count} that helped to choose the model, so it is a little flattering."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def bars(report: RunReport) -> list[Bar]:
    """Model, traditional model and guess in the deciding metric, best first only by role."""
    found = report.evaluation
    if found is None:
        return []
    name, unit = found["metric"], found.get("unit")
    mine = found["metrics"][name]
    rows = [Bar(name="This model", role="model", shown=measured(name, mine["value"], unit), **mine)]
    if report.traditional and name in report.traditional.metrics:
        other = report.traditional.metrics[name]
        title = f"Traditional: {short(report.traditional.title, 40)}"
        rows.append(
            Bar(
                name=title,
                role="rival",
                shown=measured(name, other["value"], unit),
                value=other["value"],
                low=other.get("low"),
                high=other.get("high"),
            )
        )
    if name in found.get("floor", {}):
        value = found["floor"][name]
        rows.append(
            Bar(name=_capital(guess(report)), role="floor", value=value, shown=measured(name, value, unit))
        )
    return rows


def done(report: RunReport) -> list[str]:
    """What was done, one sentence per step."""
    return [s for s in (_reading(report), _parting(report), _searching(report), _made_of(report)) if s]


def _reading(report: RunReport) -> str:
    if not report.rows:
        return ""
    where = f" from {quoted(report.source)}" if report.source else ""
    how = f": {continued(report.layout)}" if report.layout else "."
    return f"Read {plural(report.rows, noun(report))}{where}{how}"


def continued(text: str) -> str:
    """A sentence of another step, without capital and with one full stop, to go on after a colon."""
    text = text.strip().rstrip(".")
    lowered = text if text[1:2].isupper() else text[:1].lower() + text[1:]
    return f"{lowered}."


def _parting(report: RunReport) -> str:
    parts = report.parts
    if not parts:
        return ""
    if report.folds:
        return (
            f"Learnt from all {parts['train']:,} {noun(report)}s that are not kept aside. To choose and to "
            "set its confidence, each of them was also answered once by a model that had not seen it "
            f"({report.folds} folds). Kept {parts['test']:,} aside for the final test."
        )
    said = {
        "train": "to learn from", "valid": "to choose between candidates", "calib": "to set its confidence",
        "test": "kept aside for the final test",
    }  # fmt: skip
    pieces = [f"{parts[k]:,} {v}" for k, v in said.items() if parts.get(k)]
    return f"Divided them: {listed(pieces, 4)}."


def _searching(report: RunReport) -> str:
    tried = [c for c in report.leaderboard if c.role != "floor"]
    if not tried:
        return ""
    lost = sum(c.state in ("failed", "oom", "diverged", "lost") for c in tried)
    budget = f" of the {duration(report.budget_s)} allowed" if report.budget_s else ""
    told = f"Tried {plural(len(tried), 'candidate model')}"
    told += f" in {duration(report.spent_s)}{budget}" if report.spent_s else ""
    return f"{told}; {lost} of them did not finish." if lost else f"{told}."


def _made_of(report: RunReport) -> str:
    members = sorted((c for c in report.leaderboard if c.weight > 0), key=lambda c: -c.weight)
    if not members:
        return ""
    if len(members) == 1:
        return f"Chose {short(members[0].title)}."
    pieces = [f"{short(c.title)} ({percent(c.weight)})" for c in members]
    return f"Combined {len(members)} of them, each with its weight: {listed(pieces, 4)}."
