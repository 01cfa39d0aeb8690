"""Scripts of benchmarks/ as modules: no package, and found by the path that they set themselves."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(name: str, path: str) -> ModuleType:
    """The script at `path` below benchmarks/, as the module `name`; the import path is left as it was."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules[name] = module
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module
