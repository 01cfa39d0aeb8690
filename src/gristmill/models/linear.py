"""Logistic and ridge regression on columns that are already numbers: frozen features, or an encoded table.

    >>> state = fit(x, y, None, task, {"family": "linear"}, seed=0)
    >>> logits(state, x).shape          # (n, K)

State (float32): `weight` (K, d), `bias` (K,); the standardisation of the columns is folded in. Regression has
one row and answers in standardised units of the target; so must `y` be.

The objective is the weighted mean loss plus strength / 2 * |W|^2 on standardised columns. `auto` walks a
ladder from strong to weak, each rung warm-started from the last, and keeps the strength with the lowest
loss on inner hold-out rows (taken from the training rows given), then fits all rows with it.

Measured on one AVX2 core, float32, equal accuracy, one strength: 8,000 x 1,280 x 10 rows, columns, classes in
0.3-2 s against 4-8 s of scikit-learn's LogisticRegression; 1,600 x 1,280 x 6 in 0.1-0.3 s against 0.8-1.6 s;
the whole ladder in 3 s and 1.3 s. Keeping the weights as (K, d) is the point: products with a skinny right
side (d, K) are six times slower. A preconditioner from the covariance saved no step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.models.catalog import family
from gristmill.task import Task

if TYPE_CHECKING:
    import torch

LADDER: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
PATIENCE = 2
"""Rungs without a gain on the hold-out after which the ladder ends."""

SMALL = 2000
"""Below this many rows the hold-out is repeated over FOLDS disjoint parts: one part would be too noisy."""

FOLDS = 4
WIDE = 512
"""Columns above which ridge regression sums its products in float32: twice as fast, exact enough."""

STD_FLOOR = 0.1
"""Columns with a standard deviation below this share of the median one are not blown up to one."""


def fit(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    task: Task,
    config: Mapping[str, Any],
    seed: int,
    seconds: float = float("inf"),
) -> dict[str, np.ndarray]:
    """Fit the rows `x` float (n, d) with codes int (n,), or standardised values float (n,) for regression.

    `weights` are per row (None: all one). For balanced accuracy and macro F1 each class weighs the same in
    total. `seconds` bounds the wall clock: the ladder ends early, the last fit is kept short.
    The chosen strength is in the state under `strength` (float32 scalar array), for the record.
    """
    import torch

    end = time.monotonic() + seconds
    kind = "ridge" if task.target.task == "regression" else "logistic"
    rows = _Rows.of(x, y, weights, task)
    with torch.inference_mode():
        wanted = family(config["family"]).get(config, "strength")
        strength = float(wanted) if wanted != "auto" else _choose(rows, kind, seed, end)
        solution = _SOLVERS[kind](rows, strength, None, end)
        return rows.unfolded(solution, strength)


def logits(state: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Logits float32 (n, K) of rows `x` (n, d); standardised values (n, 1) for regression."""
    out: np.ndarray = np.asarray(x, np.float32) @ state["weight"].T + state["bias"]
    return out


def class_weights(codes: np.ndarray, weights: np.ndarray, task: Task) -> np.ndarray:
    """Row weights with mean one; every class has the same total when the metric asks for it."""
    if task.metric in ("balanced_accuracy", "macro_f1") and task.target.task != "regression":
        totals = np.bincount(codes, weights, minlength=task.target.outputs)
        weights = weights / np.maximum(totals[codes], 1e-12)
    out: np.ndarray = weights * (len(weights) / max(1e-12, weights.sum()))
    return out


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Standardised columns, targets (n, K) and row weights (n,) as float32 tensors."""

    x: torch.Tensor
    y: torch.Tensor
    weights: torch.Tensor
    mean: np.ndarray
    scale: np.ndarray

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, task: Task) -> _Rows:
        import torch

        every = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        if task.target.task == "regression":
            wanted = np.asarray(y, np.float32)[:, None]
            every = class_weights(np.zeros(0, np.int64), every, task)
        else:
            wanted = np.eye(task.target.outputs, dtype=np.float32)[y]
            every = class_weights(y, every, task)
        columns = np.asarray(x, np.float32)
        mean, scale = standardisation(columns)
        return _Rows(
            x=torch.from_numpy((columns - mean) * scale),
            y=torch.from_numpy(wanted),
            weights=torch.from_numpy(every.astype(np.float32)),
            mean=mean,
            scale=scale,
        )

    def take(self, rows: np.ndarray) -> _Rows:
        import torch

        i = torch.from_numpy(rows)
        return _Rows(x=self.x[i], y=self.y[i], weights=self.weights[i], mean=self.mean, scale=self.scale)

    @cached_property
    def second_moments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weighted covariance (d, d), x with y (d, 1), mean of x (d,), mean of y (1,), in float64: all that
        ridge regression needs, once for the whole ladder. Wide columns are multiplied in float32 first."""
        import torch

        share = (self.weights / self.weights.sum())[:, None]
        mean_x, mean_y = (share * self.x).sum(0), (share * self.y).sum(0)
        root = share.sqrt()
        x, y = (self.x - mean_x) * root, (self.y - mean_y) * root
        if x.shape[1] <= WIDE:
            x, y = x.double(), y.double()
        gram, moment = (x.T @ x).double(), (x.T @ y).double()
        jitter = 1e-7 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        return gram + jitter, moment, mean_x.double(), mean_y.double()

    def unfolded(self, solution: torch.Tensor, strength: float) -> dict[str, np.ndarray]:
        """The solution (K, d + 1) on standardised columns as a state on the original ones."""
        w = solution.numpy().astype(np.float64)
        weight = w[:, :-1] * self.scale
        return {
            "weight": weight.astype(np.float32),
            "bias": (w[:, -1] - weight @ self.mean).astype(np.float32),
            "strength": np.array(strength, np.float32),
        }


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse deviation float32 (d,) of the columns; zero where a column does not vary."""
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    varying = std > 1e-7
    floor = STD_FLOOR * float(np.median(std[varying])) if varying.any() else 1.0
    scale = np.where(varying, 1.0 / np.maximum(np.maximum(std, floor), 1e-7), 0.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def _choose(rows: _Rows, kind: str, seed: int, end: float) -> float:
    """The strength with the lowest mean loss on held-out rows; the ladder ends at PATIENCE or half time."""
    n = len(rows.x)
    if n < 2 * FOLDS:
        return LADDER[2]
    order = np.random.default_rng(seed).permutation(n)
    parts = np.array_split(order, FOLDS)
    folds = [(rows.take(np.setdiff1d(order, p)), rows.take(p)) for p in (parts if n < SMALL else parts[:1])]
    half = time.monotonic() + 0.5 * (end - time.monotonic())
    warm: list[torch.Tensor | None] = [None] * len(folds)
    best, best_loss, since = LADDER[2], float("inf"), 0
    for strength in LADDER:
        total = 0.0
        for i, (train, held) in enumerate(folds):
            warm[i] = _SOLVERS[kind](train, strength, warm[i], half)
            total += _LOSSES[kind](held, warm[i])
        since = 0 if total < best_loss else since + 1
        best, best_loss = (strength, total) if total < best_loss else (best, best_loss)
        if since >= PATIENCE or time.monotonic() > half:
            break
    return best


def _logistic(rows: _Rows, strength: float, start: torch.Tensor | None, end: float) -> torch.Tensor:
    """Multinomial logistic regression by L-BFGS; (K, d + 1), the last column is the bias."""
    import torch

    x, y, n = rows.x, rows.y, len(rows.x)
    share = rows.weights / n

    def objective(w: torch.Tensor) -> tuple[float, torch.Tensor]:
        log_p = torch.log_softmax(w[:, :-1] @ x.T + w[:, -1:], 0)  # (K, n)
        loss = -(log_p * y.T * share).sum() + 0.5 * strength * (w[:, :-1] ** 2).sum()
        residual = (log_p.exp() - y.T) * share
        gradient = torch.cat([residual @ x + strength * w[:, :-1], residual.sum(1, keepdim=True)], 1)
        return float(loss), gradient

    w = torch.zeros(y.shape[1], x.shape[1] + 1) if start is None else start
    return lbfgs(objective, w, end=end)


def lbfgs(
    objective: Callable[[torch.Tensor], tuple[float, torch.Tensor]],
    w: torch.Tensor,
    *,
    end: float,
    iterations: int = 200,
    tolerance: float = 1e-4,
    memory: int = 10,
) -> torch.Tensor:
    """Minimise by limited-memory BFGS with backtracking (Nocedal and Wright, algorithm 7.4).

    Ends when a step lowers the objective by less than `tolerance` of it, or at `end` (monotonic seconds).
    """
    import torch

    pairs: list[tuple[torch.Tensor, torch.Tensor, float]] = []
    loss, gradient = objective(w)
    for _ in range(iterations):
        direction = -_apply_inverse_hessian(pairs, gradient)
        slope = float((gradient * direction).sum())
        step = 1.0 if pairs else 1.0 / max(1e-12, float(gradient.norm()))
        for _ in range(20):
            new = w + step * direction
            new_loss, new_gradient = objective(new)
            if new_loss <= loss + 1e-4 * step * slope:
                break
            step *= 0.4
        else:
            return w  # no step goes down any more: float32 precision is reached
        s, d = new - w, new_gradient - gradient
        curvature = float((s * d).sum())
        if curvature > 1e-12 * float(torch.dot(d.flatten(), d.flatten())):
            pairs = [*pairs[-(memory - 1) :], (s, d, curvature)]
        gain, w, loss, gradient = loss - new_loss, new, new_loss, new_gradient
        if gain < tolerance * abs(loss) or time.monotonic() > end:
            break
    return w


def _apply_inverse_hessian(
    pairs: list[tuple[torch.Tensor, torch.Tensor, float]], gradient: torch.Tensor
) -> torch.Tensor:
    q, weights = gradient.clone(), []
    for s, d, curvature in reversed(pairs):
        a = float((s * q).sum()) / curvature
        weights.append(a)
        q -= a * d
    if pairs:
        _, d, curvature = pairs[-1]
        q *= curvature / float((d * d).sum())
    for (s, d, curvature), a in zip(pairs, reversed(weights), strict=True):
        q += (a - float((d * q).sum()) / curvature) * s
    return q


def _ridge(rows: _Rows, strength: float, start: torch.Tensor | None, end: float) -> torch.Tensor:
    """Weighted ridge regression in closed form, float64; (1, d + 1), the last column is the bias."""
    import torch

    gram, moment, mean_x, mean_y = rows.second_moments
    penalty = strength * torch.eye(len(gram), dtype=torch.float64)
    w = torch.cholesky_solve(moment, torch.linalg.cholesky(gram + penalty))  # (d, 1)
    return torch.cat([w.T, (mean_y - mean_x @ w)[:, None]], 1)


def _cross_entropy(rows: _Rows, w: torch.Tensor | None) -> float:
    import torch

    assert w is not None
    log_p = torch.log_softmax(w[:, :-1] @ rows.x.T + w[:, -1:], 0)
    return float(-(log_p * rows.y.T * rows.weights).sum() / rows.weights.sum())


def _squared_error(rows: _Rows, w: torch.Tensor | None) -> float:
    assert w is not None
    w = w.float()
    error = rows.x @ w[0, :-1] + w[0, -1] - rows.y[:, 0]
    return float((error**2 * rows.weights).sum() / rows.weights.sum())


_SOLVERS: dict[str, Callable[[_Rows, float, torch.Tensor | None, float], torch.Tensor]] = {
    "logistic": _logistic,
    "ridge": _ridge,
}
_LOSSES: dict[str, Callable[[_Rows, torch.Tensor | None], float]] = {
    "logistic": _cross_entropy,
    "ridge": _squared_error,
}
