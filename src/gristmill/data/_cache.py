"""The cache folder: room, eviction, locks, atomic names. Knows files, nothing about data.

Folders under CACHE/stores are either whole (renamed into place) or start with ".tmp-". Whoever uses one holds
a shared OS lock on its `lock` file; the lock dies with the process, so what nobody holds may be removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gristmill.errors import ResourceError

try:
    import fcntl
except ImportError:
    # Windows: an open file there keeps its folder from being renamed, which serves as the lock.
    fcntl = None  # type: ignore[assignment]

CACHE_LIMIT = 20 * 10**9
# A folder without a lock file may be one that another process is just making.
_STALE_AFTER_S = 3600.0
_PATIENCE_S = 120.0
T = TypeVar("T")
U = TypeVar("U")


def cache_root(cache: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder, made when absent: as given, else GRISTMILL_CACHE, else the user's cache folder."""
    chosen = cache or os.environ.get("GRISTMILL_CACHE")
    if not chosen:
        import platformdirs

        chosen = platformdirs.user_cache_dir("gristmill")
    root = Path(chosen).absolute()
    try:
        for name in ("stores", "index"):
            (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(root, error) from error
    return root


def make_room(stores: Path, need: int, *, limit: int = CACHE_LIMIT, keep: Path | None = None) -> None:
    """Make sure that `need` more bytes fit: remove what killed processes left, then the least recently used.

    The cache stays below `limit` bytes where that is possible, and nothing new takes more than half of the
    free disk. Stores in use and `keep` are not evicted.

    Raises:
        ResourceError: if `need` is still more than half of the free disk.
    """
    _remove_stale(stores)
    found = sorted(_sizes(stores, keep))
    total = sum(size for _, size, _ in found)
    if need > (_free(stores) + total) / 2:
        found = []  # it could not fit even in an empty cache: keep what is there
    for _, size, folder in found:
        if total + need <= limit and need <= _free(stores) / 2:
            break
        if _evict(folder):
            total -= size
    if need > _free(stores) / 2:
        raise ResourceError(
            "Prepared data may take at most half of the free disk.",
            got=f"{_human(need)} needed, {_human(_free(stores))} free in {stores.parent}",
            next_step="free some space, set GRISTMILL_CACHE to a folder on a larger disk, "
            "or use smaller or fewer pictures",
        )


def room(stores: Path) -> int:
    """Bytes that a new store may take once everything that nobody uses is evicted: half of the free disk."""
    return (_free(stores) + sum(size for _, size, _ in _sizes(stores, None))) // 2


def clear(cache: str | os.PathLike[str] | None = None) -> int:
    """Remove every prepared store that nobody uses; returns the bytes freed."""
    stores = cache_root(cache) / "stores"
    _remove_stale(stores)
    return sum(size for _, size, folder in list(_sizes(stores, None)) if _evict(folder))


@contextlib.contextmanager
def disk_errors_told(place: Path) -> Iterator[None]:
    """Turn a full or read-only disk, met in the block, into a ResourceError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise _not_writable(place, error) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            "The disk must have room for the prepared data.",
            got=f"it is full ({error.strerror}) in {place}",
            next_step="free some space or set GRISTMILL_CACHE to a folder on a larger disk, then run the "
            "same command again; nothing half-written was kept",
        ) from error


def _not_writable(place: Path, error: OSError) -> ResourceError:
    return ResourceError(
        "The cache folder must be writable.",
        got=f"{place} ({error.strerror})",
        next_step="set GRISTMILL_CACHE to a folder on a disk with room",
    )


def hold(path: Path) -> int | None:
    """Take a shared lock on a file that exists; the descriptor holds it until closed. None: not lockable."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # some network disks know no locks; then nothing guards the store
        os.utime(path)  # when it was last used
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


@contextlib.contextmanager
def patient_lock(path: Path) -> Iterator[None]:
    """Hold a file's lock during the block, or give up waiting after two minutes and go on without it.

    For work that two processes may do at once without harm, but need not: the holder may be a stopped
    process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + _PATIENCE_S
        while fcntl is not None and time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def new_folder(parent: Path) -> tuple[Path, int | None]:
    """A fresh folder under a temporary name, with the descriptor of its held lock."""
    folder = parent / f".tmp-{os.getpid()}-{time.time_ns():x}"
    folder.mkdir()
    (folder / "lock").touch()
    return folder, hold(folder / "lock")


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; renamed to `path` when the block ends well, else removed."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{time.time_ns():x}-{path.name}")
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except PermissionError:
            if not path.exists():  # Windows: another process made the same file and has it mapped
                raise
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically and durably."""
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def in_order(work: Callable[[T], U], items: Iterable[T], threads: int) -> Generator[U, None, None]:
    """`map` in threads, results in order, never more than a few ahead of the reader: memory stays flat."""
    pending: deque[Future[U]] = deque()
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _remove_stale(stores: Path) -> None:
    for folder in stores.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            locked = (folder / "lock").exists()
            if locked or time.time() - folder.stat().st_mtime > _STALE_AFTER_S:
                _evict(folder)
    for file in stores.glob("*/derived/.tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _STALE_AFTER_S:
                file.unlink()


def _evict(folder: Path) -> bool:
    """Remove a folder unless somebody holds its lock."""
    descriptor = None
    try:
        if fcntl is not None and (folder / "lock").exists():
            descriptor = os.open(folder / "lock", os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed first, so that nobody can open a store that is half removed.
        doomed = folder.with_name(f".tmp-gone-{os.getpid()}-{time.time_ns():x}")
        os.rename(folder, doomed)
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    remove(doomed)
    return True


def _sizes(stores: Path, keep: Path | None) -> Iterator[tuple[float, int, Path]]:
    """Last use, size in bytes and folder of each whole store that may be evicted."""
    for folder in stores.glob("*"):
        if folder.name.startswith(".") or folder == keep or not (folder / "store.json").exists():
            continue
        with contextlib.suppress(OSError):
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            used = (folder / "lock").stat().st_mtime
            yield used, size, folder


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
