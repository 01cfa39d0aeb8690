"""What every test may rely on: no network, no user cache, one thread, the same numbers each time."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before numpy, torch or onnxruntime are imported by any test: they read these once.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"
os.environ["COLUMNS"] = "100"
os.environ.pop("FORCE_COLOR", None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile(
    "gristmill", derandomize=True, deadline=None, database=None, max_examples=50
)
hypothesis.settings.load_profile("gristmill")


def pytest_configure(config: pytest.Config) -> None:
    """Give this session a cache folder of its own; child processes inherit it."""
    if not hasattr(config, "workerinput"):
        os.environ["GRISTMILL_CACHE"] = tempfile.mkdtemp(prefix="gristmill-test-cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the session's cache away again."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.get("GRISTMILL_CACHE", ""), ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A whole-suite run that collects nothing has failed, whatever the reason."""
    if session.testscollected == 0 and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        print("no tests were collected: that counts as a failure", file=sys.stderr)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise AssertionError(f"tests are offline; something connected to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (`cifar10-12k`, `tables`, ...); without it a test skips.

    `GRISTMILL_SHARED` names the folder that holds `data/`; otherwise it is `shared` beside the repository.
    """
    root = Path(os.environ.get("GRISTMILL_SHARED", REPOSITORY.parent / "shared"))
    folder = root / "data" if (root / "data").is_dir() else root
    if not (folder / "tables").is_dir():
        pytest.skip("real data sets are not beside this checkout (set GRISTMILL_SHARED)")
    return folder


class RayCluster:
    """Two nodes of one core each on this machine (tests/search/ray_nodes.py), and what they obey."""

    TOKEN = "0123456789abcdef" * 4

    def __init__(self) -> None:
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.TOKEN,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback addresses
        }
        self._folder = tempfile.mkdtemp(prefix="gm-")  # short: the paths of sockets are bounded
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tests/search/ray_nodes.py"), str(Path(self._folder) / "t")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self.environment, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
        self.address = str(self._answer()["address"])

    def send(self, command: str) -> None:
        """Give a command without waiting for its end."""
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)

    def order(self, command: str) -> None:
        """Give a command and wait until it is done."""
        self.send(command)
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """End all nodes and what they have started."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[RayCluster]:
    """A Ray cluster for the tests of one module."""
    if importlib.util.find_spec("ray") is None or os.name != "posix":
        pytest.skip("the package ray is not installed (the extra `ray`)")
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def ray_cluster(ray_nodes: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """The module's Ray cluster, with the environment in which it can be joined."""
    for name, value in ray_nodes.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray_nodes
