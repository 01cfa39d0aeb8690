"""The contract of an executor, as tests, and the work function they run.

from gristmill.testing.executor import ExecutorContract

class TestMine(ExecutorContract):
    def make(self, folder, workers): return MyExecutor("gristmill.testing.executor:behave", ...)
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gristmill.search.executors.protocol import Executor
from gristmill.segment import Outcome, Resources, Segment

LONG = 60.0  # seconds a test waits at most for something that takes milliseconds


def behave(segment: Segment, context: Mapping[str, Any]) -> Outcome:
    """Do what the configuration says: `do` is score, fail, memory, disk, noise, sleep, wrong, children, work
    (for `seconds`), hold (`bytes` for `hold_s` seconds, halved as often as the context says) or die (by
    SIGKILL, as long as `context["deaths"]`, a folder, holds fewer than `times` marks)."""
    do, config = segment.config.get("do", "score"), segment.config
    time.sleep(float(config.get("sleep", 0.0)))
    if do == "fail":
        raise ValueError("the rate must be positive\nsecond line")
    if do == "memory":
        raise MemoryError
    if do == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if do == "noise":
        print("x" * int(config["bytes"]), flush=True)
        sys.stdin.read()
    if do == "work":
        end = time.perf_counter() + float(config["seconds"])
        while time.perf_counter() < end:
            pass
    if do == "hold":
        held = b"x" * (int(config["bytes"]) >> int(context.get("halvings", 0)))
        time.sleep(float(config["hold_s"]) if held else 0.0)
    if do == "die":
        _die(segment, context)
    if do == "wrong":
        return Outcome(id="another", state="done")
    facts = {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS"), "context": dict(context)}
    score = float(config.get("score", 0.5))
    return Outcome(id=segment.id, state="done", score=score, rows_seen=segment.to_rows, facts=facts)


def segment(name: str, *, cap_s: float = float("inf"), cpu: int = 1, **config: Any) -> Segment:
    """A segment for `behave`."""
    return Segment(id=name, kind="fit", config=config, to_rows=10, cap_s=cap_s, needs=Resources(cpu=cpu))


def collect(executor: Executor, count: int) -> dict[str, Outcome]:
    """Wait for `count` outcomes."""
    found: dict[str, Outcome] = {}
    end = executor.clock.now() + LONG
    while len(found) < count and executor.clock.now() < end:
        found |= {outcome.id: outcome for outcome in executor.wait(end)}
    return found


class ExecutorContract:
    """Override `make`; the executor must run `behave` with any context."""

    def make(self, folder: Path, workers: int) -> Executor:
        """An executor with `workers` slots of one core; `folder` may be written to."""
        raise NotImplementedError

    @contextmanager
    def running(self, folder: Path, workers: int = 2) -> Iterator[Executor]:
        """An executor that is closed in the end."""
        executor = self.make(folder, workers)
        try:
            yield executor
        finally:
            executor.close()

    def test_returns_each_outcome_once(self, tmp_path: Path) -> None:
        with self.running(tmp_path) as executor:
            executor.submit(segment("a", score=0.25))
            executor.submit(segment("b", score=0.75))
            found = collect(executor, 2)
            assert {k: v.score for k, v in found.items()} == {"a": 0.25, "b": 0.75}
            assert executor.wait(executor.clock.now() + 0.05) == []

    def test_slots_are_taken_and_freed(self, tmp_path: Path) -> None:
        with self.running(tmp_path) as executor:
            assert len(executor.slots()) == 2
            executor.submit(segment("a"))
            assert len(executor.slots()) == 1
            assert list(executor.open) == ["a"]
            collect(executor, 1)
            assert len(executor.slots()) == 2
            assert not executor.open

    def test_refuses_more_than_it_has(self, tmp_path: Path) -> None:
        with self.running(tmp_path, 1) as executor:
            assert _refuses(executor, segment("wide", cpu=64))
            executor.submit(segment("a"))
            assert _refuses(executor, segment("b"))
            collect(executor, 1)

    def test_wait_keeps_its_time(self, tmp_path: Path) -> None:
        with self.running(tmp_path) as executor:
            executor.submit(segment("slow", sleep=30.0))
            until = executor.clock.now() + 0.1
            assert executor.wait(until) == []
            assert until <= executor.clock.now() < until + 5.0

    def test_wait_returns_at_once_when_nothing_runs(self, tmp_path: Path) -> None:
        with self.running(tmp_path) as executor:
            before = executor.clock.now()
            assert executor.wait(before + LONG) == []
            assert executor.clock.now() < before + 1.0

    def test_a_cancelled_segment_is_never_heard_of_again(self, tmp_path: Path) -> None:
        with self.running(tmp_path, 1) as executor:
            executor.submit(segment("slow", sleep=30.0))
            executor.cancel("slow")
            executor.cancel("unknown")
            assert len(executor.slots()) == 1
            executor.submit(segment("next"))
            assert set(collect(executor, 1)) == {"next"}

    def test_seconds_are_measured(self, tmp_path: Path) -> None:
        with self.running(tmp_path, 1) as executor:
            executor.submit(segment("a", sleep=0.02))
            assert collect(executor, 1)["a"].seconds >= 0.02


def _refuses(executor: Executor, wrong: Segment) -> bool:
    try:
        executor.submit(wrong)
    except ValueError:
        return True
    return False


def _die(segment: Segment, context: Mapping[str, Any]) -> None:
    folder = Path(context["deaths"])
    marks = len(list(folder.glob(f"{segment.id}-*")))
    if marks < int(segment.config["times"]):
        (folder / f"{segment.id}-{marks}").touch()
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
