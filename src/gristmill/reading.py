"""How much of the data is read, and how large: all of it, unless the time or the disk does not allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gristmill import data
from gristmill.data.source import Source
from gristmill.deadline import Deadline, format_duration

LONGEST, SMALLER = 224, (128, 64)
"""Longest sides in pixels at which pictures are stored; the smaller ones where the disk is too small."""
TIME_SHARE = 0.25
"""Part of the time left that reading may take."""
MANY = 2000
"""With no more rows than these all are read without a look: that takes a few seconds at most."""
LEAST_ROWS = 1000
"""A share has no fewer rows than these."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read: pictures with their longest side at most `longest` pixels, and a `share` of the rows.

    For people, empty otherwise: `why` it is not all rows, and a `note` when pictures are smaller than wished.
    """

    longest: int = LONGEST
    share: float = 1.0
    why: str = ""
    note: str = ""

    def of(self, source: Source) -> Source:
        """The rows of `source` that are read, with the reasons among its notes."""
        if self.note:
            source = replace(source, notes=(*source.notes, self.note))
        return source if self.share >= 1.0 else source.share(self.share, self.why)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote."""
        return Reading(
            longest=int(record["longest"]),
            share=float(record["share"]),
            why=str(record["why"]),
            note=str(record["note"]),
        )


def decide(source: Source, deadline: Deadline | None, threads: int) -> Reading:
    """What of a source can be read, from the time that a few dozen of its pictures take.

    The share is a half, a quarter, and so on, so that the same data in about the same time is the same store.
    Data that are in the cache already cost nothing, and tables are read whole.
    """
    longest = _longest(source, deadline)
    if not source.task.has_images or source.rows <= MANY:
        return Reading(longest=longest)
    outlay = data.outlay(source, longest)
    if outlay.known:
        return Reading(longest=longest)
    sides = [longest, *(s for s in SMALLER if s < longest)]
    longest = next((s for s in sides if source.rows * outlay.bytes(s) <= outlay.room), sides[-1])
    large = f"at {sides[0]} they would fill more than half of the free disk"
    note = f"Pictures are stored at {longest} pixels: {large}." if longest < sides[0] else ""
    part, why = outlay.room / (source.rows * outlay.bytes(longest)), "fill more than half of the free disk"
    if deadline is not None and deadline.total != float("inf"):
        seconds = source.rows * outlay.seconds / threads
        in_time = TIME_SHARE * max(0.0, deadline.left()) / max(1e-9, seconds)
        if in_time < part:
            part = in_time
            why = f"take about {format_duration(seconds)} of the {format_duration(deadline.left())} left"
    share = 1.0
    while share > part and share * source.rows >= 2 * LEAST_ROWS:
        share /= 2.0
    return Reading(longest=longest, share=share, why=why if share < 1.0 else "", note=note)


def _longest(source: Source, deadline: Deadline | None) -> int:
    """Below half a minute, or with very many pictures for the time, 128 px: features of larger ones could not
    be paid."""
    if deadline is None or deadline.total == float("inf"):
        return LONGEST
    return LONGEST if deadline.total / max(1, source.rows) > 0.004 or deadline.total >= 600 else 128
