"""Proposals by a Gaussian process: where a better score is likely, for the seconds that it would cost.

One process per model family, because families share no parameters. Within a family every parameter is a
column on [0, 1] in its own scale; an unordered choice of three or more becomes one column per option. The
targets are log errors, levelled across rungs. The price is a linear model of log seconds.
"""

from __future__ import annotations

import heapq
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gristmill.search.portfolio import fitted
from gristmill.search.samplers import (
    History,
    Mixture,
    Mutation,
    Observation,
    Prior,
    Sampler,
    log_gain,
    restricted,
)
from gristmill.space import Choice, Parameter, Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

_ENOUGH = 4  # observations of a family before it is modelled
_STEPS = 40  # of L-BFGS: later ones move no proposal
_ORIGINS = 5  # the best configurations whose neighbours are looked at
_PRIOR_DEVIATION = 1.0  # of log length scales
_WEIGHTS = tuple(0.5**rank for rank in range(12))  # of the best: several ask before the history grows
_DECIMALS = 6  # of what is compared: the last bits differ between two runs of a threaded product
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """Expected improvement per second under a Gaussian process (scikit-learn's, Matern 5/2).

    Length scales are estimated with a log-normal prior that grows with the root of the dimension (Hvarfner
    et al., 2024), on a snapshot of the history that moves on with every eighth part of new observations;
    the posterior is conditioned on all of them. Expected improvement is taken in its logarithm (Ament et
    al., 2023), which still ranks where the improvement itself is 0 in floating point.

    Args:
        observations: At most so many of a family are modelled, those of the highest rungs.
        candidates: So many configurations of each family are compared: half from the prior, half neighbours
            of its best.
        family: The parameter that names the model family.
        fallback: Asked while no family has four observations, and without scikit-learn.
    """

    observations: int = 100
    candidates: int = 256
    family: str = "family"
    fallback: Sampler = Mixture(parts=((0.5, Mutation()), (0.5, Prior())))  # noqa: RUF009 - it is frozen
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def propose(self, space: Space, history: History, rng: random.Random) -> dict[str, Any] | None:
        """A candidate not yet observed, as a rule that of the highest log expected improvement per second."""
        best = self._best(space, history)
        if not best:
            return self.fallback.propose(space, history, rng)
        return dict(rng.choices(best, _WEIGHTS[: len(best)])[0])

    def _best(self, space: Space, history: History) -> list[dict[str, Any]]:
        """The best candidates, best first. They are drawn by the history's own hash, so that they are pure in
        (space, history), and one comparison serves every ask before the history grows."""
        if find_spec("sklearn") is None:
            return []
        key = (space, history.digest(history.puts))
        if self._kept.get("best", (None, None))[0] != key:
            self._kept["best"] = (key, self._compared(space, history, random.Random(key[1])))
        best: list[dict[str, Any]] = self._kept["best"][1]
        return best

    def _compared(self, space: Space, history: History, rng: random.Random) -> list[dict[str, Any]]:
        found: list[tuple[float, dict[str, Any]]] = []
        for model in self._models(space, history):
            pool = model.pool(rng, self.candidates)
            found += zip(model.merit(pool), pool, strict=True) if pool else ()
        return [config for _, config in heapq.nlargest(len(_WEIGHTS), found, key=lambda pair: pair[0])]

    def _models(self, space: Space, history: History) -> list[_Model]:
        snapshot = history.puts - history.puts % max(1, history.puts // 8)
        return self._conditioned(space, history, self._scales(space, history, snapshot))

    def _scales(self, space: Space, history: History, snapshot: int) -> Mapping[Any, Matrix]:
        """Logarithms of the kernel's parameters by family, as the snapshot has them."""
        key = (space, history.digest(snapshot))
        if self._kept.get("scales", (None, None))[0] != key:
            earlier = history if snapshot == history.puts else history.before(snapshot)
            groups = self._groups(space, earlier)
            self._kept["scales"] = (key, {name: _estimate(group) for name, group in groups.items()})
        scales: Mapping[Any, Matrix] = self._kept["scales"][1]
        return scales

    def _conditioned(self, space: Space, history: History, scales: Mapping[Any, Matrix]) -> list[_Model]:
        groups = self._groups(space, history)
        if not groups:
            return []
        best = max(max(group.gains) for group in groups.values())
        prices = _Prices.of(groups)
        return [
            _Model.of(group, scales.get(name), best=best, prices=prices[name])
            for name, group in groups.items()
        ]

    def _groups(self, space: Space, history: History) -> dict[Any, _Group]:
        observed: dict[Any, list[Observation]] = {}
        for observation in history.levelled():
            config = fitted(space, observation.config)
            if config is not None:
                whole = replace(observation, config=config)
                observed.setdefault(config.get(self.family), []).append(whole)
        groups = {}
        for name, found in observed.items():
            own = restricted(space, self.family, name)
            columns = _columns(own)
            if len(found) >= _ENOUGH and columns:
                highest = sorted(found, key=lambda o: (-o.rows, -o.value))[: self.observations]
                groups[name] = _Group(space=own, columns=columns, observed=tuple(highest))
        return groups


# a family's observations as numbers


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One number of the unit cube: the position of a value in its domain, or whether it is `option`."""

    parameter: Parameter
    option: Any = None

    def of(self, config: Mapping[str, Any]) -> float:
        value = config.get(self.parameter.name, self.parameter.default)  # inactive: constant, so no matter
        if self.option is not None:
            return float(value == self.option)
        return self.parameter.domain.to_unit(value)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The observations of one family that are modelled. `space` offers this family only."""

    space: Space
    columns: tuple[_Column, ...]
    observed: tuple[Observation, ...]

    @property
    def gains(self) -> list[float]:
        return [log_gain(o.value) for o in self.observed]

    def matrix(self, configs: Sequence[Mapping[str, Any]]) -> Matrix:
        """float64 (configurations, columns) in [0, 1]."""
        import numpy as np

        return np.array([[column.of(config) for column in self.columns] for config in configs])

    @property
    def points(self) -> Matrix:
        return self.matrix([o.config for o in self.observed])


def _columns(space: Space) -> tuple[_Column, ...]:
    columns: list[_Column] = []
    for p in space.parameters:
        domain = p.domain
        if isinstance(domain, Choice):
            if len(domain.options) == 2 or (domain.ordered and len(domain.options) > 1):
                columns.append(_Column(parameter=p))
            elif len(domain.options) > 2:
                columns += [_Column(parameter=p, option=option) for option in domain.options]
        elif domain.low < domain.high:
            columns.append(_Column(parameter=p))
    return tuple(columns)


# the price


@dataclass(frozen=True, kw_only=True)
class _Prices:
    """Log seconds of a configuration: linear in its columns, (columns + 1,) weights, the constant last."""

    weights: Matrix

    @staticmethod
    def of(groups: Mapping[Any, _Group]) -> dict[Any, _Prices]:
        """Per family; one without measured seconds costs as much as the middle one of the others."""
        import numpy as np

        known = {name: _log_seconds(group) for name, group in groups.items()}
        middles = [float(np.mean(y)) for _, y in known.values() if len(y)]
        middle = float(np.median(middles)) if middles else 0.0
        return {
            name: _Prices(weights=_ridge(*known[name], middle, len(group.columns)))
            for name, group in groups.items()
        }

    def __call__(self, points: Matrix) -> Matrix:
        weighted: Matrix = points @ self.weights[:-1] + self.weights[-1]
        return weighted


def _log_seconds(group: _Group) -> tuple[Matrix, Matrix]:
    """Points and log seconds of what a configuration of this family costs: seconds per row, times the
    rows that its middle one has seen. (n, columns) and (n,)."""
    import numpy as np

    timed = [o for o in group.observed if o.seconds > 0]
    rows = sorted(max(1, o.rows) for o in timed)
    middle = rows[len(rows) // 2] if rows else 1
    y = np.array([math.log(o.seconds / max(1, o.rows) * middle) for o in timed])
    return group.matrix([o.config for o in timed]), y


def _ridge(points: Matrix, y: Matrix, middle: float, columns: int) -> Matrix:
    import numpy as np

    if not len(y):
        return np.array([0.0] * columns + [middle])
    centre, mean = points.mean(axis=0), float(y.mean())
    offset = points - centre
    slopes = np.linalg.solve(offset.T @ offset + 0.1 * np.eye(columns), offset.T @ (y - mean))
    return np.append(slopes, mean - centre @ slopes)


# the process


def _kernel(columns: int) -> Any:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    scale = math.exp(_prior_mean(columns))
    smooth = Matern(length_scale=[scale] * columns, length_scale_bounds=(0.02, 50.0), nu=2.5)
    return ConstantKernel(1.0, (0.05, 20.0)) * smooth + WhiteKernel(0.01, (1e-4, 1.0))


def _prior_mean(columns: int) -> float:
    return math.log(0.3) + 0.5 * math.log(columns)


def _estimate(group: _Group) -> Matrix:
    """Log parameters of the kernel, the most probable ones: (columns + 2,), to two decimals (two runs
    whose sums differ in the last bit must end alike)."""
    import numpy as np
    from scipy.optimize import minimize

    def most_probable(likelihood: Any, initial: Matrix, bounds: Matrix) -> tuple[Matrix, float]:
        def loss(theta: Matrix) -> tuple[float, Matrix]:
            value, gradient = likelihood(theta, eval_gradient=True)
            off = theta[1:-1] - _prior_mean(len(group.columns))
            gradient = np.array(gradient)
            gradient[1:-1] += off / _PRIOR_DEVIATION**2
            return value + 0.5 * float(off @ off) / _PRIOR_DEVIATION**2, gradient

        found = minimize(
            loss, initial, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": _STEPS}
        )
        return np.clip(np.round(found.x, 2), bounds[:, 0], bounds[:, 1]), float(found.fun)

    theta: Matrix = _process(group, _kernel(len(group.columns)), most_probable).kernel_.theta
    return theta


def _process(group: _Group, kernel: Any, optimizer: Any) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor

    process = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=optimizer, normalize_y=True)
    with warnings.catch_warnings():
        # a length scale at its bound says that a parameter does not matter: that is an answer
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(group.points, group.gains)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The posterior of one family, and what its configurations cost."""

    group: _Group
    process: Any
    best: float
    prices: _Prices

    @staticmethod
    def of(group: _Group, theta: Matrix | None, *, best: float, prices: _Prices) -> _Model:
        kernel = _kernel(len(group.columns))
        kernel = kernel if theta is None else kernel.clone_with_theta(theta)
        return _Model(group=group, process=_process(group, kernel, None), best=best, prices=prices)

    def pool(self, rng: random.Random, count: int) -> list[dict[str, Any]]:
        """New configurations: half from the prior, half neighbours of the best."""
        space, observed = self.group.space, self.group.observed
        drawn = [space.sample(rng) for _ in range(count // 2)]
        origins = sorted(observed, key=lambda o: -o.value)[:_ORIGINS]
        for _ in range(count - len(drawn)):
            drawn.append(space.mutate(rng.choice(origins).config, rng, changes=rng.choice((1, 1, 2, 3))))
        known = {_identity(o.config) for o in observed}
        new = {_identity(config): config for config in drawn}
        return [config for identity, config in new.items() if identity not in known]

    def merit(self, configs: Sequence[Mapping[str, Any]]) -> list[float]:
        """Log expected improvement less log seconds, of each."""
        import numpy as np

        points = self.group.matrix(configs)
        mean, deviation = self.process.predict(points, return_std=True)
        merit = log_expected_improvement(mean - self.best, deviation) - self.prices(points)
        return [float(x) for x in np.round(merit, _DECIMALS)]


def _identity(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(config.items()))


def log_expected_improvement(lead: Matrix, deviation: Matrix) -> Matrix:
    """log E[max(0, X)] for X normal with mean `lead` and standard deviation `deviation`, elementwise, exact
    to far below the smallest float (Ament et al., "Unexpected improvements to expected improvement", 2023).
    """
    import numpy as np
    from scipy.special import erfcx, ndtr

    deviation = np.maximum(deviation, 1e-9)
    z = lead / deviation
    near, far = np.maximum(z, -1.0), np.clip(z, -1e3, -1.0)
    density = np.exp(-0.5 * near**2 - _HALF_LOG_TWO_PI)
    mills = math.sqrt(math.pi / 2.0) * erfcx(-far / math.sqrt(2.0))
    tail = -0.5 * z**2 - _HALF_LOG_TWO_PI
    tail = tail + np.where(z > -1e3, np.log1p(far * mills), -2.0 * np.log(np.maximum(-z, 1.0)))
    found: Matrix = np.where(z > -1.0, np.log(density + near * ndtr(near)), tail) + np.log(deviation)
    return found
