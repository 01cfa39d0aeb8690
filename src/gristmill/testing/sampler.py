"""The contract of a sampler, as tests. Whoever writes one inherits them:

from gristmill.testing.sampler import SamplerContract

class TestMine(SamplerContract):
    def make(self): return MySampler()
"""

from __future__ import annotations

import math
import random
from typing import Any

from gristmill.search.samplers import History, Observation, Sampler
from gristmill.space import Choice, Float, Int, Parameter, Space

SPACE = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("small", "large")), default="small"),
        Parameter(
            name="small.rate",
            domain=Float(low=1e-4, high=1.0, log=True),
            default=0.01,
            when=("family", ("small",)),
        ),
        Parameter(
            name="small.width", domain=Int(low=1, high=64, log=True), default=8, when=("family", ("small",))
        ),
        Parameter(
            name="large.depth",
            domain=Choice(options=(1, 2, 3), ordered=True),
            default=2,
            when=("family", ("large",)),
        ),
        Parameter(
            name="large.norm",
            domain=Choice(options=("batch", "none")),
            default="batch",
            when=("family", ("large",)),
        ),
        Parameter(name="view", domain=Choice(options=("all", "deduplicated")), default="all"),
    )
)
"""Every kind of domain, two families, a data view."""
NESTED = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("net", "tree")), default="net"),
        Parameter(
            name="net.optimizer",
            domain=Choice(options=("sgd", "adamw", "muon")),
            default="sgd",
            when=("family", ("net",)),
        ),
        Parameter(
            name="net.momentum",
            domain=Float(low=0.0, high=0.99),
            default=0.9,
            when=("net.optimizer", ("sgd", "muon")),
        ),
        Parameter(
            name="net.nesterov",
            domain=Choice(options=(True, False)),
            default=True,
            when=("net.optimizer", ("sgd",)),
        ),
        Parameter(name="tree.leaves", domain=Int(low=2, high=2), default=2, when=("family", ("tree",))),
    )
)
"""Conditions below conditions, and a family in which nothing can be chosen."""
NARROW = tuple(
    Space(parameters=(Parameter(name="only", domain=domain, default=default),))
    for domain, default in (
        (Float(low=0.0, high=1.0), 0.5),
        (Float(low=1.0, high=1.0), 1.0),
        (Int(low=1, high=3), 2),
        (Choice(options=("a", "b", "c")), "a"),
        (Choice(options=(True,)), True),
    )
)
"""Spaces of one parameter, some of one configuration."""


def history(count: int, seed: int = 0, space: Space = SPACE, value: float | None = None) -> History:
    """`count` trials drawn from `space` on three rungs, those on higher ones observed on each below, with
    scores between 0 and 1, or all of the same `value`."""
    rng, out = random.Random(seed), History()
    for number in range(count):
        config = space.sample(rng)
        for rung in range(number % 3 + 1):
            score = rng.random() if value is None else value
            rows = 100 * 3**rung
            out.put(number, Observation(config=config, value=score, rows=rows, seconds=rows * rng.random()))
    return out


class SamplerContract:
    """Override `make`; a sampler that needs other packages may skip in it."""

    def make(self) -> Sampler:
        """A fresh sampler."""
        raise NotImplementedError

    def propose(self, observed: History, seed: int) -> dict[str, Any] | None:
        """One proposal of a fresh sampler."""
        return self.make().propose(SPACE, observed, random.Random(seed))

    def test_proposes_complete_configurations_of_the_space(self) -> None:
        for seed in range(10):
            self.check(SPACE, self.propose(history(8), seed))

    def test_starts_without_a_history(self) -> None:
        for space in (SPACE, NESTED, *NARROW):
            self.check(space, self.make().propose(space, History(), random.Random(0)))

    def test_respects_conditions(self) -> None:
        for seed in range(5):
            observed = history(12, seed, NESTED)
            self.check(NESTED, self.make().propose(NESTED, observed, random.Random(seed)))

    def test_bears_spaces_of_one_parameter(self) -> None:
        for space in NARROW:
            self.check(space, self.make().propose(space, history(6, space=space), random.Random(0)))

    def test_depends_on_nothing_that_was_proposed_before(self) -> None:
        """A run that goes on after a kill does not repeat the earlier calls."""
        observed, growing = history(12), History()
        used, rng = self.make(), random.Random(7)
        for number, observation in enumerate(history(6, seed=1)):
            growing.put(number, observation)
            used.propose(SPACE, growing, rng)
        used.propose(NESTED, history(6, space=NESTED), rng)
        for seed in range(3):
            fresh = self.propose(observed, seed)
            assert used.propose(SPACE, observed, random.Random(seed)) == fresh
            assert used.propose(SPACE, history(12), random.Random(seed)) == fresh

    def test_takes_all_randomness_from_the_generator(self) -> None:
        for seed in range(5):
            assert self.propose(history(8), seed) == self.propose(history(8), seed)

    def test_varies_with_the_generator(self) -> None:
        found = [self.propose(history(8), seed) for seed in range(10)]
        assert len({repr(f) for f in found}) > 1

    def test_leaves_the_history_as_it_was(self) -> None:
        observed = history(8)
        before = list(observed)
        self.make().propose(SPACE, observed, random.Random(0))
        assert list(observed) == before

    def test_bears_a_history_of_equals(self) -> None:
        observed = History()
        for number in range(6):
            observed.put(number, Observation(config=SPACE.complete({}), value=0.0, rows=0, seconds=0.0))
        self.check(SPACE, self.propose(observed, 0))

    def test_bears_equal_and_extreme_values(self) -> None:
        for value in (0.0, 0.5, 1.0, -1e6):
            self.check(SPACE, self.propose(history(8, value=value), 0))

    def check(self, space: Space, found: dict[str, Any] | None) -> None:
        """Nothing, or a complete configuration of finite values."""
        assert found is None or found == space.complete(found)
        for value in (found or {}).values():
            assert not isinstance(value, float) or math.isfinite(value)
