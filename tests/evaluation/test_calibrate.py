from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from gristmill.evaluation.calibrate import (
    abstention_curve,
    apply_temperature,
    choose_threshold,
    conformal_quantile,
    conformal_set,
    coverage_at,
    residual_quantile,
    temperature,
)
from gristmill.evaluation.metrics import log_softmax, score, softmax
from gristmill.task import Target

FOUR = Target(name="label", task="multiclass", labels=tuple("abcd"))


def overconfident(rows: int, heat: float = 2.5, seed: int = 0):
    """Labels drawn from honest probabilities, and their logarithms made `heat` times too sure."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(rows, 4))
    y = (softmax(logits).cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
    return y, log_softmax(heat * logits)


@pytest.mark.parametrize("heat", [0.4, 1.0, 2.5])
def test_temperature_finds_what_was_done(heat: float) -> None:
    y, logp = overconfident(20_000, heat)
    assert temperature(logp, y) == pytest.approx(heat, rel=0.05)


def test_temperature_is_the_optimum_that_scipy_finds() -> None:
    y, logp = overconfident(3000)

    def loss(t: float) -> float:
        return score("log_loss", y, np.exp(apply_temperature(logp, t)), FOUR)

    told = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6})
    assert temperature(logp, y) == pytest.approx(told.x, rel=5e-3)


def test_scaling_mends_the_calibration_and_keeps_the_labels() -> None:
    y, logp = overconfident(4000)
    better = np.exp(apply_temperature(logp, temperature(logp, y)))
    assert score("ece", y, better, FOUR) < 0.3 * score("ece", y, np.exp(logp), FOUR)
    assert np.array_equal(better.argmax(axis=1), logp.argmax(axis=1))


def test_ten_right_of_ten_do_not_give_endless_confidence() -> None:
    y = np.tile(np.arange(4), 3)[:10]
    logp = log_softmax(2.0 * np.eye(4)[y])
    sure = np.exp(apply_temperature(logp, temperature(logp, y))).max(axis=1)
    assert (sure < 0.96).all()


def test_temperature_of_nothing_and_of_certainty_is_tame() -> None:
    assert temperature(np.zeros((0, 4)), np.zeros(0, dtype=int)) == 1.0
    assert temperature(np.zeros((3, 4)), np.full(3, -1)) == 1.0
    hard = np.log(np.maximum(np.eye(4)[[0, 1, 2, 3]], 1e-30))
    assert 0.05 <= temperature(hard, np.array([0, 1, 2, 3])) <= 20.0
    assert 0.05 <= temperature(hard, np.array([1, 2, 3, 0])) <= 20.0
    assert 0.05 <= temperature(np.zeros((5, 4)), np.zeros(5, dtype=int)) <= 20.0


def test_abstention_curve_starts_with_everything_and_rises() -> None:
    y, logp = overconfident(3000, 1.0)
    curve = abstention_curve(np.exp(logp), y)
    assert curve[0].coverage == 1.0
    assert curve[0].accuracy == pytest.approx(score("accuracy", y, np.exp(logp), FOUR))
    coverages = [p.coverage for p in curve]
    assert coverages == sorted(coverages, reverse=True)
    assert curve[-1].accuracy > curve[0].accuracy + 0.2
    assert len(curve) <= 50
    for point in curve:
        again = coverage_at(np.exp(logp), y, point.threshold)
        assert (again.coverage, again.accuracy) == pytest.approx((point.coverage, point.accuracy))


def test_equal_confidences_are_answered_together() -> None:
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    assert [c.coverage for c in abstention_curve(p, np.array([0, 1, 0]))] == pytest.approx([1.0, 1 / 3])


def test_threshold_halves_the_error_or_stops_at_the_least_coverage() -> None:
    y, logp = overconfident(3000, 1.0)
    chosen = choose_threshold(np.exp(logp), y, error_share=0.85)
    everything = score("accuracy", y, np.exp(logp), FOUR)
    assert 1 - chosen.accuracy <= 0.85 * (1 - everything) + 1e-12
    assert chosen.coverage > 0.6
    stingy = choose_threshold(np.exp(logp), y, error_share=0.01)
    assert 0.6 <= stingy.coverage < 0.61


def test_a_faultless_model_never_abstains() -> None:
    y = np.array([0, 1, 2, 3])
    assert choose_threshold(np.eye(4)[y], y).threshold == 0.0
    assert choose_threshold(np.zeros((0, 4)), np.zeros(0, dtype=int)).threshold == 0.0
    assert abstention_curve(np.zeros((0, 4)), np.zeros(0, dtype=int)) == []


@pytest.mark.parametrize("rows", [19, 200])
def test_conformal_sets_cover_what_they_promise(rows: int) -> None:
    held = []
    for seed in range(200):
        y, logp = overconfident(rows + 200, 2.5, seed)
        p = np.exp(logp)
        least = conformal_quantile(p[:rows], y[:rows], miss=0.1)
        held.append(conformal_set(p[rows:], least)[np.arange(200), y[rows:]].mean())
    assert 0.9 <= np.mean(held) <= 0.97


def test_too_few_rows_put_every_label_into_the_set() -> None:
    y, logp = overconfident(5)
    least = conformal_quantile(np.exp(logp), y, miss=0.1)
    assert conformal_set(np.exp(logp), least).all()


def test_a_set_is_never_empty() -> None:
    assert conformal_set(np.array([[0.4, 0.3, 0.3]]), 0.9).tolist() == [[True, False, False]]


def test_residual_intervals_cover_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        error = rng.standard_t(3, size=250)
        half = residual_quantile(np.zeros(50), error[:50], miss=0.1)
        held.append(np.mean(np.abs(error[50:]) <= half))
    assert 0.895 <= np.mean(held) <= 0.94
    assert math.isinf(residual_quantile(np.zeros(8), np.ones(8)))
    assert residual_quantile(np.zeros(9), np.arange(9.0)) == 8.0
