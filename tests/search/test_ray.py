"""Ray for real: two nodes and more on this machine, one of them killed, segments of milliseconds."""

from __future__ import annotations

import http.server
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gristmill.errors import ResourceError, UsageError
from gristmill.search.executors import cluster, node, ray
from gristmill.search.executors.ray import RayExecutor
from gristmill.search.journal import Journal, decision_bytes
from gristmill.segment import Outcome, Segment
from gristmill.testing.executor import collect, segment

from . import simulation

BEHAVE = "gristmill.testing.executor:behave"
TESTS = Path(__file__).resolve().parents[1]
MINE = """
import os, sys, time
from dataclasses import replace
from gristmill.segment import Outcome
from search import simulation

def work(segment, context):
    time.sleep(0.01)
    while os.path.exists(context["deaths"] + "/hold"):
        time.sleep(0.01)
    return replace(simulation.answer(replace(segment, cap_s=float("inf")))[0], facts={})

def surroundings(segment, context):
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_USAGE_STATS_ENABLED", "PYTHONPATH")
    facts = {name: os.environ.get(name) for name in names} | {"path": sys.path}
    return Outcome(id=segment.id, state="done", facts=facts)
"""
pytestmark = pytest.mark.timeout(300)


def executor(nodes: Any, folder: Path, function: str = BEHAVE, **options: Any) -> RayExecutor:
    context = {"deaths": str(folder)}
    return RayExecutor(function, context, address=nodes.address, folder=folder / "logs", **options)


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, str]:
    """Import path of a module of our own, `mine`."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text(MINE)
    return str(tmp_path / "mine"), str(TESTS)


def until(found: RayExecutor, count: int) -> None:
    """Wait until there are so many free slots."""
    end = time.monotonic() + 60.0
    while len(found.slots()) != count:
        assert time.monotonic() < end, found.slots()
        found.wait(found.clock.now() + 0.1)
        time.sleep(0.05)


# one executor through everything that workers do


def test_what_happens_to_segments(ray_cluster: Any, tmp_path: Path) -> None:
    with executor(ray_cluster, tmp_path, shared=[tmp_path], requires=["numpy"]) as found:
        assert [(slot.cpu, slot.gpu) for slot in found.slots()] == [(1, 0), (1, 0)]
        assert found.describe() == f"Ray cluster at {ray_cluster.address}: 2 workers on 2 nodes"
        assert found.doubts() == []
        _answers(found, tmp_path)
        _failures(found)
        _kills(found)
    logs = list((tmp_path / "logs").glob("worker-*.log*"))
    assert any("Traceback" in path.read_text(errors="replace") for path in logs)
    assert all(path.stat().st_size <= 1_100_000 for path in logs)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".seen")] == []


def _answers(found: RayExecutor, folder: Path) -> None:
    facts = []
    for number in range(6):
        found.submit(segment(f"{number}"))
        outcome = collect(found, 1)[f"{number}"]
        facts.append(outcome.facts)
        assert outcome.peak_memory > 1_000_000
    assert len({fact["pid"] for fact in facts}) <= 2, "workers live on"
    assert facts[0]["threads"] == "1"
    assert facts[0]["context"] == {"deaths": str(folder), "threads": 1}


def _failures(found: RayExecutor) -> None:
    found.submit(segment("loud", do="noise", bytes=3_000_000))
    assert collect(found, 1)["loud"].state == "done"
    for do, state, reason in (
        ("fail", "failed", "ValueError: the rate must be positive"),
        ("memory", "oom", "MemoryError"),
        ("disk", "full", "OSError: [Errno 28] No space left on device"),
        ("wrong", "failed", "TypeError: a work function must return the outcome of its segment"),
    ):
        found.submit(segment("a", do=do))
        outcome = collect(found, 1)["a"]
        assert outcome.state == state
        assert outcome.reason.startswith(reason)


def _kills(found: RayExecutor) -> None:
    found.submit(segment("victim", do="die", times=1))
    found.submit(segment("lives", sleep=1.0))
    outcomes = collect(found, 2)
    assert outcomes["lives"].state == "done"
    assert outcomes["victim"].state == "lost"
    assert "died" in outcomes["victim"].reason
    assert len(found.slots()) == 2
    found.submit(segment("victim", do="die", times=1))
    assert collect(found, 1)["victim"].state == "done"
    found.submit(segment("hangs", sleep=60.0, cap_s=0.1))
    slot = next(s for s in found._slots.values() if s.segment)
    while not slot.running:
        found.wait(found.clock.now() + 0.02)
    assert slot.kill_at - found.clock.now() == pytest.approx(5.1, abs=0.5) or slot.fresh
    slot.kill_at = found.clock.now() + 0.1
    outcome = collect(found, 1)["hangs"]
    assert (outcome.state, outcome.reason) == ("lost", "killed: it did not keep its cap of 0.1 s")
    found.submit(segment("next"))
    found.submit(segment("after"))
    assert {o.state for o in collect(found, 2).values()} == {"done"}


# a lost node


def test_a_node_killed_in_the_middle_changes_no_decision(
    ray_cluster: Any, tmp_path: Path, mine: tuple[str, str]
) -> None:
    with Journal.open(tmp_path / "calm") as journal:
        simulation.drive(simulation.study(journal, counted=24), answer=_plain)
    with (
        Journal.open(tmp_path / "journal") as journal,
        executor(ray_cluster, tmp_path, "mine:work", path=mine) as found,
    ):
        try:
            _search(simulation.study(journal, counted=24), found, ray_cluster, tmp_path / "hold")
            assert len(found.slots()) == 1
        finally:
            ray_cluster.order("add 1 0")
        kinds = [line.kind for line in journal.lines]
        assert kinds.count("lost") == kinds.count("retry") == 1
        assert _decisions(tmp_path / "journal") == _decisions(tmp_path / "calm")
        until(found, 2)
        found.submit(segment_of("fresh"))
        assert collect(found, 1)["fresh"].id == "fresh"


def segment_of(name: str) -> Segment:
    return Segment(id=name, kind="fit", config={"family": "fit", "fit.side": 64, "fit.c": 0.01}, to_rows=10)


def _plain(asked: Segment) -> tuple[Outcome, float]:
    outcome, seconds = simulation.answer(replace(asked, cap_s=float("inf")))
    return replace(outcome, facts={}), seconds


def _decisions(path: Path) -> list[bytes]:
    from gristmill.search.journal import read

    return decision_bytes(read(path))


def _search(study: Any, found: RayExecutor, nodes: Any, hold: Path) -> None:
    """The conductor's loop; the second node is killed while both work on something."""
    told, killed = 0, False
    while True:
        if told >= 8 and not killed:
            hold.touch()
        while (asked := study.ask(left=3600.0, slots=found.slots())) is not None:
            found.submit(asked)
        if not study.open:
            assert killed
            return
        if hold.exists() and len(found.open) == 2:
            nodes.order("kill")
            killed = True
            hold.unlink()
        for outcome in found.wait(found.clock.now() + (3.0 if hold.exists() else 60.0)):
            study.tell(outcome)
            told += 1
        hold.unlink(missing_ok=True)  # only one had work: let it end, and try again


# Ray itself dies


def test_ray_that_dies_is_joined_again(ray_cluster: Any, tmp_path: Path) -> None:
    with executor(ray_cluster, tmp_path) as found:
        found.submit(segment("slow", sleep=60.0))
        os.kill(found._process._process.pid, signal.SIGKILL)
        assert collect(found, 1)["slow"].reason == "Ray has ended"
        until(found, 2)
        found.submit(segment("next"))
        assert collect(found, 1)["next"].state == "done"
    workers = [
        p for p in psutil.process_iter(["cmdline"]) if "ray::Worker" in " ".join(p.info["cmdline"] or [])
    ]
    psutil.wait_procs(workers, timeout=10)
    assert not [p for p in workers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_ray_that_dies_again_and_again_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "check_installed", lambda: None)
    monkeypatch.setattr(ray, "_Process", _Dying)
    found = RayExecutor(BEHAVE, {}, folder=tmp_path)
    found.joined, found._settled = {"nodes": 1}, True
    with pytest.raises(ResourceError, match="Ray ended 4 times in a row"):
        found.wait(found.clock.now() + 60.0)


def test_a_run_without_nodes_ends_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "check_installed", lambda: None)
    monkeypatch.setattr(ray, "_Process", _Silent)
    found = RayExecutor(BEHAVE, {}, folder=tmp_path)
    found.joined, found._settled = {"nodes": 1}, True
    assert found.slots() == ()
    assert found.wait(found.clock.now() + 0.05) == []
    found._empty_since -= 61.0
    with pytest.raises(ResourceError, match="must keep a node"):
        found.wait(found.clock.now() + 60.0)


class _Silent:
    """A process that speaks with no Ray."""

    def __init__(self, hello: Mapping[str, Any], inbox: Any, log: Any) -> None:
        self.inbox = inbox

    def kill(self) -> None: ...


class _Dying(_Silent):
    def __init__(self, hello: Mapping[str, Any], inbox: Any, log: Any) -> None:
        inbox.put(ray._Message(self, None))  # type: ignore[arg-type]


# GPUs, and what workers see


def test_a_slot_for_each_gpu_and_a_world_of_its_own(
    ray_cluster: Any, tmp_path: Path, mine: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ray_cluster.order("add 4 2")
    try:
        with executor(ray_cluster, tmp_path, "mine:surroundings", path=mine) as found:
            assert sorted((s.cpu, s.gpu) for s in found.slots()) == [(1, 0), (1, 0), (2, 1), (2, 1)]
            for name in "abcd":
                found.submit(segment(name))
            facts = [outcome.facts for outcome in collect(found, 4).values()]
    finally:
        ray_cluster.order("kill")
    assert sorted(f["CUDA_VISIBLE_DEVICES"] for f in facts) == ["", "", "0", "1"]
    assert sorted(f["OMP_NUM_THREADS"] for f in facts) == ["1", "1", "2", "2"]
    assert {f["RAY_USAGE_STATS_ENABLED"] for f in facts} == {"0"}
    assert all(mine[0] in f["PYTHONPATH"] for f in facts)
    assert not any(str(tmp_path / "here") in f["path"] for f in facts), "a user's file hides no library"


@pytest.mark.parametrize(
    ("resources", "share", "expected"),
    [
        ({"CPU": 3.0}, 1.0, [(1, 0)] * 3),
        ({"CPU": 8.0, "GPU": 2.0}, 1.0, [(4, 1)] * 2),
        ({"CPU": 8.0, "GPU": 2.0}, 0.5, [(2, 1)] * 4),
        ({"CPU": 1.0, "GPU": 4.0}, 1.0, [(1, 1)]),
        ({"GPU": 4.0}, 1.0, []),
        ({"memory": 1e9}, 1.0, []),
    ],
)
def test_how_a_node_is_divided(
    resources: dict[str, float], share: float, expected: list[tuple[int, int]]
) -> None:
    assert cluster.shares(resources, share) == expected


# what is refused


def test_a_folder_that_nodes_do_not_share_is_refused_by_name(ray_cluster: Any, tmp_path: Path) -> None:
    other = "/proc/self/cwd"  # the same path, and another folder for each process
    with pytest.raises(ResourceError, match=r"storage that every node sees.*\n*.*/proc/self/cwd, seen from"):
        executor(ray_cluster, tmp_path, shared=[other])


def test_a_node_without_a_package_is_refused_by_name(ray_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="without no_such_module"):
        executor(ray_cluster, tmp_path, requires=["no_such_module"])


def test_another_token_is_refused(ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(ResourceError, match="RAY_AUTH_TOKEN_PATH"):
        executor(ray_cluster, tmp_path)


@pytest.fixture
def stranger() -> Iterator[str]:
    """Address of a server that is no Ray cluster."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_answers_but_is_no_ray_is_refused(ray_cluster: Any, tmp_path: Path, stranger: str) -> None:
    with pytest.raises(UsageError, match="not as a Ray cluster"):
        RayExecutor(BEHAVE, {}, address=stranger, folder=tmp_path)


@pytest.mark.parametrize(
    "address", ["nonsense", "ray://127.0.0.1:10001", "127.0.0.1:", ":80", "h:0", "h:70000"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="must be auto, or the HOST:PORT"):
        cluster.check_address(address)


def test_auto_finds_what_ray_start_has_noted(
    tmp_path: Path, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster._running_here() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(stranger + "\n")
    assert cluster._running_here() == stranger
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    assert cluster._running_here() is None, "a cluster that was here once"
    monkeypatch.setenv("RAY_ADDRESS", stranger)
    assert cluster._running_here() == stranger
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UsageError, match="where nothing answers"):
        cluster._running_here()


def test_where_nothing_answers_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match="where nothing answers"):
        cluster.check_address("127.0.0.1:9")
    assert time.monotonic() - began < 5.0


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r'-m pip install "ray>=2\.60,<3"'):
        RayExecutor(BEHAVE, {}, folder=tmp_path)


def test_nonsense_in_the_call_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module:function"):
        RayExecutor("behave", {}, folder=tmp_path)
    with pytest.raises(ValueError, match="gpu_share"):
        RayExecutor(BEHAVE, {}, folder=tmp_path, gpu_share=0.0)


def test_a_cluster_of_our_own_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")  # so that all is put back afterwards
        monkeypatch.delenv(name)
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *cluster._PROXIES):
        monkeypatch.setenv(name, "before")
    cluster._set_private()
    first = os.environ["RAY_AUTH_TOKEN"]
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(first) >= 32
    monkeypatch.delenv("RAY_AUTH_MODE")
    cluster._set_private()
    assert os.environ["RAY_AUTH_TOKEN"] != first
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    cluster._set_private()
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("disabled", "mine")


# the look around


def test_a_node_that_sees_everything_is_fit(tmp_path: Path) -> None:
    with cluster._marks([str(tmp_path)]) as (folders, mark):
        said = node.look(folders, mark, ["json"], [])
        assert cluster.unfit(said, "host") is None
        assert (tmp_path / folders[0][1]).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_node_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("other")
    said = node.look([[str(tmp_path), "m"], [str(tmp_path / "no"), "m"]], "mark", ["no_such.module"], [])
    assert said["unseen"] == {
        str(tmp_path): "another folder lies under that path",
        str(tmp_path / "no"): "it is not there",
    }
    assert said["missing"] == ["no_such.module"]


def test_another_version_and_silence_are_refused() -> None:
    said = {"host": "h", "version": "0.0.1", "missing": [], "unseen": {}}
    assert "gristmill 0.0.1" in str(cluster.unfit(said, "h"))
    assert "nowhere" in str(cluster.unfit({**said, "version": None}, "h"))
    assert "said nothing" in str(cluster.unfit(None, "h"))


def test_a_cluster_without_a_token_is_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "check_installed", lambda: None)
    monkeypatch.setattr(ray, "_Process", _Silent)
    found = RayExecutor(BEHAVE, {}, folder=tmp_path)
    found._settled, found.joined = True, {"nodes": 1, "address": "h:1", "token": False, "started": False}
    assert found.describe() == "Ray cluster at h:1: 0 workers on 1 node"
    assert "RAY_AUTH_MODE=token" in found.doubts()[0]


def test_why_a_worker_is_gone_is_said_in_words() -> None:
    assert cluster._reason(RuntimeError("a\nnode has died"), "h") == "its node h is gone"
    assert "memory" in cluster._reason(RuntimeError("the node running low on memory"), "h")
    assert cluster._reason(RuntimeError("x"), "h") == "the worker on h died"


IDLE = """
import sys, time
from gristmill.search.executors import node

begin = time.monotonic()
def busy():
    return time.monotonic() - begin if sys.argv[1] == "busy" else float(sys.argv[1])
with node.ended_when_idle(busy, idle_s=0.3):
    time.sleep(1.2)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("worked", "code"), [("5.0", 1), ("busy", 7), ("nan", 7)], ids=["hangs", "works", "nobody knows"]
)
def test_a_worker_that_hangs_without_a_cap_ends_itself(worked: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", IDLE, worked], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("did no work" in done.stderr) == (code == 1)
