"""Any sampler of Optuna (the extra `optuna`) behind our protocol."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from gristmill import packages
from gristmill.errors import ResourceError
from gristmill.search.portfolio import fitted
from gristmill.search.samplers import History, Observation, restricted
from gristmill.space import Choice, Float, Int, Parameter, Space, Value


def tree_parzen(seed: int) -> Any:
    """Optuna's multivariate TPE, one estimate for each set of parameters that occur together."""
    import optuna

    return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=False, seed=seed)


@dataclass(frozen=True, kw_only=True)
class OptunaSampler:
    """One of Optuna's samplers, made anew for each proposal over a study in memory that holds the history.

    So a proposal depends on nothing but history and seed, as a run that goes on after a kill needs it. The
    price: samplers that keep their state in the trials (CMA-ES, NSGA-II) begin anew each time. They propose,
    but do not learn; choose one that reads finished trials, as TPE or GPSampler (which imports torch) do.

    Args:
        make: The sampler from a seed (an unsigned 32-bit integer).
        family: A parameter that is drawn before Optuna is asked (as often from the three best observations as
            evenly from all options); Optuna then sees what belongs to that value only, as one fixed list.
            None leaves it to Optuna as well, whose sampler must then know conditional spaces (TPE does,
            GPSampler falls back to random draws).
        observations: Optuna sees at most so many, those of the highest rungs: making the study costs most
            of a proposal's time.

    Raises:
        ResourceError: when Optuna is not installed.
    """

    make: Callable[[int], Any] = tree_parzen
    family: str | None = None
    observations: int = 250

    def __post_init__(self) -> None:
        if find_spec("optuna") is None:
            command = packages.install_extra("optuna", ["optuna"])
            raise ResourceError("This sampler needs the package optuna.", next_step=command)

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any]:
        """What Optuna would try next after these observations, their values levelled across rungs."""
        import optuna

        seed = rng.getrandbits(32)
        known = [(config, o) for o in history.levelled() if (config := fitted(space, o.config)) is not None]
        space, known = self._narrowed(space, known, rng)
        known.sort(key=lambda pair: (-pair[1].rows, -pair[1].value))
        with _quietly():
            study = optuna.create_study(direction="maximize", sampler=self.make(seed))
            for config, observation in known[: self.observations]:
                study.add_trial(_trial(self._parameters(space, config), config, observation.value))
            return self._suggested(space, study.ask())

    def _narrowed(
        self, space: Space, known: list[tuple[dict[str, Any], Observation]], rng: random.Random
    ) -> tuple[Space, list[tuple[dict[str, Any], Observation]]]:
        """The part of space and history that belongs to one value of `family`."""
        if self.family is None or self.family not in space.defaults:
            return space, known
        best = [config for config, _ in sorted(known, key=lambda pair: -pair[1].value)[:3]]
        own = rng.choice(best)[self.family] if best and rng.random() < 0.5 else None
        chosen = space[self.family].domain.sample(rng) if own is None else own
        return restricted(space, self.family, chosen), [x for x in known if x[0][self.family] == chosen]

    def _parameters(self, space: Space, config: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """What Optuna is told: the active parameters; all of them when the list must be fixed."""
        return space.active(config) if self.family is None else space.parameters

    def _suggested(self, space: Space, trial: Any) -> dict[str, Any]:
        """Parents before children, so that only what is active is suggested (unless the list is fixed)."""
        config: dict[str, Any] = {}
        for p in space.parameters:
            if p.when is None or self.family or (p.when[0] in config and config[p.when[0]] in p.when[1]):
                config[p.name] = _from_optuna(p, trial._suggest(p.name, _distribution(p)))
        return space.complete(config)


def _trial(parameters: Sequence[Parameter], config: Mapping[str, Any], value: float) -> Any:
    from optuna.trial import create_trial

    return create_trial(
        value=value,
        params={p.name: _to_optuna(p, config.get(p.name, p.default)) for p in parameters},
        distributions={p.name: _distribution(p) for p in parameters},
    )


def _distribution(parameter: Parameter) -> Any:
    """An option is named by its place: Optuna takes 1 for True, and knows no order of options."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    domain = parameter.domain
    if isinstance(domain, Float):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    if domain.ordered:
        return IntDistribution(0, len(domain.options) - 1)
    return CategoricalDistribution(tuple(range(len(domain.options))))


def _to_optuna(parameter: Parameter, value: Value) -> Any:
    domain = parameter.domain
    if isinstance(domain, Choice):
        return next(i for i, o in enumerate(domain.options) if o == value and type(o) is type(value))
    return min(domain.high, max(domain.low, value))


def _from_optuna(parameter: Parameter, value: Any) -> Value:
    domain = parameter.domain
    if isinstance(domain, Choice):
        return domain.options[int(value)]
    return domain.from_unit(domain.to_unit(value)) if isinstance(domain, Float) else int(value)


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna announces each study it makes, and that `group` may change one day."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
