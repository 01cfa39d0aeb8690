"""Intervals must hold the truth about as often as they say: simulated, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from gristmill.evaluation.interval import Interval, interval, intervals, paired, resampled_means, wilson
from gristmill.evaluation.metrics import METRICS, softmax
from gristmill.task import Target

FOUR = Target(name="label", task="multiclass", labels=tuple("abcd"))
PRICE = Target(name="price", task="regression")


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_agrees_with_scipy(right: int, rows: int) -> None:
    right = min(right, rows)
    told = binomtest(right, rows).proportion_ci(method="wilson")
    mine = wilson(right / rows, rows)
    assert (mine.low, mine.high) == pytest.approx((told.low, told.high), abs=1e-12)
    assert mine.low <= mine.value <= mine.high


def test_wilson_of_nothing_knows_nothing() -> None:
    assert wilson(0.5, 0) == Interval(value=0.5, low=0.0, high=1.0)


def draw(rng: np.random.Generator, rows: int):
    """Rows of four unequal classes and an imperfect model of fixed quality."""
    y = rng.choice(4, size=rows, p=[0.1, 0.2, 0.3, 0.4])
    return y, softmax(rng.normal(size=(rows, 4)) + 1.2 * np.eye(4)[y])


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss"])
def test_coverage_of_label_metrics(name: str) -> None:
    rng = np.random.default_rng(1)
    truth = METRICS[name].compute(*draw(rng, 200_000))
    found = [interval(name, *draw(rng, 80), FOUR, resamples=200, seed=i) for i in range(400)]
    assert 0.92 <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.985


@pytest.mark.parametrize(("name", "least"), [("mae", 0.91), ("rmse", 0.88), ("r2", 0.91)])
def test_coverage_of_regression_metrics(name: str, least: float) -> None:
    def sample(rows: int):
        y = rng.normal(size=rows)
        return y, y + rng.normal(size=rows)

    rng = np.random.default_rng(2)
    truth = METRICS[name].compute(*sample(200_000))
    found = [interval(name, *sample(40), PRICE, resamples=200, seed=i) for i in range(400)]
    assert least <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.985


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"])
def test_a_perfect_score_on_few_rows_is_not_certain(name: str) -> None:
    y = np.repeat(np.arange(4), 5)
    found = interval(name, y, np.eye(4)[y], FOUR)
    assert found.value == found.high == 1.0
    assert 0.6 < found.low < 0.95


def test_rare_classes_widen_balanced_accuracy() -> None:
    even, rare = np.repeat(np.arange(4), 50), np.repeat(np.arange(4), [97, 97, 3, 3])
    width = [
        found.high - found.low
        for found in (interval("balanced_accuracy", y, np.eye(4)[y], FOUR) for y in (even, rare))
    ]
    assert width[1] > 3 * width[0]


def test_same_seed_same_interval_and_shared_resamples_change_nothing() -> None:
    y, p = draw(np.random.default_rng(3), 120)
    together = intervals(("accuracy", "log_loss", "roc_auc"), y, p, FOUR, seed=4)
    assert list(together) == ["accuracy", "log_loss", "roc_auc"]
    assert together["log_loss"] == interval("log_loss", y, p, FOUR, seed=4)
    assert together["log_loss"] != interval("log_loss", y, p, FOUR, seed=5)


def test_large_parts_use_the_normal_interval_and_agree() -> None:
    y, p = draw(np.random.default_rng(3), 20_001)
    large, small = interval("log_loss", y, p, FOUR), interval("log_loss", y[:-1], p[:-1], FOUR)
    assert (large.low, large.high) == pytest.approx((small.low, small.high), abs=2e-3)


def test_one_row_gives_an_interval_without_a_complaint() -> None:
    found = intervals(
        ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss"),
        np.array([0]),
        np.eye(4)[:1],
        FOUR,
    )
    assert all(
        np.isfinite([i.value, i.low, i.high]).all() and i.low <= i.value <= i.high for i in found.values()
    )
    only = interval("rmse", np.array([1.0]), np.array([2.0]), PRICE)
    assert (only.low, only.value, only.high) == (1.0, 1.0, 1.0)


def test_resampled_means_are_centred_and_spread_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(size=(500, 2))
    means = resampled_means(values, 1000, seed=0)
    assert means.shape == (1000, 2)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.01)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(500), rel=0.1)


def test_paired_comparison_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=400)
    hard = rng.random(400) < 0.3
    second = np.eye(4)[np.where(hard, (y + 1) % 4, y)]
    first = second.copy()
    mended = np.flatnonzero(hard)[:10]
    first[mended] = np.eye(4)[y[mended]]
    found = paired("accuracy", y, first, second, FOUR)
    assert found.value == pytest.approx(10 / 400)
    assert found.low > 0 and found.p_better > 0.99
    a, b = (interval("accuracy", y, p, FOUR) for p in (first, second))
    assert a.low < b.high  # the single intervals overlap


def test_paired_is_positive_for_better_in_both_directions_and_zero_for_the_same() -> None:
    y = np.arange(30.0)
    good, bad = y + 0.1, y + np.tile([3.0, -2.0], 15)
    assert paired("rmse", y, good, bad, PRICE).value > 0
    same = paired("rmse", y, bad, bad, PRICE)
    assert (same.value, same.low, same.high, same.p_better) == (0.0, 0.0, 0.0, 0.5)
