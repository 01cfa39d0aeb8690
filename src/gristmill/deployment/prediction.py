"""What a model answers, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.task import TaskKind


@dataclass(frozen=True, kw_only=True)
class Output:
    """The answer for one target.

    `value`: the most probable label, or a number in the target's unit. `probabilities` by label, calibrated,
    the most probable first; empty for regression. `abstain`: too unsure to be relied on ("I don't know").
    `interval` (low, high) of a number, `labels` of a label: hold the truth as often as the bundle promises
    (`coverage` in its manifest); None where the bundle has no such promise.
    """

    task: TaskKind
    value: str | float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    abstain: bool = False
    interval: tuple[float, float] | None = None
    labels: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "task": self.task,
            "value": self.value,
            "probabilities": dict(self.probabilities),
            "abstain": self.abstain,
            "interval": None if self.interval is None else list(self.interval),
            "set": None if self.labels is None else list(self.labels),
        }


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one input, or the reason why there is none.

    `input` names it: a path, `rows.csv row 7`, `picture 2`. With an `error` there are no outputs.
    `.label`, `.value`, `.probabilities`, `.abstain`, `.interval` are shortcuts to the first target.
    """

    input: str
    outputs: Mapping[str, Output] = field(default_factory=dict)
    error: str | None = None

    @property
    def _first(self) -> Output | None:
        return next(iter(self.outputs.values()), None)

    @property
    def label(self) -> str | None:
        """The most probable label; None for regression and after an error."""
        first = self._first
        return None if first is None or first.task == "regression" else str(first.value)

    @property
    def value(self) -> str | float | None:
        """The label, or the number in the target's unit; None after an error."""
        return None if self._first is None else self._first.value

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Probability by label, the most probable first."""
        return {} if self._first is None else self._first.probabilities

    @property
    def abstain(self) -> bool:
        """Whether the answer should not be relied on; true after an error."""
        return self._first is None or self._first.abstain

    @property
    def interval(self) -> tuple[float, float] | None:
        """Low and high end around a number, if the bundle promises one."""
        return None if self._first is None else self._first.interval

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; the shortcuts of the first target stand beside `outputs`."""
        return {
            "input": self.input,
            "error": self.error,
            "label": self.label,
            "value": self.value,
            "abstain": self.abstain,
            "probabilities": dict(self.probabilities),
            "outputs": {name: o.to_json() for name, o in self.outputs.items()},
        }
