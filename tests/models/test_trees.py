from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gristmill.models import trees
from gristmill.task import TaskKind
from gristmill.testing.model import table_task

CONFIG = {"family": "trees", "trees.leaves": 8, "trees.rate": 0.3}


def rows(kind: TaskKind, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 5)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    first = np.nan_to_num(x[:, 0], nan=1.0)
    if kind == "regression":
        return x, np.sin(2 * first)
    edges = [0.0] if kind == "binary" else [-0.4, 0.4]
    return x, np.digitize(first, edges)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_arrays_answer_as_the_fitted_model(kind: TaskKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is scikit-learn's own model on bin numbers, cut to the same iteration."""
    kept: list[Any] = []
    original = trees._flattened

    def spy(model: Any, outputs: int, present: Any, borders: Any) -> dict[str, np.ndarray]:
        kept.append((model, borders))
        return original(model, outputs, present, borders)

    monkeypatch.setattr(trees, "_flattened", spy)
    x, y = rows(kind)
    state = trees.fit(x, y, None, table_task(kind), CONFIG, seed=0)
    ((model, borders),) = kept
    model._predictors = model._predictors[: trees._best_iteration(model)]
    fresh, _ = rows(kind, 777)
    raw = model._raw_predict(trees._binned(fresh, borders).astype(np.float64))
    logits = trees.logits(state, fresh)
    assert np.allclose(logits[:, 1:] if kind == "binary" else logits, raw, atol=1e-4)


@pytest.mark.parametrize("distinct", [1, 2, 100, 5000])
def test_bins_and_borders_say_the_same(distinct: int) -> None:
    column = np.random.default_rng(0).normal(size=distinct).astype(np.float32).repeat(3)
    borders = trees._borders(column)
    bins = trees._binned(column[:, None], [borders])[:, 0]
    assert len(borders) < trees.BINS and borders.dtype == np.float32
    for i, border in enumerate(borders):
        assert ((column <= border) == (bins <= i)).all()


def test_missing_values_have_their_own_bin() -> None:
    column = np.array([np.nan, 1, 2, np.nan], np.float32)
    assert np.isnan(trees._binned(column[:, None], [trees._borders(column)])[[0, 3], 0]).all()
    assert len(trees._borders(np.full(3, np.nan, np.float32))) == 0


def test_what_is_missing_alone_may_decide() -> None:
    x = np.where(np.arange(200) % 2, np.nan, 1.0).astype(np.float32)[:, None]
    state = trees.fit(x, np.arange(200) % 2, None, table_task("binary"), CONFIG, seed=0)
    assert (trees.logits(state, x).argmax(1) == np.arange(200) % 2).all()


def test_thresholds_are_rounded_so_that_float32_decides_alike() -> None:
    values = np.random.default_rng(0).normal(size=2000) * 10.0 ** np.arange(-10, 10).repeat(100)
    down = trees.rounded_down(values)
    up = np.nextafter(down, np.float32(np.inf))
    assert (down.astype(np.float64) <= values).all() and (up.astype(np.float64) > values).all()


def test_leaves_point_at_themselves_and_roots_come_first() -> None:
    x, y = rows("multiclass")
    state = trees.fit(x, y, None, table_task(), CONFIG, seed=0)
    leaf = state["leaf"].astype(bool)
    here = np.arange(len(leaf))
    assert (state["left"][leaf] == here[leaf]).all() and (state["right"][leaf] == here[leaf]).all()
    assert len(state["offsets"]) == len(state["tree_class"]) + 1 and state["offsets"][-1] == len(leaf)
    below = np.concatenate([state["left"][~leaf], state["right"][~leaf]])
    assert not set(below) & set(state["offsets"][:-1])
    assert set(state["tree_class"]) == {0, 1, 2}


def test_boosting_stops_when_nothing_is_gained() -> None:
    x, _ = rows("binary")
    noise = np.random.default_rng(1).integers(0, 2, len(x))
    state = trees.fit(x, noise, None, table_task("binary"), CONFIG, seed=0)
    assert len(state["tree_class"]) < 100


def test_few_rows_need_no_hold_out() -> None:
    x, y = rows("binary", 30)
    state = trees.fit(x, y, None, table_task("binary"), CONFIG, seed=0)
    assert (trees.logits(state, x).argmax(1) == y).mean() > 0.8
