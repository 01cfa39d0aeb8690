"""Search: which segments are worth running. Knows spaces, costs and scores; no pictures, no torch."""

from __future__ import annotations

from gristmill.search.executors.local import LocalExecutor as LocalExecutor
from gristmill.search.executors.virtual import VirtualExecutor as VirtualExecutor
from gristmill.search.journal import Journal as Journal
from gristmill.search.lock import RunLock as RunLock
from gristmill.search.race import RaceSettings as RaceSettings
from gristmill.search.study import Study as Study
from gristmill.segment import Learner as Learner

__all__ = ["Journal", "Learner", "LocalExecutor", "RaceSettings", "RunLock", "Study", "VirtualExecutor"]
