from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.errors import RunError
from gristmill.search import lock
from gristmill.search.lock import RunLock

HOLDER = """
import sys, time
from gristmill.search.lock import RunLock
held = RunLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_second_driver_is_told_who_holds_it(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock")
    try:
        for take_over in (False, True):
            with pytest.raises(RunError) as caught:
                RunLock(tmp_path / "lock", take_over=take_over)
            assert f"process {holder.pid} on " in str(caught.value)
            assert "started 2" in str(caught.value)
            assert "--take-over" not in str(caught.value), "a living holder here is never robbed"
    finally:
        end(holder)


def test_a_killed_driver_leaves_no_lock(tmp_path: Path) -> None:
    end(hold(tmp_path / "lock"))
    with RunLock(tmp_path / "lock") as taken:
        taken.check()


def test_two_in_one_process(tmp_path: Path) -> None:
    with RunLock(tmp_path / "lock"), pytest.raises(RunError, match="one driver"):
        RunLock(tmp_path / "lock")
    with RunLock(tmp_path / "lock"):
        pass


def strange(path: Path, **changes: str) -> None:
    path.write_text(json.dumps({**lock._me(), "pid": 7, **changes}))


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"container": "pid:[1]"}])
def test_a_holder_elsewhere_is_never_judged_dead(tmp_path: Path, changes: dict[str, str]) -> None:
    path = tmp_path / "lock"
    strange(path, **changes)
    with pytest.raises(RunError, match="--take-over"):
        RunLock(path)
    with RunLock(path, take_over=True) as taken:
        taken.check()


def test_a_reboot_ends_every_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    strange(path, boot="an earlier one", container="pid:[1]")
    RunLock(path).release()


def test_taking_over_stops_the_other_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    other = RunLock(path)
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "another-host")
    with RunLock(path, take_over=True) as taken:
        taken.check()
        with pytest.raises(RunError, match="taken over"):
            other.check()
    other.release()


def test_a_released_lock_says_so(tmp_path: Path) -> None:
    held = RunLock(tmp_path / "lock")
    held.release()
    held.release()
    with pytest.raises(RunError):
        held.check()


def test_a_torn_note_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"host": "el')
    with RunLock(tmp_path / "lock"):
        pass


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            RunLock(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path / "lock"):
        pass
