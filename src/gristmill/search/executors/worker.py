"""The worker process: `python -m gristmill.search.executors.worker module:function`.

It reads JSON lines from its standard input and answers on a private copy of its standard output; what
the function prints goes to the log. It never imports the caller's main module, and it ends when its
input ends, so that no worker outlives its driver.

    in    {"context": {...}, "parent": PID or null}   once
          {"segment": {...}, "halvings": 0}       halvings: how often its batches in memory are to be halved;
                                                   the function finds it in its context, unless it is 0
    out   {"ready": seconds, "error": text or null}   once, after the import
          {"began": id}
          {"outcome": {...}}
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from gristmill.errors import is_full, of_the_disk
from gristmill.segment import Outcome, OutcomeState, Segment

Work = Callable[[Segment, Mapping[str, Any]], Outcome]


def main(name: str) -> int:
    """Serve segments with the function `module:function` until the input ends."""
    started = time.monotonic()
    requests, answers = private_pipes()
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, inbox), daemon=True).start()
    hello = inbox.get()
    _die_with(hello["parent"])
    function, error = load(name)
    _send(answers, {"ready": time.monotonic() - started, "error": error})
    while function is not None:
        request = inbox.get()
        segment, halvings = Segment.from_json(request["segment"]), int(request.get("halvings", 0))
        context = {**hello["context"], "halvings": halvings} if halvings else hello["context"]
        _send(answers, {"began": segment.id})
        _send(answers, {"outcome": run(function, segment, context).to_json()})
        _give_back()
    return 1


def run(function: Work, segment: Segment, context: Mapping[str, Any]) -> Outcome:
    """Call `function`; whatever it raises becomes a recorded failure."""
    started = time.monotonic()
    try:
        outcome = function(segment, context)
        if not isinstance(outcome, Outcome) or outcome.id != segment.id:
            raise TypeError(f"a work function must return the outcome of its segment; got {outcome!r:.200}")
    except BaseException as error:
        traceback.print_exc()
        outcome = Outcome(id=segment.id, state=_state(error), reason=_reason(error))
    seconds = outcome.seconds or time.monotonic() - started
    return replace(outcome, seconds=seconds, peak_memory=outcome.peak_memory or _peak_memory())


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Our ends of the two pipes; the standard ones are put out of the function's reach."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, answers


def _read(requests: BinaryIO, inbox: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in requests:
        inbox.put(json.loads(line))
    os._exit(0)  # the driver is gone; whatever runs here has lost its purpose


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(message, default=str).encode() + b"\n")
        answers.flush()
    except BrokenPipeError:
        os._exit(0)


def load(name: str) -> tuple[Work | None, str | None]:
    """The function `module:function`, or why it cannot be had."""
    module, _, function = name.partition(":")
    try:
        found: Work = getattr(importlib.import_module(module), function)
    except BaseException as error:
        traceback.print_exc()
        return None, _reason(error)
    return found, None


def _die_with(parent: int | None) -> None:
    """On Linux the kernel kills us with the driver: the end of our input comes late when a child of the
    driver has inherited the other end of the pipe."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(0)


def _reason(error: BaseException) -> str:
    last = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {last}" if last else type(error).__name__


def _state(error: BaseException) -> OutcomeState:
    if is_full(error) or of_the_disk(error) is not None:
        return "full"
    return "oom" if _out_of_memory(error) else "failed"


def _out_of_memory(error: BaseException) -> bool:
    """MemoryError, and what torch raises on a GPU and on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _give_back() -> None:
    """Hand freed memory back to the system before the next segment: glibc keeps it, and the other workers
    and the driver go short of it."""
    gc.collect()
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # musl has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _peak_memory() -> int:
    """Bytes of memory that this process has held at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
