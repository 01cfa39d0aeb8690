from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from gristmill.search.executors import memory
from gristmill.segment import Resources
from gristmill.testing.executor import segment

MIB = 2**20


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in which this process seems to be."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_MINE", tmp_path / "cgroup")
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_limit_of_a_container_counts(groups: Path) -> None:
    write(groups, cgroup="0::/box/inner")
    write(groups / "box", memory__max=500 * MIB, memory__current=300 * MIB)
    write(groups / "box", memory__stat=f"anon 1\ninactive_file {100 * MIB}")
    write(groups / "box" / "inner", memory__max="max", memory__current=200 * MIB)
    assert memory.total() == 500 * MIB
    assert memory.free() == 300 * MIB, "pages of files can be had back"


def test_the_older_layout_counts_too(groups: Path) -> None:
    write(groups, cgroup="5:cpu:/x\n4:memory:/box")
    write(
        groups / "memory" / "box",
        memory__limit_in_bytes=200 * MIB,
        memory__usage_in_bytes=250 * MIB,
        memory__stat="total_inactive_file 0",
    )
    assert memory.total() == 200 * MIB
    assert memory.free() == 1, "over the limit nothing is free, but that is known"
    assert memory.is_low()


def test_a_path_out_of_the_tree_and_no_groups_are_the_machine(groups: Path) -> None:
    write(groups, cgroup="0::/../..")
    assert memory.total() == psutil.virtual_memory().total
    (groups / "cgroup").unlink()
    assert memory.total() == psutil.virtual_memory().total
    assert 0 < memory.free() <= memory.total()


def test_without_psutil_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "psutil":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert (memory.total(), memory.free(), memory.held(os.getpid())) == (0, 0, 0)
    assert not memory.is_low()


def test_children_are_counted() -> None:
    child = "import subprocess, sys; print(1, flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        alone = psutil.Process(process.pid).memory_info().rss
        assert memory.held(process.pid) > 1.3 * alone
        process.stdin.close()
    assert memory.held(process.pid) == 0


def test_needs_are_learnt_by_configuration_and_by_family() -> None:
    needs = memory.Needs()
    a, b = (segment(n, family="net", width=w) for n, w in (("a", 1), ("b", 2)))
    assert needs.expected(a) == 0
    needs.learn(a, 300)
    needs.learn(a, 200)
    assert (needs.stated(a), needs.expected(a)) == (300, 300)
    assert (needs.stated(b), needs.expected(b)) == (0, 300), "a hint only"
    assert needs.expected(segment("c", family="fit")) == 0
    told = segment("d", family="fit")
    object.__setattr__(told, "needs", Resources(memory=7))
    assert needs.stated(told) == 7
