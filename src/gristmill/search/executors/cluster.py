"""The process that speaks with Ray: `python -m gristmill.search.executors.cluster`.

Ray ends the process that uses it when its head node is gone or an address is wrong, takes over signals, and
needs seconds to be imported. All that happens here and not in the driver, which sees JSON lines:

    in    {"address": "auto" or HOST:PORT, "function": ..., ...}     once; see `RayExecutor`
          {"run": {segment}, "slot": key, "ticket": n}
          {"drop": key}                                              kill the worker of a slot, start another
    out   {"refused": {...}}                                         instead of all that follows
          {"joined": {"address": ..., "started": true or false, "nodes": n, "token": true or false}}
          {"slot": key, "cpu": n, "gpu": n, "host": ...}             a worker is ready
          {"settled": true}                                          those that start quickly are ready
          {"gone": key}                                              its node is
          {"ticket": n, "began": true}
          {"ticket": n, "outcome": {...}}
          {"ticket": n, "died": reason, "final": true or false}

It ends, and with it all its workers and a cluster that it started, when its input does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import gristmill
from gristmill.errors import GristmillError, ResourceError, UsageError
from gristmill.search.executors import node
from gristmill.search.executors.worker import private_pipes

ADDRESS_RULE = "--ray must be auto, or the HOST:PORT of the head node of a Ray cluster."
_CONNECT_S = 3.0
_LOOK_S = 30.0
_LATE_LOOK_S = 5.0  # a node that joins during the race is asked while the others wait
_SETTLE_S = 30.0
_ROUND_S = 0.02  # a command waits at most this long for its turn
_NODES_S = 1.0  # how often nodes are counted
_LEAVE_S = 8.0
_FRUITLESS = 3  # workers of a slot in a row that died before they were ready
_STORE_BYTES = 80 << 20  # the least Ray takes: only JSON passes through it
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
_PASSED = ("GRISTMILL_CACHE", "GRISTMILL_DEVICE", "CUBLAS_WORKSPACE_CONFIG")
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY")


def main() -> int:
    """Serve the driver until it closes our input."""
    requests, answers = private_pipes()
    inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, inbox), daemon=True).start()
    hello = inbox.get()
    if hello is None:
        return 0
    with _temporary(hello) as folder:
        try:
            ray, joined = _join(hello, folder)
            cluster = _Cluster(ray, hello, inbox, _Answers(answers))
        except GristmillError as error:
            _Answers(answers).send(refused=_spelled(error))
            return 1
        cluster.serve(joined)
        _leave(ray)
    return 0


def check_address(address: str) -> None:
    """Raise UsageError unless `address` is `auto` or a HOST:PORT that something answers at."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise _wrong(address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _wrong(f"{address}, where nothing answers ({error.strerror or error})") from None


def _wrong(got: str) -> UsageError:
    return UsageError(
        ADDRESS_RULE,
        got=got,
        next_step="`ray status` on the head node shows whether it runs; --ray auto starts a cluster here",
    )


@contextlib.contextmanager
def _temporary(hello: Mapping[str, Any]) -> Iterator[str]:
    """A folder for the sockets and logs of a cluster of our own; named by the driver, which cleans up too."""
    folder = hello["temporary"] or tempfile.mkdtemp(prefix="gristmill-ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(requests: BinaryIO, inbox: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in requests:
        inbox.put(json.loads(line))
    inbox.put(None)
    time.sleep(_LEAVE_S)
    _end_all()  # Ray did not let go: nothing of ours may outlive the driver


def _end_all() -> None:
    """Kill this process and what it has started (it leads a process group of its own)."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Answers:
    """The way back to the driver."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the end of our input follows
            self._stream.write(json.dumps(message).encode() + b"\n")
            self._stream.flush()


def _spelled(error: GristmillError) -> dict[str, Any]:
    kind = "usage" if isinstance(error, UsageError) else "resource"
    return {"kind": kind, "rule": error.rule, "got": error.got, "next": error.next_step}


# ---------------------------------------------------------------- joining


def _join(hello: Mapping[str, Any], folder: str) -> tuple[Any, dict[str, Any]]:
    """Ray, connected, and what was joined."""
    address = hello["address"] if hello["address"] != "auto" else _running_here()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        _set_private()
    elif hello["address"] == "auto" and (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = importlib.import_module("ray")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": hello["cpus"],
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": folder,
        }
    try:
        context = ray.init(**({"address": address} | options))
    except Exception as error:
        raise _in_words(error, address) from None
    token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    where = address or context.address_info["gcs_address"]
    return ray, {"address": where, "started": address is None, "token": token}


def _running_here() -> str | None:
    """The cluster that RAY_ADDRESS names, else the one that `ray start` has noted on this machine, if it
    still answers."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto", "local"):
        check_address(named)
        return named
    noted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        address = noted.read_text(encoding="utf-8").strip()
        check_address(address)
    except (OSError, UsageError):
        return None
    return address


def _set_private() -> None:
    """A cluster of our own listens on the loopback interface only, wants a token that nobody else knows,
    and asks no cloud who it belongs to (Ray does so even with its usage reports off)."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what its name does not say: loopback addresses
    for name in _PROXIES:
        os.environ[name] = "127.0.0.1,localhost" if name.lower() == "no_proxy" else "http://127.0.0.1:9"


def _in_words(error: Exception, address: str | None) -> GristmillError:
    text = " ".join(str(error).split())
    if type(error).__name__ == "AuthenticationError":
        return wants_token(address)
    if "ersion mismatch" in text:
        return ResourceError(
            "Ray and Python must have the same versions here and on the cluster.",
            got=text[:300],
            next_step="install the cluster's versions here",
        )
    if address is None:
        return ResourceError(
            "Ray must be able to start here.",
            got=f"{type(error).__name__}: {text[:300]}",
            next_step="without --ray the same command uses the cores of this machine",
        )
    return UsageError(
        "This machine must be a node of the cluster that --ray names.",
        got=f"{address} ({type(error).__name__}: {text[:200]})",
        next_step="give the command on the head node, or `ray start --address` this machine first",
    )


def wants_token(address: str | None) -> ResourceError:
    """What to say when a cluster refuses us for want of its token."""
    return ResourceError(
        "A cluster that wants a token must be given its own.",
        got=f"{address} refused what this command has (RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', '')})",
        next_step="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token",
    )


def _leave(ray: Any) -> None:
    with contextlib.suppress(Exception):
        ray.shutdown()


# ---------------------------------------------------------------- serving


@dataclass
class _Slot:
    """One slot: where it is, the worker that serves it now, what was asked of it."""

    key: str
    home: str
    host: str
    cpu: int
    gpu: int
    worker: Any = None
    ready: bool = False
    offered: bool = False
    error: str = ""
    fruitless: int = 0
    waiting: tuple[int, str] | None = None
    ticket: int = 0


@dataclass
class _Cluster:
    """The slots of a joined cluster, and the loop that serves them."""

    ray: Any
    hello: Mapping[str, Any]
    inbox: queue.SimpleQueue[dict[str, Any] | None]
    answers: _Answers
    slots: dict[str, _Slot] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    refs: dict[Any, tuple[_Slot, str]] = field(default_factory=dict)
    worker: Any = None

    def __post_init__(self) -> None:
        self.ray.cloudpickle.register_pickle_by_value(node)
        self.worker = self.ray.remote(node.Worker)
        self._admit(self._alive(), patient=True)

    def serve(self, joined: dict[str, Any]) -> None:
        """Handle commands and what comes of them until the driver is gone."""
        self.answers.send(joined=joined | {"nodes": len(self.known)})
        parent, settled, looked = os.getppid(), False, time.monotonic()
        began = looked
        while os.getppid() == parent:
            if not self._commands():
                return
            self._collect()
            now = time.monotonic()
            if not settled and (now > began + _SETTLE_S or all(s.offered for s in self.slots.values())):
                self.answers.send(settled=True)
                settled = True
            if now > looked + _NODES_S:
                self._count_nodes()
                looked = now

    def _commands(self) -> bool:
        """Take the commands that lie there; False at their end."""
        while True:
            try:
                command = self.inbox.get(timeout=0.0 if self.refs else _ROUND_S)
            except queue.Empty:
                return True
            if command is None:
                return False
            if "drop" in command:
                self._drop(command["drop"])
            else:
                self._take(command["slot"], command["ticket"], json.dumps(command["run"]))

    def _take(self, key: str, ticket: int, segment: str) -> None:
        slot = self.slots.get(key)
        if slot is None:
            self.answers.send(ticket=ticket, died="its node is gone", final=False)
            return
        slot.waiting = (ticket, segment)
        self._start(slot)

    def _start(self, slot: _Slot) -> None:
        """Hand the waiting segment to a worker that is ready."""
        if slot.waiting is None or not slot.ready:
            return
        slot.ticket, segment = slot.waiting
        slot.waiting = None
        if slot.error:
            reason = f"the worker could not import {self.hello['function']}: {slot.error}"
            self.answers.send(ticket=slot.ticket, died=reason, final=True)
            self._renew(slot)
            return
        self.answers.send(ticket=slot.ticket, began=True)
        self.refs[slot.worker.run.remote(segment)] = (slot, "run")

    def _drop(self, key: str) -> None:
        slot = self.slots.get(key)
        if slot is not None:
            slot.waiting = None
            self._renew(slot)

    def _collect(self) -> None:
        """What workers have answered within one round."""
        pending = list(self.refs)
        if not pending:
            return
        done, _ = self.ray.wait(pending, num_returns=1, timeout=_ROUND_S)
        for ref in done:
            slot, what = self.refs.pop(ref)
            try:
                answer = self.ray.get(ref)
            except Exception as error:
                self._died(slot, error)
                continue
            if what == "ready":
                slot.ready, slot.error, slot.fruitless = True, answer, 0
                self._offer(slot)
                self._start(slot)
            else:
                self.answers.send(ticket=slot.ticket, outcome=json.loads(answer))

    def _offer(self, slot: _Slot) -> None:
        if not slot.offered:
            slot.offered = True
            self.answers.send(slot=slot.key, cpu=slot.cpu, gpu=slot.gpu, host=slot.host)

    def _died(self, slot: _Slot, error: Exception) -> None:
        """The worker is gone: its segment is lost; another worker takes the slot, if the node lives."""
        slot.fruitless = 0 if slot.ready else slot.fruitless + 1
        ticket = slot.ticket if slot.waiting is None else slot.waiting[0]
        slot.waiting = None
        final = slot.fruitless >= _FRUITLESS
        self.answers.send(ticket=ticket, died=_reason(error, slot.host), final=final)
        if slot.home not in {n["NodeID"] for n in self._alive()}:
            self._forget(slot.home)
        elif final and not slot.offered:
            self.slots.pop(slot.key, None)  # a node on which nothing starts offers nothing
        else:
            self._renew(slot)

    # workers

    def _renew(self, slot: _Slot) -> None:
        """Kill the worker of a slot, whatever it does, and start another."""
        self.refs = {ref: entry for ref, entry in self.refs.items() if entry[0] is not slot}
        if slot.worker is not None:
            with contextlib.suppress(Exception):
                self.ray.kill(slot.worker, no_restart=True)
        slot.ready, slot.error = False, ""
        options = {
            "num_cpus": slot.cpu,
            "num_gpus": self.hello["gpu_share"] if slot.gpu else 0,
            "max_restarts": 0,
            "scheduling_strategy": self._pinned(slot.home),
        }
        log = str(Path(self.hello["folder"]) / f"worker-{slot.key}.log")
        slot.worker = self.worker.options(**options).remote(
            self.hello["function"],
            json.dumps({**self.hello["context"], "threads": slot.cpu}),
            log,
            self._places(),
            self._environment(slot),
        )
        self.refs[slot.worker.ready.remote()] = (slot, "ready")

    def _pinned(self, home: str) -> Any:
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.NodeAffinitySchedulingStrategy(home, soft=False)

    def _environment(self, slot: _Slot) -> dict[str, str]:
        before = self.hello["environment"]
        found = {name: os.environ[name] for name in (*_QUIET, *_PASSED) if name in os.environ}
        found |= {name: before.get(name, "") for name in _PROXIES if name in os.environ}
        found |= dict.fromkeys(_THREADS, str(slot.cpu))
        found |= {} if slot.gpu else {"CUDA_VISIBLE_DEVICES": ""}
        return found | {"PYTHONPATH": os.pathsep.join(self._places())}

    def _places(self) -> list[str]:
        home = str(Path(gristmill.__file__).parents[1])
        return [home, *self.hello["path"], *filter(None, [self.hello["environment"].get("PYTHONPATH")])]

    # nodes

    def _alive(self) -> list[Mapping[str, Any]]:
        return [n for n in self.ray.nodes() if n["Alive"]]

    def _count_nodes(self) -> None:
        alive = self._alive()
        ids = {n["NodeID"] for n in alive}
        for home in self.known - ids:
            self._forget(home)
        self._admit([n for n in alive if n["NodeID"] not in self.known], patient=False)

    def _forget(self, home: str) -> None:
        self.known.discard(home)
        for slot in [s for s in self.slots.values() if s.home == home]:
            busy = any(entry[0] is slot and entry[1] == "run" for entry in self.refs.values())
            ticket = slot.waiting[0] if slot.waiting else slot.ticket if busy else 0
            self.refs = {ref: entry for ref, entry in self.refs.items() if entry[0] is not slot}
            del self.slots[slot.key]
            if ticket:
                self.answers.send(ticket=ticket, died=f"its node {slot.host} is gone", final=False)
            self.answers.send(gone=slot.key)

    def _admit(self, nodes: Sequence[Mapping[str, Any]], *, patient: bool) -> None:
        """Look at new nodes and start workers on those that can serve.

        Those that are there at the start must all be able to; one that joins later and is not, is left out.
        """
        useful = [n for n in nodes if shares(n["Resources"], self.hello["gpu_share"])]
        self.known |= {n["NodeID"] for n in nodes}
        if not useful and patient:
            raise ResourceError(
                "The cluster must have a node with at least one CPU.",
                got=f"{len(nodes)} nodes without",
                next_step="ray start --num-cpus",
            )
        with _marks(self.hello["shared"]) as (folders, mark):
            seconds = _LOOK_S if patient else _LATE_LOOK_S
            for member, said in self._ask(useful, folders, mark, seconds):
                trouble = unfit(said, member["NodeManagerHostname"])
                if trouble is None:
                    self._open(member)
                elif patient:
                    raise trouble

    def _ask(
        self,
        nodes: Sequence[Mapping[str, Any]],
        folders: Sequence[Sequence[str]],
        mark: str,
        seconds: float,
    ) -> list[tuple[Mapping[str, Any], dict[str, Any] | None]]:
        """Each node with what it said of itself, or None when it did not answer."""
        task = self.ray.remote(node.look)
        refs = [
            task.options(num_cpus=0, max_retries=0, scheduling_strategy=self._pinned(n["NodeID"])).remote(
                folders, mark, self.hello["requires"], self._places()
            )
            for n in nodes
        ]
        end, found = time.monotonic() + seconds, []
        for member, ref in zip(nodes, refs, strict=True):
            try:
                found.append((member, self.ray.get(ref, timeout=max(0.1, end - time.monotonic()))))
            except Exception:
                found.append((member, None))
        return found

    def _open(self, member: Mapping[str, Any]) -> None:
        limit = self.hello["workers"]
        for number, (cpu, gpu) in enumerate(shares(member["Resources"], self.hello["gpu_share"])):
            if limit is not None and len(self.slots) >= limit:
                return
            host = member["NodeManagerHostname"]
            key = f"{host}-{member['NodeID'][:6]}-{number}"
            slot = _Slot(key=key, home=member["NodeID"], host=host, cpu=cpu, gpu=gpu)
            self.slots[key] = slot
            self._renew(slot)


def shares(resources: Mapping[str, float], gpu_share: float) -> list[tuple[int, int]]:
    """How a node is divided: (cores, GPUs) of each slot. A core each; on a node with GPUs a slot for each
    share of a GPU, which divide the cores among them."""
    cpu, gpu = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if not gpu or not cpu:
        return [(1, 0)] * cpu
    count = min(cpu, gpu * int(1 / gpu_share))
    return [(cpu // count, 1)] * count


def unfit(said: Mapping[str, Any] | None, host: str) -> ResourceError | None:
    """Why a node cannot serve, or None."""
    if said is None:
        return ResourceError(
            "Every node of the cluster must answer.",
            got=f"{host} said nothing for {_LOOK_S:.0f} s",
            next_step="`ray status` shows its nodes; stop that one, or look into its log",
        )
    if said["version"] != gristmill.__version__ or said["missing"]:
        lacks = ", ".join(said["missing"]) or f"gristmill {said['version'] or 'nowhere to be found'}"
        return ResourceError(
            "Every node must have what this machine has installed.",
            got=f"{said['host']}: {'without ' if said['missing'] else ''}{lacks}; "
            f"here is gristmill {gristmill.__version__}",
            next_step="install the same there: gristmill doctor on that machine says how",
        )
    for folder, why in said["unseen"].items():
        return ResourceError(
            "The run folder and the cache must lie on storage that every node sees under the same path.",
            got=f"{folder}, seen from {said['host']}: {why}",
            next_step="put both there: --out /SHARED/NAME.grist, and GRISTMILL_CACHE=/SHARED/cache",
        )
    return None


@contextlib.contextmanager
def _marks(folders: Sequence[str]) -> Iterator[tuple[list[list[str]], str]]:
    """A file with a random mark in each folder, for as long as the nodes look for it."""
    mark = secrets.token_hex(16)
    pairs = [[folder, f".seen-{mark[:8]}"] for folder in folders]
    try:
        for folder, name in pairs:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(mark, encoding="utf-8")
        yield pairs, mark
    finally:
        for folder, name in pairs:
            (Path(folder) / name).unlink(missing_ok=True)


def _reason(error: Exception, host: str) -> str:
    """In words, why a worker is gone; Ray's own text has many lines."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "running low on memory" in text:
        return f"the worker on {host} was killed by Ray: its node ran out of memory"
    if "node has died" in text or "node was terminated" in text or "node is dead" in text:
        return f"its node {host} is gone"
    cause = getattr(error, "cause", None)
    last = " ".join(str(cause or text).split())[-200:]
    return f"the worker on {host} died" + (f": {last}" if cause else "")


if __name__ == "__main__":
    sys.exit(main())
