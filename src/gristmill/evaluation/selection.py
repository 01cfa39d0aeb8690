"""How much the best of many candidates flatters itself on the rows that chose it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gristmill.evaluation.interval import resampled_counts
from gristmill.evaluation.metrics import Array, fitting, labelled
from gristmill.task import Target


def selection_bias(
    outputs: Mapping[str, Array],
    y: Array,
    metric: str,
    target: Target,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> float:
    """Expected gap between the winner's score on these rows and on new ones; not negative, metric's unit.

    Choose on a bootstrap resample, score the choice on the rows left out, many times over (BBC-CV,
    Tsamardinos et al. 2018), with each resampled score taken from the influence functions, so that 200
    candidates on 10,000 rows cost one matrix product. A little too careful rather than too kind.
    One candidate has no bias.
    """
    if len(outputs) < 2:
        return 0.0
    found = fitting(metric, target)
    scores, influences = [], []
    for out in outputs.values():
        rows, kept = labelled(y, out, target)
        scores.append(found.direction * float(found.compute(rows, kept)))
        influences.append(found.direction * found.influence(rows, kept))
    score_C, influence_NC = np.asarray(scores), np.stack(influences, axis=1)
    outside = [
        _outside(counts, score_C, influence_NC)
        for counts in resampled_counts(len(influence_NC), resamples, seed)
    ]
    return max(0.0, float(score_C.max() - np.concatenate(outside).mean()))


def _outside(counts_BN: Array, score_C: Array, influence_NC: Array) -> Array:
    """Score of each resample's winner on the rows that the resample left out."""
    inside = score_C + counts_BN @ influence_NC / counts_BN.shape[1]
    left_out = (counts_BN == 0).astype(np.float64)
    outside = score_C + left_out @ influence_NC / np.maximum(left_out.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(outside[np.arange(len(inside)), inside.argmax(axis=1)])
