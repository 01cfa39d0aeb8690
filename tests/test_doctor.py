"""doctor: says what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gristmill import doctor, packages
from gristmill.doctor import KNOWN_BAD, Check, KnownBad


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_machine_can_train_and_every_record_is_json() -> None:
    checks = doctor.examine()
    assert {"python", "system", "cores", "memory", "core packages", "torch", "threads"} <= set(
        _by_name(checks)
    )
    assert json.loads(json.dumps([check.to_json() for check in checks]))[0]["name"] == "python"
    assert all(check.mend for check in checks if check.state != "ok")


def test_a_python_that_is_too_old_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 12))
    check = doctor._python()
    assert (check.state, check.mend) == ("fail", "use Python 3.11 to 3.14")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = packages.version
    monkeypatch.setattr(packages, "version", lambda name: None if name == "pillow" else version(name))
    check = doctor._core()
    assert check.state == "fail"
    assert "pillow" in check.found
    assert check.mend is not None and "-m pip install" in check.mend


def test_a_core_install_without_training_is_fine_and_says_how_to_add_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = set(packages.requirements("train"))
    version = packages.version
    monkeypatch.setattr(packages, "version", lambda name: None if name in train else version(name))
    check = doctor._training()
    assert check.state == "warn"
    assert check.mend is not None and "setup.py" in check.mend


def test_half_an_extra_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = packages.version
    monkeypatch.setattr(packages, "version", lambda name: None if name == "scipy" else version(name))
    assert doctor._training().state == "fail"


def test_a_folder_without_write_permission_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    check = doctor._disk("cache folder", tmp_path / "not" / "there")
    assert check.state == "fail"
    assert "Permission denied" in check.found
    assert check.mend is not None and "GRISTMILL_CACHE" in check.mend


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    check = doctor._disk("current folder", tmp_path)
    assert check.state == "fail"
    assert check.mend is not None and "prune" in check.mend


def test_known_bad_versions_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"lightning": "2.6.3", "pillow": "11.0.0", "onnx": "1.23.2", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(packages, "version", versions.get)
    found = _by_name(list(doctor._known_bad()))
    assert set(found) == {"lightning", "pillow"}
    assert found["pillow"].state == "fail"
    assert found["lightning"].mend is not None and "lightning!=2.6.2,!=2.6.3" in found["lightning"].mend


def test_a_version_is_compared_by_its_numbers() -> None:
    bad = KnownBad(package="x", why="", below="1.21")
    assert bad.covers("1.9.0") and bad.covers("1.20.1")
    assert not bad.covers("1.21.0") and not bad.covers("2.0rc1")
    assert all(entry.below or entry.named for entry in KNOWN_BAD)


def test_a_thread_limit_in_the_environment_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    check = doctor._threads()
    assert check.state == "warn"
    assert check.mend is not None and "unset" in check.mend


def test_ray_is_mentioned_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requirements", lambda extra: {"ray": "ray>=2.60,<3"})
    found: dict[str, str] = {}
    monkeypatch.setattr(packages, "version", found.get)
    assert list(doctor._ray()) == []
    found["ray"] = "2.61.1"
    (new,) = doctor._ray()
    assert (new.state, new.mend) == ("ok", None)
    assert "usage reports off" in new.found
    found["ray"] = "2.40.0"
    (old,) = doctor._ray()
    assert old.state == "warn"
    assert 'install "ray>=2.60,<3"' in str(old.mend)


def test_line_has_the_next_step_only_when_there_is_one() -> None:
    assert Check(name="a", state="ok", found="b").line() == "ok    a: b"
    assert Check(name="a", state="fail", found="b", mend="c").line() == "fail  a: b\n      mend: c"
