"""Every metric against scikit-learn, and the edges where people get hurt."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from gristmill.errors import DataError, UsageError
from gristmill.evaluation import metrics
from gristmill.task import CLASSIFICATION_METRICS, REGRESSION_METRICS, Target

FIVE = Target(name="label", task="multiclass", labels=tuple("abcde"))
TWO = Target(name="label", task="binary", labels=("no", "yes"))
PRICE = Target(name="price", task="regression", unit="€")


def labelled(labels: int, rows: int, seed: int, *, missing: tuple[int, ...] = (), ties: bool = False):
    """Codes and probabilities; `missing` codes never occur in y; with `ties` many probabilities are equal."""
    rng = np.random.default_rng(seed)
    y = rng.choice([k for k in range(labels) if k not in missing], size=rows)
    p = metrics.softmax(rng.normal(size=(rows, labels)) + 1.5 * np.eye(labels)[y])
    if ties:
        p = np.round(p, 1) + 1e-3
        p /= p.sum(axis=1, keepdims=True)
    return y, p


def expected(name: str, y, p) -> float:
    """scikit-learn's answer."""
    guess, labels = p.argmax(axis=1), np.arange(p.shape[1])
    if name == "accuracy":
        return oracle.accuracy_score(y, guess)
    if name == "balanced_accuracy":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels guessed that do not occur
            return oracle.balanced_accuracy_score(y, guess)
    if name == "macro_f1":
        return oracle.f1_score(y, guess, average="macro", zero_division=0)
    if name == "log_loss":
        return oracle.log_loss(y, p, labels=labels)
    if name == "brier":
        return oracle.brier_score_loss(y, p, labels=labels, scale_by_half=False)
    present = [k for k in labels if 0 < (y == k).sum() < len(y)]
    return float(np.mean([oracle.roc_auc_score(y == k, p[:, k]) for k in present]))


@pytest.mark.parametrize("name", [*CLASSIFICATION_METRICS, "brier"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("missing", [(), (2,), (0, 4)])
def test_label_metrics_agree_with_scikit_learn(name: str, ties: bool, missing: tuple[int, ...]) -> None:
    for rows in (7, 60, 900):
        y, p = labelled(5, rows, rows, missing=missing, ties=ties)
        assert metrics.score(name, y, p, FIVE) == pytest.approx(expected(name, y, p), abs=1e-9)


@pytest.mark.parametrize("name", CLASSIFICATION_METRICS)
def test_binary_metrics_agree_with_scikit_learn(name: str) -> None:
    y, p = labelled(2, 300, 3, ties=True)
    assert metrics.score(name, y, p, TWO) == pytest.approx(expected(name, y, p), abs=1e-9)


def test_macro_auc_equals_scikit_learns_one_versus_rest_when_every_class_is_there() -> None:
    y, p = labelled(5, 500, 0)
    told = oracle.roc_auc_score(y, p, multi_class="ovr", average="macro")
    assert metrics.score("roc_auc", y, p, FIVE) == pytest.approx(told, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "function"),
    [("rmse", oracle.root_mean_squared_error), ("mae", oracle.mean_absolute_error), ("r2", oracle.r2_score)],
)
def test_regression_metrics_agree_with_scikit_learn(name: str, function) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(1e4, 300.0, 200)
    values = y + rng.normal(0, 100.0, 200)
    assert metrics.score(name, y, values, PRICE) == pytest.approx(function(y, values), rel=1e-12)
    assert metrics.score(name, y, values[:, None], PRICE) == pytest.approx(function(y, values), rel=1e-12)
    assert metrics.score(name, np.full(9, 2.0), np.full(9, 3.0), PRICE) == pytest.approx(
        function(np.full(9, 2.0), np.full(9, 3.0))
    )


def test_calibration_error_of_a_hand_made_case() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    y = np.array([0, 1, 0, 0])  # 0.9 sure and half right, 0.6 sure and always right
    assert metrics.score("ece", y, p, TWO) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_the_registry_holds_what_the_task_offers() -> None:
    assert metrics.metrics_of(FIVE)[:5] == CLASSIFICATION_METRICS
    assert metrics.metrics_of(PRICE) == REGRESSION_METRICS


def test_rows_without_a_label_do_not_count() -> None:
    y, p = labelled(5, 50, 1)
    masked = np.where(np.arange(50) < 20, -1, y)
    assert metrics.score("accuracy", masked, p, FIVE) == metrics.score("accuracy", y[20:], p[20:], FIVE)
    values = np.arange(4.0)
    assert metrics.score("mae", np.array([np.nan, 1, 2, 4]), values, PRICE) == pytest.approx(1 / 3)


def test_a_single_class_has_no_auc_and_says_a_coin() -> None:
    _, p = labelled(5, 6, 1)
    assert metrics.score("roc_auc", np.zeros(6, dtype=int), p, FIVE) == 0.5


def test_certain_mistakes_are_costly_but_finite() -> None:
    p = np.array([[1.0, 0.0]])
    assert metrics.score("log_loss", np.array([1]), p, TWO) == pytest.approx(-np.log(1e-15))


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "roc_auc", "balanced_accuracy", "macro_f1"])
def test_half_precision_logits_are_enough(name: str) -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(5, size=400)
    logits = 4 * rng.normal(size=(400, 5)) + 3 * np.eye(5)[y]
    exact = metrics.score(name, y, metrics.softmax(logits), FIVE)
    stored = metrics.score(name, y, metrics.softmax(logits.astype(np.float16)), FIVE)
    assert stored == pytest.approx(exact, abs=5e-3)


def test_softmax_neither_overflows_nor_changes_its_argument() -> None:
    logits = np.array([[60000.0, -60000.0]], dtype=np.float16)
    kept = logits.copy()
    assert metrics.softmax(logits).tolist() == [[1.0, 0.0]]
    assert np.isfinite(metrics.log_softmax(logits)).all()
    assert np.array_equal(logits, kept)


def test_floor_is_the_majority_or_the_mean() -> None:
    y_train, y = np.array([1, 1, 1, 0, 4]), np.array([1, 0, 1, 2])
    assert metrics.floor("accuracy", y_train, y, FIVE) == 0.5
    assert metrics.floor("balanced_accuracy", y_train, y, FIVE) == pytest.approx(1 / 3)
    assert metrics.floor("roc_auc", y_train, y, FIVE) == 0.5
    assert np.isfinite(metrics.floor("log_loss", y_train, y, FIVE))  # label 2 never trained on
    assert metrics.floor("rmse", np.array([1.0, 3.0, np.nan]), np.array([0.0, 4.0]), PRICE) == 2.0
    assert set(metrics.floors(y_train, y, FIVE)) == set(metrics.metrics_of(FIVE))


def test_scaled_runs_from_the_floor_to_perfect() -> None:
    assert metrics.scaled("accuracy", 0.6, 0.6) == 0.0
    assert metrics.scaled("accuracy", 1.0, 0.6) == 1.0
    assert metrics.scaled("rmse", 4.0, 8.0) == 0.5
    assert metrics.scaled("r2", 0.5, 0.0) == 0.5
    assert metrics.scaled("log_loss", 3.0, 2.0) == -0.5
    assert metrics.scaled("accuracy", 1.0, 1.0) == 1.0
    assert metrics.scaled("accuracy", 0.9, 1.0) < 0.0


def test_metrics_that_do_not_fit_are_refused_with_the_nearest() -> None:
    y, p = labelled(5, 10, 0)
    with pytest.raises(UsageError, match=r"acuracy[^\n]*\nNext: use accuracy"):
        metrics.score("acuracy", y, p, FIVE)
    with pytest.raises(UsageError, match="regression task"):
        metrics.score("accuracy", np.zeros(3), np.zeros(3), PRICE)


@pytest.mark.parametrize(
    ("y", "outputs", "said"),
    [
        (np.array([0, 1]), np.ones((2, 3)) / 3, "shape"),
        (np.array([0, 1]), np.full((2, 5), np.nan), "finite"),
        (np.array([-1, -1]), np.ones((2, 5)) / 5, "at least one labelled row"),
        (np.array([0, 7]), np.ones((2, 5)) / 5, "codes"),
    ],
)
def test_broken_outputs_are_named(y, outputs, said: str) -> None:
    with pytest.raises(DataError, match=said):
        metrics.score("accuracy", y, outputs, FIVE)


@pytest.mark.parametrize("name", [*CLASSIFICATION_METRICS, "brier"])
def test_standard_error_agrees_with_a_plain_bootstrap(name: str) -> None:
    y, p = labelled(5, 400, 8)
    rng = np.random.default_rng(0)
    draws = [metrics.METRICS[name].compute(y[i], p[i]) for i in rng.integers(400, size=(300, 400))]
    assert metrics.standard_error(name, y, p, FIVE) == pytest.approx(np.std(draws), rel=0.15)


@pytest.mark.parametrize("name", REGRESSION_METRICS)
def test_standard_error_of_a_regression_agrees_with_a_plain_bootstrap(name: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    values = y + rng.normal(size=400)
    draws = [metrics.METRICS[name].compute(y[i], values[i]) for i in rng.integers(400, size=(300, 400))]
    assert metrics.standard_error(name, y, values, PRICE) == pytest.approx(np.std(draws), rel=0.15)


def test_one_row_has_no_standard_error() -> None:
    assert np.isnan(metrics.standard_error("accuracy", np.array([0]), np.eye(5)[:1], FIVE))
