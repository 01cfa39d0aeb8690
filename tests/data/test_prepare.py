"""Scan and prepare: facts, reuse, kill-safety, and the same pixels in the store as in a bundle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gristmill
from gristmill import data
from gristmill.data import image
from gristmill.data.prepare import Prepared, scan
from gristmill.data.source import Source, from_arrays, read
from gristmill.errors import DataError, ResourceError

prepare_module = sys.modules["gristmill.data.prepare"]
RNG = np.random.default_rng(3)
SIZES = [(31, 17), (300, 100), (224, 224), (1, 1), (260, 390), (5, 90)]
FORMATS = {
    "jpg": ("L", "RGB", "CMYK"),
    "png": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"),
    "webp": ("RGB", "RGBA"),
    "bmp": ("1", "L", "RGB", "P"),
    "gif": ("P",),
    "tif": ("L", "RGB", "I;16"),
}


def drawn(mode: str, size: tuple[int, int], turn: int = 1) -> tuple[Image.Image, dict[str, object]]:
    noise = RNG.integers(0, 256, (7, 9, 3), np.uint8)
    base = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = turn
    options: dict[str, object] = {"exif": exif} if turn > 1 else {}
    if mode == "I;16":
        return Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 200), options
    return base.convert(mode), options


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Two class folders of pictures of every mode, format, size and EXIF turn."""
    tmp_path, count = tmp_path_factory.mktemp("mixed"), 0
    for ending, modes in FORMATS.items():
        for mode in modes:
            for size in SIZES:
                folder = tmp_path / "data" / "ab"[count % 2]
                folder.mkdir(parents=True, exist_ok=True)
                turn = 1 + count % 8 if ending in ("jpg", "png", "tif") else 1
                picture, options = drawn(mode, size, turn)
                picture.save(folder / f"{count:03}{mode.replace(';', '')}.{ending}", **options)
                count += 1
    return read(tmp_path / "data")


def small(tmp_path: Path, n: int = 8, side: int = 20) -> Source:
    for i in range(n):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (side, side + i, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"picture{chr(97 + i % 26)}{i}.png")
    return read(tmp_path / "data")


@pytest.mark.parametrize("longest", [32, 224])
def test_training_and_bundle_see_the_same_bytes(mixed: Source, tmp_path: Path, longest: int) -> None:
    store = scan(mixed, longest=longest, cache=tmp_path / "cache").store
    spec = store.spec("image").spec
    assert spec == {"channels": 3, "size": longest}
    rows = store.gather(np.arange(store.rows))
    for size, how in ((24, "squash"), (longest, "pad"), (48, "crop")):
        made = store.squares("image", size, how)
        for i, path in enumerate(mixed.inputs["image"]):
            single = image.decode(
                Path(path).read_bytes(), longest=spec["size"], channels=spec["channels"], importing=True
            ).pixels
            height, width = rows["image.box"][i]
            assert np.array_equal(rows["image"][i, :height, :width], single), path
            assert not rows["image"][i, height:].any() and not rows["image"][i, :, width:].any()
            assert np.array_equal(made[i], image.to_square(single, size, how)), (path, size, how)


def test_facts_say_what_is_in_the_files(mixed: Source, tmp_path: Path) -> None:
    facts = scan(mixed, cache=tmp_path / "cache").facts
    assert set(facts) == {
        "sha", "error", "dhash", "width", "height", "mode", "format", "turned", "animated", "mean", "std",
    }  # fmt: skip
    for name, dtype in {"dhash": "uint64", "width": "int32", "height": "int32", "mean": "float32"}.items():
        assert facts[name].dtype == dtype
    assert facts["error"].tolist() == [None] * mixed.rows
    assert set(facts["format"]) == {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"}
    for i, path in enumerate(mixed.inputs["image"]):
        about = image.header(path, importing=True)
        assert facts["sha"][i] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert (facts["width"][i], facts["height"][i], facts["mode"][i]) == (
            about.width,
            about.height,
            about.mode,
        )
        assert facts["turned"][i] == about.turned
    assert facts["turned"].any() and not facts["animated"].any()


def test_the_store_is_grey_only_when_every_picture_is_and_no_larger_than_the_pictures(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        drawn(("L", "I;16", "1", "LA")[i], (30, 20))[0].save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
    grey = scan(read(tmp_path / "data"), cache=tmp_path / "cache")
    assert grey.store.spec("image").spec == {"channels": 1, "size": 30}
    drawn("RGB", (10, 90))[0].save(tmp_path / "data" / "a" / "colour.png")
    assert scan(read(tmp_path / "data"), longest=50, cache=tmp_path / "cache").store.spec("image").spec == {
        "channels": 3, "size": 50,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("modes", "channels"), [("LLLL", 1), ("LLLR", 3), ("RLLL", 3), ("LRLL", 3)]
)  # fmt: skip
@pytest.mark.parametrize("longest", [10, 25, 100])
def test_the_survey_of_headers_may_stop_early_but_not_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: str, channels: int, longest: int
) -> None:
    monkeypatch.setattr(prepare_module, "_HEADERS_PER_CHUNK", 1)
    pictures = [drawn({"L": "L", "R": "RGB"}[m], (8, 20 + i))[0] for i, m in enumerate(modes)]
    found = scan(from_arrays(pictures, ["a", "b"] * 2), longest=longest, cache=tmp_path)
    assert found.store.spec("image").spec == {"channels": channels, "size": min(longest, 23)}


def test_bad_pictures_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    source = small(tmp_path)
    bad = {
        "empty.jpg": b"",
        "text.png": b"no picture",
        "cut.png": Path(source.inputs["image"][0]).read_bytes()[:200],
    }
    for name, content in bad.items():
        (tmp_path / "data" / "a" / name).write_bytes(content)
    misnamed = tmp_path / "data" / "a" / "really_a_png.jpg"
    drawn("RGB", (9, 9))[0].save(misnamed, "PNG")
    source = read(tmp_path / "data")
    found = scan(source, cache=tmp_path / "cache")
    reasons = {Path(n).name: e for n, e in zip(source.names, found.facts["error"], strict=True) if e}
    assert set(reasons) <= set(bad) and "cut.png" in reasons
    row = next(i for i, n in enumerate(source.names) if n.endswith("really_a_png.jpg"))
    assert found.facts["format"][row] == "PNG" and found.facts["error"][row] is None
    lost = next(i for i, n in enumerate(source.names) if n.endswith("cut.png"))
    got = found.store.gather(np.array([lost]))
    assert not got["image"].any() and got["image.box"].tolist() == [[0, 0]]
    assert not found.store.squares("image", 8)[lost].any()


def test_animated_pictures_give_their_first_frame_and_are_said(tmp_path: Path) -> None:
    small(tmp_path)
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "data" / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    source = read(tmp_path / "data")
    facts = scan(source, cache=tmp_path / "cache").facts
    assert [source.names[i] for i in np.flatnonzero(facts["animated"])] == ["a/moving.gif"]


def test_unchanged_data_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small(tmp_path)
    first = scan(source, cache=tmp_path / "cache")
    monkeypatch.setattr(prepare_module, "_scan_anew", None)
    again = scan(read(tmp_path / "data"), cache=tmp_path / "cache")
    assert again.reused and not first.reused
    assert again.store.uri == first.store.uri
    for name, values in first.facts.items():
        assert again.facts[name].dtype == values.dtype and again.facts[name].tolist() == values.tolist()


def test_changed_data_another_size_or_a_lost_store_are_read_again(tmp_path: Path) -> None:
    source, cache = small(tmp_path), tmp_path / "cache"
    first = scan(source, cache=cache)
    assert not scan(source, longest=10, cache=cache).reused
    Image.new("RGB", (9, 9)).save(source.inputs["image"][0])
    changed = scan(read(tmp_path / "data"), cache=cache)
    assert not changed.reused and changed.store.key != first.store.key
    shard = next(changed.store.folder.glob("0.0*.npy"))
    shard.write_bytes(b"damaged")
    mended = scan(read(tmp_path / "data"), cache=cache)
    assert not mended.reused and mended.store.gather(np.array([0]))["image"].shape[0] == 1


def test_touched_but_equal_files_find_the_same_store(tmp_path: Path) -> None:
    first = scan(small(tmp_path), cache=tmp_path / "cache")
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (1, 1))
    assert scan(read(tmp_path / "data"), cache=tmp_path / "cache").store.uri == first.store.uri
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    source = small(tmp_path)
    gone = Path(source.inputs["image"][0])
    content = gone.read_bytes()
    gone.unlink()
    first = scan(source, cache=tmp_path / "cache")
    assert first.facts["error"][0] == "no such file" and first.facts["sha"][0] == ""
    gone.write_bytes(content)
    again = scan(source, cache=tmp_path / "cache")
    assert not again.reused and again.facts["error"][0] is None


def test_progress_ends_at_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "_MOST_ROWS_PER_CHUNK", 3)
    seen: list[tuple[int, int]] = []
    scan(small(tmp_path), cache=tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 8), (6, 8), (8, 8)]


def test_pictures_in_memory_are_stored_as_they_are(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (12, 10, 14), np.uint8)
    labels = ["x", "y"] * 6
    for x in (pixels, [Image.fromarray(p) for p in pixels]):
        found = scan(from_arrays(x, labels), cache=tmp_path / "cache")
        assert found.store.spec("image").spec == {"channels": 1, "size": 14}
        assert np.array_equal(found.store.gather(np.arange(12))["image"][:, :10, :, 0], pixels)
        assert len(set(found.facts["sha"])) == 12


def test_a_table_is_stored_with_one_hash_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "a,b,y\n" + "".join(f"{i % 7 / 4},{'rgb'[i % 3]},{i % 2}\n" for i in range(84))
    )
    source = read(tmp_path / "t.csv", target="y")
    found = scan(source, cache=tmp_path / "cache")
    got = found.store.gather(np.arange(84))
    for name in ("a", "b"):
        assert got[name].tolist() == source.inputs[name].tolist()
    assert len(set(found.facts["sha"])) == 21 and found.facts["sha"][0] == found.facts["sha"][21]
    assert found.facts["error"].tolist() == [None] * 84
    assert scan(read(tmp_path / "t.csv", target="y"), cache=tmp_path / "cache").reused


def test_a_full_disk_stops_the_scan_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    source = small(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="GRISTMILL_CACHE"):
        scan(source, cache=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


SCAN = """
import sys
from gristmill.data import image
from gristmill.data.prepare import scan
from gristmill.data.source import read
decode, seen = image.decode, []
def slow(*a, **k):
    seen.append(1)
    if len(seen) == 5:
        print("in the middle", flush=True)
        sys.stdin.readline()
    return decode(*a, **k)
image.decode = slow
scan(read(sys.argv[1]), cache=sys.argv[2], threads=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_kill_in_the_middle_leaves_nothing_that_is_found_later(tmp_path: Path) -> None:
    source, cache = small(tmp_path), tmp_path / "cache"
    home = str(Path(gristmill.__file__).parents[1])
    worker = subprocess.Popen(
        [sys.executable, "-c", SCAN, str(tmp_path / "data"), str(cache)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": home},
    )  # fmt: skip
    assert worker.stdout is not None and worker.stdin is not None
    assert worker.stdout.readline() == b"in the middle\n"
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=30)
    assert [p.name[:5] for p in (cache / "stores").iterdir()] == [".tmp-"]
    found = scan(source, cache=cache)
    assert not found.reused and found.facts["error"].tolist() == [None] * 8
    assert [p.name for p in (cache / "stores").iterdir()] == [found.store.key]


# ---------------------------------------------------------------- prepare


def prepared_of(source: Source, folder: Path) -> Prepared:
    found = scan(source, cache=folder.parent / "cache")
    audited = data.audit(source, found)
    return data.prepare(source, found, audited, data.split(source, audited), folder)


def test_prepared_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = prepared_of(small(tmp_path, n=60), tmp_path / "run" / "prepared")
    again = Prepared.open(tmp_path / "run" / "prepared")
    assert (again.task, again.store_uri, again.names) == (made.task, made.store_uri, made.names)
    assert again.task.inputs[0].spec == {"channels": 3, "size": 79}
    for part in ("train", "valid", "calib", "test"):
        rows = getattr(again.parts, part)
        assert np.array_equal(rows, getattr(made.parts, part)) and len(rows)
    assert again.parts.notes == made.parts.notes
    assert set(again.views) == set(made.views) and "all" in again.views
    for name, view in made.views.items():
        assert np.array_equal(again.views[name].rows, view.rows) and again.views[name].hash == view.hash
    assert again.batch_targets(np.array([0, 1]))["label"].tolist() == made.targets["label"][:2].tolist()
    assert again.class_counts.sum() == len(again.parts.train)
    assert again.store().rows == 60


def test_views_with_weights_and_regression_survive(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * 0.5 + i % 7}\n" for i in range(100))
    (tmp_path / "t.csv").write_text("a,y\n" + rows)
    source = read(tmp_path / "t.csv", target="y", task="regression", inputs="a")
    made = prepared_of(source, tmp_path / "p")
    weights = np.linspace(0, 1, len(made.parts.train), dtype=np.float32)
    weighted = replace(made.views["all"], weights=weights, name="weighted")
    made = replace(made, views={**made.views, "weighted": weighted})
    description = prepare_module._write_arrays(made, tmp_path / "p")
    (tmp_path / "p" / "prepared.json").write_text(json.dumps(description))
    again = Prepared.open(tmp_path / "p")
    assert np.array_equal(again.views["weighted"].weights, weights)
    assert again.views["all"].weights is None
    assert again.targets["y"].dtype == np.float64 and again.class_counts.size == 0


def test_preparing_again_replaces_what_was_there(tmp_path: Path) -> None:
    source = small(tmp_path, n=60)
    prepared_of(source, tmp_path / "p")
    files = {p.name for p in (tmp_path / "p").iterdir()}
    found = scan(source, cache=tmp_path / "cache")
    audited = data.audit(source, found)
    data.prepare(source, found, audited, data.split(source, audited, seed=5), tmp_path / "p")
    now = {p.name for p in (tmp_path / "p").iterdir()}
    assert len(now) == len(files) and now != files
    assert Prepared.open(tmp_path / "p").store().rows == 60


def test_folds_are_kept_with_the_parts(tmp_path: Path) -> None:
    source = small(tmp_path, n=60)
    found = scan(source, cache=tmp_path / "cache")
    audited = data.audit(source, found)
    for below in (0, 1000):
        parts = data.split(source, audited, folds_below=below)
        data.prepare(source, found, audited, parts, tmp_path / "p")
        again = Prepared.open(tmp_path / "p").parts
        assert np.array_equal(again.train, parts.train) and again.notes == parts.notes
        assert (again.folds is None) == (parts.folds is None) == (below == 0)
        assert below == 0 or (np.array_equal(again.folds, parts.folds) and again.folds.dtype == np.int64)


def test_the_record_of_an_older_version_has_no_folds(tmp_path: Path) -> None:
    source = small(tmp_path, n=60)
    found = scan(source, cache=tmp_path / "cache")
    audited = data.audit(source, found)
    data.prepare(source, found, audited, data.split(source, audited, folds_below=0), tmp_path / "p")
    path = tmp_path / "p" / "prepared.json"
    record = json.loads(path.read_text())
    del record["folds"]
    path.write_text(json.dumps({**record, "version": 1}))
    assert Prepared.open(tmp_path / "p").parts.folds is None


@pytest.mark.parametrize("text", [None, "", "{}", '{"version": 99}'])
def test_what_was_not_prepared_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "prepared.json").write_text(text)
    with pytest.raises(DataError, match="prepared data"):
        Prepared.open(tmp_path)


def some_rows(source: Source, step: int) -> Source:
    rows = np.arange(0, source.rows, step)
    return replace(
        source,
        names=tuple(source.names[i] for i in rows),
        inputs={name: values[rows] for name, values in source.inputs.items()},
        targets={name: values[rows] for name, values in source.targets.items()},
        given=source.given[rows],
    )


def test_thousands_of_tiny_pictures_are_scanned_quickly_and_then_reused(
    shared_data: Path, tmp_path: Path
) -> None:
    source = some_rows(read(shared_data / "cifar10-12k"), 6)
    started = time.process_time()
    found = scan(source, cache=tmp_path / "cache")
    assert time.process_time() - started < 5  # 0.9 s when nothing else runs
    started = time.process_time()
    assert scan(source, cache=tmp_path / "cache").reused
    assert time.process_time() - started < 0.5  # 2 s for all 12,000 is the promise
    assert found.facts["error"].tolist() == [None] * 2000
    assert found.store.spec("image").spec == {"channels": 3, "size": 32}


def test_the_real_photos_are_the_same_in_store_and_bundle(shared_data: Path, tmp_path: Path) -> None:
    few = some_rows(read(shared_data / "trashnet-320"), 40)
    store = scan(few, cache=tmp_path / "cache").store
    made = store.squares("image", 96, "squash")
    for i, path in enumerate(few.inputs["image"]):
        assert np.array_equal(
            made[i], image.to_square(image.decode(path, longest=224, channels=3).pixels, 96)
        )


def test_data_imports_no_torch() -> None:
    home = str(Path(gristmill.__file__).parents[1])
    code = "import sys, gristmill.data; print(sorted({'torch', 'pandas', 'sklearn'} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": home}
    )
    assert out.stdout == "[]\n", out.stderr
    assert callable(data.audit) and callable(data.prepare) and callable(data.split)
    assert set(data.__all__) <= set(dir(data))
