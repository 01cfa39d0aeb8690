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
        self._marks: list[tuple[float, int]] = []

    @property
    def seconds(self) -> float:
        """Seconds since the segment began."""
        return self.clock() - self.start

    @property
    def seconds_per_row(self) -> float:
        """Measured seconds per training row, the first step left out where there is a second; 0 before it."""
        if len(self._marks) < 2:
            return 0.0
        (before, first), (after, last) = self._marks[-2:]
        return (after - before) / max(1, last - first)

    def begin(self, rows: int = 0) -> None:
        """Everything is loaded, or a new try begins: steps follow. `rows` were seen before."""
        self.startup_s = self.startup_s or self.seconds
        self._marks = [(self.clock(), rows)]

    def tick(self, rows: int) -> None:
        """A step ended; `rows` were seen since the trunk's start."""
        # the begin, the end of the first step, the end of the latest step
        self._marks = [*self._marks[:2], (self.clock(), rows)]

    def left(self, evaluated_rows: int) -> float:
        """Seconds for further training before evaluation of `evaluated_rows` must begin."""
        closing = CLOSING_S + EVALUATION_COST * self.seconds_per_row * evaluated_rows
        return self.cap_s - self.seconds - closing
