"""Real signals to real processes: a worker and a driver are killed, and the search goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gristmill.search.journal import decision_bytes, read

DRIVER = Path(__file__).with_name("search_driver.py")
COUNT = "24"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def start(folder: Path, amount: str, sleep: float = 0.01, idle: float = 300.0) -> subprocess.Popen[str]:
    """The driver, already searching."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder), amount, str(sleep), str(idle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "searching\n", process.communicate()
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def wait_for(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def lines(folder: Path) -> int:
    return (folder / "journal").read_bytes().count(b"\n")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "pids").iterdir()]


def runs(folder: Path) -> Counter[str]:
    """How often each segment was worked on to its end."""
    return Counter(path.name.split(".")[0] for path in (folder / "runs").iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(folder, COUNT))
    assert code == 0, err
    assert "best 0.8" in out
    return decision_bytes(read(folder / "journal"))


@pytest.mark.parametrize("seed", [0, 1])
def test_three_kills_of_the_driver_change_no_decision(
    tmp_path: Path, undisturbed: list[bytes], seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        before = lines(tmp_path) if (tmp_path / "journal").exists() else 0
        process = start(tmp_path, COUNT)
        goal = before + rng.randrange(2, 12)
        wait_for(lambda goal=goal, p=process: lines(tmp_path) >= goal or p.poll() is not None)
        process.kill()
        process.communicate()
    code, _, err = finish(start(tmp_path, COUNT))
    assert code == 0, err
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed
    again = [n - 1 for n in runs(tmp_path).values()]
    assert sum(again) <= 3 * 2, "at most one open segment per worker and kill is worked on again"


def test_three_kills_of_workers_change_no_decision(tmp_path: Path, undisturbed: list[bytes]) -> None:
    process = start(tmp_path, COUNT, sleep=0.05)
    killed: set[int] = set()
    for _ in range(3):
        wait_for(lambda: set(filter(alive, pids(tmp_path))) - killed)
        victim = next(iter(set(filter(alive, pids(tmp_path))) - killed))
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    code, _, err = finish(process)
    assert code == 0, err
    written = read(tmp_path / "journal")
    assert decision_bytes(written) == undisturbed
    lost = [line for line in written if line.kind == "lost"]
    assert 1 <= len(lost) <= 3
    assert all("SIGKILL" in line.data["reason"] for line in lost)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ends_the_driver_changes_no_decision(
    tmp_path: Path, undisturbed: list[bytes], number: signal.Signals
) -> None:
    process = start(tmp_path, COUNT)
    wait_for(lambda: lines(tmp_path) >= 9)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    code, _, err = finish(start(tmp_path, COUNT))
    assert code == 0, err
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_segment_that_hangs_is_asked_again_and_changes_no_decision(
    tmp_path: Path, undisturbed: list[bytes]
) -> None:
    def at_work() -> list[int]:
        """Who began a segment, each of a tenth of a second at least, a moment ago."""
        marks = [path for path in (tmp_path / "pids").iterdir() if time.time() - path.stat().st_mtime < 0.03]
        return [int(path.name) for path in marks if alive(int(path.name))]

    process = start(tmp_path, COUNT, sleep=0.1, idle=1.5)
    found: list[int] = []
    wait_for(lambda: lines(tmp_path) > 5 and (found.extend(at_work()) or found))
    os.kill(found[0], signal.SIGSTOP)
    code, _, err = finish(process)
    assert code == 0, err
    written = read(tmp_path / "journal")
    assert decision_bytes(written) == undisturbed
    lost = [line for line in written if line.kind == "lost"]
    assert [line.data["reason"] for line in lost] == ["killed: it did no work for 2 s"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_worker_outlives_its_driver(tmp_path: Path) -> None:
    process = start(tmp_path, COUNT, sleep=60.0)
    wait_for(lambda: len(pids(tmp_path)) == 2)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, pids(tmp_path))), seconds=10.0)


def test_a_timed_search_goes_on_after_a_kill(tmp_path: Path) -> None:
    process = start(tmp_path, "30s")
    wait_for(lambda: lines(tmp_path) > 15)
    process.kill()
    process.communicate()
    before = len(decision_bytes(read(tmp_path / "journal")))
    code, out, err = finish(start(tmp_path, "2s"))
    assert code == 0, err
    assert "best 0." in out
    assert len(decision_bytes(read(tmp_path / "journal"))) > before


def test_the_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path, undisturbed: list[bytes]) -> None:
    first = start(tmp_path, COUNT, sleep=0.05)
    second = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), COUNT], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 2
    assert f"is in use by process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    code, _, err = finish(first)
    assert code == 0, err
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("who", ["driver", "worker"])
def test_a_process_that_stands_still_for_a_while_changes_no_decision(
    tmp_path: Path, undisturbed: list[bytes], who: str
) -> None:
    process = start(tmp_path, COUNT, sleep=0.05)
    wait_for(lambda: any(map(alive, pids(tmp_path))) and lines(tmp_path) > 5)
    victim = process.pid if who == "driver" else next(filter(alive, pids(tmp_path)))
    os.kill(victim, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(victim, signal.SIGCONT)
    code, _, err = finish(process)
    assert code == 0, err
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed
    assert max(runs(tmp_path).values()) == 1, "what stands still is not worked on twice"


def test_the_lock_is_free_as_soon_as_its_holder_is_killed(tmp_path: Path, undisturbed: list[bytes]) -> None:
    first = start(tmp_path, COUNT, sleep=0.05)
    wait_for(lambda: lines(tmp_path) > 5)
    first.kill()
    first.communicate()
    code, _, err = finish(start(tmp_path, COUNT))
    assert code == 0, err
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed
