"""Every error says the next step: each place in the source that makes one passes `next_step`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from gristmill import errors

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gristmill"
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.GristmillError)
}
WITHOUT = {
    ("space.py", "complete"),  # a value out of its domain: the rule says the domain
    ("search/race.py", "complete"),  # the same, of a portfolio that ships with the package
}
"""(file, function) whose errors may have no next step."""


def silent(tree: ast.AST, function: str = "") -> Iterator[tuple[str, int]]:
    """Function and line of each error that is made without `next_step`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ERRORS:
            given = {k.arg: k.value for k in node.keywords}.get("next_step")
            if given is None or (isinstance(given, ast.Constant) and not given.value):
                yield function, node.lineno
        inside = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        yield from silent(node, inside)


def test_every_error_says_the_next_step() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), function): line
        for path in SOURCE.rglob("*.py")
        for function, line in silent(ast.parse(path.read_text(encoding="utf-8")))
    }
    left = [f"{file}:{line}" for (file, where), line in found.items() if (file, where) not in WITHOUT]
    assert not left, "give a next_step in " + ", ".join(sorted(left))
    assert found.keys() >= WITHOUT, "the list of exceptions is longer than it need be"
