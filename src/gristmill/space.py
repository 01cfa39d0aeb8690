"""Ranges as plain values: Float, Int, Choice, and conditions between parameters. No search, no torch.

A configuration is a plain dictionary from parameter name to value. An absent parameter means its
default. The parameter `family` chooses the model family; a family's own parameters carry its name
(`convstack.width`) and are active only when it is chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gristmill.errors import UsageError, did_you_mean

Value = int | float | str | bool


@dataclass(frozen=True, kw_only=True)
class Float:
    """A real interval; `log` samples it evenly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log)

    def sample(self, rng: random.Random) -> float:
        """A value, evenly distributed on the (logarithmic) scale."""
        return self.from_unit(rng.random())

    def to_unit(self, value: Value) -> float:
        """Position of `value` in the interval: 0 at low, 1 at high."""
        return _to_unit(float(value), self.low, self.high, self.log)

    def from_unit(self, unit: float) -> float:
        """The value at a position in [0, 1], rounded to six significant digits so that it survives JSON."""
        return float(f"{_from_unit(unit, self.low, self.high, self.log):.6g}")

    def contains(self, value: object) -> bool:
        """Whether `value` lies in the interval (with room for rounding to six digits)."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        slack = 1e-5 * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack


@dataclass(frozen=True, kw_only=True)
class Int:
    """An interval of whole numbers, both ends included."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log)

    def sample(self, rng: random.Random) -> int:
        """A value, evenly distributed on the (logarithmic) scale."""
        return self.from_unit(rng.random())

    def to_unit(self, value: Value) -> float:
        """Position of `value` in the interval: 0 at low, 1 at high."""
        return _to_unit(float(value), self.low, self.high, self.log)

    def from_unit(self, unit: float) -> int:
        """The whole number nearest to a position in [0, 1]."""
        return min(self.high, max(self.low, round(_from_unit(unit, self.low, self.high, self.log))))

    def contains(self, value: object) -> bool:
        """Whether `value` is a whole number in the interval."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A finite set of values; `ordered` says that neighbours are alike (a mutation moves one step)."""

    options: tuple[Value, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a choice must have at least one option; got none")

    def sample(self, rng: random.Random) -> Value:
        """One of the options, each equally likely."""
        return self.options[rng.randrange(len(self.options))]

    def to_unit(self, value: Value) -> float:
        """Position of the option: 0 for the first, 1 for the last."""
        return self.options.index(value) / max(1, len(self.options) - 1)

    def from_unit(self, unit: float) -> Value:
        """The option at a position in [0, 1]."""
        return self.options[min(len(self.options) - 1, int(unit * len(self.options)))]

    def contains(self, value: object) -> bool:
        """Whether `value` is one of the options; True is not 1."""
        try:
            return (isinstance(value, bool), value) in self._known
        except TypeError:  # not hashable: a list, a dictionary
            return False

    def canonical(self, value: Value) -> Value:
        """The option that equals `value`."""
        return self._known[isinstance(value, bool), value]

    @cached_property
    def _known(self) -> dict[tuple[bool, object], Value]:
        known: dict[tuple[bool, object], Value] = {}
        for option in self.options:
            known.setdefault((isinstance(option, bool), option), option)
        return known


Domain = Float | Int | Choice


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A named domain with its default, active only when `when` = (parent name, parent values) holds.

    `shrinks`: a smaller value costs less and changes little else, so that what is too expensive may be tried
    with one; only for an ordered choice of numbers, ascending.
    """

    name: str
    domain: Domain
    default: Value
    when: tuple[str, tuple[Value, ...]] | None = None
    shrinks: bool = False

    def __post_init__(self) -> None:
        if not self.domain.contains(self.default):
            raise ValueError(f"the default of {self.name} must lie in {self.domain}; got {self.default!r}")
        if self.shrinks and not (isinstance(self.domain, Choice) and self.domain.ordered):
            raise ValueError(f"only an ordered choice shrinks; {self.name} is {self.domain}")


@dataclass(frozen=True, kw_only=True)
class Space:
    """All parameters that can be chosen, in an order in which every parent stands before its children."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for p in self.parameters:
            if p.name in seen or (p.when and p.when[0] not in seen):
                raise ValueError(f"parameters must be unique and stand after their parents; got {p.name}")
            seen.add(p.name)

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.parameters}

    @property
    def defaults(self) -> dict[str, Value]:
        """The default of every parameter, active or not."""
        return {p.name: p.default for p in self.parameters}

    def active(self, config: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """The parameters that mean something under `config`, in order."""
        chosen: dict[str, Any] = {}
        out: list[Parameter] = []
        for p in self.parameters:
            if p.when is None or (p.when[0] in chosen and chosen[p.when[0]] in p.when[1]):
                chosen[p.name] = config.get(p.name, p.default)
                out.append(p)
        return tuple(out)

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` with every active parameter present and every inactive one gone.

        Raises:
            UsageError: for a name that is not a parameter, or a value outside its domain.
        """
        for name in config:
            if name not in self._by_name:
                names = tuple(self._by_name)
                raise UsageError(
                    "A configuration may only name parameters of its space.",
                    got=name,
                    next_step=f"did you mean {did_you_mean(name, names) or ', '.join(names[:5])}?",
                )
        out: dict[str, Any] = {}
        for p in self.active(config):
            value = config.get(p.name, p.default)
            if not p.domain.contains(value):
                raise UsageError(f"{p.name} must lie in {p.domain}.", got=repr(value))
            out[p.name] = _canonical(p.domain, value)
        return out

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """A configuration from the prior: parents first, then the parameters they activate."""
        out: dict[str, Any] = {}
        for p in self.parameters:
            if p.when is None or (p.when[0] in out and out[p.when[0]] in p.when[1]):
                out[p.name] = p.domain.sample(rng)
        return out

    def mutate(self, config: Mapping[str, Any], rng: random.Random, changes: int = 1) -> dict[str, Any]:
        """`config` with `changes` active parameters moved: a numeric one by a normal step of 0.2 of its
        range, an ordered choice by one, another choice to any other option."""
        out = self.complete(config)
        movable = [p for p in (self._by_name[name] for name in out) if not _is_single(p.domain)]
        for p in rng.sample(movable, min(changes, len(movable))):
            out[p.name] = _moved(p.domain, out[p.name], rng)
        return {p.name: _canonical(p.domain, out.get(p.name, p.default)) for p in self.active(out)}

    def shrunk(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """`config` with its first active parameter that shrinks one step smaller, two steps, and so on."""
        p = next((p for p in self.active(config) if p.shrinks), None)
        if p is None or not isinstance(p.domain, Choice):
            return ()
        below = p.domain.options[: p.domain.options.index(config.get(p.name, p.default))]
        return tuple({**config, p.name: value} for value in reversed(below))

    def __or__(self, other: Space) -> Space:
        return Space(parameters=self.parameters + other.parameters)


def _check_bounds(low: float, high: float, log: bool) -> None:
    if not low <= high or (log and low <= 0):
        raise ValueError(
            f"the lower bound may not exceed the upper one, nor be <= 0 on a log scale; got {low=}, {high=}"
        )


def _to_unit(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.0
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _from_unit(unit: float, low: float, high: float, log: bool) -> float:
    if log:
        return min(high, max(low, math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))))
    return min(high, max(low, low + unit * (high - low)))


def _canonical(domain: Domain, value: Any) -> Value:
    """1 and 1.0 are the same value, so they must not name two configurations."""
    if isinstance(domain, Choice):
        return domain.canonical(value)
    return float(value) if isinstance(domain, Float) else value


def _is_single(domain: Domain) -> bool:
    return len(domain.options) == 1 if isinstance(domain, Choice) else domain.low == domain.high


def _moved(domain: Domain, value: Any, rng: random.Random) -> Value:
    if isinstance(domain, Choice) and domain.ordered:
        i = domain.options.index(value)
        near = [j for j in (i - 1, i + 1) if 0 <= j < len(domain.options)]
        return domain.options[rng.choice(near)]
    if isinstance(domain, Choice):
        return rng.choice([o for o in domain.options if o != value])
    unit = domain.to_unit(value)
    for _ in range(20):  # a step that rounds back to the same whole number is no mutation
        moved = domain.from_unit(min(1.0, max(0.0, unit + rng.gauss(0.0, 0.2))))
        if moved != value:
            return moved
    return domain.sample(rng)
