from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gristmill.search.executors.local import LocalExecutor
from gristmill.search.executors.protocol import Executor
from gristmill.search.executors.ray import RayExecutor
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


@pytest.mark.timeout(300)
class TestRayExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, ray_cluster: Any) -> None:
        self.address = ray_cluster.address

    def make(self, folder: Path, workers: int) -> Executor:
        return RayExecutor(
            "gristmill.testing.executor:behave",
            {},
            address=self.address,
            folder=folder / "logs",
            workers=workers,
        )
