"""Hostile and damaged .grist files: a clear refusal each, with nothing run, read or written elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.deployment.conftest import saved

from gristmill.deployment import archive, bundle, runtime
from gristmill.deployment.export import Graph
from gristmill.errors import BundleError
from gristmill.task import InputSpec, Target, Task

Parts = dict[str, bytes]
PICTURE = {"longest": 9, "channels": 3, "size": 9}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle that verifies."""
    folder = tmp_path_factory.mktemp("good")
    member = constant(folder / "m")
    task = Task(
        inputs=(InputSpec(name="x", kind="number"),),
        targets=(Target(name="y", task="binary", labels=("no", "yes")),),
        metric="accuracy",
    )
    bundle.write(folder / "good.grist", task=task, members=[(member, 1.0)], created="2026-01-31T12:00:00Z")
    return folder / "good.grist"


def constant(folder: Path) -> Path:
    """A member that always prefers the first of two labels."""
    graph = Graph("constant")
    rows = graph.node("Cast", graph.input("rows", np.uint8, 1), to=1)
    graph.output("y", graph.gemm(rows, np.zeros((2, 1)), [1, 0]), 2)
    return saved(folder, graph, family="constant", output="y", preprocessing={})


def parts_of(path: Path) -> Parts:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def refused(path: Path, match: str) -> None:
    """Every way to open it refuses with the same sentence; `verify` reports instead of raising."""
    for way in (runtime.load, bundle.inspect):
        with pytest.raises(BundleError, match=match):
            way(path)  # type: ignore[operator]
    found = bundle.verify(path)
    assert not found.ok and found.fault


def rewritten(path: Path, parts: Parts, *, list_them: bool = True) -> Path:
    """The parts as a zip of our own form; with hashes in the manifest brought up to date."""
    if list_them:
        record = json.loads(parts["manifest.json"])
        record["files"] = {
            n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)}
            for n, d in parts.items()
            if n != "manifest.json"
        }
        parts = {**parts, "manifest.json": json.dumps(record).encode()}
    archive.write(path, parts)
    return path


def zipped(path: Path, entries: list[tuple[Any, bytes]], **options: Any) -> Path:
    """Any zip at all."""
    with zipfile.ZipFile(path, "w", **options) as made, pytest.MonkeyPatch.context():
        for entry, data in entries:
            made.writestr(entry, data)
    return path


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "a/../../evil.json",
        "/etc/evil.json",
        "C:/evil.json",
        "C:evil.json",
        "a\\..\\evil.json",
        "./a.json",
        "a//b.json",
        "a/",
        "a/b/c/d/e/f.json",
        "con.json",
        "a/NUL.json",
        "lpt1.json",
        "end..json/.",
        "a .json",
        " a.json",
        "a\nb.json",
        "a\x1b[31m.json",
        "\u202egnosj.json",
        "x" * 5000 + ".json",
        ".hidden.json",
        "-rf.json",
        "~/a.json",
        "$HOME.json",
        "été.json",
        "",
    ],
)
def test_names_that_lead_elsewhere(good: Path, tmp_path: Path, name: str) -> None:
    parts = parts_of(good)
    path = zipped(tmp_path / "m.grist", [*_plain(parts), (_info(name), b"{}")])
    refused(path, "name|hides|hidden|overlaps")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.grist"]


def _info(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
    info.filename = name
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def _plain(parts: Parts) -> list[tuple[Any, bytes]]:
    return [(_info(n), d) for n, d in parts.items()]


def test_a_nul_in_a_name(good: Path, tmp_path: Path) -> None:
    """zipfile cuts the name there; the raw one counts."""
    path = zipped(tmp_path / "m.grist", [*_plain(parts_of(good)), (_info("a.jsonXevil"), b"{}")])
    path.write_bytes(path.read_bytes().replace(b"a.jsonXevil", b"a.json\0evil"))
    refused(path, "name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_special_files(good: Path, tmp_path: Path, kind: int) -> None:
    entries = [*_plain(parts_of(good)), (_info("link.json", kind | 0o777), b"/etc/passwd")]
    refused(zipped(tmp_path / "m.grist", entries), "link or another special file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(good: Path, tmp_path: Path) -> None:
    parts = parts_of(good)
    entries = [*_plain(parts), (_info("manifest.json"), parts["manifest.json"])]
    refused(zipped(tmp_path / "m.grist", entries), "twice")


def test_names_that_collide_on_some_systems(good: Path, tmp_path: Path) -> None:
    entries = [*_plain(parts_of(good)), (_info("MODEL-0.onnx"), b"")]
    refused(zipped(tmp_path / "m.grist", entries), "twice")


@pytest.mark.parametrize(
    "name", ["weights.pt", "weights.pkl", "a.npy", "a.joblib", "a.so", "a.py", "a.zip", "a"]
)
def test_members_that_could_be_code(good: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    parts = {**parts_of(good), name: pickle.dumps(_Dangerous(str(marker)))}
    refused(rewritten(tmp_path / "m.grist", parts), "of a kind that no bundle holds")
    assert not marker.exists()


class _Dangerous:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


# ------------------------------------------------------------------ sizes


def test_too_many_members(good: Path, tmp_path: Path) -> None:
    entries = _plain(parts_of(good)) + [(_info(f"n{i}.json"), b"") for i in range(archive.MOST_MEMBERS + 1)]
    refused(zipped(tmp_path / "m.grist", entries), "more than 200")


def test_a_bomb(good: Path, tmp_path: Path) -> None:
    """Nothing is ever inflated: a compressed member is refused by its entry."""
    entries = [*_plain(parts_of(good)), (_info("bomb.json"), bytes(10**7))]
    for entry, _ in entries[-1:]:
        entry.compress_type = zipfile.ZIP_DEFLATED
    path = zipped(tmp_path / "m.grist", entries)
    assert path.stat().st_size < 100_000
    refused(path, "compressed")


@pytest.mark.parametrize("change", [-1, 1, 2**31])
@pytest.mark.parametrize("where", ["both", "uncompressed"])
def test_lying_sizes(good: Path, tmp_path: Path, change: int, where: str) -> None:
    data = bytearray(good.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the last entry of the table of contents
    packed, size = struct.unpack_from("<2L", data, at + 20)
    packed = packed + change if where == "both" else packed
    struct.pack_into("<2L", data, at + 20, packed, size + change)
    (tmp_path / "m.grist").write_bytes(data)
    refused(tmp_path / "m.grist", "hides|longer|contradict|overlaps|damaged|cut off")


def test_overlapping_members(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    first, second = data.index(b"PK\x01\x02"), data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # both at the same place
    (tmp_path / "m.grist").write_bytes(data)
    refused(tmp_path / "m.grist", "overlaps|hides")


@pytest.mark.parametrize("where", ["front", "end", "between"])
def test_something_hidden(good: Path, tmp_path: Path, where: str) -> None:
    data = good.read_bytes()
    directory = data.index(b"PK\x01\x02")
    hidden = {
        "front": b"#!/bin/sh\n" + data,
        "end": data + b"payload",
        "between": data[:directory] + b"payload" + data[directory:],
    }[where]
    (tmp_path / "m.grist").write_bytes(hidden)
    refused(tmp_path / "m.grist", "begin like|added|cut off|contradict|hides")


@pytest.mark.parametrize("what", ["comment", "member comment", "extra"])
def test_hidden_fields(good: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.grist"
    with zipfile.ZipFile(path, "w") as made:
        for info, data in _plain(parts_of(good)):
            info.comment = b"hello" if what == "member comment" else b""
            info.extra = struct.pack("<HH4s", 0x9999, 4, b"evil") if what == "extra" else b""
            made.writestr(info, data)
        made.comment = b"hello" if what == "comment" else b""
    refused(path, "added|hidden|hides|overlaps|contradict")


# ------------------------------------------------------------------ damage


def test_every_flipped_byte_is_noticed(good: Path, tmp_path: Path) -> None:
    data, path = good.read_bytes(), tmp_path / "m.grist"
    for at in range(0, len(data), max(1, len(data) // 300)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        assert not _same(path, good), f"byte {at} of {len(data)}"


def _same(path: Path, good: Path) -> bool:
    """Whether a changed file passes as verified while a member or the manifest is different."""
    if not bundle.verify(path).ok:
        return False
    # bytes that mean nothing (times, a flag of the system) may differ as long as every member is the same
    return parts_of(path) != parts_of(good)


def test_a_tampered_weight(good: Path, tmp_path: Path) -> None:
    parts = parts_of(good)
    parts["model-0.onnx"] = parts["model-0.onnx"][:-1] + b"\x7f"
    path = rewritten(tmp_path / "m.grist", parts, list_them=False)
    with pytest.raises(BundleError, match=r"model-0\.onnx is not the file"):
        runtime.load(path)
    assert not bundle.verify(path).ok


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_cut_file(good: Path, tmp_path: Path, share: float) -> None:
    data = good.read_bytes()
    (tmp_path / "m.grist").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "m.grist", "cut off|empty|begin like")


def test_a_member_taken_away_or_added(good: Path, tmp_path: Path) -> None:
    parts = parts_of(good)
    fewer = {n: d for n, d in parts.items() if n != "card.md"}
    refused(rewritten(tmp_path / "a.grist", fewer, list_them=False), r"card\.md is in the manifest but not")
    more = {**parts, "extra.md": b"hello"}
    refused(rewritten(tmp_path / "b.grist", more, list_them=False), r"extra\.md is in the file but not")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.grist"
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(BundleError):
        runtime.load(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        runtime.load(tmp_path / "absent.grist")
    with pytest.raises(BundleError, match=r"must be a \.grist file"):
        runtime.load(tmp_path)
    with pytest.raises(BundleError):
        bundle.verify(tmp_path / "absent.grist")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.grist")
        with pytest.raises(BundleError, match=r"must be a \.grist file"):
            runtime.load(tmp_path / "pipe.grist")  # and does not wait for a writer


# ------------------------------------------------------------------ the manifest


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], Path]:
    def make(good: Path, path: Path) -> Path:
        parts = parts_of(good)
        record = json.loads(parts["manifest.json"])
        change(record)
        return rewritten(path, {**parts, "manifest.json": json.dumps(record).encode()}, list_them=False)

    return make


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.update(format=99), "formats up to 1.*format 99"),
        (lambda r: r.update(format=True), "does not say its format"),
        (lambda r: r.update(format="1"), "does not say its format"),
        (lambda r: r.pop("format"), "does not say its format"),
        (lambda r: r.pop("members"), "members"),
        (lambda r: r.update(members=[]), "members"),
        (lambda r: r["members"][0].update(file="../x.onnx"), "not in the file"),
        (lambda r: r["members"][0].update(file="golden/expected.json"), "cannot be used"),
        (lambda r: r["members"][0].update(views=["eval"]), "views"),
        (lambda r: r["members"][0].update(weight=-1), "weight"),
        (lambda r: r["members"][0].update(output="z"), "no output"),
        (lambda r: r["members"][0].update(preprocessing={"image": PICTURE}), "picture"),
        (lambda r: r["targets"][0].update(labels=["no", "no"]), "labels"),
        (lambda r: r["targets"][0].update(labels=["no", "yes", "more"]), "3 labels"),
        (lambda r: r["targets"][0].update(calibration={"temperature": 0}), "temperature"),
        (lambda r: r.update(combine="os.system"), "combine"),
        (lambda r: r["files"].update({"model-0.onnx": {"sha256": "x", "bytes": 1}}), "sha256"),
        (lambda r: r.update(inputs=[r["inputs"][0]] * 2), "same name"),
    ],
)
def test_manifests_that_make_no_sense(good: Path, tmp_path: Path, change: Any, match: str) -> None:
    path = changed(change)(good, tmp_path / "m.grist")
    with pytest.raises(BundleError, match=match):
        runtime.load(path)
    assert not bundle.verify(path).ok


def test_nothing_in_a_manifest_names_code(good: Path, tmp_path: Path) -> None:
    """Class paths, remote-code flags and addresses are unknown fields that nobody reads."""

    def change(record: dict[str, Any]) -> None:
        record.update(_target_="os.system", auto_map={"x": "evil.Model"}, trust_remote_code=True)
        record["members"][0].update(
            family="os.system", config={"_target_": "os.system"}, url="file:///etc/passwd"
        )

    path = changed(change)(good, tmp_path / "m.grist")
    assert bundle.verify(path).ok
    assert bundle.inspect(path)["auto_map"] == {"x": "evil.Model"}


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": NaN}',
        b'{"format": 1, "format": 1}',
        b"\xff\xfe",
        b"",
        b"[]",
        b"null",
        b'{"format": 1' + b"0" * 5000 + b"}",
    ],
)
def test_json_traps(good: Path, tmp_path: Path, text: bytes) -> None:
    parts = {**parts_of(good), "manifest.json": text}
    refused(rewritten(tmp_path / "m.grist", parts, list_them=False), "manifest")


def test_golden_examples_that_make_no_sense(good: Path, tmp_path: Path) -> None:
    for text in (
        b"[]",
        b"{}",
        b'{"cases": []}',
        b'{"cases": [{"name": "manifest.json"}]}',
        b'{"cases": [3]}',
    ):
        path = rewritten(tmp_path / "m.grist", {**parts_of(good), "golden/expected.json": text})
        assert not bundle.verify(path).ok


def test_a_bundle_swapped_after_the_check_is_not_read(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hashed is what is used: the file is opened once."""
    path = tmp_path / "m.grist"
    path.write_bytes(good.read_bytes())
    with archive.Archive(path) as opened:
        other = tmp_path / "other"
        other.write_bytes(b"evil")
        os.replace(other, path)
        assert runtime.from_archive(opened).predict([{}])[0].label == "no"


def test_planted_links_at_the_temporary_name_are_not_followed(good: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "m.grist"
    (tmp_path / f".{target.name}.{os.getpid()}.tmp").symlink_to(victim)
    parts = parts_of(good)
    member = tmp_path / "member"
    member.mkdir()
    (member / "model.onnx").write_bytes(parts["model-0.onnx"])
    (member / "member.json").write_text(json.dumps(json.loads(parts["manifest.json"])["members"][0]))
    bundle.write(target, task=runtime.load(good).task, members=[(member, 1.0)])
    assert victim.read_text() == "precious" and bundle.verify(target).ok


def test_hostile_labels_stay_inert(tmp_path: Path) -> None:
    member = constant(tmp_path / "m")
    labels = ("<script>alert(1)</script>\n# heading", "\x1b[31mred\u202e")
    task = Task(
        inputs=(InputSpec(name="x", kind="number"),),
        targets=(Target(name="y", task="binary", labels=labels),),
        metric="accuracy",
    )
    bundle.write(tmp_path / "m.grist", task=task, members=[(member, 1.0)])
    card = bundle.read_text(tmp_path / "m.grist", "card.md")
    assert (
        "<script>" not in card and "\n# heading" not in card and "\x1b" not in card and "\u202e" not in card
    )
    assert runtime.load(tmp_path / "m.grist").predict([{}])[0].label == labels[0]
