"""One column that knows the target."""

from __future__ import annotations

import numpy as np
import pytest

from gristmill.data.leakage import tells_class, tells_number

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 400)


def words(values: np.ndarray) -> np.ndarray:
    return np.array([f"w{v}" for v in values.tolist()], dtype=object)


def test_a_column_that_is_the_class_tells_it() -> None:
    assert tells_class(words(Y), Y) == 1.0
    assert tells_class(Y.astype(np.float64), Y) == 1.0
    assert tells_class(Y * 100 + RNG.normal(size=400), Y) > 0.99


@pytest.mark.parametrize(
    "values", [RNG.normal(size=400), words(np.arange(400)), words(RNG.integers(0, 5, 400))]
)
def test_chance_and_ids_tell_nothing(values: np.ndarray) -> None:
    assert tells_class(values, Y) < 0.65


def test_missing_cells_are_a_value_of_their_own() -> None:
    assert tells_class(np.where(Y == 1, np.nan, 3.0), Y) == 1.0


def test_numbers_tell_numbers() -> None:
    y = RNG.normal(size=400)
    assert tells_number(3 * y + 1, y) > 0.999
    assert tells_number(words((y > 0).astype(int)), y) < 0.9
    assert tells_number(RNG.normal(size=400), y) < 0.2
    assert tells_number(np.full(400, np.nan), y) < 0.2
