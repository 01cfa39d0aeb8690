"""A log file that cannot fill the disk: beyond half its bound the old half makes room."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


class BoundedLog:
    """Append to `path`; the older half lies in `path` + `.1`. Safe to use from several threads."""

    def __init__(self, path: Path, *, bound: int = 2_000_000) -> None:
        self._path = path
        self._half = bound // 2
        self._lock = threading.Lock()
        self._tail = b""

    def write(self, chunk: bytes) -> None:
        """Append; a full disk costs the log, never the run."""
        with self._lock:
            self._tail = (self._tail + chunk)[-2000:]
            with contextlib.suppress(OSError):
                self._append(chunk[-self._half :])

    def tail(self) -> str:
        """The last line written, for messages."""
        with self._lock:
            lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def _append(self, chunk: bytes) -> None:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size + len(chunk) > self._half and size:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        with open(self._path, "ab") as file:
            file.write(chunk)
