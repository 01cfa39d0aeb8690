"""Who may import whom: the table of docs/tour.md, read from the source with ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gristmill"

VOCABULARY = {"errors", "packages", "task", "space", "segment", "deadline", "device"}
STEPS = {"data", "models", "search", "training", "evaluation", "deployment"}
CONDUCTOR = {
    *("automl", "experience", "finish", "interrupts", "limits", "narrative", "planning", "reading"),
    *("results", "run", "scoring", "trials"),
}
FACES = {"cli", "sklearn", "doctor", "quickstart", "__main__"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "packages": {"errors"},
    "task": {"errors"},
    "space": {"errors"},
    "segment": {"errors"},
    "deadline": {"errors"},
    "device": {"errors"},
    "data": {"task", "deadline", "packages", "errors"},
    "models": {"task", "space", "device", "errors"},
    "search": {"space", "segment", "deadline", "packages", "errors"},
    "evaluation": {"task", "errors"},
    "training": {"data", "models", "evaluation", "space", "segment", "task", "device", "deadline", "errors"},
    "deployment": {"data", "evaluation", "task", "packages", "errors"},
    "report": {"task", "errors"},
    "testing": VOCABULARY | STEPS,
    "__init__": CONDUCTOR | STEPS,  # lazily, by name
    **{name: VOCABULARY | STEPS | CONDUCTOR | {"report"} for name in CONDUCTOR},
    **{name: VOCABULARY | STEPS | CONDUCTOR | {"report"} | FACES for name in FACES},
}
# One file may know more than its folder: it turns trained networks into ONNX.
EXTRA: dict[str, set[str]] = {"deployment/export.py": {"models"}}

# Imported with the module itself; an import inside a function is free.
HEAVY = {"torch", "sklearn", "scipy", "pandas", "polars", "onnx", "safetensors", "psutil", "narwhals"}
CORE_ONLY = (
    *(f"{name}.py" for name in ("errors", "packages", "task", "space", "segment", "deadline", "device")),
    *("evaluation/", "report/", "deployment/", "data/", "search/"),
    *("models/catalog.py", "models/weights.py", "models/__init__.py"),
    *("cli.py", "doctor.py", "__init__.py"),
)
HEAVY_HERE = {"deployment/export.py", "data/augment.py"}


def _modules() -> Iterator[Path]:
    yield from sorted(SOURCE.rglob("*.py"))


def _place(path: Path) -> str:
    """The name in the table: the folder of a step, or the module itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def _imports(tree: ast.AST, *, top_only: bool = False) -> Iterator[str]:
    """Full names of imported modules; `top_only` leaves out functions and `if TYPE_CHECKING`."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside the package are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        todo.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", list(_modules()), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_a_module_imports_only_what_its_row_allows(path: Path) -> None:
    place, relative = _place(path), path.relative_to(SOURCE).as_posix()
    assert place in ALLOWED, f"{place} has no row in the import table: give it one knowingly"
    allowed = ALLOWED[place] | EXTRA.get(relative, set()) | {place}
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] == "gristmill" and len(parts) > 1 and not parts[1].startswith("__version__"):
            assert parts[1] in allowed, f"{relative} may not import gristmill.{parts[1]}"


@pytest.mark.parametrize("path", list(_modules()), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_what_the_core_install_imports_needs_no_extra(path: Path) -> None:
    relative = path.relative_to(SOURCE).as_posix()
    if relative in HEAVY_HERE or not relative.startswith(CORE_ONLY):
        return
    names = {
        name.split(".")[0] for name in _imports(ast.parse(path.read_text(encoding="utf-8")), top_only=True)
    }
    assert not names & HEAVY, f"{relative} imports {sorted(names & HEAVY)} with the module"


def test_search_never_imports_torch_not_even_inside_a_function() -> None:
    for path in (SOURCE / "search").rglob("*.py"):
        names = _imports(ast.parse(path.read_text(encoding="utf-8")))
        assert "torch" not in {name.split(".")[0] for name in names}, path


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    rows = {name: allowed for name, allowed in ALLOWED.items() if name in VOCABULARY | STEPS | {"report"}}
    while rows:
        free = [name for name, allowed in rows.items() if allowed <= set(order)]
        assert free, f"these import each other: {sorted(rows)}"
        order += free
        rows = {name: allowed for name, allowed in rows.items() if name not in free}


def _loaded_after(code: str, *names: str) -> list[str]:
    """Which of `names` are imported in a fresh process that has run `code`."""
    ask = f"{code}\nimport sys; print('\\n' + ' '.join(n for n in {names!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_import_gristmill_imports_nothing_heavy() -> None:
    assert (
        _loaded_after("import gristmill", "torch", "numpy", "pydantic", "rich", "onnxruntime", "typer") == []
    )


def test_help_imports_no_torch_no_pydantic_no_rich() -> None:
    code = "from gristmill.cli import main\nmain(['--help'])"
    assert _loaded_after(code, "torch", "numpy", "pydantic", "rich", "onnxruntime", "fastapi", "pandas") == []


_WITHOUT_EXTRAS = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (an extra)", name=name)
sys.meta_path.insert(0, Absent())
import {module}
"""


@pytest.mark.parametrize(
    "module",
    [
        "gristmill.automl",  # the driver of a run, too: networks are the workers' business (decision 2)
        "gristmill.scoring",
        "gristmill.trials",
        "gristmill.quickstart",
        "gristmill.deployment.runtime",
        "gristmill.deployment.bundle",
        "gristmill.deployment.server",
        "gristmill.evaluation",
        "gristmill.data",
        "gristmill.data.image",
        "gristmill.data.table",
        "gristmill.report",
        "gristmill.doctor",
        "gristmill.cli",
    ],
)
def test_predict_evaluate_and_serve_work_from_the_core_install(module: str) -> None:
    code = _WITHOUT_EXTRAS.format(heavy=sorted(HEAVY), module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
