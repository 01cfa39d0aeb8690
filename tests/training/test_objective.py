from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from gristmill.errors import DataError
from gristmill.task import Target
from gristmill.training.objective import class_weights, objective, row_weights, scale_of, standardised
from gristmill.training.recipe import Recipe

CPU = torch.device("cpu")
LABEL = Target(name="y", task="multiclass", labels=("a", "b", "c"))
PRICE = Target(name="y", task="regression")


def recipe(**changes):
    return Recipe(
        **{"optimizer": "adamw", "batch": 8, "rate": 0.1, "head_rate": 0.1, "vector_rate": 0.1, **changes}
    )


def test_classes_are_scored_by_smoothed_cross_entropy():
    values = np.array([0, 1, 2, -1])
    aim = objective(LABEL, values, np.array([0, 1, 2]), None, recipe(smoothing=0.2), CPU)
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    expected = functional.cross_entropy(logits, torch.tensor([2, 0]), label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(aim(logits, torch.tensor([2, 0])), expected)


def test_classes_weigh_alike_when_balanced():
    values = np.array([0, 0, 0, 1])
    weights = row_weights(Target(name="y", task="binary", labels=("a", "b")), values, None, balanced=True)
    assert weights is not None
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights.mean() == pytest.approx(1.0)


def test_absent_classes_take_nothing_away():
    assert (class_weights(np.array([0, 0, 2, 2]), 3)[[0, 2]] == 1.0).all()


def test_view_weights_act_by_row_id():
    values = np.array([0, 1, 1, 0])
    aim = objective(LABEL, values, np.array([3, 1]), np.array([3.0, 1.0]), recipe(smoothing=0.0), CPU)
    logits = torch.zeros(1, 3)
    three, one = (float(aim(logits, torch.tensor([row]))) for row in (3, 1))
    assert three == pytest.approx(3 * one)


def test_weights_must_be_positive_somewhere():
    with pytest.raises(DataError, match="positive sum"):
        row_weights(LABEL, np.array([0, 1]), np.zeros(2), balanced=False)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_regression_is_standardised_on_training_rows(loss):
    values = np.array([10.0, 20.0, 1e6])
    aim = objective(PRICE, values, np.array([0, 1]), None, recipe(loss=loss), CPU)
    assert (aim.scale.mean, aim.scale.std) == (15.0, 5.0)
    assert float(aim(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))) == pytest.approx(0.0, abs=1e-6)


def test_a_constant_target_has_unit_scale():
    scale = scale_of(np.full(4, 7.0))
    assert standardised(np.array([7.0]), scale).tolist() == [0.0]


def test_logits_are_adjusted_by_the_shares_of_classes():
    values = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    aim = objective(LABEL, values, np.arange(8), None, recipe(balance="logits", smoothing=0.0), CPU)
    logits = torch.zeros(1, 3)
    # a network that knows nothing is charged the entropy of the shares, not log(3)
    assert aim(logits, torch.tensor([3])).item() == pytest.approx(np.log(8))
    assert aim(logits, torch.tensor([4])).item() == pytest.approx(np.log(2))
    assert (
        objective(PRICE, values, np.arange(8), None, recipe(balance="logits", loss="mse"), CPU).shares is None
    )
