"""Where new configurations come from once the portfolio has been tried.

A sampler is one method. The smallest one:

    class Same:
        def propose(self, space, history, rng):
            return space.complete({})
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gristmill.errors import UsageError, did_you_mean
from gristmill.segment import Config
from gristmill.space import Choice, Parameter, Space


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
    """What has been observed, in order; the latest observation of each trial, best first on request."""

    _latest: dict[int, Observation] = field(default_factory=dict)
    _order: list[tuple[float, int]] = field(default_factory=list)
    _log: list[tuple[int, Observation]] = field(default_factory=list)
    _digests: list[str] = field(default_factory=lambda: [""])

    def put(self, number: int, observation: Observation) -> None:
        """Replace what was known of trial `number`."""
        old = self._latest.get(number)
        if old is not None:
            del self._order[bisect_left(self._order, (-old.value, number))]
        self._latest[number] = observation
        insort(self._order, (-observation.value, number))
        self._log.append((number, observation))
        self._digests.append(_digest(self._digests[-1], number, observation))

    def top(self, count: int) -> list[Observation]:
        """The best observations, best first."""
        return [self._latest[number] for _, number in self._order[:count]]

    @property
    def puts(self) -> int:
        """How often something was observed: a trial that was promoted counts once for each rung."""
        return len(self._log)

    def digest(self, puts: int) -> str:
        """A hash of the first `puts` observations. Two histories of equal digest are equal, so what is
        computed from one may be kept under it."""
        return self._digests[puts]

    def before(self, puts: int) -> History:
        """The history as it was after its first `puts` observations."""
        earlier = History()
        for number, observation in self._log[:puts]:
            earlier.put(number, observation)
        return earlier

    def levelled(self) -> list[Observation]:
        """The latest observations, by trial, with values that can be compared across rungs.

        What a trunk may reach is a guess that its later rungs put right. How far they did, is seen from the
        trials that went on: the median change of the logarithm of their error (1 - value), from each rung to
        where they stand now, is applied to the trials that still stand on that rung.
        """
        drift = self._drift()
        return [
            replace(o, value=1.0 - (1.0 - o.value) * math.exp(-drift[o.rows])) if o.rows in drift else o
            for o in self._latest.values()
        ]

    def _drift(self) -> dict[int, float]:
        changes: dict[int, dict[int, float]] = {}
        for number, observed in self._log:
            latest = self._latest[number]
            if latest.rows > observed.rows > 0:
                changes.setdefault(observed.rows, {})[number] = log_gain(latest.value) - log_gain(
                    observed.value
                )
        return {rows: statistics.median(found.values()) for rows, found in changes.items()}

    def __len__(self) -> int:
        return len(self._latest)

    def __iter__(self) -> Iterator[Observation]:
        return iter(self._latest.values())


def log_gain(value: float) -> float:
    """-log of the error that a score leaves (1 is perfect; closer than 0.001 counts as that): the scale on
    which halving the error is one step, from wherever."""
    return -math.log(max(1e-3, 1.0 - value))


def restricted(space: Space, name: str, value: Any) -> Space:
    """`space` with `name` fixed to `value`, without the parameters that can then never be active."""
    kept: dict[str, Parameter] = {}
    for p in space.parameters:
        if p.name == name:
            kept[name] = replace(p, domain=Choice(options=(value,)), default=value)
        elif p.when is None or _possible(kept.get(p.when[0]), p.when[1]):
            kept[p.name] = p
    return Space(parameters=tuple(kept.values()))


def _possible(parent: Parameter | None, values: tuple[Any, ...]) -> bool:
    return parent is not None and any(parent.domain.contains(value) for value in values)


def _digest(before: str, number: int, observation: Observation) -> str:
    o = observation
    text = repr((before, number, sorted(o.config.items()), o.value, o.rows, o.seconds))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Sampler(Protocol):
    """Proposes a configuration: a pure function of its arguments, whatever was proposed before, because a
    run that goes on after a kill does not repeat the earlier calls. All randomness comes from `rng`; the
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
    """Half mutations of the best, a quarter by a Gaussian process, a quarter draws from the prior."""
    return Mixture(parts=((0.5, Mutation()), (0.25, _gaussian_process()), (0.25, Prior())))


def sampler(name: str) -> Sampler:
    """A sampler by name: `default`, `prior`, `mutation`, `gp` (scikit-learn's Gaussian process, else like the
    default without it), or `tpe` (Optuna's, with the extra `optuna`).

    Raises:
        UsageError: for another name.
        ResourceError: when `tpe` is asked for and Optuna is not installed.
    """
    if name not in _NAMED:
        raise UsageError(
            f"A sampler must be one of {', '.join(_NAMED)}.",
            got=name,
            next_step=f"did you mean {did_you_mean(name, tuple(_NAMED)) or 'default'}?",
        )
    return _NAMED[name]()


def _gaussian_process() -> Sampler:
    from gristmill.search.gp import GaussianProcess

    return GaussianProcess()


def _tree_parzen() -> Sampler:
    from gristmill.search.optuna import OptunaSampler

    return OptunaSampler()


DEFAULT = "default"
_NAMED: dict[str, Callable[[], Sampler]] = {
    DEFAULT: default_sampler,
    "prior": Prior,
    "mutation": lambda: Mixture(parts=((1.0, Mutation()), (0.0, Prior()))),
    "gp": _gaussian_process,
    "tpe": _tree_parzen,
}
