"""How fast a segment goes, and whether its next step still fits under its cap. Times are seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

EVALUATION_COST = 0.4
"""Seconds to evaluate a row as a share of those to train on it (a forward pass is about a third)."""

CLOSING_S = 0.3
"""Reserve for writing checkpoint and predictions."""


class Pace:
    """The clock of one segment: `seconds_per_row` from the steps after the first (which warms up)."""

    def __init__(self, cap_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.cap_s = clock, cap_s
        self.start = clock()
        self.startup_s = 0.0
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the segment began."""
        return self.clock() - self.start

    @property
    def seconds_per_row(self) -> float:
        """Measured seconds per training row; 0 before the second step."""
        if self._first is None or self._last is None or self._last[1] == self._first[1]:
            return 0.0
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])

    def begin(self) -> None:
        """Everything is loaded: steps follow."""
        self.startup_s = self.seconds
        self._first = self._last = None

    def tick(self, rows: int) -> None:
        """A step ended; `rows` were seen since the trunk's start."""
        now = self.clock()
        if self._first is None:
            self._first = (now, rows)
        self._last = (now, rows)

    def left(self, evaluated_rows: int) -> float:
        """Seconds for further training before evaluation of `evaluated_rows` must begin."""
        closing = CLOSING_S + EVALUATION_COST * self.seconds_per_row * evaluated_rows
        return self.cap_s - self.seconds - closing
