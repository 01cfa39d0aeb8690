"""Optional packages: what is absent is named with the command that installs it, never with our own name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
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


@pytest.mark.usefixtures("no_clone")
def test_an_optional_package_that_is_used_and_absent_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert packages.needed("pandas", "A table").__name__ == "pandas"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResourceError, match="A table needs the package pandas") as caught:
        packages.needed("pandas", "A table")
    assert f'-m pip install "{packages.requirements("train")["pandas"]}"' in str(caught.value)


def test_a_frame_without_narwhals_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    from gristmill.data import from_arrays

    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ResourceError, match=r"narwhals(.|\n)*pip install"):
        from_arrays(pandas.DataFrame({"x": [1.0, 2.0] * 4}), [0, 1] * 4)


def test_estimators_without_scikit_learn_name_the_command() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from gristmill.errors import ResourceError\n"
        "try: import gristmill.sklearn\n"
        "except ResourceError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not installed: scikit-learn" in done.stdout
    assert packages.install_training(["scikit-learn"]) in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_the_program_is_named_so_that_it_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my env").mkdir()
    mine, other = tmp_path / "my env" / "gristmill", tmp_path / "gristmill"
    for file in (mine, other):
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(mine.with_name("python")))
    monkeypatch.setenv("PATH", str(mine.parent))
    assert packages.program() == "gristmill"
    for path in (str(other.parent), ""):
        monkeypatch.setenv("PATH", path)
        assert packages.program() == f"'{mine}'"
    mine.unlink()
    assert packages.program() == "gristmill"
