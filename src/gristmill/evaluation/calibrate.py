"""Honest confidence, learned on the calibration rows alone: temperature, abstention, conformal sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gristmill.evaluation.metrics import Array, log_softmax

HOTTEST = 20.0
"""Temperatures stay within 1/20 and 20; outside, something else is wrong."""


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """Answer only when the confidence reaches `threshold`: then `coverage` of the rows are answered and
    `accuracy` of those are right (on the calibration rows)."""

    threshold: float
    coverage: float
    accuracy: float


def temperature(log_probs_NK: Array, y: Array) -> float:
    """The T that makes softmax(log_probs / T) most likely on the labelled rows of `y` (Guo et al. 2017).

    The likelihood is convex in 1/T, so Newton steps kept inside a bracket find the one minimum. Targets are
    smoothed by 1/(n+2) as in Platt (1999): ten right answers of ten must not end in endless confidence.
    Labels and their order never change. Without rows it is 1.
    """
    keep = np.asarray(y) >= 0
    z = log_softmax(np.asarray(log_probs_NK)[keep].astype(np.float64))
    z = np.maximum(z, -100.0)  # a label ruled out at e-100 says nothing that e-200 would not
    if not len(z) or not np.isfinite(z).all():
        return 1.0
    smooth = 1.0 / (len(z) + 2.0)
    own = z[np.arange(len(z)), np.asarray(y)[keep]]
    aim = float(((1 - smooth) * own + smooth * z.mean(axis=1)).mean())
    return 1.0 / _newton(z, aim)


def _newton(z_NK: Array, aim: float) -> float:
    """The beta where the mean of z under softmax(beta z) is `aim`, within 1/HOTTEST and HOTTEST."""
    low, high, beta = 1.0 / HOTTEST, HOTTEST, 1.0
    for _ in range(60):
        p = np.exp(log_softmax(beta * z_NK))
        mean = (p * z_NK).sum(axis=1)
        slope = float(mean.mean()) - aim
        low, high = (low, beta) if slope > 0 else (beta, high)
        curve = float(((p * z_NK * z_NK).sum(axis=1) - mean**2).mean())
        step = beta - slope / curve if curve > 1e-12 else math.sqrt(low * high)
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - beta) < 1e-7 * beta:
            return following
        beta = following
    return beta


def apply_temperature(log_probs_NK: Array, heat: float) -> Array:
    """Logarithms of the calibrated probabilities, (n, K)."""
    return log_softmax(np.asarray(log_probs_NK) / np.float32(heat))


def abstention_curve(probabilities_NK: Array, y: Array, points: int = 50) -> list[Abstention]:
    """Coverage and accuracy at up to `points` thresholds, from answering everything to only the surest.

    Thresholds are confidences that occur; rows of equal confidence are answered or refused together.
    Unlabelled rows are left out. Empty without rows.
    """
    confidence, correct = _confidence(probabilities_NK, y)
    n = len(confidence)
    if not n:
        return []
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(correct[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    wanted = np.linspace(n - 1, max(0, n // 50 - 1), points).astype(np.int64)
    chosen = np.unique(np.minimum(np.searchsorted(ends, wanted), len(ends) - 1))[::-1]
    return [
        Abstention(threshold=float(ranked[e]), coverage=(e + 1) / n, accuracy=float(right[e] / (e + 1)))
        for e in (int(ends[c]) for c in chosen)
    ]


def choose_threshold(
    probabilities_NK: Array, y: Array, *, error_share: float = 0.5, least_coverage: float = 0.6
) -> Abstention:
    """The threshold below which the model says "I don't know".

    The one that answers the most rows while the error among the answered is at most `error_share` of the
    error on all; if that would answer fewer than `least_coverage`, the one nearest to that coverage from
    above. A model without errors never abstains (threshold 0). Deterministic; calibration rows only.
    """
    confidence, correct = _confidence(probabilities_NK, y)
    n = len(confidence)
    everything = Abstention(threshold=0.0, coverage=1.0, accuracy=float(correct.mean()) if n else 0.0)
    if not n or correct.all():
        return everything
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(correct[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    answered = ends + 1.0
    errors = 1.0 - right[ends] / answered
    able = answered >= least_coverage * n
    good = able & (errors <= error_share * errors[-1])
    pick = int(np.flatnonzero(good)[-1] if good.any() else np.flatnonzero(able)[0])
    return Abstention(
        threshold=float(ranked[ends[pick]]),
        coverage=float(answered[pick] / n),
        accuracy=float(1 - errors[pick]),
    )


def coverage_at(probabilities_NK: Array, y: Array, threshold: float) -> Abstention:
    """What a threshold chosen elsewhere does on these rows; accuracy is 0 when nothing is answered."""
    confidence, correct = _confidence(probabilities_NK, y)
    answered = confidence >= threshold
    return Abstention(
        threshold=threshold,
        coverage=float(answered.mean()) if len(answered) else 0.0,
        accuracy=float(correct[answered].mean()) if answered.any() else 0.0,
    )


def _confidence(probabilities_NK: Array, y: Array) -> tuple[Array, Array]:
    keep = np.asarray(y) >= 0
    p = np.asarray(probabilities_NK)[keep]
    return p.max(axis=1), p.argmax(axis=1) == np.asarray(y)[keep]


def conformal_quantile(probabilities_NK: Array, y: Array, *, miss: float = 0.1) -> float:
    """The least probability at which a label belongs to the answer set, for `conformal_set`.

    Split conformal with the LAC score 1 - p (Sadinle et al. 2019): sets hold the true label on at least
    1 - miss of future rows, whatever the model, if they come as the calibration rows did. Too few rows
    (fewer than 1/miss - 1) give 0: every label is in the set.
    """
    keep = np.asarray(y) >= 0
    own = np.asarray(probabilities_NK)[keep][np.arange(int(keep.sum())), np.asarray(y)[keep]]
    return 1.0 - _upper(1.0 - own.astype(np.float64), miss, beyond=1.0)


def conformal_set(probabilities_NK: Array, least: float) -> Array:
    """Which labels are in the set, bool (n, K). The most likely always is: an empty set helps nobody."""
    p = np.asarray(probabilities_NK)
    # a float32 probability equal to `least` must not be lost to the rounding of 1 - (1 - p)
    inside: Array = p >= least - 1e-9
    inside[np.arange(len(p)), p.argmax(axis=1)] = True
    return inside


def residual_quantile(y: Array, values: Array, *, miss: float = 0.1) -> float:
    """Half the width of an interval that holds at least 1 - miss of future true values, in the target's
    unit (split conformal on absolute residuals). Infinite for fewer than 1/miss - 1 rows."""
    residual = np.abs(np.asarray(values, dtype=np.float64).reshape(-1) - np.asarray(y, dtype=np.float64))
    return _upper(residual[np.isfinite(residual)], miss, beyond=math.inf)


def _upper(scores_N: Array, miss: float, *, beyond: float) -> float:
    """The ceil((n+1)(1-miss))-th smallest score; `beyond` when n is too small to have one."""
    rank = math.ceil((len(scores_N) + 1) * (1 - miss) - 1e-9)
    if rank > len(scores_N):
        return beyond
    return float(np.partition(scores_N, rank - 1)[rank - 1])
