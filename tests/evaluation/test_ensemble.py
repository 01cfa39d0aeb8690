from __future__ import annotations

import time

import numpy as np
import pytest

from gristmill.evaluation.ensemble import combine, greedy
from gristmill.evaluation.metrics import score, softmax
from gristmill.task import Target

FOUR = Target(name="label", task="multiclass", labels=tuple("abcd"))
PRICE = Target(name="price", task="regression")


def candidates(rows: int = 600, seed: int = 0):
    """Three candidates of equal strength with independent mistakes, and one that only guesses."""
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=rows)
    made = {name: rng.normal(size=(rows, 4)) + 1.2 * np.eye(4)[y] for name in ("one", "two", "three")}
    return y, {k: v.astype(np.float16) for k, v in (made | {"guess": rng.normal(size=(rows, 4))}).items()}


def value(weights, predictions, y, metric: str = "accuracy") -> float:
    logp = combine([predictions[k] for k in weights], list(weights.values()), FOUR)
    return score(metric, y, np.exp(logp), FOUR)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "roc_auc"])
def test_the_ensemble_beats_its_best_member_and_leaves_the_guesser_out(metric: str) -> None:
    y, predictions = candidates()
    weights = greedy(predictions, y, metric, FOUR)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights.get("guess", 0.0) <= 0.1
    direction = -1 if metric == "log_loss" else 1
    singles = [direction * score(metric, y, softmax(p), FOUR) for p in predictions.values()]
    assert direction * value(weights, predictions, y, metric) >= max(singles)
    assert len(weights) >= 2


def test_the_gain_is_real_on_new_rows() -> None:
    y, predictions = candidates(4000)
    weights = greedy({k: v[:2000] for k, v in predictions.items()}, y[:2000], "accuracy", FOUR)
    fresh = {k: v[2000:] for k, v in predictions.items()}
    assert value(weights, fresh, y[2000:]) > max(value({k: 1.0}, fresh, y[2000:]) for k in fresh) + 0.02


def test_caps_on_members_and_cost_hold() -> None:
    y, predictions = candidates()
    assert len(greedy(predictions, y, "log_loss", FOUR, max_members=2)) == 2
    assert len(greedy(predictions, y, "log_loss", FOUR, max_members=1)) == 1
    costs = {"one": 5.0, "two": 1.0, "three": 1.0, "guess": 0.5}
    assert set(greedy(predictions, y, "log_loss", FOUR, costs=costs, cost_cap=2.0)) <= {"two", "three"}
    assert greedy(predictions, y, "log_loss", FOUR, costs=costs, cost_cap=0.1) == {"guess": 1.0}


def test_ties_go_to_the_cheaper() -> None:
    y, predictions = candidates()
    twins = {"dear": predictions["one"], "cheap": predictions["one"]}
    assert greedy(twins, y, "accuracy", FOUR, costs={"dear": 2.0, "cheap": 1.0}) == {"cheap": 1.0}


def test_noise_makes_it_prefer_the_small_and_the_cheap() -> None:
    y, predictions = candidates()
    costs = {"one": 3.0, "two": 2.0, "three": 1.0, "guess": 0.1}
    assert greedy(predictions, y, "accuracy", FOUR, costs=costs, noise=0.2) == {"three": 1.0}


def test_it_always_answers_the_same() -> None:
    y, predictions = candidates()
    assert greedy(predictions, y, "accuracy", FOUR) == greedy(predictions, y, "accuracy", FOUR)


def test_a_broken_candidate_spoils_nothing_and_unlabelled_rows_do_not_count() -> None:
    y, predictions = candidates()
    broken = predictions | {"broken": np.full((len(y), 4), np.nan, dtype=np.float16)}
    assert "broken" not in greedy(broken, y, "accuracy", FOUR)
    holes = np.where(np.arange(len(y)) % 2 == 0, -1, y)
    half = {k: v[1::2] for k, v in predictions.items()}
    assert greedy(predictions, holes, "accuracy", FOUR) == greedy(half, y[1::2], "accuracy", FOUR)


def test_regression_members_are_averaged() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=500)
    predictions = {k: (y + rng.normal(size=500))[:, None].astype(np.float32) for k in ("a", "b")}
    weights = greedy(predictions, y, "rmse", PRICE)
    assert set(weights) == {"a", "b"}
    mean = combine(list(predictions.values()), [1, 1], PRICE)
    assert mean.shape == (500, 1) and mean.dtype == np.float32
    assert np.allclose(mean, (predictions["a"] + predictions["b"]) / 2)


def test_combine_averages_probabilities_whatever_the_scale_of_the_weights() -> None:
    a, b = np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]])
    two = Target(name="x", task="binary", labels=("n", "y"))
    told = np.exp(combine([a, b], [2.0, 2.0], two))
    assert told[0] == pytest.approx([0.625, 0.375])
    assert np.array_equal(combine([a, b], [1, 1], two), combine([a, b], [5, 5], two))
    sure = combine([np.array([[1000.0, -1000.0]])], [1.0], two)
    assert np.isfinite(sure).all()


def test_twenty_candidates_of_ten_thousand_rows_take_well_under_a_second() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=10_000)
    ten = Target(name="label", task="multiclass", labels=tuple("abcdefghij"))
    many = {
        f"c{i}": (rng.normal(size=(10_000, 10)) + 2 * np.eye(10)[y]).astype(np.float16) for i in range(20)
    }
    began = time.process_time()
    greedy(many, y, "accuracy", ten)
    assert time.process_time() - began < 1.5  # 0.15 s on an idle core; room for a busy one
