"""The contract of a sampler, as tests. Whoever writes one inherits them:

from gristmill.testing.sampler import SamplerContract

class TestMine(SamplerContract):
    def make(self): return MySampler()
"""

from __future__ import annotations

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


def history(count: int, seed: int = 0) -> History:
    """`count` observations drawn from `SPACE`, with scores between 0 and 1."""
    rng, out = random.Random(seed), History()
    for number in range(count):
        out.put(
            number,
            Observation(config=SPACE.sample(rng), value=rng.random(), rows=100 * number, seconds=1.0),
        )
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
        for seed in range(20):
            found = self.propose(history(8), seed)
            assert found is None or found == SPACE.complete(found)

    def test_starts_without_a_history(self) -> None:
        found = self.propose(History(), 0)
        assert found is None or found == SPACE.complete(found)

    def test_takes_all_randomness_from_the_generator(self) -> None:
        for seed in range(5):
            assert self.propose(history(8), seed) == self.propose(history(8), seed)

    def test_varies_with_the_generator(self) -> None:
        found = [self.propose(history(8), seed) for seed in range(20)]
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
        found = self.propose(observed, 0)
        assert found is None or found == SPACE.complete(found)
