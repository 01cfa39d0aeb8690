"""What must not stand in the source: code from data, shells, downloads, this or that machine's paths."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "gristmill"

# Written in two halves so that this file does not hold what it forbids.
PLACES = ["/wo" + "rk/", "/ro" + "ot/", "/fa" + "rm/", "/ho" + "me/", r"/tm" + r"p/\w", "/Us" + "ers/"]
HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "anaconda" + ".org",
         "npm" + "js.org"]  # fmt: skip


def _tracked() -> list[Path]:
    """Text files under version control; all files where there is no git (a source archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:1024]]


def test_no_tracked_file_names_a_place_of_some_machine_or_a_registry_host() -> None:
    pattern = re.compile(
        "|".join([rf"(?<![\w.~*}}-]){place}" for place in PLACES] + [re.escape(h) for h in HOSTS])
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _tracked()
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        )
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: file, name as written, node."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node


def _imported() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path.relative_to(SOURCE).as_posix(), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path.relative_to(SOURCE).as_posix(), node.module


def test_no_pickle_is_read_but_the_one_embedded_file_of_weights() -> None:
    bad = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not [(f, m) for f, m in _imported() if m.split(".")[0] in bad]
    loads = [(file, node) for file, name, node in _calls() if name == "torch.load"]
    assert [file for file, _ in loads] in ([], ["models/weights.py"])
    assert all("weights_only=True" in ast.unparse(node) for _, node in loads)


def test_nothing_runs_code_from_data_or_through_a_shell() -> None:
    for file, name, node in _calls():
        text = ast.unparse(node)
        assert name not in {"eval", "exec", "compile", "os.system", "os.popen"}, f"{file}: {text}"
        assert "shell=True" not in text and "allow_pickle=True" not in text, f"{file}: {text}"


def test_nothing_downloads() -> None:
    clients = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "huggingface_hub", "ftplib"}
    assert not [(f, m) for f, m in _imported() if m in clients or m.split(".")[0] in clients]


def test_telemetry_of_others_is_off_before_anything_is_imported() -> None:
    text = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    for name in ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        assert name in text


def test_no_message_installs_our_own_name_from_an_index() -> None:
    pattern = re.compile(r"pip\s+install\s+(?:-\S+\s+)*\W{0,2}gristmill")
    found = [
        f"{path.relative_to(SOURCE)}: {match.group()}"
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in (".py", ".html")
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "the name on the index may not be ours: use gristmill.packages"
