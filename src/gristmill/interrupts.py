"""Ctrl-C and SIGTERM are remembered while there is something to save, else they end the command at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gristmill.errors import Interrupted


class Interrupts:
    """Remembers the first Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.may_raise = True
        """Before the race there is nothing to save: stop at once."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self.may_raise:
            raise self.error(" before there was a model")

    def error(self, what: str) -> Interrupted:
        """The error that ends the command, with its exit code."""
        name, code = ("Ctrl-C", 130) if self.signal == signal.SIGINT else ("SIGTERM", 143)
        return Interrupted(
            f"Stopped by {name}{what}.",
            next_step="the same command goes on where it stopped",
            exit_code=code,
        )


@contextmanager
def remembered() -> Iterator[Interrupts]:
    """Both signals go to an `Interrupts` inside the block, and to whom they went before after it."""
    interrupts = Interrupts()
    try:
        before = {n: signal.signal(n, interrupts) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (a notebook, a server): leave the signals alone
        before = {}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
