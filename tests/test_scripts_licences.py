"""scripts/licences.py: allowed licences pass, others do not, an exception is for one version."""

from __future__ import annotations

import importlib.util
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "licences.py"


@pytest.fixture(scope="module")
def licences() -> Any:
    spec = importlib.util.spec_from_file_location("gristmill_licences_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _distribution(**fields: str) -> Any:
    metadata = Message()
    for name, value in fields.items():
        metadata[name.replace("_", "-")] = value
    return SimpleNamespace(name="some-package", version="1.0", metadata=metadata)


@pytest.mark.parametrize(
    "fields",
    [
        {"License_Expression": "BSD-3-Clause AND 0BSD AND MIT"},
        {"License_Expression": "Apache-2.0 WITH LLVM-exception"},
        {"License_Expression": "GPL-3.0-only OR MIT"},
        {"Classifier": "License :: OSI Approved :: Apache Software License"},
        {"License": "MIT License\n\nCopyright (c) Somebody"},
        {"License": "3-Clause BSD License"},
    ],
)
def test_permissive_licences_pass(licences: Any, fields: dict[str, str]) -> None:
    assert licences.problem(_distribution(**fields), {}) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"License_Expression": "AGPL-3.0-only"},
        {"License_Expression": "MIT AND GPL-3.0-only"},
        {"License_Expression": "BUSL-1.1"},
        {"Classifier": "License :: OSI Approved :: GNU Affero General Public License v3"},
        {"License": "UNKNOWN"},
        {"License": "free for non-commercial use"},
        {},
    ],
)
def test_the_rest_does_not(licences: Any, fields: dict[str, str]) -> None:
    assert licences.problem(_distribution(**fields), {})


def test_an_exception_holds_for_the_version_that_was_reviewed(licences: Any) -> None:
    unknown = _distribution(License="UNKNOWN")
    reviewed = {"some-package": {"versions": ["1.0"], "licence": "Apache-2.0", "why": "its LICENSE file"}}
    assert licences.problem(unknown, reviewed) is None
    unknown.version = "1.1"
    assert "reviewed for 1.0 only" in licences.problem(unknown, reviewed)
    copyleft = {"some-package": {"versions": ["1.1"], "licence": "AGPL-3.0-only", "why": ""}}
    assert "not allowed" in licences.problem(unknown, copyleft)


def test_this_environment_passes(licences: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert licences.main([]) == 0, capsys.readouterr().out
