"""Where segments run: on this machine's cores (local), or answered from tables on a virtual clock."""

from __future__ import annotations

from gristmill.search.executors.local import LocalExecutor as LocalExecutor
from gristmill.search.executors.protocol import Executor as Executor
from gristmill.search.executors.virtual import VirtualExecutor as VirtualExecutor

__all__ = ["Executor", "LocalExecutor", "VirtualExecutor"]
