"""Gradient-boosted trees (scikit-learn's HistGradientBoosting), kept as flat arrays.

    >>> state = fit(x, y, None, task, {"family": "trees"}, seed=0)
    >>> logits(state, x).shape          # (n, K)

`x` is float32 (n, d): raw numbers with NaN where missing, then category codes as numbers. Nothing is
pickled: the state holds the trees of the best iteration on an inner hold-out, as arrays over all nodes.

State: `feature` int32, `threshold` float32, `left`, `right` int32 (global node numbers; a leaf points at
itself), `value` float32, `missing_left`, `leaf` uint8, all (nodes,); `offsets` int32 (trees + 1,): the nodes
of tree t are offsets[t]:offsets[t + 1], its root first; `tree_class` int32 (trees,): the output a tree adds
to; `baseline` float32 (K,). A row goes left when x <= threshold, or when x is NaN and missing_left. A binary
target has two outputs; its trees add to the second, the first stays 0. Regression (K = 1) is standardised.

Columns are binned here and scikit-learn sees bin numbers: its own binning computes 254 weighted percentiles
one by one as soon as rows have weights (26 s instead of 2 s on 13,000 x 9), and every chunk bins anew. It
also keeps thresholds exact: a border is a float32, so float32 inputs compare the same wherever the trees run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from gristmill.models.catalog import family
from gristmill.models.linear import class_weights
from gristmill.task import Task

BINS = 255
"""Most bins of a column; missing values have their own."""

BINNED_ROWS = 100_000
"""Rows that decide where the borders of the bins lie."""

NEVER = np.float32(np.finfo(np.float32).max)
"""Threshold of a split that only asks whether a value is missing."""

CHUNK = 20
"""Boosting iterations between the first looks at the clock."""

MAX_ITERATIONS = 1500
MAX_TREES = 6000
"""Over all classes; bounds the bundle's size and the prediction time."""

ABSENT = -10.0
"""Logit of a class without a training row: hardly ever."""

PATIENCE = 20
"""Iterations without a gain on the inner hold-out after which boosting ends."""


def fit(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    task: Task,
    config: Mapping[str, Any],
    seed: int,
    seconds: float = float("inf"),
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """Boost trees on rows `x` (n, d) with codes int (n,), or standardised values float (n,) for regression.

    A tenth of the rows (at most 10,000) is an inner hold-out: boosting ends PATIENCE iterations after its
    loss was lowest, or when `seconds` are nearly over, and the trees after the best iteration are dropped.
    `threads` bounds scikit-learn's OpenMP team: on busy cores a team larger than its share spins for minutes.
    """
    from threadpoolctl import threadpool_limits

    every = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    present = None
    if task.target.task != "regression":
        every = class_weights(y, every, task)
        present = np.unique(y)
        if len(present) == 1:
            return _only(int(present[0]), task.target.outputs)
    x = np.asarray(x, np.float32)
    borders = [_borders(column[:: max(1, len(x) // BINNED_ROWS)]) for column in x.T]
    model = _boosted(task, config, seed, len(x))
    with threadpool_limits(threads):
        _boost(model, _binned(x, borders), y, every, seconds, _iteration_limit(task))
    return _flattened(model, task.target.outputs, present, borders)


def logits(state: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Logits float32 (n, K) of rows `x` (n, d); standardised values (n, 1) for regression."""
    x = np.asarray(x, np.float32)
    out = np.tile(state["baseline"].astype(np.float64), (len(x), 1))
    roots, classes = state["offsets"][:-1], state["tree_class"]
    for rows in range(0, len(x), 1024):  # blocks that stay in the cache
        block = x[rows : rows + 1024]
        for root, column in zip(roots, classes, strict=True):
            out[rows : rows + 1024, column] += _leaf_values(state, block, int(root))
    return out.astype(np.float32)


def _leaf_values(state: Mapping[str, np.ndarray], x: np.ndarray, root: int) -> np.ndarray:
    at = np.full(len(x), root, np.int32)
    row = np.arange(len(x))
    while True:
        value = x[row, state["feature"][at]]
        left = (value <= state["threshold"][at]) | (np.isnan(value) & (state["missing_left"][at] == 1))
        below = np.where(left, state["left"][at], state["right"][at])
        if np.array_equal(below, at):
            leaf: np.ndarray = state["value"][at]
            return leaf
        at = below


def _borders(column: np.ndarray) -> np.ndarray:
    """Increasing float32 borders of at most BINS bins: between the distinct values, or at quantiles."""
    known = column[~np.isnan(column)]
    values = np.unique(known).astype(np.float64)
    if len(values) > BINS:
        return np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"))
    return rounded_down((values[1:] + values[:-1]) / 2)


def _binned(x: np.ndarray, borders: list[np.ndarray]) -> np.ndarray:
    """Bin numbers as float32, NaN where missing: x <= borders[i] exactly when its bin is at most i."""
    out = np.empty_like(x, order="F")
    for j, border in enumerate(borders):
        out[:, j] = np.where(np.isnan(x[:, j]), np.nan, np.searchsorted(border, x[:, j], side="left"))
    return out


def _iteration_limit(task: Task) -> int:
    per_iteration = task.target.outputs if task.target.outputs > 2 else 1
    return max(CHUNK, min(MAX_ITERATIONS, MAX_TREES // per_iteration))


def _boosted(task: Task, config: Mapping[str, Any], seed: int, rows: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    get = family("trees").get
    kind: Any = (
        HistGradientBoostingRegressor if task.target.task == "regression" else HistGradientBoostingClassifier
    )
    return kind(
        learning_rate=get(config, "rate"),
        max_leaf_nodes=get(config, "leaves"),
        min_samples_leaf=min(get(config, "min_leaf"), max(1, rows // 10)),
        l2_regularization=get(config, "l2"),
        max_features=get(config, "columns"),
        early_stopping=rows >= 100,
        validation_fraction=min(0.1, 10_000 / rows),
        n_iter_no_change=PATIENCE,
        tol=0.0,
        warm_start=True,
        random_state=seed,
        categorical_features=None,
    )


def _boost(model: Any, x: np.ndarray, y: np.ndarray, weights: np.ndarray, seconds: float, limit: int) -> None:
    """Grow `model` in chunks until it stops by itself, at `limit`, or when a chunk may not fit any more."""
    start = now = time.monotonic()
    limit = limit if model.early_stopping else min(limit, 100)
    wanted, done = CHUNK, 0
    while True:
        before = now
        model.set_params(max_iter=min(wanted, limit))
        model.fit(x, y, sample_weight=weights)
        now = time.monotonic()
        grown, done = int(model.n_iter_) - done, int(model.n_iter_)
        if done < wanted or grown <= 0:
            break
        # each start sorts the rows and scores the old trees again, so chunks grow with what is there
        per_iteration = (now - before) / grown
        room = (seconds - (now - start)) / (1.5 * per_iteration)
        chunk = int(min(max(CHUNK, done // 2), room))
        if chunk < 1:
            break
        wanted = done + chunk


def _flattened(
    model: Any, outputs: int, present: np.ndarray | None, borders: list[np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The fitted trees up to the best iteration as the state of the module's docstring.

    Without `borders` the model was fitted on the values themselves; its thresholds are rounded DOWN to
    float32: `x <= t` is then the same in float64 and float32 for every float32 x.
    """
    kept = model._predictors[: _best_iteration(model)]
    columns = _columns(outputs, present)
    trees = [(tree.nodes, columns[k]) for iteration in kept for k, tree in enumerate(iteration)]
    offsets = np.cumsum([0] + [len(nodes) for nodes, _ in trees])
    nodes = np.concatenate([n for n, _ in trees])
    start = np.repeat(offsets[:-1], np.diff(offsets))
    here = np.arange(len(nodes))
    leaf = nodes["is_leaf"].astype(bool)
    feature = np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32)
    return {
        "feature": feature,
        "threshold": np.where(leaf, 0.0, _thresholds(feature, nodes, borders)).astype(np.float32),
        "left": np.where(leaf, here, nodes["left"] + start).astype(np.int32),
        "right": np.where(leaf, here, nodes["right"] + start).astype(np.int32),
        "value": np.where(leaf, nodes["value"], 0.0).astype(np.float32),
        "missing_left": nodes["missing_go_to_left"].astype(np.uint8),
        "leaf": leaf.astype(np.uint8),
        "offsets": offsets.astype(np.int32),
        "tree_class": np.array([c for _, c in trees], np.int32),
        "baseline": _baseline(model, outputs, columns),
    }


def _thresholds(feature: np.ndarray, nodes: np.ndarray, borders: list[np.ndarray] | None) -> np.ndarray:
    """The border behind each split on bin numbers: "bin <= 3.5" is "x <= borders[3]"."""
    if borders is None:
        return rounded_down(nodes["num_threshold"])
    ends = np.cumsum([0] + [len(b) + 1 for b in borders])
    padded = np.concatenate([np.append(b, NEVER) for b in borders]).astype(np.float32)
    number = np.clip(np.floor(nodes["num_threshold"]), 0, np.diff(ends)[feature] - 1).astype(np.int64)
    found: np.ndarray = padded[ends[feature] + number]
    return found


def _only(label: int, outputs: int) -> dict[str, np.ndarray]:
    """The state of rows that all have one label: a single leaf that adds nothing."""
    none, flag = np.zeros(1, np.int32), np.zeros(1, np.uint8)
    real = {"threshold": np.zeros(1, np.float32), "value": np.zeros(1, np.float32)}
    baseline = np.where(np.arange(outputs) == label, 0.0, ABSENT).astype(np.float32)
    flags = {"missing_left": flag, "leaf": np.ones(1, np.uint8)}
    tree = {"offsets": np.array([0, 1], np.int32), "tree_class": np.array([label], np.int32)}
    return {"feature": none, "left": none, "right": none, **real, **flags, **tree, "baseline": baseline}


def _best_iteration(model: Any) -> int:
    scores = model.validation_score_  # one per iteration, after the one of the baseline alone
    return max(1, int(np.argmax(scores))) if len(scores) > 1 else int(model.n_iter_)


def _columns(outputs: int, present: np.ndarray | None) -> list[int]:
    """The output that the k-th tree of an iteration adds to; classes without a row have no tree."""
    if present is None:
        return [0]
    return [int(c) for c in present] if len(present) > 2 else [int(present[1])]


def _baseline(model: Any, outputs: int, columns: list[int]) -> np.ndarray:
    baseline = np.full(outputs, ABSENT if outputs > 2 else 0.0)
    if outputs > 2 and len(columns) == 1:
        baseline[model.classes_.astype(int)] = 0.0
    baseline[columns] = np.ravel(model._baseline_prediction)
    return baseline.astype(np.float32)


def rounded_down(values: np.ndarray) -> np.ndarray:
    """The largest float32 that is not above each float64."""
    values = np.asarray(values, np.float64)
    near = values.astype(np.float32)
    down: np.ndarray = np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)
    return down
