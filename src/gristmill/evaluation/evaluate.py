"""Predict once, score many: outputs of one part -> Evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gristmill.evaluation.calibrate import abstention_curve, conformal_set, coverage_at
from gristmill.evaluation.interval import intervals, wilson
from gristmill.evaluation.metrics import Array, labelled, metrics_of, scaled, score
from gristmill.evaluation.records import (
    AnswerSets,
    Bin,
    Calibration,
    ClassScore,
    Confused,
    Mistake,
    Residuals,
    Slice,
)
from gristmill.evaluation.records import (
    Evaluation as Evaluation,
)
from gristmill.task import Target

PAIRS, EXAMPLES, MISTAKES, POINTS, BINS = 12, 6, 12, 300, 10
"""Most confused pairs, names per pair, mistakes, scatter points; bins of confidence (errors: twice)."""


def evaluate(
    target: Target,
    y: Array,
    outputs: Array,
    *,
    metric: str,
    part: str = "test",
    names: Sequence[str] | None = None,
    rows: Array | None = None,
    floor: Mapping[str, float] | None = None,
    uncalibrated: Array | None = None,
    threshold: float | None = None,
    answer_set: float | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> Evaluation:
    """Score a model's outputs on one part, with intervals and everything a reader may want to look into.

    Args:
        y: True codes int64 (n,), -1 where unknown; or float64 (n,), NaN where unknown; those are left out.
        outputs: Calibrated probabilities (n, K), or values (n,) or (n, 1) in the target's unit.
        metric: The metric that decides.
        names: How messages name a row: one per row of `y`, or of the whole source when `rows` is given.
        rows: int64 (n,) source row of each row of `y`.
        floor: Metrics of the majority or mean guess on the same rows, as `floors` returns.
        uncalibrated: Probabilities (n, K) before temperature scaling, for the comparison.
        threshold: Confidence below which the model abstains, chosen on the calibration part.
        answer_set: `conformal_quantile` (labels) or `residual_quantile` (regression) of the calibration part.

    Raises:
        UsageError: if the metric does not fit the task.
        DataError: if shapes disagree, outputs are not finite, or no row has a label.
    """
    known = np.isfinite(y) if target.task == "regression" else np.asarray(y) >= 0
    y_n, out = labelled(y, outputs, target)
    floor = dict(floor or {})
    shown = tuple(dict.fromkeys((metric, *(m for m in metrics_of(target) if m not in ("ece", "brier")))))
    measured = intervals(shown, y_n, out, target, resamples=resamples, seed=seed)
    result = Evaluation(
        target=target.name, task=target.task, unit=target.unit, labels=target.labels, part=part,
        n=len(y_n), metric=metric, metrics=measured, floor=floor,
        scaled=scaled(metric, measured[metric].value, floor[metric]) if metric in floor else None,
    )  # fmt: skip
    called = _Names(names, np.flatnonzero(known) if rows is None else np.asarray(rows)[known])
    if target.task == "regression":
        return _with_errors(result, y_n, out, called, answer_set)
    before = None if uncalibrated is None else labelled(y, uncalibrated, target)[1]
    return _with_labels(result, target, y_n, out, called, before, threshold, answer_set)


class _Names:
    """Names of rows by their place in the part."""

    def __init__(self, names: Sequence[str] | None, rows: Array) -> None:
        self._names, self._rows = names, rows

    def __call__(self, place: int) -> str:
        row = int(self._rows[place])
        return f"row {row}" if self._names is None else str(self._names[row])


# ---------------------------------------------------------------- labels


def _with_labels(
    found: Evaluation, target: Target, y: Array, p: Array, called: _Names,
    before: Array | None, threshold: float | None, least: float | None,
) -> Evaluation:  # fmt: skip

    labels = target.outputs
    guess = p.argmax(axis=1)
    cells = np.bincount(y * labels + guess, minlength=labels * labels)
    full = np.flatnonzero(cells)
    return replace(
        found,
        per_class=_per_class(target.labels, y, guess),
        confusion=tuple((int(c) // labels, int(c) % labels, int(cells[c])) for c in full),
        confused=_confused(target.labels, y, guess, p, cells, called),
        mistakes=_mistakes(target.labels, y, guess, p, called),
        calibration=Calibration(
            before={} if before is None else _trust(y, before, target),
            after=_trust(y, p, target),
            bins=_bins(y, p),
        ),
        abstention=tuple(abstention_curve(p, y)),
        at_threshold=None if threshold is None else coverage_at(p, y, threshold),
        sets=None if least is None else _label_sets(y, p, least),
    )


def _per_class(labels: Sequence[str], y: Array, guess: Array) -> tuple[ClassScore, ...]:
    counts, said = (np.bincount(v, minlength=len(labels)) for v in (y, guess))
    hits = np.bincount(y[y == guess], minlength=len(labels))
    return tuple(
        _class_score(*row) for row in zip(labels, counts.tolist(), said.tolist(), hits.tolist(), strict=True)
    )


def _class_score(label: str, n: int, predicted: int, hits: int) -> ClassScore:
    recall = wilson(hits / n, n) if n else None
    return ClassScore(
        label=label, n=n, predicted=predicted,
        precision=hits / predicted if predicted else None,
        recall=recall.value if recall else None,
        f1=2 * hits / (n + predicted) if n + predicted else None,
        recall_low=recall.low if recall else None,
        recall_high=recall.high if recall else None,
    )  # fmt: skip


def _confused(
    labels: Sequence[str], y: Array, guess: Array, p: Array, cells: Array, called: _Names
) -> tuple[Confused, ...]:
    off = cells.copy()
    off[:: len(labels) + 1] = 0
    worst = [int(c) for c in np.argsort(-off, kind="stable")[:PAIRS] if off[c]]
    return tuple(_pair(labels, cell, y, guess, p, called) for cell in worst)


def _pair(labels: Sequence[str], cell: int, y: Array, guess: Array, p: Array, called: _Names) -> Confused:
    true, predicted = divmod(cell, len(labels))
    mine = y == true
    places = np.flatnonzero(mine & (guess == predicted))
    surest = places[np.argsort(-p[places, predicted], kind="stable")][:EXAMPLES]
    return Confused(
        true=labels[true], predicted=labels[predicted],
        count=len(places), share=len(places) / int(mine.sum()),
        names=tuple(called(i) for i in surest),
        confidences=tuple(float(p[i, predicted]) for i in surest),
    )  # fmt: skip


def _mistakes(labels: Sequence[str], y: Array, guess: Array, p: Array, called: _Names) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(guess != y)
    surest = wrong[np.argsort(-p[wrong, guess[wrong]], kind="stable")][:MISTAKES]
    return tuple(
        Mistake(name=called(i), true=labels[y[i]], predicted=labels[guess[i]], size=float(p[i, guess[i]]))
        for i in surest
    )


def _trust(y: Array, p: Array, target: Target) -> dict[str, float]:
    return {name: score(name, y, p, target) for name in ("ece", "log_loss", "brier")}


def _bins(y: Array, p: Array) -> tuple[Bin, ...]:
    confidence, right = p.max(axis=1).astype(np.float64), p.argmax(axis=1) == y
    which = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    n, sure, hits = (np.bincount(which, weights=w, minlength=BINS) for w in (None, confidence, right))
    return tuple(
        Bin(low=b / BINS, high=(b + 1) / BINS, n=int(n[b]), confidence=float(sure[b] / n[b]),
            accuracy=float(hits[b] / n[b]))
        for b in range(BINS) if n[b]
    )  # fmt: skip


def _label_sets(y: Array, p: Array, least: float) -> AnswerSets:
    inside = conformal_set(p, least)
    return AnswerSets(
        coverage=float(inside[np.arange(len(y)), y].mean()),
        least=float(least),
        size=float(inside.sum(axis=1).mean()),
    )


# ---------------------------------------------------------------- regression


def _with_errors(
    found: Evaluation, y: Array, values: Array, called: _Names, half: float | None
) -> Evaluation:

    size = np.abs(values - y)
    worst = np.argsort(-size, kind="stable")[:MISTAKES]
    finite = half is not None and math.isfinite(half)
    return replace(
        found,
        mistakes=tuple(
            Mistake(
                name=called(i),
                true=f"{y[i]:.6g}",
                predicted=f"{values[i]:.6g}",
                size=float(abs(values[i] - y[i])),
            )
            for i in worst
        ),
        sets=AnswerSets(coverage=float(np.mean(size <= half)), half_width=float(half))
        if finite and half is not None
        else None,
        residuals=_residuals(y, values),
    )


def _residuals(y: Array, values: Array) -> Residuals:
    error = values - y
    low, high = np.quantile(error, [0.01, 0.99])
    edges = np.linspace(low, high, 2 * BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts, _ = np.histogram(np.clip(error, edges[0], edges[-1]), edges)
    spread = np.unique(np.linspace(0, len(y) - 1, POINTS).astype(np.int64))  # evenly over the true values
    shown = np.argsort(y, kind="stable")[spread]
    return Residuals(
        bias=float(error.mean()), median_abs=float(np.median(np.abs(error))),
        p90_abs=float(np.quantile(np.abs(error), 0.9)),
        y_low=float(y.min()), y_high=float(y.max()), y_mean=float(y.mean()), y_std=float(y.std()),
        edges=tuple(edges.tolist()), counts=tuple(counts.tolist()),
        points=tuple((float(y[i]), float(values[i])) for i in shown),
        slices=_slices(y, error),
    )  # fmt: skip


def _slices(y: Array, error: Array) -> tuple[Slice, ...]:
    """Fifths of the rows by true value (fewer when values repeat)."""
    edges = np.unique(np.quantile(y, np.linspace(0, 1, 6)))
    which = np.clip(np.searchsorted(edges, y, "right") - 1, 0, max(0, len(edges) - 2))
    slices = []
    for k in np.unique(which):
        mine = which == k
        slices.append(
            Slice(low=float(y[mine].min()), high=float(y[mine].max()), n=int(mine.sum()),
                  mae=float(np.abs(error[mine]).mean()), bias=float(error[mine].mean()))
        )  # fmt: skip
    return tuple(slices)
