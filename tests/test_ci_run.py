"""What `.ci/run` holds its stages to, with stand-ins for make and for the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a script for bash")


def answer(repository: Path, folder: Path, accuracy: float, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of `.ci/run` when every stage passes and the quickstart reaches `accuracy`."""
    found = {"evaluation": {"metrics": {"accuracy": {"value": accuracy}}}, "verified": True}
    found |= {"example": "7.png", "predicted": "7"}
    scripts = {
        "make": "exit 0",
        "strace": "exit 0",
        "gristmill": f"echo '{json.dumps(found)}'",
        "python": f'[ "$1" != - ] || exec {sys.executable} "$@"',
    }
    (folder / "bin").mkdir()
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", str(repository / ".ci" / "run")],
        env={**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_a_quickstart_that_learns_too_little_fails(repository: Path, tmp_path: Path) -> None:
    code, lines = answer(repository, tmp_path, 0.89)
    assert (code, lines[-1]) == (1, "=== failed: quickstart")
    assert "accuracy 0.8900, 7.png predicted as 7" in lines


def test_all_stages_pass(repository: Path, tmp_path: Path) -> None:
    code, lines = answer(repository, tmp_path, 0.95)
    assert (code, lines[-1]) == (0, "=== all ok")


def test_more_than_25_minutes_in_all_fails_with_a_sentence(repository: Path, tmp_path: Path) -> None:
    code, lines = answer(repository, tmp_path, 0.95, GRISTMILL_CI_MOST_S="-1")
    assert (code, lines[-1]) == (1, "=== failed: time")
    assert any(line.startswith("=== too long") for line in lines)
