"""A bounded queue in front of the model: full means "no" at once, late means dropped before it starts."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class FullError(Exception):
    """There is no room; `retry_after` seconds from now there may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class LateError(Exception):
    """The answer did not come in time."""


class Queue:
    """Runs work on `workers` threads with at most `waiting` more pieces of work before them.

    Args:
        seconds: Longest wait for an answer. Work that has not started by then is dropped.
    """

    def __init__(self, *, workers: int, waiting: int, seconds: float) -> None:
        self.workers, self.waiting, self.seconds = workers, waiting, seconds
        self._pool = ThreadPoolExecutor(workers, "predict")
        self._lock = threading.Lock()
        self._held = 0
        self._mean_s = 0.05

    @property
    def held(self) -> int:
        """Pieces of work that run or wait."""
        return self._held

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`.

        Raises:
            FullError: at once, if as much work as allowed is held already.
            LateError: if it is not done in time.
        """
        future = self._submit(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except TimeoutError:
            future.cancel()
            raise LateError from None

    def close(self) -> None:
        """Drop what waits, let what runs end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._held >= self.workers + self.waiting:
                raise FullError(max(1, math.ceil(self._held * self._mean_s / self.workers)))
            self._held += 1
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(self._release)
        return future

    def _timed(self, work: Callable[[], T]) -> T:
        before = time.monotonic()
        try:
            return work()
        finally:
            self._mean_s += 0.1 * (time.monotonic() - before - self._mean_s)

    def _release(self, future: Future[T]) -> None:
        with self._lock:
            self._held -= 1
