from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from gristmill.models import linear
from gristmill.testing.model import table_task

CONFIG = {"family": "linear"}


def blobs(
    rows: int = 400, columns: int = 8, classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    centres = np.random.default_rng(99).normal(size=(classes, columns))
    x = centres[y] + rng.normal(size=(rows, columns)) + 5.0
    return (x * np.linspace(3, 30, columns)).astype(np.float32), y


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = blobs()
    strength = 0.01
    state = linear.fit(x, y, None, table_task(), {**CONFIG, "linear.strength": strength}, 0)
    z = (x - x.mean(0)) / x.std(0)
    oracle = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000).fit(z, y)
    logits = linear.logits(state, x)
    mine = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(mine - oracle.predict_proba(z)).max() < 0.02


def test_ridge_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    x, _ = blobs()
    y = x @ np.linspace(-1, 1, 8) / 30 + 0.3
    state = linear.fit(x, y, None, table_task("regression"), {**CONFIG, "linear.strength": 0.1}, 0)
    z = (x - x.mean(0)) / x.std(0)
    oracle = Ridge(alpha=0.1 * len(x)).fit(z, y)
    assert np.allclose(linear.logits(state, x)[:, 0], oracle.predict(z), atol=1e-3)


def test_noise_asks_for_a_stronger_penalty_than_a_clear_rule() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 40)).astype(np.float32)
    clear, noise = (x[:, 0] > 0).astype(np.int64), rng.integers(0, 2, 300)
    task = table_task("binary")
    chosen = [float(linear.fit(x, y, None, task, CONFIG, 0)["strength"]) for y in (clear, noise)]
    assert chosen[0] < chosen[1]


def test_balanced_accuracy_weighs_classes_alike() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.05).astype(np.int64)
    x = (y[:, None] * 1.5 + rng.normal(size=(2000, 2))).astype(np.float32)
    found = []
    for metric in ("accuracy", "balanced_accuracy"):
        task = replace(table_task("binary"), metric=metric)
        found.append(linear.logits(linear.fit(x, y, None, task, CONFIG, 0), x).argmax(1)[y == 1].mean())
    assert found[1] > found[0] + 0.3


def test_class_weights_have_mean_one() -> None:
    task = replace(table_task("binary"), metric="balanced_accuracy")
    weights = linear.class_weights(np.array([0, 0, 0, 1]), np.ones(4), task)
    assert weights.mean() == pytest.approx(1.0) and weights[:3].sum() == pytest.approx(weights[3])


def test_constant_columns_are_left_out() -> None:
    x, y = blobs()
    x[:, 2] = 1e6
    state = linear.fit(x, y, None, table_task(), CONFIG, 0)
    assert (state["weight"][:, 2] == 0).all() and np.isfinite(state["bias"]).all()


def test_few_rows_are_enough() -> None:
    x, y = blobs(5, classes=2)
    state = linear.fit(x, y, None, table_task("binary"), CONFIG, 0)
    assert np.isfinite(linear.logits(state, x)).all()


def test_lbfgs_finds_the_minimum_of_an_ill_conditioned_bowl() -> None:
    scale = torch.logspace(0, 3, 20)[None]
    target = torch.linspace(-1, 1, 20)[None]

    def bowl(w: torch.Tensor) -> tuple[float, torch.Tensor]:
        return float((scale * (w - target) ** 2).sum()), 2 * scale * (w - target)

    found = linear.lbfgs(bowl, torch.zeros(1, 20), end=float("inf"), tolerance=1e-9)
    assert torch.allclose(found, target, atol=1e-2)


def test_the_cap_is_kept() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 300)).astype(np.float32), rng.integers(0, 3, 3000)
    start = time.monotonic()
    linear.fit(x, y, None, table_task(), CONFIG, 0, seconds=0.05)
    assert time.monotonic() - start < 3.0  # generous: shared cores
