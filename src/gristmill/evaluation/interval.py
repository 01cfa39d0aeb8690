"""Intervals: how far the score on n rows may lie from the score on all future rows.

Shares (accuracy and the like) get Wilson's interval (1927) at an effective number of rows, since a
bootstrap of a perfect score has no width and would claim certainty after five rows. Losses and errors
get a seeded percentile bootstrap, widened for small n (Hesterberg 2015), vectorised as one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from gristmill.evaluation.metrics import Array, error_of_mean, fitting, labelled, metric
from gristmill.task import Target

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc")
MANY_ROWS = 20_000
"""From here on the central limit theorem is the better use of time than resampling."""
_CHUNK = 250_000
"""Drawn rows held at once: small enough to stay in the cache, five times faster than 4 million."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score with its 95 % interval (or another level), in the metric's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A better-is-positive difference of two models on the same rows, with its interval.

    `p_better`: how sure it is that the first model is better on all future rows (normal approximation).
    """

    value: float
    low: float
    high: float
    p_better: float


def wilson(share: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share seen on `n` (not necessarily whole) rows."""
    if n <= 0:
        return Interval(value=share, low=0.0, high=1.0)
    z = _z(level)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # rounding must not push the share itself out of its interval
    return Interval(
        value=share, low=max(0.0, min(share, middle - half)), high=min(1.0, max(share, middle + half))
    )


def intervals(
    names: Sequence[str], y: Array, outputs: Array, target: Target, *,
    level: float = 0.95, resamples: int = 400, seed: int = 0,
) -> dict[str, Interval]:  # fmt: skip
    """The score of each metric with its interval; all bootstrapped metrics share the same resamples."""
    y, outputs = labelled(y, outputs, target)
    found = {name: fitting(name, target) for name in names}
    result = {}
    resampled = [name for name in names if name not in SHARES and 2 <= len(y) <= MANY_ROWS]
    draws = _bootstrap(resampled, y, outputs, resamples, seed)
    for name, scorer in found.items():
        value = float(scorer.compute(y, outputs))
        if name in SHARES:
            result[name] = wilson(value, effective_rows(name, value, y, outputs, target), level)
        elif name in draws:
            result[name] = _percentile(value, draws[name], len(y), level)
        else:
            error = np.nan_to_num(error_of_mean(scorer.influence(y, outputs)))
            half = _z(level) * float(error)
            result[name] = Interval(
                value=value, low=max(scorer.low, value - half), high=min(scorer.high, value + half)
            )
    return {name: result[name] for name in names}


def interval(name: str, y: Array, outputs: Array, target: Target, **options: Any) -> Interval:
    """`intervals` for one metric; the options are level, resamples and seed."""
    return intervals((name,), y, outputs, target, **options)[name]


def paired(
    name: str, y: Array, first: Array, second: Array, target: Target, *, level: float = 0.95
) -> Difference:
    """How much better `first` is than `second` on the same rows; positive is better for any metric.

    Far narrower than two separate intervals suggest, since both models find the same rows hard.
    """
    scorer = fitting(name, target)
    rows, a = labelled(y, first, target)
    _, b = labelled(y, second, target)
    gain = scorer.direction * (float(scorer.compute(rows, a)) - float(scorer.compute(rows, b)))
    error = float(np.nan_to_num(error_of_mean(scorer.influence(rows, a) - scorer.influence(rows, b))))
    half = _z(level) * error
    if error == 0.0:
        sure = 0.5 if gain == 0.0 else float(gain > 0)
    else:
        sure = NormalDist().cdf(gain / error)
    return Difference(value=gain, low=gain - half, high=gain + half, p_better=sure)


def effective_rows(name: str, value: float, y: Array, outputs: Array, target: Target) -> float:
    """Rows of a plain accuracy that would be as uncertain as this share-like metric.

    Accuracy: n. Balanced accuracy: the variance of an average of K recalls, each smoothed by one right and
    one wrong row, so that a class with two right rows of two is not taken as certain. Macro F1 and ROC AUC:
    from the influence function, bounded by what the smallest classes allow.
    """
    counts = np.bincount(y, minlength=target.outputs)
    present = counts[counts > 0]
    if name == "accuracy":
        return float(len(y))
    if name == "balanced_accuracy":
        hits = np.bincount(y[outputs.argmax(axis=1) == y], minlength=target.outputs)[counts > 0]
        recall = (hits + 1.0) / (present + 2.0)
        variance = float(np.sum(recall * (1 - recall) / present)) / len(present) ** 2
        middle = float(recall.mean())
        return middle * (1 - middle) / variance
    sides = present if name == "macro_f1" else np.minimum(2 * present, 2 * (len(y) - present))
    if not sides.all():  # a single class: the AUC is not defined, nothing is known
        return 0.0
    most = len(present) ** 2 / float(np.sum(1.0 / sides))
    error = error_of_mean(fitting(name, target).influence(y, outputs))
    return most if not error > 0 else min(most, value * (1 - value) / error**2)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _columns(name: str, y: Array, outputs: Array) -> Array:
    """Row quantities (n, m) whose resampled means give the metric through `_of_means`."""
    if name in ("rmse", "mae", "r2"):
        error = outputs - y
        centred = y - y.mean()
        parts = {"rmse": (error**2,), "mae": (np.abs(error),), "r2": (error**2, centred, centred**2)}[name]
        return np.stack(parts, axis=1)
    found = metric(name)
    return np.asarray(found.influence(y, outputs) + found.compute(y, outputs))[:, None]


def _of_means(name: str, means_BM: Array) -> Array:
    if name == "rmse":
        return np.sqrt(np.maximum(means_BM[:, 0], 0.0))
    if name == "r2":
        spread = means_BM[:, 2] - means_BM[:, 1] ** 2
        return np.where(spread > 0, 1.0 - means_BM[:, 0] / np.where(spread > 0, spread, 1.0), 0.0)
    return means_BM[:, 0]


def _bootstrap(names: list[str], y: Array, outputs: Array, resamples: int, seed: int) -> dict[str, Array]:
    if not names:
        return {}
    columns = [_columns(name, y, outputs) for name in names]
    means = resampled_means(np.concatenate(columns, axis=1), resamples, seed)
    parts = np.split(means, np.cumsum([c.shape[1] for c in columns])[:-1], axis=1)
    return {name: _of_means(name, part) for name, part in zip(names, parts, strict=True)}


def resampled_means(values_NM: Array, resamples: int, seed: int) -> Array:
    """Means (resamples, m) of the rows of `values_NM` over bootstrap draws; about 4 ns a row and draw."""
    n = len(values_NM)
    out = [counts @ values_NM / n for counts in resampled_counts(n, resamples, seed)]
    return np.concatenate(out)


def resampled_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of `n` rows is drawn in each bootstrap resample, in blocks (b, n) that fit in memory."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _percentile(value: float, draws: Array, n: int, level: float) -> Interval:
    """Percentile interval with the tails widened by sqrt(n/(n-1)) and Student's t (Hesterberg 2015)."""
    z, v = _z(level), n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)  # Cornish-Fisher
    tail = NormalDist().cdf(-t * math.sqrt(n / v))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=value, low=min(value, float(low)), high=max(value, float(high)))
