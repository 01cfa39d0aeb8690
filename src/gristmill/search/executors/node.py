"""What runs on a node of a Ray cluster: the look around before anything is trusted, and the worker.

`cluster.py` sends this module by value, so a node that lacks Gristmill, or has another version, can still
say so. For that reason only the standard library is imported with the module.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.util
import json
import os
import platform
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_IDLE_S = 300.0  # without a cap (counted segments): a worker that did no work for so long hangs
_IDLE_SHARE = 0.02  # of a core: Ray's own threads in a worker take less than a hundredth
_LOOKS = 10


def look(
    folders: Sequence[Sequence[str]], mark: str, modules: Sequence[str], path: Sequence[str]
) -> dict[str, Any]:
    """What a node has to say of itself, JSON-ready.

    Args:
        folders: Pairs of a folder and a file name in it; the driver has written `mark` into that file.
        mark: What the files must hold. The node answers with a file of its own beside each.
        modules: Importable names that the work needs.
        path: Folders put on the import path.

    Returns:
        `host`, `version` (of Gristmill, or None), `missing` (modules), and `unseen`: folders with a reason.
    """
    sys.path[:0] = [place for place in path if place not in sys.path]
    unseen = {folder: why for folder, name in folders if (why := _trouble(Path(folder), name, mark))}
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "version": _version(),
        "missing": [name for name in modules if not _is_there(name)],
        "unseen": unseen,
    }


def _trouble(folder: Path, name: str, mark: str) -> str:
    """Why a folder cannot be shared with the driver, or an empty string."""
    try:
        if (folder / name).read_text(encoding="utf-8") != mark:
            return "another folder lies under that path"
    except OSError:
        return "it is not there"
    answer = folder / f"{name}.{os.urandom(6).hex()}"
    try:
        answer.write_text(mark, encoding="utf-8")
        answer.unlink()
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    return ""


def _version() -> str | None:
    try:
        return str(importlib.import_module("gristmill").__version__)
    except ImportError:
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


class Worker:
    """A persistent worker with one slot. Everything it takes and gives is JSON text.

    Args:
        function: `module:function`, as for `LocalExecutor`.
        context: JSON of what the function gets with each segment.
        log: File that keeps what the function prints, at most 2 MB.
        path: Folders put on the import path.
        environment: Variables set before anything that reads them is imported (Ray's own worker process
            imports neither numpy nor torch; a `runtime_env` would cost a process start each).
    """

    def __init__(
        self, function: str, context: str, log: str, path: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        os.environ.update(environment)
        sys.path[:0] = [place for place in path if place not in sys.path]
        from gristmill.search.executors import worker

        _keep_prints(Path(log))
        self._context = json.loads(context)
        self._function, self._error = worker.load(function)

    def ready(self) -> str:
        """Why the function cannot be had, or an empty string."""
        return self._error or ""

    def run(self, segment: str) -> str:
        """The outcome of a segment; whatever the function raises is a recorded failure."""
        from gristmill.search.executors import memory, worker
        from gristmill.segment import Segment

        assert self._function is not None
        asked = Segment.from_json(json.loads(segment))
        capped = asked.cap_s != float("inf")  # then the driver ends what overstays it
        with contextlib.nullcontext() if capped else ended_when_idle(lambda: memory.worked(os.getpid())):
            outcome = worker.run(self._function, asked, self._context)
        return json.dumps(outcome.to_json(), default=str)


@contextlib.contextmanager
def ended_when_idle(worked: Callable[[], float], idle_s: float = _IDLE_S) -> Iterator[None]:
    """End this process when it works less than a fiftieth of a core for `idle_s` seconds; for its driver it
    has died then, and its segment is asked again.

    Args:
        worked: CPU seconds so far; while it is not a number nothing is known, and nothing ends.
        idle_s: Seconds.
    """
    over = threading.Event()

    def watch() -> None:
        idle, before, period = 0, worked(), idle_s / _LOOKS
        while not over.wait(period):
            now = worked()
            idle = idle + 1 if now - before < _IDLE_SHARE * period else 0
            before = now
            if idle >= _LOOKS:
                print(f"did no work for {idle_s:.0f} s: this worker ends itself", file=sys.stderr, flush=True)
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _keep_prints(path: Path) -> None:
    """Send standard output and error to a log of bounded size, and leave nothing to read."""
    from gristmill.search.executors.log import BoundedLog

    log = BoundedLog(path)
    source, sink = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(nothing, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(nothing)
    os.close(sink)
    faulthandler.enable(file=2)

    def copy() -> None:
        while chunk := os.read(source, 65536):
            log.write(chunk)

    threading.Thread(target=copy, daemon=True).start()
