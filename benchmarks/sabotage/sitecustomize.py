"""Faults from inside a process, for `benchmarks/chaos.py`: put this folder on PYTHONPATH and name one.

    CHAOS_FAULT=nan               every training step returns a loss that is not finite
    CHAOS_FAULT=hang              every training step hangs
    CHAOS_FAULT=bomb              every training step takes memory until there is none (512 MiB allowed)
    CHAOS_FAULT=clock:S:AFTER     the wall clock jumps by S seconds, AFTER seconds after the process began
    CHAOS_FAULT=full:FILE         nothing reaches the disk (ENOSPC) while FILE exists

Python imports a module of this name at its start, so the product needs no hook for tests.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

LOOP = "gristmill.training.loop"
BOMB_BYTES = 512 << 20


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `change` on the module `name` as soon as it has been imported."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self.name, self.change = name, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _nan(loop: Any) -> None:
    step = loop.step
    loop.step = lambda training, batch: step(training, batch) * float("nan")


def _hang(loop: Any) -> None:
    def hang(training: Any, batch: Any) -> None:
        while True:
            time.sleep(3600.0)

    loop.step = hang


def _bomb(loop: Any) -> None:
    def bomb(training: Any, batch: Any) -> None:
        import resource

        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (held + BOMB_BYTES, limits[1]))
        try:
            taken = []
            while True:
                taken.append(b"x" * (16 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    loop.step = bomb


def _jump(seconds: float, after: float) -> None:
    began, now = time.monotonic(), time.time
    time.time = lambda: now() + (seconds if time.monotonic() - began > after else 0.0)


def _full(marker: str) -> None:
    fsync = os.fsync

    def full(fd: Any) -> None:
        if os.path.exists(marker):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), marker)
        fsync(fd)

    os.fsync = full


def _install(fault: str) -> None:
    kind, _, detail = fault.partition(":")
    if kind in ("nan", "hang", "bomb"):
        sys.meta_path.insert(0, _AfterImport(LOOP, {"nan": _nan, "hang": _hang, "bomb": _bomb}[kind]))
    elif kind == "clock":
        _jump(*map(float, detail.split(":")))
    elif kind == "full":
        _full(detail)
    elif kind:
        raise SystemExit(f"CHAOS_FAULT must be nan, hang, bomb, clock or full; got {fault}")


_install(os.environ.get("CHAOS_FAULT", ""))
