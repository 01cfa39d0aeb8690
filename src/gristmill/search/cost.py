"""What a segment will cost in seconds: the learner's own estimate, corrected by what was measured.

Three sources, the best one wins: the configuration's own measured seconds per row, the correction of
its family, the mean correction of all families (a slow machine is slow for everybody).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gristmill.segment import Config, Learner, Outcome, Segment

_RECENT = 0.5  # weight of the newest observation: machines get busy and free again within a run
_MEASURABLE_S = 0.2  # the floor's 0.02 s, three times its nominal cost, once doubled every other price
_BOUND = math.log(50.0)  # a correction beyond this is a fault of the measurement
_SHARED = math.log(2.0)  # what one family may say of another: an odd estimate of one is not a slow machine


def extraction(parent: Config | None) -> str:
    """The group of an extraction of features: its choices by name, without sizes. Not the family that reads
    them: what a slow filter bank costs says nothing of the linear model behind it (a fit of 0.9 s was once
    predicted at 44 s)."""
    return " ".join(["features of", *(v for v in (parent or {}).values() if isinstance(v, str))])


@dataclass
class CostModel:
    """Corrections learnt so far. A `group` is a family, or what `extraction` says for features."""

    _rates: dict[str, float] = field(default_factory=dict)
    _fixed: dict[str, float] = field(default_factory=dict)
    _own: dict[str, float] = field(default_factory=dict)

    def seconds(self, key: str, group: str, rows: int, *, per_row: float, fixed_s: float) -> float:
        """Predicted seconds of a segment over `rows` rows; `key` names its configuration."""
        rate, fixed = self.pace(key, group, per_row=per_row, fixed_s=fixed_s)
        return rate * rows + fixed

    def pace(self, key: str, group: str, *, per_row: float, fixed_s: float) -> tuple[float, float]:
        """The same in parts: seconds per row, and those of a segment whatever its rows."""
        correction = math.exp(self._correction(group))
        return self._own.get(key, per_row * correction), self._fixed.get(group, fixed_s * correction)

    def learn(self, key: str, group: str, segment: Segment, outcome: Outcome, learner: Learner) -> None:
        """Take in a finished or cut segment (one that failed says nothing about cost)."""
        if outcome.state not in ("done", "cut"):
            return
        nominal = learner.parent_seconds_per_row if segment.kind == "features" else learner.seconds_per_row
        rows = _rows(segment, outcome)
        measured = _positive(outcome.facts.get("seconds_per_row"))
        if measured is None and rows > 0 and outcome.seconds > 0:
            measured = max(outcome.seconds - learner.fixed_s, 0.1 * outcome.seconds) / rows
        if measured is not None:
            self._own[key] = measured
            if nominal > 0 and outcome.seconds >= _MEASURABLE_S:
                self._blend(self._rates, group, min(_BOUND, max(-_BOUND, math.log(measured / nominal))))
        startup = _positive(outcome.facts.get("startup_s"))
        if rows > 0 and measured is not None:
            self._settle(group, max(0.0, outcome.seconds - measured * rows))
        elif startup is not None and group not in self._fixed:
            self._fixed[group] = max(startup, learner.fixed_s)

    def _correction(self, group: str) -> float:
        if group in self._rates:
            return self._rates[group]
        mean = sum(self._rates.values()) / len(self._rates) if self._rates else 0.0
        return min(_SHARED, max(-_SHARED, mean))

    def _settle(self, group: str, fixed: float) -> None:
        """The first segment of a process imports torch, the later ones do not: lower values count at once."""
        if fixed < self._fixed.get(group, math.inf):
            self._fixed[group] = fixed
        else:
            self._blend(self._fixed, group, fixed)

    @staticmethod
    def _blend(table: dict[str, float], group: str, value: float) -> None:
        table[group] = value if group not in table else (1 - _RECENT) * table[group] + _RECENT * value


def _rows(segment: Segment, outcome: Outcome) -> int:
    """Rows the segment really went through."""
    if segment.kind in ("train", "cooldown", "distil"):
        return max(0, outcome.rows_seen - segment.from_rows)
    return segment.to_rows - segment.from_rows if outcome.state == "done" else 0


def _positive(value: object) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if usable else None  # type: ignore[arg-type]
