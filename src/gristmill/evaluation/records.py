"""What an evaluation found, as frozen records that travel as JSON (bundle manifest, run folder, report)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from gristmill.evaluation.calibrate import Abstention
from gristmill.evaluation.interval import Interval
from gristmill.evaluation.metrics import Array
from gristmill.task import TaskKind

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class. `n`: rows that truly have it. A figure that does not exist (no such row, never predicted)
    is None. `recall_low`, `recall_high`: Wilson's 95 % interval of the recall."""

    label: str
    n: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_low: float | None
    recall_high: float | None


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Rows of class `true` that were labelled `predicted`: `count` of them, `share` of the class;
    `names` of at most six, the most confident mistakes first, with their `confidences`."""

    true: str
    predicted: str
    count: int
    share: float
    names: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One row that went badly. Labels: a confident wrong answer (`size` = its probability). Regression: a
    large error (`true` and `predicted` as numbers in text, `size` = absolute error in the unit)."""

    name: str
    true: str
    predicted: str
    size: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Rows whose confidence lies in (low, high]: how many, their mean confidence, the share right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidence can be believed. `before` and `after` temperature scaling: `ece`, `log_loss`,
    `brier` by name (`before` is empty when unknown). `bins` of confidence after scaling, none empty."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerSets:
    """Conformal answers on these rows. Labels: every label with at least `least` probability; `size` is the
    mean number of labels. Regression: value +- `half_width` (target's unit). `coverage`: share of rows
    whose true answer was inside."""

    coverage: float
    least: float | None = None
    size: float | None = None
    half_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows whose true value lies in [low, high]: average absolute error and average signed error (predicted
    minus true), in the target's unit."""

    low: float
    high: float
    n: int
    mae: float
    bias: float


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Errors (predicted minus true) of a regression, in the target's unit.

    `edges` (one more than `counts`) and `counts`: histogram of the errors between their 1st and 99th
    percentile, the rest in the outer bins. `points`: (true, predicted) of at most 300 rows.
    """

    bias: float
    median_abs: float
    p90_abs: float
    y_low: float
    y_high: float
    y_mean: float
    y_std: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything known about one model on one part, for one target. Made by `evaluate`.

    `metrics`: value and 95 % interval by name, the deciding `metric` among them. `floor`: the same metrics
    of the majority (or mean) guess. `scaled`: the deciding metric from 0 (floor) to 1 (perfect), None
    without a floor. `confusion`: (true code, predicted code, rows) of the cells that are not empty.
    Label-only fields are empty or None for regression and the other way round.
    """

    target: str
    task: TaskKind
    part: str
    n: int
    metric: str
    metrics: Mapping[str, Interval]
    unit: str | None = None
    labels: tuple[str, ...] = ()
    floor: Mapping[str, float] = field(default_factory=dict)
    scaled: float | None = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()
    confused: tuple[Confused, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    calibration: Calibration | None = None
    abstention: tuple[Abstention, ...] = ()
    at_threshold: Abstention | None = None
    sets: AnswerSets | None = None
    residuals: Residuals | None = None

    @property
    def score(self) -> Interval:
        """The deciding metric."""
        return self.metrics[self.metric]

    def matrix(self) -> Array:
        """The confusion matrix, int64 (K, K): true label by row, predicted label by column."""
        counts = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        for true, predicted, rows in self.confusion:
            counts[true, predicted] = rows
        return counts

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; tuples become lists."""
        return dict(_plain(asdict(self)))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Evaluation:
        """Read what `to_json` wrote; unknown fields are ignored."""
        values = _known(Evaluation, data)
        values["metrics"] = {name: _read(Interval, v) for name, v in data["metrics"].items()}
        for name, kind in _LISTS.items():
            values[name] = tuple(_read(kind, item) for item in data.get(name, ()))
        for name, one in (("at_threshold", Abstention), ("sets", AnswerSets)):
            values[name] = None if data.get(name) is None else _read(one, data[name])
        if data.get("calibration") is not None:
            bins = tuple(_read(Bin, b) for b in data["calibration"]["bins"])
            values["calibration"] = _read(Calibration, {**data["calibration"], "bins": bins})
        if data.get("residuals") is not None:
            slices = tuple(_read(Slice, s) for s in data["residuals"]["slices"])
            values["residuals"] = _read(Residuals, {**data["residuals"], "slices": slices})
        return Evaluation(**values)


_LISTS: dict[str, type[Any]] = {
    "per_class": ClassScore, "confused": Confused, "mistakes": Mistake, "abstention": Abstention,
}  # fmt: skip


def _read(kind: type[T], data: Mapping[str, Any]) -> T:
    return kind(**_known(kind, data))


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {k: _tuples(v) for k, v in data.items() if k in names}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
