from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gristmill.search.executors import local, memory
from gristmill.search.executors.local import LocalExecutor
from gristmill.search.executors.log import BoundedLog
from gristmill.segment import Resources
from gristmill.testing.executor import behave, collect, segment

BEHAVE = "gristmill.testing.executor:behave"
posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def executor(folder: Path, cpus: int = 1, function: str = BEHAVE, **context: Any) -> LocalExecutor:
    return LocalExecutor(function, context, folder=folder / "logs", cpus=cpus)


def test_a_worker_lives_on_and_knows_its_context_and_threads(tmp_path: Path) -> None:
    with LocalExecutor(BEHAVE, {"run": "r"}, folder=tmp_path, cpus=4, workers=2) as found:
        found.warm()
        assert [slot.cpu for slot in found.slots()] == [2, 2]
        pids = set()
        for number in range(6):
            found.submit(segment(f"{number}", cpu=2))
            outcome = collect(found, 1)[f"{number}"]
            pids.add(outcome.facts["pid"])
            assert outcome.facts["threads"] == "2"
            assert outcome.facts["context"] == {"run": "r", "threads": 2}
            assert outcome.peak_memory > 1_000_000
        assert len(pids) <= 2


def test_no_core_is_left_idle(tmp_path: Path) -> None:
    with LocalExecutor(BEHAVE, {}, folder=tmp_path, cpus=7, workers=4) as found:
        assert sorted(slot.cpu for slot in found.slots()) == [1, 2, 2, 2]
        found.submit(segment("wide", cpu=2))
        assert collect(found, 1)["wide"].facts["context"] == {"threads": 2}


@pytest.mark.parametrize(
    ("do", "state", "reason"),
    [
        ("fail", "failed", "ValueError: the rate must be positive"),
        ("memory", "oom", "MemoryError"),
        ("disk", "full", "OSError: [Errno 28] No space left on device"),
        ("wrong", "failed", "TypeError: a work function must return the outcome of its segment"),
    ],
)
def test_what_a_function_raises_is_recorded(tmp_path: Path, do: str, state: str, reason: str) -> None:
    with executor(tmp_path) as found:
        found.submit(segment("a", do=do))
        outcome = collect(found, 1)["a"]
        assert outcome.state == state
        assert outcome.reason.startswith(reason)
        found.submit(segment("b"))
        assert collect(found, 1)["b"].state == "done"
    assert "Traceback" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_prints_go_to_a_log_of_bounded_size(tmp_path: Path) -> None:
    with executor(tmp_path) as found:
        for number in range(6):
            found.submit(segment(f"{number}", do="noise", bytes=900_000))
            assert collect(found, 1)[f"{number}"].state == "done"
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert 500_000 < sum(sizes) <= 2_100_000


@posix
def test_a_killed_worker_costs_its_own_segment_only(tmp_path: Path) -> None:
    with executor(tmp_path, cpus=2, deaths=str(tmp_path)) as found:
        found.submit(segment("dies", do="die", times=1))
        found.submit(segment("lives", sleep=0.2))
        outcomes = collect(found, 2)
        assert outcomes["lives"].state == "done"
        assert outcomes["dies"].state == "lost"
        assert "SIGKILL" in outcomes["dies"].reason
        assert len(found.slots()) == 2
        found.submit(segment("dies", do="die", times=1))
        assert collect(found, 1)["dies"].state == "done"


@posix
def test_an_overrun_of_the_cap_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor(tmp_path) as found:
        worker = found._workers[0]
        found.submit(segment("first", sleep=0.2, cap_s=0.1))
        while not worker._running:
            found.wait(found.clock.now() + 0.02)
        assert worker.kill_at - found.clock.now() > 15.0, "a new process may still import"
        collect(found, 1)
        found.submit(segment("hangs", sleep=60.0, cap_s=0.1))
        while not worker._running:
            found.wait(found.clock.now() + 0.02)
        assert worker.kill_at - found.clock.now() == pytest.approx(5.1, abs=0.5), "5 s of grace at least"
        worker.kill_at = found.clock.now() + 0.1
        outcome = collect(found, 1)["hangs"]
        assert (outcome.state, outcome.reason) == ("lost", "killed: it did not keep its cap of 0.1 s")
        found.submit(segment("next"))
        assert collect(found, 1)["next"].state == "done"


@posix
def test_without_a_cap_a_worker_that_does_nothing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_IDLE_S", 1.5)
    with executor(tmp_path) as found:
        found.submit(segment("hangs", sleep=60.0, cap_s=float("inf")))
        outcome = collect(found, 1)["hangs"]
        assert (outcome.state, outcome.reason) == ("lost", "killed: it did no work for 2 s")
        found.submit(segment("works", do="work", seconds=3.0, cap_s=float("inf")))
        assert collect(found, 1)["works"].state == "done"


def test_a_worker_that_never_starts_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_STARTUP_S", 0.0)
    with executor(tmp_path) as found:
        found.submit(segment("a"))
        outcome = collect(found, 1)["a"]
    assert (outcome.state, outcome.reason) == ("lost", "killed: it did not start")


@pytest.mark.parametrize("function", ["gristmill.no_such_module:f", "gristmill.testing.executor:no_such"])
def test_a_function_that_cannot_be_imported_fails_with_its_name(tmp_path: Path, function: str) -> None:
    with executor(tmp_path, function=function) as found:
        for name in ("a", "b"):
            found.submit(segment(name))
            outcome = collect(found, 1)[name]
            assert outcome.state == "failed"
            assert function in outcome.reason


def test_workers_that_die_at_once_fail_with_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module at all >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with executor(tmp_path) as found:
        states = []
        for number in range(4):
            found.submit(segment(f"{number}"))
            outcome = collect(found, 1)[f"{number}"]
            states.append(outcome.state)
        assert states[0] == "lost"
        assert states[-1] == "failed"
        assert "ended with code 3" in outcome.reason


def test_the_function_may_be_given_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from gristmill.segment import Outcome\ndef work(s, c): return Outcome(id=s.id, state='done')\n"
    )
    (tmp_path / "logs").mkdir()
    with LocalExecutor("mine:work", {}, folder=tmp_path / "logs", cpus=1, path=(str(tmp_path),)) as found:
        found.submit(segment("a"))
        assert collect(found, 1)["a"].state == "done"


def test_a_file_of_the_user_hides_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(tmp_path)
    with executor(tmp_path) as found:
        found.submit(segment("a"))
        assert collect(found, 1)["a"].state == "done"


@posix
def test_closing_ends_every_process(tmp_path: Path) -> None:
    found = executor(tmp_path, cpus=2)
    found.submit(segment("slow", sleep=60.0))
    found.submit(segment("quick"))
    pid = collect(found, 1)["quick"].facts["pid"]
    before = time.monotonic()
    found.close()
    assert time.monotonic() - before < 10.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ValueError, match="free slot"):
        found.submit(segment("late"))


@posix
def test_ctrl_c_in_the_terminal_does_not_reach_the_workers(tmp_path: Path) -> None:
    with executor(tmp_path) as found:
        found.submit(segment("a"))
        pid = collect(found, 1)["a"].facts["pid"]
        assert os.getsid(pid) == pid != os.getsid(0)


def test_a_name_without_a_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module:function"):
        LocalExecutor("behave", {}, folder=tmp_path)


def test_how_a_process_ended_is_said_in_words() -> None:
    assert local._how(3) == "ended with code 3"
    assert local._how(-signal.SIGTERM) == "was killed by SIGTERM"
    assert local._how(-63) == "was killed by signal 63" or "SIGRT" in local._how(-63)


def test_the_log_keeps_the_newest_half(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", bound=100)
    for number in range(30):
        log.write(b"line %d\n" % number)
    assert log.tail() == "line 29"
    kept = (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()
    assert kept.endswith("line 29\n")
    assert len(kept) <= 100
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    log.write(b"a disk that takes nothing costs the log only\n")


MIB = 2**20


def test_the_peak_of_each_segment_is_measured_and_given_back(tmp_path: Path) -> None:
    with executor(tmp_path) as found:
        found.submit(segment("large", do="hold", bytes=300 * MIB, hold_s=1.2))
        large = collect(found, 1)["large"].peak_memory
        found.submit(segment("small"))
        small = collect(found, 1)["small"].peak_memory
    assert 300 * MIB < large < 420 * MIB
    assert 0 < small < 150 * MIB, "a later segment does not inherit the peak of an earlier one"


def test_a_worker_above_its_memory_is_stopped_and_tried_with_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 300 * MIB)
    with executor(tmp_path) as found:
        found.submit(segment("halves", do="hold", bytes=400 * MIB, hold_s=1.5))
        outcome = collect(found, 1)["halves"]
        assert (outcome.state, outcome.facts["context"]) == ("done", {"threads": 1, "halvings": 1})
        found.submit(segment("never", do="hold", bytes=1000 * MIB, hold_s=30.0))
        outcome = collect(found, 1)["never"]
        assert outcome.state == "oom"
        assert "also with half the batch in memory" in outcome.reason
        assert outcome.peak_memory > 270 * MIB
        found.submit(segment("next"))
        assert collect(found, 1)["next"].state == "done"


def test_the_largest_stops_when_the_machine_runs_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "is_low", lambda: any(w.holds() > 150 * MIB for w in found._workers))
    with executor(tmp_path, cpus=2) as found:
        found.submit(segment("large", do="hold", bytes=600 * MIB, hold_s=30.0))
        found.submit(segment("small", sleep=3.0))
        outcomes = collect(found, 2)
    assert (outcomes["large"].state, outcomes["small"].state) == ("oom", "done")


def test_a_segment_waits_until_its_memory_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 1000 * MIB)
    with executor(tmp_path, cpus=2) as found:
        needs = Resources(memory=600 * MIB)
        found.submit(replace(segment("first", sleep=1.0), needs=needs))
        found.submit(replace(segment("second", cap_s=50.0), needs=needs))
        assert not found.slots()
        assert [w.waits for w in found._workers] == [False, True]
        assert set(found.open) == {"first", "second"}
        assert list(collect(found, 1)) == ["first"]
        assert found._workers[1].segment is not None
        assert collect(found, 1)["second"].state == "done"


def test_a_waiting_segment_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 1000 * MIB)
    with executor(tmp_path, cpus=2) as found:
        needs = Resources(memory=600 * MIB)
        found.submit(replace(segment("first", sleep=0.3), needs=needs))
        found.submit(replace(segment("second"), needs=needs))
        found.cancel("second")
        assert list(found.open) == ["first"]
        assert list(collect(found, 1)) == ["first"]
        assert found.wait(found.clock.now() + 0.1) == []


def test_what_cannot_fit_alone_is_skipped_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda: 100 * MIB)
    with executor(tmp_path) as found:
        found.submit(replace(segment("huge"), needs=Resources(memory=900 * MIB)))
        outcome = collect(found, 1)["huge"]
        assert outcome.state == "oom"
        assert outcome.reason == "it needs 900 MiB of memory, 90 MiB are free for it"
        assert found.slots()


def test_without_figures_nothing_waits_or_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("free", "total"):
        monkeypatch.setattr(memory, name, lambda: 0)
    with executor(tmp_path) as found:
        found.submit(replace(segment("a"), needs=Resources(memory=2**60)))
        assert collect(found, 1)["a"].state == "done"


def test_behave_is_a_plain_function() -> None:
    assert behave(segment("a", score=0.3), {}).score == 0.3
