"""An executor that answers from a function on a virtual clock: the same search code, judged in seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace

from gristmill.deadline import VirtualClock
from gristmill.segment import Outcome, Resources, Segment


class VirtualExecutor:
    """Pretends to run segments.

    Args:
        answer: The outcome of a segment and the seconds that it takes.
        workers: Number of slots, one core each.
        clock: Moved forward by `wait`.
    """

    def __init__(
        self,
        answer: Callable[[Segment], tuple[Outcome, float]],
        *,
        workers: int = 2,
        clock: VirtualClock | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self._answer = answer
        self._workers = workers
        self._running: list[tuple[float, int, Outcome]] = []
        self._submitted = 0

    def slots(self) -> tuple[Resources, ...]:
        """The free slots, of one core each."""
        return (Resources(),) * (self._workers - len(self._running))

    @property
    def open(self) -> tuple[str, ...]:
        """Ids of the segments that run."""
        return tuple(outcome.id for _, _, outcome in self._running)

    def submit(self, segment: Segment) -> None:
        """Start a segment now."""
        if len(self._running) >= self._workers:
            raise ValueError(f"a segment needs a free slot; all {self._workers} are busy")
        if segment.needs.cpu > 1 or segment.needs.gpu:
            raise ValueError(f"a segment must fit into one slot of one core; it needs {segment.needs}")
        outcome, seconds = self._answer(segment)
        outcome = outcome if outcome.seconds else replace(outcome, seconds=seconds)
        heapq.heappush(self._running, (self.clock.now() + seconds, self._submitted, outcome))
        self._submitted += 1

    def wait(self, until: float) -> list[Outcome]:
        """Move the clock to the next end, or to `until`; returns what has ended by then."""
        if not self._running:
            return []
        target = min(until, self._running[0][0])
        self.clock.advance(max(0.0, target - self.clock.now()))
        ended = []
        while self._running and self._running[0][0] <= self.clock.now():
            ended.append(heapq.heappop(self._running)[2])
        return ended

    def cancel(self, segment_id: str) -> None:
        """Forget a running segment."""
        self._running = [entry for entry in self._running if entry[2].id != segment_id]
        heapq.heapify(self._running)

    def close(self) -> None:
        """Forget everything that runs."""
        self._running = []
