"""The lock of a run folder: an operating-system file lock, held while the driver lives.

The operating system frees the lock with the process, however it dies. Host, boot, process and start
time are written into the file for the message only. A holder on another host or in another container
is never judged dead: its lock may be invisible from here, so the second driver refuses and names
`--take-over`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from gristmill.errors import RunError

_FAR = 1 << 30  # the byte that Windows locks: far behind the text, which others must be able to read


class RunLock:
    """Hold `path` until `release` or the end of the process.

    Args:
        path: The lock file, made when absent; its folder must exist.
        take_over: Take the lock of a holder on another host or in another container. A living holder
            on this machine is never robbed.

    Raises:
        RunError: if another driver holds it; the message names host, process and start time.
        OSError: if the disk takes no lock; no file is left then.
    """

    def __init__(self, path: str | os.PathLike[str], *, take_over: bool = False) -> None:
        self.path = Path(path)
        self._fd = _acquire(self.path, take_over)
        try:
            _write(self._fd, _me())
        except OSError:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            raise

    def check(self) -> None:
        """Raise RunError when another driver has taken the lock over; cheap enough for every write."""
        if self._fd < 0 or not _same_file(self.path, self._fd):
            raise RunError(
                "A run may have one driver.",
                got=f"{self.path.parent} was taken over by {_describe(_read(self.path))}",
                next_step="let that one go on; this one has stopped writing",
            )

    def release(self) -> None:
        """Give the lock back; the file stays, empty."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _acquire(path: Path, take_over: bool) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        free = _try_lock(fd)
        holder = _read(path)
        elsewhere = bool(holder) and not _is_here(holder)
        if free and not _same_file(path, fd):  # replaced between open and lock
            os.close(fd)
            continue
        if free and (take_over or not elsewhere):
            return fd
        os.close(fd)
        if not (take_over and elsewhere):
            raise _held(path, holder, elsewhere)
        _replace(path)


def _held(path: Path, holder: dict[str, Any], elsewhere: bool) -> RunError:
    advice = (
        "if that driver is gone for good, give the command again with --take-over"
        if elsewhere
        else "wait for it, stop it, or choose another name with --out"
    )
    return RunError(
        "A run may have one driver.", got=f"{path.parent} is in use by {_describe(holder)}", next_step=advice
    )


def _replace(path: Path) -> None:
    """Put a fresh file in the place of one that a holder elsewhere may still have locked."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.write_bytes(b"")
    os.replace(fresh, path)


def _try_lock(fd: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _FAR, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same_file(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _write(fd: int, holder: dict[str, Any]) -> None:
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, json.dumps(holder).encode())
    os.fsync(fd)


def _read(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_bytes()[:4096])
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')}, started {holder.get('started')}"


def _me() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S%z")
    return {"host": socket.gethostname(), **_place(), "pid": os.getpid(), "started": started}


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether the holder ran where our own locks would be seen: this host and, since it was last
    booted, this container."""
    if holder.get("host") != socket.gethostname():
        return False
    place = _place()
    return holder.get("boot") != place["boot"] or holder.get("container") == place["container"]


def _place() -> dict[str, str]:
    return {"boot": _text("/proc/sys/kernel/random/boot_id"), "container": _link("/proc/self/ns/pid")}


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
