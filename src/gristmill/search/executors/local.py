"""Persistent worker processes on this machine, one per slot.

A worker that dies, hangs or overruns its cap costs its own segment and nothing else: the segment comes
back `lost` with the reason, and a new worker takes the slot. Workers sit in sessions of their own, so
Ctrl-C in the terminal reaches the driver alone, which then decides what is finished and what is dropped.

Memory: a segment that is expected to take more than 90 % of what is free waits until another ends; what a
worker and its children hold is measured twice a second, and one that passes its 90 % is killed and its
segment tried once more with smaller batches in memory, then given up as `oom`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import gristmill
from gristmill.deadline import Clock, WallClock
from gristmill.search.executors import memory
from gristmill.search.executors.log import BoundedLog
from gristmill.segment import Outcome, Resources, Segment

_STARTUP_S = 120.0  # importing torch on a loaded machine has taken 30 s
_IMPORTS_S = 15.0  # the first segment of a process may still import what it needs
_IDLE_S = 300.0  # without a cap (counted segments): a worker that did no work for so long hangs
_IDLE_WORK_S = 0.05  # CPU seconds; its own threads wake now and then
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_FRUITLESS = 3  # workers in a row that died before they were ready: the next one would, too


class LocalExecutor:
    """Runs `function(segment, context) -> Outcome` in worker processes.

    Args:
        function: `module:function`, importable without the caller's main module.
        context: JSON-ready values that the function gets with each segment, and `threads`, the cores of the
            slot that runs it.
        cpus: Cores to use.
        workers: Number of slots; a core each by default, else the cores are shared out evenly, and what
            remains goes to the first.
        folder: Where each worker's output is kept, at most 2 MB a worker.
        path: Folders to be put on the workers' import path.
    """

    def __init__(
        self,
        function: str,
        context: Mapping[str, Any],
        *,
        folder: str | os.PathLike[str],
        cpus: int = 2,
        workers: int | None = None,
        path: tuple[str, ...] = (),
    ) -> None:
        if ":" not in function or cpus < 1:
            raise ValueError(f"function must be module:function and cpus positive; got {function=}, {cpus=}")
        self.clock: Clock = WallClock()
        self.cpus = cpus
        count = min(cpus, workers or cpus)
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._closed = False
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._held: _Message | None = None
        self._needs = memory.Needs()
        self._skipped: list[Outcome] = []
        self._watch = memory.Watch(self._look)
        logs = [BoundedLog(Path(folder) / f"worker-{number}.log") for number in range(count)]
        widths = [cpus // count + (number < cpus % count) for number in range(count)]
        self._workers = [
            _Worker(function, {**context, "threads": cpu}, cpu, self._inbox, log, path)
            for cpu, log in zip(widths, logs, strict=True)
        ]

    def warm(self) -> None:
        """Start all workers now; their imports then run beside whatever the driver does next."""
        for worker in self._workers:
            worker.ensure()

    def slots(self) -> tuple[Resources, ...]:
        """The slots that are free now."""
        return tuple(Resources(cpu=worker.cpus) for worker in self._workers if worker.segment is None)

    @property
    def open(self) -> tuple[str, ...]:
        """Ids of the segments that run: submitted, and neither returned by `wait` nor cancelled."""
        return tuple(worker.segment.id for worker in self._workers if worker.segment is not None)

    def submit(self, segment: Segment) -> None:
        """Give a segment a free slot; it starts at once, or when its memory is free."""
        widest = max(worker.cpus for worker in self._workers)
        if segment.needs.cpu > widest or segment.needs.gpu:
            raise ValueError(f"a segment must fit into a slot of {widest} cores; it needs {segment.needs}")
        free = [w for w in self._workers if w.segment is None and w.cpus >= segment.needs.cpu]
        if self._closed or not free:
            raise ValueError(f"a segment needs a free slot of an open executor; {len(free)} are free")
        worker = next((w for w in free if w.ready), free[0])
        worker.take(segment, self.clock.now())
        self._watch.start()
        self._skipped += self._admit()

    def wait(self, until: float) -> list[Outcome]:
        """Outcomes as they come in; see `Executor.wait`."""
        outcomes = self._drain()
        while not outcomes and any(worker.segment for worker in self._workers):
            now = self.clock.now()
            outcomes = [o for w in self._workers if (o := w.overrun(now)) is not None] + self._admit()
            if outcomes or now >= until:
                break
            wake = min([until, *(w.kill_at for w in self._workers if w.segment)])
            if any(w.waits for w in self._workers):
                wake = min(wake, now + memory.PERIOD_S)
            self._pause(wake - now)
            outcomes = self._drain()
        return outcomes

    def cancel(self, segment_id: str) -> None:
        """Kill the worker that runs it; a new one takes its place."""
        for worker in self._workers:
            if worker.segment is not None and worker.segment.id == segment_id:
                worker.drop()

    def close(self) -> None:
        """End all workers and wait until they are gone."""
        self._closed = True
        self._watch.stop()
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pause(self, seconds: float) -> None:
        """Wait for one message and put it back into line for `_drain`."""
        try:
            message = self._inbox.get(timeout=min(max(0.0, seconds), 3600.0))
        except queue.Empty:
            return
        self._held = message

    def _drain(self) -> list[Outcome]:
        messages = [] if self._held is None else [self._held]
        self._held = None
        while True:
            try:
                messages.append(self._inbox.get_nowait())
            except queue.Empty:
                break
        outcomes, self._skipped = self._skipped, []
        for message in messages:
            segment = message.worker.segment
            outcome = message.worker.receive(message, self.clock.now())
            if outcome is not None:
                outcomes.append(outcome)
            if outcome is not None and segment is not None and outcome.state in ("done", "cut"):
                self._needs.learn(segment, outcome.peak_memory)
        return outcomes

    # memory

    def _admit(self) -> list[Outcome]:
        """Start what waits and fits now. With nothing else running the watch is trusted more than a guess;
        only what is known to be too large is skipped."""
        skipped = []
        for worker in (w for w in self._workers if w.waits):
            assert worker.segment is not None
            room = self._room(worker)
            alone = not any(w.segment and not w.waits for w in self._workers)
            expected = worker.retry_needs or self._needs.expected(worker.segment)
            if not room or expected <= room or (alone and self._needs.stated(worker.segment) <= room):
                worker.start(self.clock.now(), expected=expected, most=room)
            elif alone:
                skipped.append(worker.skip(self._needs.stated(worker.segment), room))
        return skipped

    def _room(self, worker: _Worker) -> int:
        """Bytes that the worker may hold in all: its share of what is free, less what the segments that run
        are still expected to take; 0: unknown."""
        free = memory.free()
        others = [w for w in self._workers if w is not worker and w.segment and not w.waits]
        reserved = sum(max(0, w.expected - w.holds()) for w in others)
        return max(1, int(memory.SHARE * (free - reserved)) + worker.holds()) if free else 0

    def _look(self) -> None:
        """Twice a second, on the thread of the watch: the driver itself may be busy for seconds."""
        now = self.clock.now()
        for worker in self._workers:
            worker.listen_for_work(now)
        sizes = {w: w.measure() for w in self._workers if w.segment and not w.waits}
        over = [w for w, size in sizes.items() if w.most and size > w.most]
        if not over and sizes and memory.is_low():
            over = [max(sizes, key=lambda w: sizes[w])]
        for worker in over:
            worker.stop_for_memory()


@dataclass(frozen=True)
class _Message:
    """A line that a process of a worker wrote, or None at its end."""

    worker: _Worker
    process: subprocess.Popen[bytes]
    content: dict[str, Any] | None


class _Worker:
    """One slot: the process that serves it now, and the segment that it runs."""

    def __init__(
        self,
        function: str,
        context: dict[str, Any],
        cpus: int,
        inbox: queue.SimpleQueue[_Message],
        log: BoundedLog,
        path: tuple[str, ...],
    ) -> None:
        self._function = function
        self._context = context
        self.cpus = cpus
        self._inbox = inbox
        self._log = log
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._fruitless = 0
        self.ready = False
        self.segment: Segment | None = None
        self.kill_at = float("inf")
        self._began = 0.0
        self._running = False
        self._served = False
        self.waits = False
        """It has a segment that has not been started, for want of memory."""
        self.expected = 0
        self.most = 0
        self.retry_needs = 0
        self._halvings = 0
        self._peak = 0
        self._worked = 0.0
        self._stopped: Segment | None = None

    # life

    def ensure(self) -> None:
        """Have a process."""
        if self._process is None:
            self._spawn()

    def take(self, segment: Segment, now: float) -> None:
        """Keep a segment until there is memory for it."""
        self.segment, self._began, self._running, self.waits = segment, now, False, True
        self.kill_at, self._halvings, self._peak, self.retry_needs = float("inf"), 0, 0, 0

    def start(self, now: float, *, expected: int = 0, most: int = 0) -> None:
        """Hand the segment over; its own time begins when the process says so. What it waited is taken from
        its cap. It is expected to hold `expected` bytes and may hold `most` (0: unknown)."""
        assert self.segment is not None
        self.ensure()
        if (waited := now - self._began) > memory.PERIOD_S:
            self.segment = replace(self.segment, cap_s=max(0.001, self.segment.cap_s - waited))
        self._began, self.waits, self.expected, self.most = now, False, expected, most
        self.kill_at = now + _STARTUP_S
        self._send({"segment": self.segment.to_json(), "halvings": self._halvings})

    def skip(self, needs: int, room: int) -> Outcome:
        """The outcome of a segment that cannot fit even alone."""
        assert self.segment is not None
        segment, self.segment, self.waits = self.segment, None, False
        reason = f"it needs {needs >> 20:,} MiB of memory, {room >> 20:,} MiB are free for it"
        return Outcome(id=segment.id, state="oom", reason=reason)

    def drop(self) -> None:
        """Kill the process, unless it has not seen its segment, and forget that."""
        self.segment, waited, self.waits = None, self.waits, False
        if waited:
            return
        self._kill()
        self.ensure()

    def stop(self) -> None:
        """End the process: by the end of its input, then by force."""
        process, self.segment = self._process, None
        if process is None:
            return
        if not self.ready:
            self._kill()
        else:
            _close(process.stdin)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            self._kill()

    # memory

    def holds(self) -> int:
        """Bytes that its process and the children of that hold now."""
        process = self._process
        return 0 if process is None else memory.held(process.pid)

    def measure(self) -> int:
        """The same, noted for the peak of the segment."""
        size = self.holds()
        self._peak = max(self._peak, size)
        return size

    def stop_for_memory(self) -> None:
        """Kill the process now; its end, on the way through the inbox, says the rest."""
        process, segment = self._process, self.segment
        if process is not None and segment is not None:
            self._stopped = segment
            _signal(process)

    def _too_large(self, now: float) -> Outcome | None:
        """Once more with half the batches in memory; then it is given up."""
        assert self.segment is not None
        segment, again, used = self.segment, not self._halvings, now - self._began
        self._kill()
        if again and used < segment.cap_s:
            self._halvings, self.waits, self._running = 1, True, False
            self.retry_needs = max(1, self._peak * 3 // 4)
            return None
        self.segment = None
        self.ensure()
        tried = "" if again else ", also with half the batch in memory"
        reason = (
            f"stopped at {self._peak >> 20:,} MiB of memory; {self.most >> 20:,} MiB were free for it{tried}"
        )
        return Outcome(id=segment.id, state="oom", reason=reason, seconds=used, peak_memory=self._peak)

    # hanging

    def listen_for_work(self, now: float) -> None:
        """Put off the end of a segment without a cap for as long as its process works."""
        process, segment = self._process, self.segment
        if process is None or segment is None or not self._running or segment.cap_s != float("inf"):
            return
        worked = memory.worked(process.pid)
        if abs(worked - self._worked) >= _IDLE_WORK_S:
            self._worked, self.kill_at = worked, now + _IDLE_S

    # messages

    def receive(self, message: _Message, now: float) -> Outcome | None:
        """Take in a message; the outcome of the segment, if it is one."""
        if message.process is not self._process:
            return None  # of a process that was killed meanwhile
        if message.content is None:
            return self._died(now)
        if "ready" in message.content:
            return self._started(message.content["error"], now)
        if "began" in message.content:
            self._begin(now)
            return None
        self.measure()
        self.segment, self.kill_at, self._served = None, float("inf"), True
        outcome = Outcome.from_json(message.content["outcome"])
        return replace(outcome, peak_memory=self._peak or outcome.peak_memory)

    def overrun(self, now: float) -> Outcome | None:
        """The lost outcome of a segment that has outstayed its cap, its process killed."""
        if self.segment is None or now < self.kill_at:
            return None
        if not self._running:
            what = "did not start"
        elif self.segment.cap_s == float("inf"):
            what = f"did no work for {_IDLE_S:.0f} s"
        else:
            what = f"did not keep its cap of {self.segment.cap_s:.1f} s"
        return self._lose(f"killed: it {what}", now)

    def _started(self, error: str | None, now: float) -> Outcome | None:
        self.ready = error is None
        if error is None:
            self._fruitless = 0
            return None
        self._fruitless += 1
        self._kill()
        return self._give_up(f"the worker could not import {self._function}: {error}")

    def _begin(self, now: float) -> None:
        assert self.segment is not None
        cap = self.segment.cap_s
        self._began, self._running = now, True
        self.measure()
        self.kill_at = now + cap + max(5.0, 0.2 * cap) + (0.0 if self._served else _IMPORTS_S)
        self._worked = -1.0

    def _died(self, now: float) -> Outcome | None:
        assert self._process is not None
        code = self._process.wait()
        if self.segment is not None and self._stopped is self.segment:
            return self._too_large(now)
        self._fruitless = 0 if self.ready else self._fruitless + 1
        reason = f"the worker {_how(code)}"
        tail = self._log.tail()
        if tail and code >= 0:
            reason += f": {tail}"
        if self._fruitless >= _FRUITLESS:
            self._kill()
            return self._give_up(reason)
        if self.waits:  # it has not seen its segment
            self._kill()
            self.ensure()
            return None
        return self._lose(reason, now)

    def _lose(self, reason: str, now: float) -> Outcome | None:
        segment, seconds = self.segment, now - self._began
        self.drop()
        if segment is None:
            return None
        return Outcome(id=segment.id, state="lost", reason=reason, seconds=seconds)

    def _give_up(self, reason: str) -> Outcome | None:
        """The segment has failed, not been lost: another worker would end alike."""
        segment, self.segment, self.waits = self.segment, None, False
        return None if segment is None else Outcome(id=segment.id, state="failed", reason=reason)

    # process

    def _spawn(self) -> None:
        self.ready = self._running = self._served = False
        # -P: a file of the user's folder called queue.py must not be taken for the library's
        command = [sys.executable, "-P", "-m", "gristmill.search.executors.worker", self._function]
        flags: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment(), **flags
        )
        streams = ((self._listen, self._process.stdout), (self._keep, self._process.stderr))
        self._threads = [
            threading.Thread(target=target, args=(self._process, stream), daemon=True)
            for target, stream in streams
        ]
        for thread in self._threads:
            thread.start()
        # the kernel ties a child to the thread that made it; only the main thread lives as long as we do
        main = threading.current_thread() is threading.main_thread()
        self._send({"context": self._context, "parent": os.getpid() if main else None})

    def _environment(self) -> dict[str, str]:
        home = str(Path(gristmill.__file__).parents[1])
        places = [home, *self._path, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = dict.fromkeys(_THREADS, str(self.cpus))
        return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(places), "PYTHONFAULTHANDLER": "1"}

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died; its end is on the way through the inbox
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
        with stream, contextlib.suppress(ValueError):  # a line torn by a kill ends it, too
            for line in stream:
                self._inbox.put(_Message(self, process, json.loads(line)))
        self._inbox.put(_Message(self, process, None))

    def _keep(self, process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._log.write(chunk)

    def _kill(self) -> None:
        process, self._process = self._process, None
        self.ready, self.kill_at = False, float("inf")
        if process is None:
            return
        _signal(process)
        process.wait()
        _close(process.stdin)
        for thread in self._threads:  # they end with the pipes, unless an orphan of the function holds one
            thread.join(timeout=1.0)


def _signal(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with whatever it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _close(stream: IO[bytes] | None) -> None:
    with contextlib.suppress(OSError):
        if stream is not None:
            stream.close()


def _how(code: int) -> str:
    """In words, how a process ended."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (often: the system ran out of memory)" if name == "SIGKILL" else "")
