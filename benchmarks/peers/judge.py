"""The judge: the same for everyone. Reads an answer, scores it, compares two answers on the same rows.

Bars are met "within intervals", so each comparison is paired: both models saw the same rows, and only rows
that one has right and the other wrong can tell them apart.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Z = 1.959963984540054
"""Two-sided 95 %."""
METRICS = ("accuracy", "balanced_accuracy")


class BadAnswerError(Exception):
    """An answer that cannot be judged; the text is the reason in its row."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first is than the second, with its 95 % interval, in the metric's unit."""

    value: float
    low: float
    high: float


def read_answer(path: Path, files: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Probabilities float64 (files, labels) in the order that is asked for.

    Raises:
        BadAnswerError: no file, a picture missing, twice or unknown, a label unknown, a number that is none.
    """
    if not path.is_file():
        raise BadAnswerError("no predictions were written")
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    if head[:1] != ["file"] or len(set(head)) != len(head) or not set(head[1:]) <= set(labels):
        raise BadAnswerError("the columns must be file and labels of the training part, each once")
    if any(len(row) != len(head) for row in rows):
        raise BadAnswerError("every row must have a cell for each column")
    names = [row[0] for row in rows]
    if len(set(names)) != len(names) or set(names) != set(files):
        raise BadAnswerError(
            f"each of the {len(files)} pictures must be answered once; got {len(set(names))}"
        )
    try:
        given = np.array([[float(cell) for cell in row[1:]] for row in rows]).reshape(len(rows), -1)
    except ValueError as error:
        raise BadAnswerError(f"a probability must be a number: {error}") from None
    if not np.isfinite(given).all() or (given < 0).any():
        raise BadAnswerError("probabilities must be finite and not negative")
    if not given.any(axis=1).all():
        raise BadAnswerError("a row must have a probability above zero")
    found = np.zeros((len(files), len(labels)))
    columns = [list(labels).index(label) for label in head[1:]]
    at = {name: i for i, name in enumerate(files)}
    found[np.ix_([at[name] for name in names], columns)] = given
    return found


def hits(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool (n,): whether the likeliest label is the true one; a true label of -1 (unknown) is never hit."""
    return np.asarray(probabilities.argmax(axis=1) == y)


def score(metric: str, y: np.ndarray, hit: np.ndarray) -> float:
    """Accuracy, or the mean of the recalls of the classes that occur. `hit` may be shares over seeds."""
    return float(sum(w * hit[rows].mean() for w, rows in _strata(metric, y)))


def interval(metric: str, y: np.ndarray, hit: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) at as many rows of a plain accuracy as would be as uncertain.

    For the mean of recalls that number comes from its variance, each recall smoothed by a right and a
    wrong row, so that a class with two rows right of two is not taken as certain.
    """
    p, n = score(metric, y, hit), float(len(y))
    if metric != "accuracy":
        smooth = [(w, (hit[rows].sum() + 1) / (len(rows) + 2), len(rows)) for w, rows in _strata(metric, y)]
        middle = sum(w * q for w, q, _ in smooth)
        n = middle * (1 - middle) / sum(w * w * q * (1 - q) / m for w, q, m in smooth)
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def paired(metric: str, y: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of two scores on the same rows with its interval.

    Bonett and Price (2012): a row is added to each discordant cell, so that few disagreements do not
    make certain; for the mean of recalls in each class. Shares over seeds (n,) are taken as they are.
    """
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    value = middle = variance = 0.0
    for weight, rows in _strata(metric, y):
        n, d = len(rows) + 2, gap[rows]
        mean = d.sum() / n
        value += weight * d.mean()
        middle += weight * mean
        variance += weight**2 * ((np.square(d).sum() + 2) / n - mean**2) / n
    half = Z * math.sqrt(variance)
    return Difference(value=float(value), low=float(middle - half), high=float(middle + half))


def error_ratio(ours: float, theirs: float, rows: int) -> float:
    """Our error over theirs; an error of nothing counts as half a row, so that a ratio exists."""
    least = 0.5 / rows
    return max(1 - ours, least) / max(1 - theirs, least)


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(sum(math.log(r) for r in ratios) / len(ratios))


def _strata(metric: str, y: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Weights and row ids whose weighted mean hits make the metric."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric}: known are {', '.join(METRICS)}")
    if metric == "accuracy":
        return [(1.0, np.arange(len(y)))]
    codes = np.unique(y)
    return [(1.0 / len(codes), np.flatnonzero(y == code)) for code in codes]
