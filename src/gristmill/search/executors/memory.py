"""Memory: what is free here, what a worker holds, and a thread that watches both twice a second.

A limit of a container (cgroup `memory.max`, version 2 or 1) counts like that of the machine. Without psutil
nothing is known: every figure is 0 and nothing is refused or stopped.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gristmill.segment import Segment, config_hash

SHARE = 0.9
"""Part of the free memory that a segment may take."""
LOW, LOW_BYTES = 0.05, 256 * 2**20
"""When less than this part of all memory and less than so many bytes are free, the segment that holds most
has to stop: the system would soon choose a process itself."""
PERIOD_S = 0.5

_GROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")


def total() -> int:
    """Bytes that all processes here may hold together; 0: unknown."""
    try:
        import psutil
    except ImportError:
        return 0
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits())])


def free() -> int:
    """Bytes that can still be had without swapping; 0: unknown."""
    try:
        import psutil
    except ImportError:
        return 0
    available = int(psutil.virtual_memory().available)
    return max(1, min([available, *(limit - used for limit, used in _limits())]))


def is_low() -> bool:
    """Whether so little is free that a segment has to stop."""
    return 0 < free() < min(LOW * total(), LOW_BYTES)


def held(pid: int) -> int:
    """Resident bytes of a process and all that it started; 0: gone, or unknown."""
    try:
        import psutil
    except ImportError:
        return 0
    sizes = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                sizes.append(int(process.memory_info().rss))
    return sum(sizes)


def worked(pid: int) -> float:
    """CPU seconds of a process and all that it started; NaN: gone, or unknown."""
    try:
        import psutil
    except ImportError:
        return math.nan
    seconds = math.nan
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        seconds = sum(root.cpu_times()[:2])
        for process in root.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seconds += sum(process.cpu_times()[:2])
    return seconds


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each control group that this process is in and that has a limit.

    Pages of files that nobody has used lately are given back on demand, so they do not count as used.
    """
    for folder in _folders():
        for limit, usage, stale in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                most = int((folder / limit).read_text())
                used = int((folder / usage).read_text())
                yield most, max(0, used - _statistic(folder / "memory.stat", stale))


def _folders() -> Iterator[Path]:
    """The control groups of this process, innermost first, up to the mounted root."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = _MINE.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root = _GROUPS / "memory" if controllers else _GROUPS
        place = root / path.strip("/")
        yield from (p for p in (place, *place.parents) if p == root or root in p.parents)


def _statistic(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


class Watch:
    """Calls `look` every half second until it is stopped."""

    def __init__(self, look: Callable[[], None], *, period_s: float = PERIOD_S) -> None:
        self._look, self._period_s = look, period_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to look; a second call does nothing."""
        if not self._thread.is_alive() and not self._end.is_set():
            self._thread.start()

    def stop(self) -> None:
        """No further look; the one under way ends."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self._look()


@dataclass
class Needs:
    """What segments are expected to hold at most, in bytes, from what earlier ones held; 0: unknown."""

    _same: dict[str, int] = field(default_factory=dict)
    _alike: dict[str, int] = field(default_factory=dict)

    def stated(self, segment: Segment) -> int:
        """What this very configuration needs: as the segment says, or as it was measured."""
        return max(segment.needs.memory, self._same.get(_same(segment), 0))

    def expected(self, segment: Segment) -> int:
        """The same, or what the largest segment of its family held: a hint, not a reason to refuse."""
        return self.stated(segment) or self._alike.get(_alike(segment), 0)

    def learn(self, segment: Segment, peak: int) -> None:
        """Take in what a segment that ended held at most."""
        for table, key in ((self._same, _same(segment)), (self._alike, _alike(segment))):
            table[key] = max(peak, table.get(key, 0))


def _same(segment: Segment) -> str:
    return f"{segment.kind} {config_hash(segment.config)}"


def _alike(segment: Segment) -> str:
    return f"{segment.kind} {segment.config.get('family', '')}"
