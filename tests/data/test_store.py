"""The store: what goes in comes out, it appears whole or not at all, and it leaves the disk its room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gristmill
from gristmill.data import _cache, image
from gristmill.data import store as store_module
from gristmill.data._cache import cache_root, in_order, make_room
from gristmill.data.store import Store, StoreWriter, store_bytes, take
from gristmill.errors import DataError, ResourceError
from gristmill.task import InputSpec

PICTURE = InputSpec(name="image", kind="image", spec={"channels": 3, "size": 12})
AGE = InputSpec(name="age", kind="number")
COLOUR = InputSpec(name="colour", kind="category")


def rows_of(n: int, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Padded rows with random boxes."""
    rng = np.random.default_rng(n)
    boxes = rng.integers(1, side + 1, (n, 2)).astype(np.int32)
    pixels = np.zeros((n, side, side, 3), np.uint8)
    for row, (h, w) in zip(pixels, boxes, strict=True):
        row[:h, :w] = rng.integers(0, 256, (h, w, 3), np.uint8)
    return pixels, boxes


def written(cache: Path, n: int = 10, key: str = "a", block: int = 4) -> Store:
    pixels, boxes = rows_of(n)
    with StoreWriter(cache_root(cache), [PICTURE], n) as writer:
        writer.pictures("image", ((pixels[k : k + block], boxes[k : k + block]) for k in range(0, n, block)))
        writer.facts({"sha": np.array([str(i) for i in range(n)], object)})
        return writer.commit(key)


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".tmp-*"))


@pytest.mark.parametrize("shard_rows", [1, 3, 4, 100])
def test_rows_come_back_in_any_order_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", shard_rows * 12 * 12 * 3)
    store = written(tmp_path)
    assert len(list(store.folder.glob("0.0*.npy"))) == -(-10 // shard_rows)
    pixels, boxes = rows_of(10)
    for ids in (np.array([7, 0, 7, 3]), np.arange(10), np.array([], np.int64)):
        got = store.gather(ids)
        assert np.array_equal(got["image"], pixels[ids])
        assert np.array_equal(got["image.box"], boxes[ids])
    assert store.gather(np.array([1]), names=["other"]) == {}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=False),
            st.none() | st.text('ab é中"\\\x00\ud800'),
        )
    )
)
def test_columns_come_back_to_the_last_bit(tmp_path: Path, rows: list[tuple[float, str | None]]) -> None:
    numbers = np.array([r[0] for r in rows], np.float64)
    words = np.empty(len(rows), object)
    words[:] = [r[1] for r in rows]
    with StoreWriter(cache_root(tmp_path), [AGE, COLOUR], len(rows)) as writer:
        writer.column("age", numbers)
        writer.column("colour", words)
        writer.facts({"error": words})
        store = writer.commit(f"{time.time_ns()}")
    got = store.gather(np.arange(len(rows)))
    assert np.array_equal(got["age"], numbers, equal_nan=True)
    assert got["colour"].tolist() == store.facts()["error"].tolist() == words.tolist()


def test_a_store_is_opened_by_path_and_by_address(tmp_path: Path) -> None:
    store = written(tmp_path / "a cache with ümlaut")
    assert store.uri.startswith("file://")
    for address in (store.uri, str(store.folder), store.folder):
        again = Store.open(address)
        assert (again.rows, again.key, again.inputs, again.folder) == (10, "a", (PICTURE,), store.folder)


@pytest.mark.parametrize("how", image.FITS)
def test_squares_are_those_of_the_single_pictures_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: image.Fit
) -> None:
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 3 * 12 * 12 * 3)
    store, (pixels, boxes) = written(tmp_path), rows_of(10)
    made = store.squares("image", 7, how)
    for i, (h, w) in enumerate(boxes):
        assert np.array_equal(made[i], image.to_square(pixels[i, :h, :w], 7, how))
    assert not made.flags.writeable
    monkeypatch.setattr(Store, "_derive", None)
    assert np.array_equal(Store.open(store.uri).squares("image", 7, how), made)
    assert not leftovers(tmp_path)


def test_full_squares_of_the_wanted_size_need_no_second_copy(tmp_path: Path) -> None:
    pixels = rows_of(4)[0]
    with StoreWriter(cache_root(tmp_path), [PICTURE], 4) as writer:
        writer.pictures("image", [(pixels, np.full((4, 2), 12, np.int32))])
        writer.facts({})
        store = writer.commit("full")
    assert np.array_equal(store.squares("image", 12), pixels)
    assert not (store.folder / "derived").exists()


DERIVE = """
import sys
from gristmill.data.store import Store
store = Store.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(int(store.squares("image", 40).sum()))
"""


def test_processes_that_derive_at_once_all_succeed(tmp_path: Path) -> None:
    store = written(tmp_path, n=400)
    command = [sys.executable, "-c", DERIVE, store.uri]
    home = str(Path(gristmill.__file__).parents[1])
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": home},
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    sums = {worker.communicate(timeout=60)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sums == {f"{int(store.squares('image', 40).sum())}\n"}
    assert not leftovers(tmp_path)


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StoreWriter(cache_root(tmp_path), [PICTURE], 10) as writer:
        writer.pictures("image", iter([rows_of(10)]))
        raise RuntimeError
    assert not list((tmp_path / "stores").iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with (
        pytest.raises(ResourceError, match="GRISTMILL_CACHE"),
        StoreWriter(cache_root(tmp_path), [PICTURE], 10) as writer,
    ):
        monkeypatch.setattr(os, "fsync", full)
        writer.pictures("image", iter([rows_of(10)]))
    assert not list((tmp_path / "stores").iterdir())
    monkeypatch.undo()
    store = written(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="is full"):
        store.squares("image", 5)
    assert not leftovers(tmp_path)
    monkeypatch.undo()
    assert store.squares("image", 5).shape == (10, 5, 5, 3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device_is_told(tmp_path: Path) -> None:
    with StoreWriter(cache_root(tmp_path), [PICTURE], 3000) as writer:
        (writer._folder / "0.0000.npy").symlink_to("/dev/full")
        pixels, boxes = rows_of(3000)
        with pytest.raises(ResourceError, match="is full"):
            writer.pictures("image", [(pixels, boxes)])


Usage = namedtuple("Usage", "total used free")


def test_a_store_of_more_than_half_the_free_disk_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = store_bytes([PICTURE], 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 2 * need - 2))
    with pytest.raises(ResourceError, match="half of the free disk"):
        written(tmp_path)
    assert not list((tmp_path / "stores").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 2 * need))
    assert written(tmp_path).rows == 10


def test_the_size_said_beforehand_covers_what_is_written(tmp_path: Path) -> None:
    store = written(tmp_path, n=200)
    real = sum(f.stat().st_size for f in store.folder.rglob("*") if f.is_file())
    assert real <= store_bytes([PICTURE], 200) <= 2 * real + 200_000


def test_the_cache_forgets_the_least_recently_used_that_is_not_open(tmp_path: Path) -> None:
    held = written(tmp_path, key="held")
    for age, key in enumerate(("young", "old", "oldest")):
        written(tmp_path, key=key)
        used = time.time() - 100 * (age + 1)
        os.utime(tmp_path / "stores" / key / "lock", (used, used))
    os.utime(held.folder / "lock", (0, 0))
    size = sum(f.stat().st_size for f in held.folder.rglob("*") if f.is_file())
    make_room(tmp_path / "stores", 0, limit=2 * size + size // 2)
    assert {p.name for p in (tmp_path / "stores").iterdir()} == {"held", "young"}
    assert held.gather(np.arange(10))["image"].shape[0] == 10


def test_opening_a_store_makes_it_recently_used(tmp_path: Path) -> None:
    folder = written(tmp_path).folder
    os.utime(folder / "lock", (0, 0))
    Store.open(folder)
    assert (folder / "lock").stat().st_mtime > time.time() - 60


def test_folders_of_others_are_never_evicted(tmp_path: Path) -> None:
    cache_root(tmp_path)
    (tmp_path / "stores" / "holiday").mkdir()
    (tmp_path / "stores" / "holiday" / "lock").touch()
    make_room(tmp_path / "stores", 0, limit=0)
    assert (tmp_path / "stores" / "holiday").exists()


def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(tmp_path: Path) -> None:
    stores = cache_root(tmp_path) / "stores"
    alive, lock = _cache.new_folder(stores)
    dead, dead_lock = _cache.new_folder(stores)
    assert lock is not None and dead_lock is not None
    os.close(dead_lock)
    fresh = stores / ".tmp-just-made"
    fresh.mkdir()
    make_room(stores, 0)
    assert alive.exists() and fresh.exists() and not dead.exists()
    os.utime(fresh, (0, 0))
    make_room(stores, 0)
    assert not fresh.exists()
    os.close(lock)


def test_writing_the_same_store_twice_keeps_the_first(tmp_path: Path) -> None:
    first, second = written(tmp_path), written(tmp_path)
    assert first.folder == second.folder
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["a"]


def test_a_damaged_store_is_refused_and_then_replaced(tmp_path: Path) -> None:
    folder = written(tmp_path).folder
    shard = folder / "0.0000.npy"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"0\.0000\.npy"):
        Store.open(folder)
    assert written(tmp_path).gather(np.array([9]))["image"].shape == (1, 12, 12, 3)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"version": 99, "files": {}}'])
def test_what_is_no_store_is_refused_with_a_next_step(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "store.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Store.open(tmp_path)
    assert caught.value.next_step


def test_an_unknown_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="photo"):
        written(tmp_path).squares("photo", 5)


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="GRISTMILL_CACHE"):
        cache_root(tmp_path / "file" / "cache")


def test_parallel_work_stays_in_order_and_only_a_little_ahead() -> None:
    started: list[int] = []

    def work(i: int) -> int:
        started.append(i)
        return i * i

    seen = in_order(work, range(1000), 2)
    assert [next(seen) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 12
    seen.close()
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // i, [1, 0, 1], 2))


def test_clear_frees_unused_stores_and_keeps_those_in_use(tmp_path: Path) -> None:
    from gristmill.data import from_arrays, scan
    from gristmill.data.store import clear

    def scanned(grey: int) -> Store:
        pictures = np.full((4, 8, 8), grey, np.uint8)
        pictures[:, 0, 0] += np.arange(4, dtype=np.uint8)
        return scan(from_arrays(pictures, ["a", "a", "b", "b"]), cache=tmp_path).store

    unused, used = scanned(20).uri, scanned(90)
    assert clear(tmp_path) > 0
    with pytest.raises(DataError):
        Store.open(unused)
    assert Store.open(used.uri).rows == 4


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are told by Linux only")
def test_pages_that_were_read_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "squares.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (256, 64, 64, 3), np.uint8))
    squares = np.load(path, mmap_mode="r")
    rows = np.arange(256)
    taken = take(np.asarray(squares), rows)
    assert _resident_kib(path) == 0
    np.testing.assert_array_equal(taken, squares[rows])
    assert _resident_kib(path) > 2000  # reading without it keeps them: the measure can tell


def _resident_kib(path: Path) -> int:
    lines = Path("/proc/self/smaps").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1])


def test_taking_from_a_map_that_was_written_to_keeps_what_was_written(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 4), np.uint8))
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[3] = 7
    take(private, np.arange(8))
    assert private[3].tolist() == [7, 7, 7, 7]
