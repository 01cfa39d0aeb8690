"""Result rows: one JSON line each, appended and never changed, with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """All rows of a file, the oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows at the end of a file, which is made with its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def stamp(libraries: Sequence[str]) -> Row:
    """Commit, cores, machine, versions of `libraries` and the day: a part of every row."""
    return {
        "commit": commit(),
        "cores": cores(),
        "machine": platform.machine(),
        "versions": {name: _version(name) for name in libraries},
        "when": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """What git calls the source that is measured; -dirty with changes that are not committed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
