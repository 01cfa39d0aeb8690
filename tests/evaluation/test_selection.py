from __future__ import annotations

import numpy as np

from gristmill.evaluation.metrics import score
from gristmill.evaluation.selection import selection_bias
from gristmill.task import Target

TWO = Target(name="label", task="binary", labels=("no", "yes"))


def coins(rng: np.random.Generator, rows: int, skills: list[float]):
    y = rng.integers(2, size=rows)
    right = rng.random((len(skills), rows)) < np.asarray(skills)[:, None]
    return y, {str(i): np.eye(2)[np.where(r, y, 1 - y)] for i, r in enumerate(right)}


def test_the_best_of_many_equal_candidates_is_brought_back_to_the_truth() -> None:
    rng = np.random.default_rng(0)
    corrected, shown = [], []
    for seed in range(20):
        y, outputs = coins(rng, 400, [0.7] * 40)
        best = max(score("accuracy", y, p, TWO) for p in outputs.values())
        shown.append(best)
        corrected.append(best - selection_bias(outputs, y, "accuracy", TWO, resamples=100, seed=seed))
    assert np.mean(shown) > 0.74
    assert abs(np.mean(corrected) - 0.7) < 0.015


def test_a_clear_winner_needs_next_to_no_correction() -> None:
    y, outputs = coins(np.random.default_rng(1), 1000, [0.6, 0.6, 0.9])
    assert selection_bias(outputs, y, "accuracy", TWO) < 0.005


def test_one_candidate_and_one_seed() -> None:
    y, outputs = coins(np.random.default_rng(2), 100, [0.7, 0.7])
    assert selection_bias({"0": outputs["0"]}, y, "accuracy", TWO) == 0.0
    assert selection_bias(outputs, y, "accuracy", TWO, seed=3) == selection_bias(
        outputs, y, "accuracy", TWO, seed=3
    )
