"""Where new configurations come from once the portfolio has been tried.

A sampler is one method. The smallest one:

    class Same:
        def propose(self, space, history, rng):
            return space.complete({})
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from gristmill.segment import Config
from gristmill.space import Space


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of one configuration: `value` is its score, for a trunk still in the race the score
    that it may reach; `rows` the training rows seen; `seconds` what it has cost."""

    config: Config
    value: float
    rows: int
    seconds: float


@dataclass
class History:
    """The latest observation of each trial, best first on request."""

    _latest: dict[int, Observation] = field(default_factory=dict)
    _order: list[tuple[float, int]] = field(default_factory=list)

    def put(self, number: int, observation: Observation) -> None:
        """Replace what was known of trial `number`."""
        old = self._latest.get(number)
        if old is not None:
            self._order.remove((-old.value, number))
        self._latest[number] = observation
        insort(self._order, (-observation.value, number))

    def top(self, count: int) -> list[Observation]:
        """The best observations, best first."""
        return [self._latest[number] for _, number in self._order[:count]]

    def __len__(self) -> int:
        return len(self._latest)

    def __iter__(self) -> Iterator[Observation]:
        return iter(self._latest.values())


class Sampler(Protocol):
    """Proposes a configuration. All randomness comes from `rng`, so that a replay decides alike; the
    history may be empty; None means that it has nothing to propose."""

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any] | None: ...


class Prior:
    """Draws from the space as it was written down."""

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any] | None:
        """A configuration drawn evenly from every domain."""
        return space.sample(rng)


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """Moves one or two parameters of one of the `top` configurations (mutation alone is a strong search:
    "Mutation is all you need", arXiv 2107.07343). The family stays: another family is another start."""

    top: int = 3
    family: str = "family"

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any] | None:
        """A neighbour of a good configuration; None while nothing has been observed."""
        best = history.top(self.top)
        if not best:
            return None
        origin = rng.choice(best).config
        for _ in range(20):
            moved = space.mutate(origin, rng, changes=rng.choice((1, 1, 2)))
            if moved.get(self.family) == origin.get(self.family) and moved != origin:
                return moved
        return None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One of several samplers, drawn by weight; the next one is tried when it has nothing to propose."""

    parts: tuple[tuple[float, Sampler], ...]

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any] | None:
        """What the drawn sampler proposes."""
        weights = [weight for weight, _ in self.parts]
        start = rng.choices(range(len(self.parts)), weights)[0]
        for step in range(len(self.parts)):
            proposal = self.parts[(start + step) % len(self.parts)][1].propose(space, history, rng)
            if proposal is not None:
                return proposal
        return None


def default_sampler() -> Sampler:
    """Half mutations of the best, half draws from the prior."""
    return Mixture(parts=((0.5, Mutation()), (0.5, Prior())))
