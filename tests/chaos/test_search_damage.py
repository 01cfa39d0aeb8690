"""A journal as a crash or a bad disk may leave it."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gristmill.search.journal import Journal, decision_bytes, read

DRIVER = Path(__file__).with_name("search_driver.py")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_simulation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


simulation = _load(Path(__file__).resolve().parents[1] / "search" / "simulation.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal"
    simulation.run(path, counted=8)
    return path


def test_truncated_at_every_byte_of_the_last_record_nothing_is_decided_anew(
    tmp_path: Path, whole: Path
) -> None:
    data, wanted = whole.read_bytes(), decision_bytes(read(whole))
    path = tmp_path / "journal"
    for length in range(data.rindex(b"\n", 0, -1) + 1, len(data) + 1):
        path.write_bytes(data[:length])
        simulation.run(path, counted=8)
        assert decision_bytes(read(path)) == wanted, f"cut to {length} bytes"


def test_one_flipped_byte_stops_the_run_and_leaves_the_file(tmp_path: Path, whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    at = random.Random(0).randrange(data.rindex(b"\n", 0, -1))
    data[at] ^= 0xFF
    (tmp_path / "journal").write_bytes(data)
    found = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), "8"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 2
    assert "is damaged" in found.stderr and "--fresh" in found.stderr
    assert "Traceback" not in found.stderr
    assert (tmp_path / "journal").read_bytes() == bytes(data)


def test_a_kill_between_an_outcome_and_its_decision_loses_nothing(tmp_path: Path, whole: Path) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    for at, line in enumerate(read(whole)):
        if line.kind != "outcome":
            continue
        path = tmp_path / f"{at}"
        path.write_bytes(b"".join(lines[: at + 1]))
        with Journal.open(path) as journal:
            resumed = simulation.study(journal, counted=8)
            assert line.data["id"] not in [s.id for s in resumed.open]
