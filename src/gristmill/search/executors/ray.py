"""Workers on a Ray cluster: an actor for each core, or for each share of a GPU.

The journal and every decision stay in the driver. Ray itself lives in a process of its own (`cluster.py`):
what befalls it, a head node that goes away or an address that hangs, costs open segments and never the
driver. Nodes read and write the run folder and the cache by path, so both lie on shared storage; each node
is asked for them before anything is trained.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gristmill
from gristmill import packages
from gristmill.deadline import Clock, WallClock
from gristmill.errors import GristmillError, ResourceError, UsageError
from gristmill.search.executors.cluster import ADDRESS_RULE, check_address, wants_token
from gristmill.search.executors.log import BoundedLog
from gristmill.segment import Outcome, Resources, Segment

REQUIREMENT = "ray>=2.60,<3"
_BEGIN_S = 120.0  # starting a cluster of our own on a loaded machine
_HOPELESS = "Failed to connect"  # after 5 s; Ray goes on for 35 s more, and then ends the process
_REFUSED = "Unauthenticated"  # at once; Ray asks again for 20 s
_SETTLE_S = 40.0
_STARTUP_S = 120.0
_IMPORTS_S = 15.0
_CLOSE_S = 5.0
_EMPTY_S = 60.0  # a run goes on without any node for this long
_CRASHES = 3  # of Ray, in a row, without an outcome in between
_ENVIRONMENT = (
    "PYTHONPATH",
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
)


class RayExecutor:
    """Runs `function(segment, context) -> Outcome` on the nodes of a Ray cluster.

    A worker or a node that is lost costs its own segments, which come back `lost`; nodes that join later
    get workers, too. A segment that overstays its cap is killed with its worker.

    Args:
        function: `module:function`, importable on every node.
        context: JSON-ready values that the function gets with each segment.
        address: HOST:PORT of the head node; `auto` joins the cluster that `ray start` has started on this
            machine, or one named by RAY_ADDRESS, and otherwise starts one, which ends with `close`.
        folder: Where each worker's output is kept, at most 2 MB a worker.
        cpus: Cores of a cluster that is started.
        workers: At most so many slots; default: all that the nodes have.
        gpu_share: The part of a GPU that a slot takes (0 < share <= 1).
        patience: Seconds that joining, or starting, a cluster may take.
        path: Folders to be put on the workers' import path.
        shared: Folders that every node must see under the same path, and may write to.
        requires: Modules that every node must have.

    Raises:
        ResourceError: when the package ray is absent, or the cluster or one of its nodes cannot serve.
        UsageError: when no cluster answers at the address.
    """

    def __init__(
        self,
        function: str,
        context: Mapping[str, Any],
        *,
        address: str = "auto",
        folder: str | os.PathLike[str],
        cpus: int = 2,
        workers: int | None = None,
        gpu_share: float = 1.0,
        patience: float = _BEGIN_S,
        path: tuple[str, ...] = (),
        shared: Sequence[str | os.PathLike[str]] = (),
        requires: Sequence[str] = (),
    ) -> None:
        if ":" not in function or cpus < 1 or not 0.0 < gpu_share <= 1.0:
            raise ValueError(
                "function must be module:function, cpus positive, gpu_share above 0 and at most 1; "
                f"got {function=}, {cpus=}, {gpu_share=}"
            )
        check_installed()
        check_address(address)
        self.clock: Clock = WallClock()
        self._give_up_at = self.clock.now() + min(patience, _BEGIN_S)
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._hello = {
            "address": address,
            "function": function,
            "context": dict(context),
            "folder": str(folder),
            "cpus": cpus,
            "workers": workers,
            "gpu_share": gpu_share,
            "path": list(path),
            "shared": [str(Path(p).absolute()) for p in shared],
            "requires": list(requires),
            "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        }
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._log = BoundedLog(folder / "ray.log")
        self._held: _Message | None = None
        self._slots: dict[str, _Slot] = {}
        self._tickets = self._crashes = 0
        self._settled = self._closed = False
        self._empty_since = self.clock.now()
        self._process = _Process(self._hello, self._inbox, self._log)
        self.joined: Mapping[str, Any] = {}
        """What was joined: `address`, `started` (by us), `nodes` (their number), `token` (is one wanted).
        Empty until then: `auto` is joined at the first call of `slots`."""
        if address != "auto":  # which cannot be mistaken: it starts while the driver does something else
            self._join()

    def warm(self) -> None:
        """Nothing to do: joining, and starting the workers, has begun."""

    def slots(self) -> tuple[Resources, ...]:
        """The slots that are free now; the first call waits until the workers are up."""
        self._settle()
        return tuple(slot.resources for slot in self._slots.values() if slot.segment is None)

    @property
    def open(self) -> tuple[str, ...]:
        """Ids of the segments that run: submitted, and neither returned by `wait` nor cancelled."""
        return tuple(slot.segment.id for slot in self._slots.values() if slot.segment is not None)

    def describe(self) -> str:
        """Where it trains, in one line."""
        count, nodes = len(self.slots()), self.joined.get("nodes", 0)
        where = (
            "that this command started" if self.joined.get("started") else f"at {self.joined.get('address')}"
        )
        return f"Ray cluster {where}: {count} workers on {nodes} node{'s' if nodes != 1 else ''}"

    def doubts(self) -> list[str]:
        """What a person should know of the cluster that was joined."""
        if self.joined.get("started") or self.joined.get("token"):
            return []
        return [
            "This Ray cluster obeys anybody who reaches it. "
            "Start it with RAY_AUTH_MODE=token, or keep it in a network of its own."
        ]

    def submit(self, segment: Segment) -> None:
        """Start a segment in a free slot."""
        self._settle()
        free = [slot for slot in self._slots.values() if slot.segment is None]
        fitting = [slot for slot in free if slot.holds(segment.needs)]
        if self._closed or not fitting:
            raise ValueError(
                f"a segment needs a free slot that offers what it needs; "
                f"it needs {segment.needs}, {len(free)} are free"
            )
        self._tickets += 1
        slot = next((s for s in fitting if s.fresh is False), fitting[0])
        slot.start(segment, self._tickets, self.clock.now())
        self._process.send(run=segment.to_json(), slot=slot.key, ticket=slot.ticket)

    def wait(self, until: float) -> list[Outcome]:
        """Outcomes as they come in; see `Executor.wait`. Without any slot it waits for a node.

        Raises:
            ResourceError: when no node is left, or Ray ends again and again.
        """
        outcomes = self._drain()
        while not outcomes and not self._closed and (self.open or (self._settled and not self._slots)):
            now = self.clock.now()
            outcomes = [o for s in self._slots.values() if (o := self._overrun(s, now)) is not None]
            if outcomes or now >= until:
                break
            self._check_nodes(now)
            wake = min([until, now + 5.0, *(s.kill_at for s in self._slots.values() if s.segment)])
            self._pause(wake - now)
            outcomes = self._drain()
        return outcomes

    def cancel(self, segment_id: str) -> None:
        """Kill the worker that runs it; a new one takes its place."""
        for slot in self._slots.values():
            if slot.segment is not None and slot.segment.id == segment_id:
                self._drop(slot)

    def close(self) -> None:
        """End all workers of ours; a cluster that was joined stays as it is, one that was started ends."""
        self._closed = True
        self._slots.clear()
        if self.joined.get("started"):  # nobody else's: its processes end in no time, not in two seconds
            self._process.kill()
        else:
            self._process.stop()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # joining

    def _join(self) -> None:
        """Wait until the cluster is joined; whatever goes wrong is said, and nothing of ours stays behind."""
        try:
            while not self.joined:
                with contextlib.suppress(queue.Empty):
                    message = self._inbox.get(timeout=0.5)
                    if message.content is None:
                        raise self._silent(self._log.tail() or "the process that speaks with Ray ended")
                    self._receive(message, self.clock.now())
                self._check_words()
                if self.clock.now() > self._give_up_at:
                    raise self._silent("it takes too long for the time there is")
        except BaseException:
            self._closed = True
            self._process.kill()
            raise

    def _check_words(self) -> None:
        """Ray knows after a second or five that it is hopeless, and says so in its log only."""
        said = re.sub(r"^\[.*?\] *\S+:\d+: ", "", self._log.tail())
        if _REFUSED in said:
            raise wants_token(str(self._hello["address"]))
        if _HOPELESS in said:
            raise self._silent(said)

    def _silent(self, what: str) -> GristmillError:
        if self._hello["address"] == "auto":
            return ResourceError(
                "Ray must be able to start here.",
                got=what,
                next_step="without --ray the same command uses the cores of this machine",
            )
        return UsageError(
            ADDRESS_RULE,
            got=f"{self._hello['address']}: something answers there, but not as a Ray cluster ({what})",
            next_step="`ray status` on the head node shows whether it runs, and its address",
        )

    def _settle(self) -> None:
        """Be joined, and let the workers start, once."""
        if self._settled or self._closed:
            return
        self._join()
        end = min(self.clock.now() + _SETTLE_S, self._give_up_at)
        while not self._settled and (now := self.clock.now()) < end:
            with contextlib.suppress(queue.Empty):
                self._receive(self._inbox.get(timeout=end - now), now)
        self._settled = True

    # messages

    def _pause(self, seconds: float) -> None:
        """Wait for one message and put it back into line for `_drain`."""
        with contextlib.suppress(queue.Empty):
            self._held = self._inbox.get(timeout=min(max(0.0, seconds), 3600.0))

    def _drain(self) -> list[Outcome]:
        messages = [] if self._held is None else [self._held]
        self._held = None
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._inbox.get_nowait())
        return [outcome for m in messages for outcome in self._receive(m, self.clock.now())]

    def _receive(self, message: _Message, now: float) -> list[Outcome]:
        """Take in a message; the outcomes that follow from it."""
        if message.process is not self._process or self._closed:
            return []
        content = message.content
        if content is None:
            return self._crashed(now)
        if "ticket" in content:
            return self._answered(content, now)
        if "slot" in content:
            resources = Resources(cpu=content["cpu"], gpu=content["gpu"])
            self._slots[content["slot"]] = _Slot(content["slot"], resources)
        elif "gone" in content:
            gone = self._slots.pop(content["gone"], None)
            self._empty_since = now
            return [] if gone is None else gone.lose("its node is gone", now)
        elif "settled" in content:
            self._settled = True
        elif "joined" in content:
            self.joined = content["joined"]
        else:
            raise _refusal(content["refused"])
        return []

    def _answered(self, content: Mapping[str, Any], now: float) -> list[Outcome]:
        slot = next((s for s in self._slots.values() if s.ticket == content["ticket"] and s.segment), None)
        if slot is None:
            return []  # of a segment that was cancelled meanwhile
        if "began" in content:
            slot.begin(now)
            return []
        if "died" in content:
            return slot.lose(content["died"], now, state="failed" if content["final"] else "lost")
        slot.segment, slot.fresh, self._crashes = None, False, 0
        return [Outcome.from_json(content["outcome"])]

    def _overrun(self, slot: _Slot, now: float) -> Outcome | None:
        """The lost outcome of a segment that has outstayed its cap, its worker killed."""
        if slot.segment is None or now < slot.kill_at:
            return None
        what = f"did not keep its cap of {slot.segment.cap_s:.1f} s" if slot.running else "did not start"
        lost = slot.lose(f"killed: it {what}", now)
        self._drop(slot)
        return lost[0]

    def _drop(self, slot: _Slot) -> None:
        slot.segment, slot.fresh = None, True
        self._process.send(drop=slot.key)

    # what befalls the cluster

    def _crashed(self, now: float) -> list[Outcome]:
        """Ray has ended: all that ran is lost. Join again, as often as it is worth while."""
        outcomes = [o for slot in self._slots.values() for o in slot.lose("Ray has ended", now)]
        self._slots.clear()
        self._process.kill()
        self._crashes += 1
        if self._crashes > _CRASHES:
            raise ResourceError(
                "The cluster must go on.",
                got=f"Ray ended {self._crashes} times in a row: {self._log.tail()}",
                next_step="the same command goes on where it stopped",
            )
        self._empty_since, self._settled, self.joined = now, True, {}
        self._process = _Process(self._hello, self._inbox, self._log)
        return outcomes

    def _check_nodes(self, now: float) -> None:
        if not self._slots and now > self._empty_since + _EMPTY_S:
            raise ResourceError(
                "The cluster must keep a node that works.",
                got=f"none for {_EMPTY_S:.0f} s",
                next_step="start one, and give the same command again: it goes on where it stopped",
            )


@dataclass
class _Slot:
    """The driver's view of one slot. `fresh`: its worker has not served yet, and may still import."""

    key: str
    resources: Resources
    segment: Segment | None = None
    ticket: int = 0
    kill_at: float = float("inf")
    running: bool = False
    fresh: bool = True
    since: float = 0.0

    def holds(self, needs: Resources) -> bool:
        return needs.cpu <= self.resources.cpu and needs.gpu <= self.resources.gpu

    def start(self, segment: Segment, ticket: int, now: float) -> None:
        """Its own time begins when the worker says so."""
        self.segment, self.ticket, self.running = segment, ticket, False
        self.since, self.kill_at = now, now + _STARTUP_S

    def begin(self, now: float) -> None:
        assert self.segment is not None
        cap = self.segment.cap_s
        self.since, self.running = now, True
        self.kill_at = now + cap + max(5.0, 0.2 * cap) + (_IMPORTS_S if self.fresh else 0.0)

    def lose(self, reason: str, now: float, state: Any = "lost") -> list[Outcome]:
        """The outcome of what ran here, if anything did."""
        segment, self.segment, self.fresh = self.segment, None, True
        if segment is None:
            return []
        return [Outcome(id=segment.id, state=state, reason=reason, seconds=now - self.since)]


@dataclass(frozen=True)
class _Message:
    """A line that the process which speaks with Ray wrote, or None at its end."""

    process: _Process
    content: dict[str, Any] | None


class _Process:
    """The process that speaks with Ray, in a process group of its own with the cluster that it may start."""

    def __init__(self, hello: Mapping[str, Any], inbox: queue.SimpleQueue[_Message], log: BoundedLog) -> None:
        self._inbox = inbox
        self._log = log
        self._temporary = tempfile.mkdtemp(prefix="gristmill-ray-")
        flags: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        pipe = subprocess.PIPE
        places = [str(Path(gristmill.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        # in the log folder: Ray puts the current folder on every worker's import path
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gristmill.search.executors.cluster"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=hello["folder"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            **flags,
        )
        streams = ((self._listen, self._process.stdout), (self._keep, self._process.stderr))
        for target, stream in streams:
            threading.Thread(target=target, args=(stream,), daemon=True).start()
        self.send(**{**hello, "temporary": self._temporary})

    def send(self, **message: Any) -> None:
        """Write one command; when the process has died, its end is on the way through the inbox."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """End it by the end of its input, then by force."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_S)
        self.kill()

    def kill(self) -> None:
        """End it, and a cluster that it has started, now."""
        if sys.platform == "win32":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _listen(self, stream: IO[bytes]) -> None:
        with stream, contextlib.suppress(ValueError):  # a line torn by a kill ends it, too
            for line in stream:
                self._inbox.put(_Message(self, json.loads(line)))
        self._inbox.put(_Message(self, None))

    def _keep(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._log.write(chunk)


def _refusal(said: Mapping[str, Any]) -> GristmillError:
    kind = UsageError if said["kind"] == "usage" else ResourceError
    return kind(said["rule"], got=said["got"], next_step=said["next"])


def check_installed() -> None:
    """Raise ResourceError, with the command that mends it, when the package ray is absent."""
    if importlib.util.find_spec("ray") is None:
        raise ResourceError(
            "--ray needs the package ray.",
            got="it is not installed",
            next_step=packages.install(REQUIREMENT),
        )
