"""What goes wrong, as a user sees it: one sentence, the exit code of the README, nothing half-made left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from gristmill.cli import main

pytestmark = pytest.mark.timeout(120)


def pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    """Plain pictures in one folder per class; no two are alike."""
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20 + i, 20), (40 * c, 30 * i, 90)).save(folder / name / f"{i}.png")
    return folder


def told(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and what came on stderr; never a fault of ours, never a traceback."""
    code = main([str(a) for a in arguments])
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "a fault in Gristmill" not in err
    return code, err


def finished(folder: Path) -> Path:
    """A run as `gristmill runs prune` leaves it, with its model beside it."""
    run = folder / "a.run"
    run.mkdir()
    (run / "run.json").write_text('{"version": 1, "identity": "0", "options": {}}')
    (run / "result.json").write_text("{}")
    (folder / "a.grist").write_bytes(b"a model")
    return run


def test_the_audit_prints_its_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(capfd, "audit", pictures(tmp_path / "data"))
    assert code == 0
    assert "reading 8 pictures" in err


def test_a_refused_command_leaves_an_earlier_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path)
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--segments", "1", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "--fresh" in err
    assert (tmp_path / "a.grist").read_bytes() == b"a model"
    assert (run / "result.json").exists()


def test_a_refused_command_leaves_no_run_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data")
    for i in range(2):
        (data / "cat" / f"bad{i}.png").write_bytes(b"")
    code, err = told(capfd, "fit", data, "--segments", "1", "--out", tmp_path / "a.grist")
    assert code == 3
    assert "bad0.png" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_an_unknown_sampler_is_named_with_the_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--sampler", "defualt", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "did you mean default?" in err
    assert not (tmp_path / "a.run").exists()


def test_no_segments_are_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--segments", "0", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "--segments" in err
    assert not (tmp_path / "a.run").exists()


def test_something_else_lies_where_the_run_would(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data")
    (tmp_path / "a.run").write_text("mine")
    (tmp_path / "b.grist").mkdir()
    for name, options in (("a", ()), ("b", ()), ("b", ("--fresh",))):
        code, err = told(capfd, "fit", data, "--segments", "1", "--out", tmp_path / f"{name}.grist", *options)
        assert code == 2
        assert "--out" in err
    assert (tmp_path / "a.run").read_text() == "mine"
    assert (tmp_path / "b.grist").is_dir()


def test_a_folder_that_is_no_run_has_no_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(capfd, "report", pictures(tmp_path / "data"))
    assert code == 2
    assert "run folder" in err


def test_no_name_steers_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data", ("cat", "\x1b[31mred", "evil\u202egpj"))
    assert main(["audit", str(data)]) == 0
    out, err = capfd.readouterr()
    assert "[U+001B]" in out
    assert "[U+202E]" in out
    (data / "cat" / "a\x1b]0;mine\x07.png").write_bytes(b"")
    assert main(["fit", str(data), "--segments", "1", "--out", str(tmp_path / "a.grist")]) == 3
    err += capfd.readouterr().err
    assert not set("\x1b\x07\u202e") & set(out + err)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_no_utf8_is_shown_and_not_fatal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "data")
    (data / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    code, _ = told(capfd, "audit", data)
    assert code == 0
