"""How well one column alone tells the target: a column that knows the answer is a leak, not a discovery."""

from __future__ import annotations

import numpy as np

from gristmill.data.findings import Finding, finding, listed
from gristmill.data.source import Source

_LEAK = 0.99
_BINS = 64
_MOST_ROWS = 20_000
FEWEST_ROWS = 40
"""With fewer rows a perfect column may be luck, and nothing is said."""


def findings(source: Source, usable: np.ndarray) -> list[Finding]:
    """Columns of a table that alone tell the target, among the usable rows a model may learn from."""
    learn = (source.given == "") | (source.given == "train")
    rows = np.flatnonzero(usable & source.labelled & learn)
    if len(rows) < FEWEST_ROWS or source.task.has_images:
        return []
    target = source.task.target
    y = source.targets[target.name][rows]
    tells = tells_number if target.task == "regression" else tells_class
    scores = {name: tells(values[rows], y) for name, values in source.inputs.items()}
    leaks = [name for name, score in scores.items() if score >= _LEAK]
    if not leaks:
        return []
    message = (
        f'One column alone tells "{target.name}" almost perfectly: {listed(leaks)}. '
        "Such a column often holds the answer itself, or is filled in afterwards."
    )
    advice = f"If it is not known at prediction time, leave it out: --ignore {','.join(leaks)}"
    return [finding("target-leak", "warning", message, leaks, advice)]


def tells_class(values: np.ndarray, codes: np.ndarray, *, seed: int = 0) -> float:
    """Balanced accuracy, on held-out rows, of predicting the class by one column alone.

    The rule "most frequent class of this value" (numbers: of this 1/64 of the rows) is learned on one half
    of the rows and scored on the other, so that a column of many different values gains nothing by chance.

    Args:
        values: float64 (n,) with NaN, or an object array of str | None.
        codes: int64 (n,): class codes, all labelled.
    """
    learn, check = _halves(len(codes), seed)
    cells = _cells(values, learn)
    table = np.zeros((int(cells.max()) + 1, int(codes.max()) + 1))
    np.add.at(table, (cells[learn], codes[learn]), 1.0)
    guess = table.argmax(axis=1)
    guess[table.sum(axis=1) == 0] = int(np.bincount(codes[learn]).argmax())
    hit = guess[cells[check]] == codes[check]
    classes = np.unique(codes[check])
    return float(np.mean([hit[codes[check] == c].mean() for c in classes])) if len(classes) > 1 else 0.0


def tells_number(values: np.ndarray, y: np.ndarray, *, seed: int = 0) -> float:
    """R^2, on held-out rows, of predicting a number by one column: by a line, or by means of its values."""
    learn, check = _halves(len(y), seed)
    scores = []
    if values.dtype != object and np.isfinite(values).all() and np.ptp(values[learn]) > 0:
        slope, offset = np.polyfit(values[learn], y[learn], 1)
        scores.append(_r2(y[check], slope * values[check] + offset))
    cells = _cells(values, learn)
    count = np.bincount(cells[learn], minlength=cells.max() + 1)
    total = np.bincount(cells[learn], weights=y[learn], minlength=cells.max() + 1)
    means = np.where(count > 0, total / np.maximum(count, 1), y[learn].mean())
    return max([*scores, _r2(y[check], means[cells[check]])])


def _r2(y: np.ndarray, guess: np.ndarray) -> float:
    spread = float(np.sum((y - y.mean()) ** 2))
    return 1.0 - float(np.sum((y - guess) ** 2)) / spread if spread > 0 else 0.0


def _halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)[:_MOST_ROWS]
    return order[::2], order[1::2]


def _cells(values: np.ndarray, learn: np.ndarray) -> np.ndarray:
    """int64 (n,): which value (or which 1/64 of the numbers) a row holds; 0 for missing."""
    if values.dtype == object:
        known: dict[object, int] = {None: 0}
        return np.array([known.setdefault(v, len(known)) for v in values.tolist()], dtype=np.int64)
    present = values[learn][~np.isnan(values[learn])]
    if not len(present):
        return np.zeros(len(values), dtype=np.int64)
    distinct = np.unique(present)
    if len(distinct) <= _BINS:
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1]))
    cells = np.searchsorted(edges, values) + 1
    return np.where(np.isnan(values), 0, cells).astype(np.int64)
