"""The shape of the source: short functions, bounded modules, names that say what is inside."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "gristmill"
VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of code (no blank lines, comments or docstring) of every function in a file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            described = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            skipped = set(range(first.lineno, (first.end_lineno or 0) + 1)) if described else set()
            span = (n for n in range(node.lineno, (node.end_lineno or 0) + 1) if n not in skipped)
            code = [n for n in span if lines[n - 1].strip() and not lines[n - 1].strip().startswith("#")]
            yield f"{path.relative_to(ROOT).as_posix()}:{node.name}", len(code)


def test_functions_are_short() -> None:
    sizes = sorted(size for path in _sources("src") for _, size in _functions(path))
    longest = sorted((f for path in _sources("src") for f in _functions(path)), key=lambda f: -f[1])[:8]
    assert statistics.median(sizes) <= 10, longest
    assert sizes[int(0.95 * (len(sizes) - 1))] <= 50, longest


def test_no_module_passes_800_lines_without_a_recorded_reason() -> None:
    decisions = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "decisions").glob("*.md"))
    for path in _sources("src", "scripts"):
        relative = path.relative_to(ROOT).as_posix()
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 800 or relative in decisions, (
            f"{relative} has {lines} lines and no line in docs/decisions"
        )


def test_no_file_has_a_name_that_says_nothing() -> None:
    for path in _sources("src", "tests", "scripts"):
        assert path.stem not in VAGUE, f"{path.relative_to(ROOT)}: name it for what it holds"


def test_every_public_thing_says_what_it_is() -> None:
    """Public modules, classes and functions have a docstring (methods are left to judgement)."""
    missing = []
    for path in _sources("src"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
        relative = path.relative_to(ROOT).as_posix()
        missing += [] if ast.get_docstring(tree) or not tree.body else [relative]
        missing += [f"{relative}:{n.name}" for n in named if n.name[0] != "_" and not ast.get_docstring(n)]
    assert not missing
