"""Greedy ensembles of stored predictions (Caruana et al. 2004): with replacement, ties to the cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gristmill.evaluation.metrics import Array, fitting, softmax
from gristmill.task import Target

STEPS = 25
"""Most picks, so weights are multiples of at least 1/25; more only fits the validation rows closer."""
PATIENCE = 4
"""Picks without a gain before it stops; a single bad pick may be the way to a better pair."""


def combine(logits: Sequence[Array], weights: Sequence[float], target: Target) -> Array:
    """The ensemble's answer on some rows.

    Args:
        logits: One array (n, K) per member; (n, 1) standardised values for regression.
        weights: One weight (not negative, not all zero) per member; they need not sum to one.

    Returns:
        float32 (n, K): logarithms of the weighted mean of the members' probabilities; for regression
        (n, 1), the weighted mean of the values.
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    members = _as_averaged(logits, target)
    mean = sum(np.float32(w) * m for w, m in zip(shares, members, strict=True))
    if target.task == "regression":
        return np.asarray(mean, dtype=np.float32)
    return np.log(np.maximum(np.asarray(mean, dtype=np.float32), np.float32(1e-30)))


def greedy(
    predictions: Mapping[str, Array],
    y: Array,
    metric: str,
    target: Target,
    *,
    costs: Mapping[str, float] | None = None,
    cost_cap: float = float("inf"),
    max_members: int = 4,
    noise: float = 0.0,
) -> dict[str, float]:
    """Pick members, some more than once, so that the weighted mean scores best on the rows of `y`.

    Args:
        predictions: Logits (n, K) per candidate id, or values (n, 1) in the unit of `y`.
        costs: What each candidate costs to run, any one unit; all equal if absent.
        cost_cap: The members' costs may not sum to more. The cheapest candidate is allowed always.
        max_members: Most different members.
        noise: Smallest gain that counts, in the metric's unit. Scores closer than this are ties and go to
            the cheaper ensemble. 0 (the default) grows on any gain.

    Returns:
        Weight by id, summing to one; every id of `predictions` that is absent has weight 0. The order is
        that of the picks. With the same input it always is the same.
    """
    race = _Race.start(predictions, y, metric, target, costs or {})
    picks: list[int] = []
    best_picks, best_score = picks, -np.inf
    total: Array | None = None
    for _ in range(STEPS):
        allowed = race.allowed(picks, cost_cap, max_members)
        chosen, value = race.best_addition(total, len(picks), allowed, noise)
        picks = [*picks, chosen]
        total = race.members[chosen] if total is None else total + race.members[chosen]
        if value > best_score + max(noise, 1e-9) or not best_picks:
            best_picks, best_score = picks, value
        elif len(picks) - len(best_picks) >= PATIENCE:
            break
    return {race.ids[i]: best_picks.count(i) / len(best_picks) for i in dict.fromkeys(best_picks)}


@dataclass(frozen=True, kw_only=True)
class _Race:
    """The rows with a label, ready to be scored many times."""

    ids: list[str]
    members: list[Array] = field(repr=False)
    costs: list[float]
    y: Array = field(repr=False)
    metric: str
    target: Target

    @staticmethod
    def start(
        predictions: Mapping[str, Array], y: Array, metric: str, target: Target, costs: Mapping[str, float]
    ) -> _Race:
        assert predictions, "an ensemble needs at least one candidate"
        keep = np.isfinite(y) if target.task == "regression" else y >= 0
        return _Race(
            ids=list(predictions),
            members=[m[keep] for m in _as_averaged(list(predictions.values()), target)],
            costs=[float(costs.get(name, 1.0)) for name in predictions],
            y=y[keep], metric=metric, target=target,
        )  # fmt: skip

    def allowed(self, picks: Sequence[int], cost_cap: float, max_members: int) -> list[int]:
        """Candidates that may be picked next; members may always be picked again."""
        used = set(picks)
        spent = sum(self.costs[i] for i in used)
        fits = [i for i in range(len(self.ids)) if i not in used and spent + self.costs[i] <= cost_cap]
        if not used:
            return fits or [int(np.argmin(self.costs))]
        return sorted(used) + (fits if len(used) < max_members else [])

    def best_addition(
        self, total: Array | None, count: int, allowed: Sequence[int], noise: float
    ) -> tuple[int, float]:
        """The candidate whose addition scores best (within `noise`: the cheapest), and that score."""
        found = fitting(self.metric, self.target)
        scores = []
        for i in allowed:
            mean = self.members[i] if total is None else (total + self.members[i]) / np.float32(count + 1)
            outputs = mean[:, 0] if self.target.task == "regression" else mean
            scores.append(found.direction * float(found.compute(self.y, outputs)))
        tied = [i for i, s in zip(allowed, scores, strict=True) if s >= max(scores) - max(noise, 1e-9)]
        chosen = min(tied, key=lambda i: (self.costs[i], -scores[allowed.index(i)], i))
        return chosen, scores[allowed.index(chosen)]


def _as_averaged(logits: Sequence[Array], target: Target) -> list[Array]:
    """What is averaged: float32 probabilities, or float32 values. Not finite predictions never help: NaN
    becomes the uniform answer (or 0), so that one broken candidate cannot spoil the others."""
    if target.task == "regression":
        return [np.nan_to_num(np.asarray(m, dtype=np.float32).reshape(len(m), 1)) for m in logits]
    return [softmax(np.nan_to_num(np.asarray(m, dtype=np.float32))) for m in logits]
