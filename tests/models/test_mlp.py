from __future__ import annotations

import pytest
import torch

from gristmill.models.mlp import ResidualMLP, embedding_size, fit_bins, shape_of


def network(**changes: object) -> ResidualMLP:
    options = {"numbers": 3, "cardinalities": (4, 7), "outputs": 2, "width": 16, "depth": 1, "bins": 4}
    return ResidualMLP(**{**options, **changes}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("bins", [0, 8])
@pytest.mark.parametrize(("numbers", "cardinalities"), [(3, (4, 7)), (3, ()), (0, (4,))])
def test_shapes_are_read_back_from_the_state(numbers: int, cardinalities: tuple[int, ...], bins: int) -> None:
    state = network(numbers=numbers, cardinalities=cardinalities, bins=bins).state_dict()
    assert shape_of(state) == {"numbers": numbers, "cardinalities": list(cardinalities)}


def test_an_input_that_is_not_there_may_be_none() -> None:
    assert network(cardinalities=())(torch.randn(5, 3), None).shape == (5, 2)
    assert network(numbers=0)(None, torch.zeros(5, 2, dtype=torch.int64)).shape == (5, 2)


def test_bins_are_piecewise_linear_between_quantiles() -> None:
    numbers = torch.linspace(-2, 2, 401)[:, None]
    linear = torch.nn.Linear(1, 4)
    fit_bins(linear, numbers, 4)
    codes = torch.nn.functional.relu6(linear(torch.tensor([[-3.0], [-1.5], [0.0], [1.5], [3.0]]))) / 6
    expected = [[0, 0, 0, 0], [0.5, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0.5], [1, 1, 1, 1]]
    assert torch.allclose(codes, torch.tensor(expected, dtype=torch.float32), atol=1e-4)


def test_a_bin_sees_its_own_column_only() -> None:
    linear = torch.nn.Linear(2, 6)
    fit_bins(linear, torch.randn(100, 2), 3)
    assert (linear.weight[:3, 1] == 0).all() and (linear.weight[3:, 0] == 0).all()


def test_columns_of_few_values_stay_finite() -> None:
    linear = torch.nn.Linear(1, 8)
    fit_bins(linear, torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None], 8)
    assert linear.weight.isfinite().all() and linear.weight.abs().max() <= 6001


def test_dropout_acts_in_training_only() -> None:
    model, numbers, codes = network(dropout=0.5), torch.randn(8, 3), torch.zeros(8, 2, dtype=torch.int64)
    assert torch.equal(model.features(numbers, codes), model.features(numbers, codes))
    model.train()
    assert not torch.equal(model.features(numbers, codes), model.features(numbers, codes))


def test_embeddings_grow_slowly() -> None:
    assert [embedding_size(n) for n in (2, 10, 100, 100_000)] == [2, 6, 21, 32]
