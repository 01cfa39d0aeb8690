from __future__ import annotations

import random

from gristmill.search.samplers import History, Mixture, Mutation, Observation, Prior
from gristmill.testing.sampler import SPACE, history


def observation(value: float, **config: object) -> Observation:
    return Observation(config=SPACE.complete(config), value=value, rows=0, seconds=0.0)


def test_history_keeps_the_latest_of_each_trial_best_first() -> None:
    found = History()
    for number, value in enumerate((0.1, 0.9, 0.5)):
        found.put(number, observation(value))
    found.put(0, observation(0.7))
    assert [o.value for o in found.top(2)] == [0.9, 0.7]
    assert len(found) == 3


def test_a_mutation_keeps_the_family_and_moves_little() -> None:
    found = history(12)
    best = [o.config for o in found.top(3)]
    for seed in range(50):
        moved = Mutation().propose(SPACE, found, random.Random(seed))
        assert moved is not None
        distances = [sum(moved.get(k) != c.get(k) for k in {*moved, *c}) for c in best]
        assert 1 <= min(distances) <= 2 or moved in best
        assert moved["family"] in {c["family"] for c in best}


def test_a_mutation_of_nothing_is_nothing() -> None:
    assert Mutation().propose(SPACE, History(), random.Random(0)) is None


def test_a_mixture_falls_through() -> None:
    only = Mixture(parts=((1.0, Mutation()), (0.0, Prior())))
    assert only.propose(SPACE, History(), random.Random(0)) is not None
    assert Mixture(parts=((1.0, Mutation()),)).propose(SPACE, History(), random.Random(0)) is None
