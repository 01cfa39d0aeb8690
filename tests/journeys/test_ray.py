"""`gristmill fit --ray auto` as a user runs it: a cluster is started, used, and gone; all stays at home."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="the package ray is not installed (the extra `ray`)"
    ),
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups"),
]
INTERNET = re.compile(r'sa_family=AF_INET6?\b.*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')
LOOPBACK = ("127.", "::1", "::ffff:127.", "0.0.0.0")


def _fit(data: Path, bundle: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "gristmill", "fit", str(data), "--target", "species"]
    return [*command, "--out", str(bundle), "--ray", "auto", *options]


def _left_behind(bundle: Path) -> list[str]:
    """Processes of Ray that know the run, or belong to a cluster that was started for it."""
    words = ("raylet", "gcs_server", "ray::", "gristmill.search.executors.cluster")
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        ours = str(bundle.with_suffix(".run")) in f"{process.info['cwd']} {line}"
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE and any(w in line for w in words):
            found.append(line)
    return found


def _wait_until_gone(bundle: Path) -> None:
    end = time.monotonic() + 20.0
    while left := _left_behind(bundle):
        assert time.monotonic() < end, left
        time.sleep(0.2)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}


def test_a_run_on_ray_is_the_same_run_and_stays_at_home(flowers: Path, tmp_path: Path) -> None:
    bundle, trace = tmp_path / "iris.grist", tmp_path / "trace"
    watch = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    watch = watch if shutil.which("strace") else []
    process = subprocess.run(
        [*watch, *_fit(flowers, bundle, "--segments", "3", "--json")],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["state"] == "finished"
    assert "Ray cluster that this command started" in process.stderr
    assert bundle.exists()
    _wait_until_gone(bundle)
    if watch:
        addresses = set(INTERNET.findall(trace.read_text(errors="replace")))
        assert addresses, "the watcher saw nothing at all"
        assert not [a for a in addresses if not a.startswith(LOOPBACK)]
    _goes_on_without_ray(flowers, bundle)


def _goes_on_without_ray(data: Path, bundle: Path) -> None:
    """The executor is no part of the run's identity: the finished run answers the plain command."""
    command = [w for w in _fit(data, bundle, "--segments", "3") if w not in ("--ray", "auto")]
    again = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "finished before" in again.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_run_leaves_no_process_behind(
    flowers: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    bundle = tmp_path / "iris.grist"
    process = subprocess.Popen(
        _fit(flowers, bundle, "--time", "10m"),
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = [next(line for line in process.stderr if "searching" in line)]
    assert _left_behind(bundle), "a cluster must be there before it can be gone"
    os.killpg(process.pid, number)
    seen += process.stderr.readlines()
    assert process.wait(timeout=60) == code, seen
    assert "Traceback" not in "".join(seen)
    process.stderr.close()
    _wait_until_gone(bundle)
