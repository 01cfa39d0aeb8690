"""What the conductor returns and tells: results, as records that print themselves and survive JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.data.audit import Audit
from gristmill.data.source import Source
from gristmill.deadline import format_duration
from gristmill.evaluation.evaluate import Evaluation
from gristmill.evaluation.metrics import metric
from gristmill.report.text import amount
from gristmill.task import spoken

Progress = Callable[["Event"], None]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened. Kinds: `step` (what it does now), `note` (a decision said aloud),
    `warning`, `score` (a better model), `tick` (time passed)."""

    kind: str
    text: str
    spent: float
    left: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One line for a person: the time left (where there is a deadline), then the text."""
        if self.left == float("inf"):
            return self.text
        left = format_duration(self.left) if self.left > 0 else "0s"
        return f"[{left:>7} left] {self.text}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        left = self.left if self.left != float("inf") else None
        return {
            "kind": self.kind,
            "text": self.text,
            "spent": round(self.spent, 2),
            "left": left,
            **self.facts,
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    `evaluation` is on the untouched test part (or on valid, when the run was stopped before the test part
    was read: see `evaluation.part`). `bundle` is NAME.grist, `report` the HTML file. `state` is
    `finished` or `stopped`. `leaderboard` has one JSON-ready row per candidate.
    """

    bundle: Path
    report: Path
    evaluation: Evaluation
    metric: str
    score: float
    state: str
    spent: float
    leaderboard: Sequence[Mapping[str, Any]]
    audit: Mapping[str, Any]
    headline: str
    traditional: float | None = None
    """The metric of the traditional model (boosted trees; HOG + linear) on the same rows, when measured."""
    difference: Mapping[str, float] | None = None
    """How much better this one is than that one, paired on the same rows: value, low, high (95 %)."""
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; `Result.from_json` reads it back."""
        return {
            "state": self.state,
            "bundle": str(self.bundle),
            "report": str(self.report),
            "metric": self.metric,
            "score": self.score,
            "spent": round(self.spent, 2),
            "headline": self.headline,
            "traditional": self.traditional,
            "difference": None if self.difference is None else dict(self.difference),
            "evaluation": self.evaluation.to_json(),
            "leaderboard": [dict(r) for r in self.leaderboard],
            "audit": dict(self.audit),
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Result:
        """Read what `to_json` wrote."""
        return Result(
            bundle=Path(record["bundle"]),
            report=Path(record["report"]),
            evaluation=Evaluation.from_json(record["evaluation"]),
            metric=record["metric"],
            score=record["score"],
            state=record["state"],
            spent=record["spent"],
            leaderboard=record["leaderboard"],
            audit=record["audit"],
            headline=record["headline"],
            traditional=record.get("traditional"),
            difference=record.get("difference"),
        )

    def summary(self) -> str:
        """What a person reads at the end."""
        return "\n".join(
            (
                self.headline,
                _figures(self.evaluation, self.traditional),
                f"Model:  {self.bundle}",
                f"Report: {self.report}",
                f"Time:   {format_duration(self.spent)}"
                + (" (finished before; a larger --time goes on)" if self.reused else ""),
            )
        )

    def _repr_html_(self) -> str:
        import html

        return f"<p><b>{html.escape(self.headline)}</b></p><pre>{html.escape(self.summary())}</pre>"


def _figures(found: Evaluation, traditional: float | None) -> str:
    """The metric that decides: the model's with its 95 % interval, the traditional model's, the floor's."""

    def told(value: float) -> str:
        share = metric(found.metric).perfect == 1.0
        return f"{value:.3f}" if share else amount(value, digits=max(4, len(f"{abs(value):.0f}")))

    name, mine, floor = spoken(found.metric), found.score, found.floor.get(found.metric)
    parts = [f"{name[:1].upper()}{name[1:]} {told(mine.value)} ({told(mine.low)} to {told(mine.high)})"]
    if traditional is not None:
        parts.append(f"traditional model {told(traditional)}")
    if floor is not None:
        guess = "always the mean" if found.task == "regression" else "always one answer"
        parts.append(f"{guess} {told(floor)}")
    return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The data report of one source: `audit` with its findings, and how the data were read."""

    source: Source
    audit: Audit

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "layout": self.source.layout,
            "rows": self.source.rows,
            "notes": list(self.source.notes),
            **self.audit.to_json(),
        }

    def summary(self) -> str:
        """What a person reads: how the data were read, then the findings, worst first."""
        order = {"error": 0, "warning": 1, "info": 2}
        lines = [self.source.layout, *(f"  {n}" for n in self.source.notes), ""]
        for f in sorted(self.audit.findings, key=lambda f: order[f.severity]):
            lines.append(f"{f.severity:8} {f.message}")
            lines += [f"           {name}" for name in f.names[:5]]
            lines += [f"           ... and {len(f.names) - 5} more"] if len(f.names) > 5 else []
            lines += [f"         -> {f.advice}"] if f.advice else []
        return "\n".join(lines if self.audit.findings else [*lines, "nothing to complain about"])


@dataclass(frozen=True, kw_only=True)
class NewData:
    """A bundle on new labelled data: `evaluation`, the inputs that could not be read, with reasons, and
    `notes`: what is to be known about the data, such as the part that was scored."""

    evaluation: Evaluation
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "evaluation": self.evaluation.to_json(),
            "unreadable": [list(u) for u in self.unreadable],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The metrics with their 95 % intervals, a line each."""
        lines = [*self.notes, f"{self.evaluation.n} rows"]
        for name, found in self.evaluation.metrics.items():
            floor = self.evaluation.floor.get(name)
            beside = "" if floor is None else f"   (always the same answer: {floor:.4g})"
            lines.append(f"{name:18} {found.value:.4g}  [{found.low:.4g}, {found.high:.4g}]{beside}")
        lines += [f"not read: {name}: {why}" for name, why in self.unreadable]
        return "\n".join(lines)
