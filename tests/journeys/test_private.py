"""Nothing leaves this machine: connects and sends of the whole process tree are watched, native code too."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from gristmill.models import weights

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="strace is not installed: apt-get install strace"
    ),
]

CI_NAMES = (
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "BUILD_ID",
    "TF_BUILD",
    "DO_NOT_TRACK",
    "ORT_DISABLE_TELEMETRY",
)
STRACE = (
    *("strace", "-f", "--seccomp-bpf"),  # the kernel picks these calls: half the time
    *("-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o"),
)
OUTSIDE = re.compile(
    r"sa_family=AF_INET6?\b.*?(?:inet_addr\(\"([^\"]+)\"\)|inet_pton\(AF_INET6, \"([^\"]+)\")"
)


def _watched(trace: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in CI_NAMES}
    return subprocess.Popen(
        [*STRACE, str(trace), sys.executable, "-m", "gristmill", *arguments],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _strangers(trace: Path) -> list[str]:
    """Lines that name an internet address off this machine."""
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        match = OUTSIDE.search(line)
        if match and (match[1] or match[2]) not in ("127.0.0.1", "::1", "0.0.0.0"):
            found.append(line)
    return found


def test_the_watcher_sees_a_connection_of_a_child(tmp_path: Path) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}], check=True)"
    trace = tmp_path / "trace"
    subprocess.run([*STRACE, str(trace), sys.executable, "-c", parent], check=True)
    assert _strangers(trace)


def test_fit_predict_and_serve_connect_to_nothing(flowers: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "iris.grist"
    steps = {
        "fit": (
            "fit",
            str(flowers),
            "--target",
            "species",
            "--segments",
            "3",
            "--out",
            str(bundle),
            "--quiet",
        ),
        "predict": ("predict", str(bundle), str(flowers)),
    }
    for name, arguments in steps.items():
        process = _watched(tmp_path / name, *arguments)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert _strangers(tmp_path / name) == []
    server = _watched(tmp_path / "serve", "serve", str(bundle), "--port", "8931")
    try:
        assert _answers("http://127.0.0.1:8931/v2/health/ready")
        assert _predicted("http://127.0.0.1:8931/predict", {"petal_length": 1.4, "petal_width": 0.2})
    finally:
        for child in psutil.Process(server.pid).children():  # strace itself holds signals back
            child.terminate()
        server.communicate(timeout=60)
    assert _strangers(tmp_path / "serve") == []


@pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")
def test_a_fit_on_pictures_with_the_embedded_weights_connects_to_nothing(
    digits: Path, tmp_path: Path
) -> None:
    for label in ("0", "1", "4"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for path in sorted((digits / label).glob("0*.png"))[:12]:
            shutil.copy(path, tmp_path / "few" / label)
    out, trace = tmp_path / "few.grist", tmp_path / "trace"
    arguments = ("fit", str(tmp_path / "few"), "--segments", "4", "--out", str(out), "--quiet")
    process = _watched(trace, *arguments)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert _strangers(trace) == []
    trained = [json.loads(p.read_text()) for p in tmp_path.glob("few.run/segments/*/outcome.json")]
    assert "lite0" in json.dumps([t["segment"]["config"] for t in trained]), "the weights were read"


def _predicted(address: str, row: dict[str, float]) -> str:
    """The label that the server gives one row."""
    body, headers = json.dumps({"rows": [row]}).encode(), {"Content-Type": "application/json"}
    asked = urllib.request.Request(address, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(asked, timeout=30) as response:
        return str(json.load(response)["predictions"][0]["label"])


def _answers(address: str) -> bool:
    for _ in range(200):
        try:
            with urllib.request.urlopen(address, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            time.sleep(0.2)
    return False
