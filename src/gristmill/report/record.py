"""What a report is made of: one frozen record of plain JSON-ready values, filled by the conductor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")

REPORT_VERSION = 1
"""Version of `RunReport.to_json`. Fields are only added, each with a default; readers ignore unknown ones."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of the data audit (the fields of `data.audit.Finding`).

    `severity`: info, warning or error. `names`: rows it is about, perhaps only the first of `count`.
    """

    code: str
    severity: str
    message: str
    names: tuple[str, ...] = ()
    count: int = 0
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One line of the leaderboard.

    `title`: the model in plain words. `score`, `noise`: the metric on valid from 0 (majority or mean) to 1
    (perfect), and its standard error. `state`: done, cut, failed, oom, diverged, lost, refused or running;
    `reason` says why in plain words. `weight`: its share in the final model, 0 when it is not part of it.
    `role`: model, traditional or floor. `settings`: its configuration. `latency_ms`: from one input to its
    answer on one core, reading included. `size_mb`: of its network, 10^6 bytes. None when not measured.
    """

    id: str
    title: str
    state: str = "done"
    reason: str = ""
    score: float | None = None
    noise: float | None = None
    rows_seen: int = 0
    seconds: float = 0.0
    view: str = "all"
    weight: float = 0.0
    role: str = "model"
    settings: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class DataView:
    """One choice of training data that competed. `rows`: rows it keeps. `score`, `noise`: of the best
    candidate trained on it, on the scale of the leaderboard; None when none finished. `tried`: candidates
    trained on it. `chosen`: the final model was trained on it."""

    name: str
    description: str
    rows: int
    score: float | None = None
    noise: float | None = None
    tried: int = 0
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of the run: what was done (one or two words) and how many seconds of wall clock it took."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What more time is expected to reach. `seconds`: the whole --time it would take; `value`, `low`, `high`:
    the deciding metric in its unit, and where it lies in 8 of 10 cases."""

    seconds: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The traditional model on the same rows. `metrics` by name: {"value", "low", "high"} in the metric's
    unit. `difference`: how much better the final model is in the deciding metric, paired on the same rows,
    {"value", "low", "high"}, positive is better (`evaluation.interval.paired`); None when not measured."""

    title: str
    metrics: Mapping[str, Mapping[str, float]]
    difference: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything a report shows. Only `title` and `task` are required; what is unknown is not on the page."""

    title: str
    """What the data are called: the folder's or file's name."""
    task: Mapping[str, Any]
    """`Task.to_json()`."""
    version: str = ""
    """Version of gristmill."""
    created: str = ""
    """When, as `2026-01-31 14:05 UTC`."""
    bundle: str = ""
    """File name of the model, NAME.grist; the commands under "next" use it."""
    place: str = ""
    """The folder of the model; empty in the copy that a bundle carries."""
    program: str = "gristmill"
    """How a terminal on that machine starts gristmill; the name alone in the copy that a bundle carries."""
    source: str = ""
    """Where the data came from, as shown to the reader (not necessarily an absolute path)."""
    layout: str = ""
    """How the data were understood: `Source.layout`, one sentence."""
    rows: int = 0
    """Rows or pictures found."""
    notes: tuple[str, ...] = ()
    """Decisions said aloud while reading and splitting: `Source.notes` and `Parts.notes`."""
    ignored: tuple[tuple[str, str], ...] = ()
    """(column or file, reason) of what was left out: `Source.ignored`."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Rows in `train`, `valid`, `calib`, `test`."""
    folds: int = 0
    """Into how many folds the training rows were dealt: then valid and calib are halves of them, and figures
    on valid are out of fold. 0: a hold-out."""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    """Training rows by label; empty for regression."""
    evaluation: Mapping[str, Any] | None = None
    """`Evaluation.to_json()` of the final model on the part that counts (`test`, or `valid` of a run stopped
    early), with floor, threshold and sets. The one thing without which a report says "no model yet"."""
    valid: Mapping[str, Any] | None = None
    """`Evaluation.to_json()` of the same model on valid, when `evaluation` is on test."""
    test_reading: int = 0
    """Which reading of the test part this is: 1 the first, 0 when it has not been read."""
    selection_bias: float | None = None
    """How much the valid score flatters (`evaluation.selection.selection_bias`), metric's unit."""
    traditional: Rival | None = None
    """The traditional model (boosted trees; HOG + linear for pictures); None when there was no time."""
    findings: tuple[Finding, ...] = ()
    """The data audit."""
    leaderboard: tuple[Candidate, ...] = ()
    """Every candidate, in any order; the page sorts."""
    views: tuple[DataView, ...] = ()
    """The ledger of training data views."""
    timeline: tuple[Span, ...] = ()
    """How the time was spent, in order of time."""
    spent_s: float = 0.0
    """Seconds of wall clock the run took."""
    budget_s: float | None = None
    """Seconds that --time allowed; None in counted mode."""
    prospects: tuple[Prospect, ...] = ()
    """What 2, 5 and 10 times the time are expected to reach; empty when the course says nothing."""
    state: str = "finished"
    """finished, or stopped (Ctrl-C, SIGTERM)."""
    doubts: tuple[str, ...] = ()
    """Further doubts that only the conductor knows, one plain sentence each."""
    advice: tuple[str, ...] = ()
    """Further next steps that only the conductor knows, one plain sentence each."""
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """`data:image/...;base64,` addresses by row name, for names in `evaluation.confused`."""
    command: str = ""
    """The command that made it."""
    seed: int = 0
    """The seed that fixes every random choice."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the run by name."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and libraries, and the machine, by name."""

    @property
    def has_pictures(self) -> bool:
        """Whether any input is a picture."""
        return any(i.get("kind") == "image" for i in self.task.get("inputs", ()))

    def without_examples(self) -> RunReport:
        """The copy that a bundle carries: no picture, no file name and no cell of the user's data."""
        return replace(
            self,
            place="",
            program="gristmill",
            source="",
            command="",
            thumbnails={},
            ignored=(),
            options={},
            findings=tuple(replace(f, names=()) for f in self.findings),
            evaluation=_nameless(self.evaluation),
            valid=_nameless(self.valid),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"report_version": REPORT_VERSION, **_plain(asdict(self))}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunReport:
        """Read what `to_json` wrote; unknown fields are ignored, absent ones take their default."""
        values = _known(RunReport, data)
        for name, kind in _LISTS.items():
            values[name] = tuple(_read(kind, item) for item in data.get(name, ()))
        values["ignored"] = tuple((str(a), str(b)) for a, b in data.get("ignored", ()))
        rival = data.get("traditional")
        values["traditional"] = None if rival is None else _read(Rival, rival)
        return RunReport(**values)


_LISTS: dict[str, type[Any]] = {
    "findings": Finding, "leaderboard": Candidate, "views": DataView, "timeline": Span,
    "prospects": Prospect,
}  # fmt: skip
_TUPLES = ("notes", "names", "doubts", "advice")


def _nameless(evaluation: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if evaluation is None:
        return None
    residuals = evaluation.get("residuals")
    return {
        **evaluation,
        "confused": [{**c, "names": [], "confidences": []} for c in evaluation.get("confused", ())],
        "mistakes": [],
        "residuals": None if residuals is None else {**residuals, "points": []},
    }


def _read(kind: type[T], data: Mapping[str, Any]) -> T:
    return kind(**_known(kind, data))


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {k: tuple(v) if k in _TUPLES and isinstance(v, list) else v for k, v in data.items() if k in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
