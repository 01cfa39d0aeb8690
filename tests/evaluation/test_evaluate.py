from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from gristmill.errors import UsageError
from gristmill.evaluation import Evaluation, evaluate, floors
from gristmill.evaluation.metrics import softmax
from gristmill.task import Target

FIVE = Target(name="label", task="multiclass", labels=("ant", "bee", "cat", "dog", "eel"))
PRICE = Target(name="price", task="regression", unit="€")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=300)  # no eel
    return y, softmax(rng.normal(size=(300, 5)) + 1.5 * np.eye(5)[y])


def test_tables_agree_with_scikit_learn(rows) -> None:
    y, p = rows
    found = evaluate(FIVE, y, p, metric="accuracy")
    guess = p.argmax(axis=1)
    assert np.array_equal(found.matrix(), confusion_matrix(y, guess, labels=range(5)))
    precision, recall, f1, n = precision_recall_fscore_support(y, guess, labels=range(5), zero_division=0)
    for k, one in enumerate(found.per_class):
        assert (one.precision or 0.0, one.recall or 0.0, one.f1 or 0.0, one.n) == pytest.approx(
            (precision[k], recall[k], f1[k], n[k])
        )
    assert found.per_class[4].recall is None
    assert found.score.low < found.score.value < found.score.high


def test_confused_pairs_name_the_surest_mistakes(rows) -> None:
    y, p = rows
    names = [f"photos/{i}.jpg" for i in range(1000)]
    found = evaluate(FIVE, y, p, metric="accuracy", names=names, rows=np.arange(300) + 500)
    worst = found.confused[0]
    assert worst.count == max(n for true, said, n in found.confusion if true != said)
    assert list(worst.confidences) == sorted(worst.confidences, reverse=True)
    row = int(worst.names[0].removeprefix("photos/").removesuffix(".jpg")) - 500
    assert FIVE.labels[y[row]] == worst.true and FIVE.labels[p[row].argmax()] == worst.predicted
    assert found.mistakes[0].size == max(m.size for m in found.mistakes)


def test_unlabelled_rows_are_left_out_and_names_still_fit(rows) -> None:
    y, p = rows
    holes = np.where(np.arange(300) < 100, -1, y)
    names = [str(i) for i in range(300)]
    found = evaluate(FIVE, holes, p, metric="accuracy", names=names)
    same = evaluate(FIVE, y[100:], p[100:], metric="accuracy", names=names[100:])
    assert found == same
    assert found.n == 200


def test_floor_threshold_calibration_and_sets(rows) -> None:
    y, p = rows
    found = evaluate(
        FIVE, y, p, metric="accuracy", floor=floors(y, y, FIVE), uncalibrated=np.sqrt(p),
        threshold=0.6, answer_set=0.1,
    )  # fmt: skip
    low = found.floor["accuracy"]
    assert found.scaled == pytest.approx((found.score.value - low) / (1 - low))
    assert found.calibration is not None and set(found.calibration.before) == set(found.calibration.after)
    assert sum(b.n for b in found.calibration.bins) == 300
    assert found.at_threshold is not None and 0 < found.at_threshold.coverage < 1
    assert found.sets is not None and found.sets.coverage > found.score.value and (found.sets.size or 0) > 1


def test_regression_speaks_in_the_targets_unit() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(100.0, 20.0, 500)
    values = y + rng.normal(2.0, 5.0, 500)
    found = evaluate(PRICE, y, values, metric="rmse", floor=floors(y, y, PRICE), answer_set=9.0, part="valid")
    assert found.part == "valid" and found.unit == "€" and set(found.metrics) == {"rmse", "mae", "r2"}
    errors = found.residuals
    assert errors is not None
    assert errors.bias == pytest.approx(2.0, abs=0.7)
    assert sum(errors.counts) == 500 and len(errors.edges) == len(errors.counts) + 1
    assert sum(s.n for s in errors.slices) == 500 and len(errors.slices) == 5
    assert len(errors.points) <= 300
    assert found.mistakes[0].size == pytest.approx(np.abs(values - y).max())
    assert found.sets is not None and found.sets.half_width == 9.0
    assert found.confusion == () and found.per_class == ()


@pytest.mark.parametrize("constant", [True, False])
def test_odd_regressions_do_not_stumble(constant: bool) -> None:
    y = np.full(7, 3.0) if constant else np.array([1.0])
    found = evaluate(PRICE, y, y.copy(), metric="mae", answer_set=float("inf"))
    assert found.score.value == 0.0
    assert found.sets is None
    json.dumps(found.to_json(), allow_nan=False)


def test_json_round_trip_and_unknown_fields(rows) -> None:
    y, p = rows
    full = evaluate(FIVE, y, p, metric="roc_auc", threshold=0.5, answer_set=0.2, uncalibrated=p)
    text = json.dumps(full.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == full
    later = json.loads(text) | {"new_in_version_9": 1}
    later["per_class"][0]["hue"] = 2
    assert Evaluation.from_json(later) == full
    errors = evaluate(PRICE, y.astype(float), p[:, 0], metric="rmse", answer_set=2.0)
    assert Evaluation.from_json(json.loads(json.dumps(errors.to_json()))) == errors


def test_an_old_record_without_later_fields_opens() -> None:
    old = {
        "target": "label", "task": "binary", "part": "test", "n": 3, "metric": "accuracy",
        "metrics": {"accuracy": {"value": 1.0, "low": 0.4, "high": 1.0}},
    }  # fmt: skip
    assert Evaluation.from_json(old).score.value == 1.0


def test_the_metric_must_fit(rows) -> None:
    with pytest.raises(UsageError, match="metric"):
        evaluate(FIVE, *rows, metric="rmse")
