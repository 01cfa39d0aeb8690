"""Optional packages: what is absent is named with the command that installs it, never with our own name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from gristmill import packages
from gristmill.errors import ResourceError


@pytest.fixture
def no_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_clone", lambda: tmp_path)


def test_with_the_training_packages_nothing_is_said() -> None:
    packages.check_training()


@pytest.mark.usefixtures("no_clone")
def test_a_training_package_that_is_absent_is_named_by_what_pip_calls_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else object())
    with pytest.raises(ResourceError, match="not installed: scikit-learn") as caught:
        packages.check_training()
    assert caught.value.exit_code == 4
    assert f'-m pip install "{packages.requirements("train")["scikit-learn"]}"' in str(caught.value)


def test_from_a_clone_its_set_up_picks_the_right_build_of_torch() -> None:
    assert packages.install_training(["torch"]).endswith("setup.py")


@pytest.mark.usefixtures("no_clone")
def test_without_a_clone_the_packages_are_named_and_never_our_own_name() -> None:
    command = packages.install_training(["torch", "scipy"])
    assert "torch>=" in command and "scipy>=" in command
    assert "gristmill" not in command.partition("pip install")[2]


def test_what_the_metadata_do_not_know_is_installed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requirements", lambda extra: {})
    assert packages.install_extra("optuna", ["optuna"]) == packages.install("optuna")


def test_a_path_with_a_space_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "C:/My Programs/python.exe")
    assert packages.install("ray") == '"C:/My Programs/python.exe" -m pip install "ray"'


def test_a_newer_version_comes_from_where_this_one_came_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "_clone", lambda: tmp_path)
    assert "from where this one came from" in packages.upgrade()
    (tmp_path / ".git").mkdir()
    assert packages.upgrade() == f"git -C {tmp_path} pull"


def test_a_version_is_compared_by_its_numbers() -> None:
    assert packages.numbers("2.13.0+cpu") == (2, 13, 0)
    assert packages.numbers("1.22rc1") == (1, 22)
    assert packages.version("a-package-that-nobody-has") is None
