"""Ctrl-C and SIGTERM in the middle of a fit: it ends by itself, with a bundle and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cli import main

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_fit_that_is_told_to_end_keeps_what_it_has(
    flowers: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    bundle = tmp_path / "iris.grist"
    command = [sys.executable, "-m", "gristmill", "fit", str(flowers), "--target", "species"]
    process = subprocess.Popen(
        [*command, "--time", "10m", "--out", str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = [next(line for line in process.stderr if "linear" in line or "trees" in line)]
    process.send_signal(number)
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, (seen, out, err)
    assert "Traceback" not in err
    assert main(["verify", str(bundle)]) == 0
    assert not list(tmp_path.glob("*.tmp*"))
