"""Metrics: plain numpy functions of true values and outputs, each with its direction and range.

The same code scores a candidate during the search and the model in the report. scikit-learn is the
oracle in the tests, not a dependency.

Each metric also has an *influence function*: one number per row, mean zero, that says how much the row
moves the score (Hampel 1974; for the ROC AUC these are DeLong's components, 1988). Its spread gives the
standard error of any metric in closed form, and the spread of a difference of two of them gives the
paired comparison of two models, without resampling.

Shapes: n rows, K labels. `y` is int64 (n,) codes with -1 for "no label", or float64 (n,) with NaN for
"no value"; `outputs` are probabilities (n, K), or values (n,) or (n, 1) in the target's unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gristmill.errors import DataError, UsageError, did_you_mean
from gristmill.task import Target, TaskKind

Array = npt.NDArray[Any]

ECE_BINS = 15
"""Equal-width bins of the expected calibration error (Guo et al. 2017 use 15)."""

SMALLEST_PROBABILITY = 1e-15
"""Probabilities are clipped to it before the logarithm, so that one certain mistake is not infinite."""

LABELLED: tuple[TaskKind, ...] = ("binary", "multiclass")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to score outputs against true values.

    `direction`: +1 when higher is better, -1 when lower is. `low`, `high`: the range. `title`: the name in
    plain words. `compute(y, outputs)` returns the score; `influence(y, outputs)` returns float64 (n,).
    Both take labelled rows and finite outputs only; `score` and `standard_error` see to that.
    """

    name: str
    title: str
    direction: int
    low: float
    high: float
    kinds: tuple[TaskKind, ...]
    compute: Callable[[Array, Array], float]
    influence: Callable[[Array, Array], Array]

    @property
    def perfect(self) -> float:
        """The best possible score."""
        return self.high if self.direction > 0 else self.low


def softmax(logits_NK: Array) -> Array:
    """Probabilities of logits along the last axis, float32 for float16 and float32, else float64."""
    shifted = _shifted(logits_NK)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def log_softmax(logits_NK: Array) -> Array:
    """Logarithms of the probabilities of logits along the last axis, without overflow or log(0)."""
    shifted = _shifted(logits_NK)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _shifted(logits: Array) -> Array:
    logits = np.asarray(logits)
    wide = np.float32 if logits.dtype in (np.float16, np.float32) else np.float64
    z: Array = logits.astype(wide)
    z -= z.max(axis=-1, keepdims=True)
    return z


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: if there is none; names the nearest.
    """
    if name not in METRICS:
        near = did_you_mean(name, tuple(METRICS))
        raise UsageError(
            f"A metric must be one of {', '.join(METRICS)}.", got=name, next_step=f"use {near or 'accuracy'}"
        )
    return METRICS[name]


def metrics_of(target: Target) -> tuple[str, ...]:
    """Names of all metrics that fit the target, those a user may search by first."""
    return tuple(m.name for m in METRICS.values() if target.task in m.kinds)


def score(name: str, y: Array, outputs: Array, target: Target) -> float:
    """The metric on the rows that have a label, in its own unit and direction.

    Raises:
        UsageError: if the metric does not exist or does not fit the task.
        DataError: if shapes disagree, outputs are not finite, or no row has a label.
    """
    found = fitting(name, target)
    return float(found.compute(*labelled(y, outputs, target)))


def standard_error(name: str, y: Array, outputs: Array, target: Target) -> float:
    """Standard error of `score` over the draw of the rows, in the metric's unit; NaN for a single row.

    Closed form (non-parametric delta method): the spread of the influence function over the square root
    of n. Agrees with the bootstrap to a few per cent from about 50 rows and costs one pass.
    """
    rows, out = labelled(y, outputs, target)
    return error_of_mean(fitting(name, target).influence(rows, out))


def error_of_mean(values_N: Array) -> float:
    """Standard error of the mean of `values_N`; NaN for fewer than two values."""
    n = len(values_N)
    return float("nan") if n < 2 else float(np.std(values_N, ddof=1) / np.sqrt(n))


def scaled(name: str, value: float, floor_value: float) -> float:
    """A score on the common scale: 0 at the floor (majority or mean), 1 perfect, negative when worse.

    A floor that is itself perfect leaves nothing to gain: then a perfect value is 1, any other is below 0.
    """
    found = metric(name)
    room = (found.perfect - floor_value) * found.direction
    gain = (value - floor_value) * found.direction
    if room < 1e-12:
        return 1.0 if gain >= 0 else gain
    return gain / room


def constant_outputs(y_train: Array, rows: int, target: Target) -> Array:
    """What a model without inputs would answer on `rows` rows: label shares (rows, K) or the mean (rows,).

    Shares are smoothed by one row per label, so that a label absent from training is unlikely, not
    impossible; the most likely label is still the majority's.
    """
    y = np.asarray(y_train)
    if target.task == "regression":
        return np.full(rows, float(np.nanmean(y)))
    counts = np.bincount(y[y >= 0], minlength=target.outputs) + 1.0
    return np.tile(counts / counts.sum(), (rows, 1))


def floor(name: str, y_train: Array, y: Array, target: Target) -> float:
    """The score of always answering the training majority (or mean) on the rows `y`."""
    return score(name, y, constant_outputs(y_train, len(y), target), target)


def floors(y_train: Array, y: Array, target: Target) -> dict[str, float]:
    """`floor` for every metric that fits the target."""
    return {name: floor(name, y_train, y, target) for name in metrics_of(target)}


def fitting(name: str, target: Target) -> Metric:
    """The metric, once it is sure that it fits the target's task."""
    found = metric(name)
    if target.task not in found.kinds:
        known = metrics_of(target)
        raise UsageError(
            f"The metric of a {target.task} task must be one of {', '.join(known) or 'none yet'}.",
            got=name,
            next_step=f"use {known[0]}" if known else "predict one label per row instead",
        )
    return found


def labelled(y: Array, outputs: Array, target: Target) -> tuple[Array, Array]:
    """The labelled rows of both, in the shapes that metrics take.

    Returns int64 (n,) and floats (n, K), or float64 (n,) twice for regression.
    """
    y, outputs = np.asarray(y), np.asarray(outputs)
    y, outputs = (_values if target.task == "regression" else _probabilities)(y, outputs, target)
    if not len(y):
        raise DataError(
            "A score needs at least one labelled row.", got="none", next_step="check the target column"
        )
    return y, outputs


def _values(y: Array, values: Array, target: Target) -> tuple[Array, Array]:
    values = values.reshape(len(values), -1)
    _require(values.shape == (len(y), 1), "One value per row is needed.", values.shape)
    keep = np.isfinite(y)
    _require(bool(np.isfinite(values[keep]).all()), "Predicted values must be finite.", "NaN or infinity")
    return y[keep].astype(np.float64), values[keep, 0].astype(np.float64)


def _probabilities(y: Array, p_NK: Array, target: Target) -> tuple[Array, Array]:
    shape = (len(y), target.outputs)
    _require(p_NK.shape == shape, f"Probabilities must have the shape {shape}.", p_NK.shape)
    keep = y >= 0
    if not keep.all():
        y, p_NK = y[keep], p_NK[keep]
    _require(bool(np.isfinite(p_NK).all()), "Predicted probabilities must be finite.", "NaN or infinity")
    _require(
        not len(y) or int(y.max()) < target.outputs,
        "Label codes must be below the number of labels.",
        y.max(initial=-1),
    )
    return y.astype(np.int64, copy=False), p_NK


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise DataError(rule, got=got, next_step="this model is broken; leave it out")


# ---------------------------------------------------------------- label metrics


def _correct(y: Array, p_NK: Array) -> Array:
    hit: Array = p_NK.argmax(axis=1) == y
    return hit


def _accuracy(y: Array, p_NK: Array) -> float:
    return float(np.mean(_correct(y, p_NK)))


def _accuracy_influence(y: Array, p_NK: Array) -> Array:
    hit = _correct(y, p_NK).astype(np.float64)
    return np.asarray(hit - hit.mean())


def _recalls(y: Array, hit: Array) -> tuple[Array, Array]:
    """Recall (0 for absent labels) and row count of each label code."""
    counts = np.bincount(y)
    return np.bincount(y, weights=hit) / np.maximum(counts, 1), counts


def _balanced_accuracy(y: Array, p_NK: Array) -> float:
    recall, counts = _recalls(y, _correct(y, p_NK))
    return float(recall[counts > 0].mean())


def _balanced_accuracy_influence(y: Array, p_NK: Array) -> Array:
    hit = _correct(y, p_NK)
    recall, counts = _recalls(y, hit)
    weight = len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(weight[y] * (hit - recall[y]))


def _f1(y: Array, guess: Array, labels: int) -> tuple[Array, Array]:
    """F1 of each label, and rows with it among the true plus among the guessed labels."""
    total = np.bincount(y, minlength=labels) + np.bincount(guess, minlength=labels)
    hits = np.bincount(y[y == guess], minlength=labels)
    return 2.0 * hits / np.maximum(total, 1), total


def _macro_f1(y: Array, p_NK: Array) -> float:
    f1, total = _f1(y, p_NK.argmax(axis=1), p_NK.shape[1])
    return float(f1[total > 0].mean())  # labels neither true nor guessed have no F1, as in scikit-learn


def _macro_f1_influence(y: Array, p_NK: Array) -> Array:
    guess = p_NK.argmax(axis=1)
    f1, total = _f1(y, guess, p_NK.shape[1])
    share = np.maximum(total, 1) / len(y)
    per_row = (2.0 * (y == guess) - f1[y]) / share[y] - f1[guess] / share[guess]
    return np.asarray(per_row / np.count_nonzero(total))


def _surprise(y: Array, p_NK: Array) -> Array:
    mine = p_NK[np.arange(len(y)), y].astype(np.float64)
    return np.asarray(-np.log(np.clip(mine, SMALLEST_PROBABILITY, 1.0)))


def _log_loss(y: Array, p_NK: Array) -> float:
    return float(_surprise(y, p_NK).mean())


def _log_loss_influence(y: Array, p_NK: Array) -> Array:
    loss = _surprise(y, p_NK)
    return np.asarray(loss - loss.mean())


def _squared(y: Array, p_NK: Array) -> Array:
    mine = p_NK[np.arange(len(y)), y].astype(np.float64)
    return np.asarray(np.einsum("nk,nk->n", p_NK, p_NK, dtype=np.float64) - 2.0 * mine + 1.0)


def _brier(y: Array, p_NK: Array) -> float:
    return float(_squared(y, p_NK).mean())


def _brier_influence(y: Array, p_NK: Array) -> Array:
    loss = _squared(y, p_NK)
    return np.asarray(loss - loss.mean())


def _overconfidence(y: Array, p_NK: Array) -> tuple[Array, Array]:
    """Confidence minus correctness of each row, and its confidence bin."""
    confidence = p_NK.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return confidence - _correct(y, p_NK), bins


def _ece(y: Array, p_NK: Array) -> float:
    gap, bins = _overconfidence(y, p_NK)
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(y))


def _ece_influence(y: Array, p_NK: Array) -> Array:
    gap, bins = _overconfidence(y, p_NK)
    signed = np.sign(np.bincount(bins, weights=gap))[bins] * gap
    return np.asarray(signed - signed.mean())


def _placements(of_M: Array, among_N: Array) -> Array:
    """Share of `among_N` that lies below each of `of_M`, ties counted half."""
    ordered = np.sort(among_N)
    below = np.searchsorted(ordered, of_M, "left") + np.searchsorted(ordered, of_M, "right")
    return np.asarray(below / (2.0 * len(ordered)))


def _contests(y: Array, p_NK: Array) -> list[int]:
    """Label codes whose one-versus-rest AUC exists: both sides are present. Two labels are one contest."""
    counts = np.bincount(y, minlength=p_NK.shape[1])
    codes = [1] if p_NK.shape[1] == 2 else range(p_NK.shape[1])
    return [k for k in codes if 0 < counts[k] < len(y)]


def _roc_auc(y: Array, p_NK: Array) -> float:
    columns = np.ascontiguousarray(p_NK.T)  # a column of a wide table costs one cache miss per row

    def one(k: int) -> float:
        mine = y == k
        return float(_placements(np.sort(columns[k][mine]), columns[k][~mine]).mean())

    contests = _contests(y, p_NK)
    return float(np.mean([one(k) for k in contests])) if contests else 0.5


def _roc_auc_influence(y: Array, p_NK: Array) -> Array:
    columns, contests = np.ascontiguousarray(p_NK.T), _contests(y, p_NK)
    total = np.zeros(len(y))
    for k in contests:
        mine = y == k
        inside, outside = columns[k][mine], columns[k][~mine]
        wins, rest = _placements(inside, outside), 1.0 - _placements(outside, inside)
        share = len(inside) / len(y)
        total[mine] += (wins - wins.mean()) / share
        total[~mine] += (rest - rest.mean()) / (1.0 - share)
    return total / max(1, len(contests))


# ---------------------------------------------------------------- regression metrics


def _rmse(y: Array, values: Array) -> float:
    return float(np.sqrt(np.mean((values - y) ** 2)))


def _rmse_influence(y: Array, values: Array) -> Array:
    square = (values - y) ** 2
    middle = float(square.mean())
    return np.asarray((square - middle) / (2.0 * np.sqrt(middle))) if middle > 0 else np.zeros(len(y))


def _mae(y: Array, values: Array) -> float:
    return float(np.mean(np.abs(values - y)))


def _mae_influence(y: Array, values: Array) -> Array:
    error = np.abs(values - y)
    return np.asarray(error - error.mean())


def _r2(y: Array, values: Array) -> float:
    mse, spread = float(np.mean((values - y) ** 2)), float(np.var(y))
    if spread == 0.0:  # nothing to explain: scikit-learn's convention
        return 1.0 if mse == 0.0 else 0.0
    return 1.0 - mse / spread


def _r2_influence(y: Array, values: Array) -> Array:
    square, spread = (values - y) ** 2, float(np.var(y))
    if spread == 0.0:
        return np.zeros(len(y))
    middle = float(square.mean())
    return np.asarray(middle / spread**2 * ((y - y.mean()) ** 2 - spread) - (square - middle) / spread)


def _labels(
    name: str, title: str, direction: int, high: float, *parts: Callable[[Array, Array], Any]
) -> Metric:
    return Metric(
        name=name, title=title, direction=direction, low=0.0, high=high, kinds=LABELLED,
        compute=parts[0], influence=parts[1],
    )  # fmt: skip


def _number(name: str, title: str, direction: int, *parts: Callable[[Array, Array], Any]) -> Metric:
    low, high = (-np.inf, 1.0) if direction > 0 else (0.0, np.inf)
    return Metric(
        name=name, title=title, direction=direction, low=low, high=high, kinds=("regression",),
        compute=parts[0], influence=parts[1],
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        _labels("accuracy", "share labelled right", 1, 1.0, _accuracy, _accuracy_influence),
        _labels(
            "balanced_accuracy", "share labelled right, every class counted the same", 1, 1.0,
            _balanced_accuracy, _balanced_accuracy_influence,
        ),
        _labels("macro_f1", "F1, averaged over classes", 1, 1.0, _macro_f1, _macro_f1_influence),
        _labels("log_loss", "log loss", -1, np.inf, _log_loss, _log_loss_influence),
        _labels("roc_auc", "area under the ROC curve", 1, 1.0, _roc_auc, _roc_auc_influence),
        _labels("brier", "Brier score", -1, 2.0, _brier, _brier_influence),
        _labels("ece", "expected calibration error", -1, 1.0, _ece, _ece_influence),
        _number("rmse", "root mean squared error", -1, _rmse, _rmse_influence),
        _number("mae", "average error", -1, _mae, _mae_influence),
        _number("r2", "share of the spread explained", 1, _r2, _r2_influence),
    )
}  # fmt: skip
"""All metrics by name. `brier` and `ece` are shown, never searched by."""
