"""What the search and the conductor ask of an executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gristmill.deadline import Clock
from gristmill.segment import Outcome, Resources, Segment


class Executor(Protocol):
    """Runs segments, each in one slot; `gristmill.testing.executor` holds the suite that proves one."""

    @property
    def clock(self) -> Clock:
        """The clock that `wait` reads."""
        ...

    def slots(self) -> Sequence[Resources]:
        """The slots that are free now."""
        ...

    @property
    def open(self) -> Sequence[str]:
        """Ids of the segments that run: submitted, and neither returned by `wait` nor cancelled."""
        ...

    def submit(self, segment: Segment) -> None:
        """Start a segment in a free slot.

        Raises:
            ValueError: when every slot is busy, or none offers what the segment needs.
        """
        ...

    def wait(self, until: float) -> list[Outcome]:
        """The outcomes that have come in; returns at the first, at `until` on the clock (then the list
        may be empty), or at once when nothing runs."""
        ...

    def cancel(self, segment_id: str) -> None:
        """Stop a segment; no outcome of it will be returned. Nothing happens when it does not run."""
        ...

    def close(self) -> None:
        """Stop everything and free the slots."""
        ...
