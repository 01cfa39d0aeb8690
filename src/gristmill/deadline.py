"""Clocks and the one deadline that every step asks. Times are seconds."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Protocol

from gristmill.errors import UsageError


class Clock(Protocol):
    """Seconds since some fixed moment; never runs backwards."""

    def now(self) -> float: ...


class WallClock:
    """The real clock. Monotonic, so a change of the system time moves no deadline."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()


@dataclass
class VirtualClock:
    """A clock that only moves when told to; simulations and tests run on it."""

    seconds: float = 0.0

    def now(self) -> float:
        """Seconds of the simulation."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let `seconds` (not negative) pass."""
        assert seconds >= 0, f"a clock never runs backwards; asked to advance by {seconds}"
        self.seconds += seconds


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on a clock. `start` is when the user's command began, not when this was made."""

    clock: Clock
    start: float
    end: float

    @staticmethod
    def after(seconds: float, *, clock: Clock | None = None, already_spent: float = 0.0) -> Deadline:
        """A deadline `seconds` after a start that lies `already_spent` seconds in the past."""
        clock = clock or WallClock()
        start = clock.now() - already_spent
        return Deadline(clock=clock, start=start, end=start + seconds)

    @property
    def total(self) -> float:
        """Length of the whole budget in seconds."""
        return self.end - self.start

    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock.now() - self.start

    def left(self) -> float:
        """Seconds until the end; negative afterwards."""
        return self.end - self.clock.now()


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float) -> float:
    """Seconds of `"90"`, `"90s"`, `"10m"`, `"1h30m"` or a number.

    Raises:
        UsageError: if the text is no duration or is not positive.
    """
    if isinstance(text, (int, float)):
        seconds = float(text)
    else:
        match = _DURATION.fullmatch(text.strip().lower())
        parts = match.groups() if match and text.strip() else (None, None, None)
        seconds = sum(float(p) * u for p, u in zip(parts, (3600.0, 60.0, 1.0), strict=True) if p)
    if not 0 < seconds < float("inf"):
        raise UsageError(
            "A time must be a positive duration such as 90s, 10m or 1h30m.",
            got=text,
            next_step="use --time 10m",
        )
    return seconds


def format_duration(seconds: float) -> str:
    """A short human form: `8s`, `2m 05s`, `1h 02m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
