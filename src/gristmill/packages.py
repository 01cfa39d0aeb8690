"""Optional packages: what is required, what is installed, and the command that mends what is missing.

Never `pip install` with our own name: the name on the index may not be ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from gristmill.errors import ResourceError

_TRAINING = {
    "torch": "torch",
    "onnx": "onnx",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
}
"""What `fit` cannot do without, by the name under which it is installed, and the one to import."""


def check_training() -> None:
    """Raise ResourceError, with the command that installs them, when packages that `fit` needs are absent."""
    missing = [name for name, module in _TRAINING.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ResourceError(
            "Training needs packages that the core install does not have.",
            got=f"not installed: {', '.join(missing)}",
            next_step=install_training(missing),
        )


def program() -> str:
    """How to call `gristmill` from here, to be pasted into a shell: by name where that finds this one, else
    by where it lies."""
    beside = Path(sys.executable).with_name("gristmill.exe" if os.name == "nt" else "gristmill")
    found = shutil.which("gristmill")
    if not beside.exists() or (found is not None and os.path.samefile(found, beside)):
        return "gristmill"
    return shlex.quote(str(beside))


def needed(name: str, what: str, *, extra: str = "train", also: Iterable[str] = ()) -> Any:
    """The module of an optional package whose module has the same name.

    Args:
        name: The package, one of `extra`.
        what: What needs it, the beginning of a sentence.
        also: Modules that it brings along and that must be there.

    Raises:
        ResourceError: with the command that installs it.
    """
    try:
        for module in also:
            importlib.import_module(module)
        return importlib.import_module(name)
    except ImportError as error:
        command = install_extra(extra, [name])
        raise ResourceError(f"{what} needs the package {name}.", got=error, next_step=command) from None


def requirements(extra: str) -> Mapping[str, str]:
    """Requirement by package name, of the core (`""`) or of an extra, as the installed metadata have them."""
    try:
        lines = metadata.requires("gristmill") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if (f'"{extra}"' in marker.replace("'", '"')) if extra else ("extra" not in marker):
            found[re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]] = requirement.strip()
    return {name: text for name, text in found.items() if name != "gristmill"}


def version(package: str) -> str | None:
    """The installed version of a package; None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The release part of a version as numbers: `2.13.0+cpu` is (2, 13, 0), `1.22rc1` is (1, 22)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def install(*what: str) -> str:
    """The command that installs requirements (or passes options, which begin with a dash)."""
    words = " ".join(w if w.startswith("-") else f'"{w}"' for w in what)
    return f"{_quoted(sys.executable)} -m pip install {words}"


def install_extra(extra: str, names: Iterable[str]) -> str:
    """The command that installs packages of an extra, in the versions that it asks for."""
    known = requirements(extra)
    return install(*(known.get(name, name) for name in names))


def install_training(missing: Iterable[str]) -> str:
    """From a clone its set-up, which picks the right build of torch; otherwise the packages by name."""
    script = _clone() / "scripts" / "setup.py"
    if script.is_file():
        return f"{_quoted(sys.executable)} {_quoted(str(script))}"
    return install_extra("train", missing)


def upgrade() -> str:
    """How to get a newer version of this package from where this one came from."""
    if (_clone() / ".git").exists():
        return f"git -C {_quoted(str(_clone()))} pull"
    return "install a newer version of gristmill from where this one came from"


def _clone() -> Path:
    """The folder that would hold `scripts/` if this package is used from a clone."""
    return Path(__file__).resolve().parents[2]


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
