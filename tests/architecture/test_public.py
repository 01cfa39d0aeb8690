"""The public names and the command line are frozen in public.json: a change must edit that file knowingly."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

FROZEN = Path(__file__).with_name("public.json")
STEPS = ("data", "models", "search", "training", "evaluation", "deployment")
MODULES = ("gristmill", "gristmill.sklearn", "gristmill.report", *(f"gristmill.{step}" for step in STEPS))


def names() -> dict[str, list[str]]:
    """The public names of each public module: its `__all__`, else what it defines without an underscore."""
    return {module: sorted(_public(importlib.import_module(module))) for module in MODULES}


def _public(module: Any) -> list[str]:
    own = [
        n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__
    ]
    return list(getattr(module, "__all__", own))


def commands() -> dict[str, list[str]]:
    """The options (and arguments, in capitals) of each command."""
    import typer.main

    from gristmill.cli import app

    return dict(sorted(_commands("gristmill", typer.main.get_command(app))))


def _commands(path: str, command: Any) -> list[tuple[str, list[str]]]:
    shown = [max(p.opts, key=len) if p.opts[0].startswith("-") else p.name.upper() for p in command.params]
    found = [(path, sorted(name for name in shown if name != "--help"))]
    for name, child in getattr(command, "commands", {}).items():
        found += _commands(f"{path} {name}", child)
    return found


def _difference(old: dict[str, list[str]], new: dict[str, list[str]]) -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = set(old.get(key, ())), set(new.get(key, ()))
        lines += [f"- {key}: {name}" for name in sorted(before - after)]
        lines += [f"+ {key}: {name}" for name in sorted(after - before)]
    return lines


@pytest.mark.parametrize(("kind", "current"), [("names", names), ("commands", commands)])
def test_nothing_public_changes_by_accident(kind: str, current: Any) -> None:
    found = _difference(json.loads(FROZEN.read_text(encoding="utf-8"))[kind], current())
    assert not found, f"if this is meant, edit {FROZEN.name} and CHANGELOG.md:\n" + "\n".join(found)


def test_every_public_name_can_be_had() -> None:
    for module, listed in names().items():
        for name in listed:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
