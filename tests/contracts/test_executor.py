from __future__ import annotations

from pathlib import Path

from gristmill.search.executors.local import LocalExecutor
from gristmill.search.executors.protocol import Executor
from gristmill.search.executors.virtual import VirtualExecutor
from gristmill.segment import Outcome, Segment
from gristmill.testing.executor import ExecutorContract


class TestLocalExecutor(ExecutorContract):
    def make(self, folder: Path, workers: int) -> Executor:
        return LocalExecutor("gristmill.testing.executor:behave", {}, folder=folder / "logs", cpus=workers)


def _answer(segment: Segment) -> tuple[Outcome, float]:
    score = float(segment.config.get("score", 0.5))
    return Outcome(id=segment.id, state="done", score=score), float(segment.config.get("sleep", 0.01))


class TestVirtualExecutor(ExecutorContract):
    def make(self, folder: Path, workers: int) -> Executor:
        return VirtualExecutor(_answer, workers=workers)
