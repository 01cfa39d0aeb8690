"""The oracle and the faults of `benchmarks/chaos.py`: what judges the runs must itself be able to fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gristmill.search.journal import Line

HERE = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    pytest.importorskip("psutil")
    spec = importlib.util.spec_from_file_location("benchmark_chaos", HERE / "chaos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


def line(kind: str, name: str, **data: Any) -> Line:
    return Line(kind=kind, data={"id": name, **data}, t=0.0)


def test_a_lost_changed_or_repeated_segment_is_counted(chaos: ModuleType) -> None:
    done, other = line("outcome", "a", state="done", score=0.5), line("outcome", "b", state="done", score=0.6)
    before = [(done, other)]
    assert chaos.lost_segments(before, (done, other)) == 0
    assert chaos.lost_segments(before, (done,)) == 1
    assert chaos.lost_segments(before, (done, line("outcome", "b", state="done", score=0.7))) == 1
    assert chaos.lost_segments(before, (done, other, line("retry", "a"))) == 1
    assert chaos.lost_segments(before, (line("retry", "a"), done, other)) == 0
    assert chaos.lost_segments([(line("outcome", "c", state="lost"),)], ()) == 0


@pytest.mark.parametrize(
    ("code", "err", "told"),
    [
        (0, "", True),
        (4, "reading\nerror: The disk must take what is written.\n", True),
        (130, "stopped\n", True),
        (-9, "", True),
        (1, "", False),
        (1, "error: a fault in Gristmill, not in your data: ValueError: x", False),
        (1, "Traceback (most recent call last):\n", False),
        (-11, "", False),
    ],
)
def test_only_a_sentence_counts_as_told(chaos: ModuleType, code: int, err: str, told: bool) -> None:
    assert chaos.Phase(code=code, err=err, seconds=1.0).told is told
    assert not chaos.Phase(code=code, err=err, seconds=1.0, wrong="too late").told


@pytest.mark.skipif(os.name != "posix", reason="as the benchmark")
@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("clock:86400:-1", "print(time.time() - time.monotonic() > started + 80000)", "True"),
        ("clock:86400:1000", "print(time.time() - time.monotonic() > started + 80000)", "False"),
        ("full:{marker}", "os.fsync(1)", "No space left on device"),
        ("full:{marker}.none", "os.fsync(os.open(marker, os.O_RDWR)); print('written')", "written"),
        ("earthquake", "", "must be nan"),
    ],
)
def test_a_fault_strikes_as_it_is_told(tmp_path: Path, fault: str, code: str, said: str) -> None:
    marker = tmp_path / "full"
    marker.touch()
    setting = f"import os, time; marker = {str(marker)!r}; started = {_offset()}"
    env = {**os.environ, "PYTHONPATH": str(HERE / "sabotage"), "CHAOS_FAULT": fault.format(marker=marker)}
    done = subprocess.run(
        [sys.executable, "-c", f"{setting}; {code}"], env=env, capture_output=True, text=True, check=False
    )
    assert said in done.stdout + done.stderr


def _offset() -> float:
    import time

    return time.time() - time.monotonic()
