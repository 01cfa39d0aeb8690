"""Where segments run: on this machine's cores (local), on a Ray cluster (ray), or answered from tables on a
virtual clock. `ray.RayExecutor` is imported from its module: the process that it starts runs `cluster.py`,
which must not be imported with this package first."""

from __future__ import annotations

from gristmill.search.executors.local import LocalExecutor as LocalExecutor
from gristmill.search.executors.protocol import Executor as Executor
from gristmill.search.executors.virtual import VirtualExecutor as VirtualExecutor

__all__ = ["Executor", "LocalExecutor", "VirtualExecutor"]
