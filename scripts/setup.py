"""Set up Gristmill from a clone, with nothing but Python's standard library.

    python3 scripts/setup.py               install what training needs
    python3 scripts/setup.py quickstart    the same, then `gristmill quickstart`
    python3 scripts/setup.py test          the same with the developers' tools, then the tests

Uses the active virtual or conda environment, otherwise makes `.venv` beside this folder. Installs torch
first and alone, because the wrong build of it is several gigabytes: on Linux without an NVIDIA driver the
CPU build. `GRISTMILL_TORCH` (anything that pip takes, for example a path to a wheel) overrides the choice.
A second call finds its stamp and installs nothing.
"""

# The file must at least start on an old Python, to go on with a newer one or to say in one sentence what is
# wrong: its syntax is that of 3.6, and tomllib is imported late.

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)
OLDEST_TORCH = (2, 13)
PLATFORMS = {
    "Linux": ("x86_64", "amd64", "aarch64", "arm64"),
    "Darwin": ("arm64",),
    "Windows": ("amd64", "x86_64"),
}
GIGABYTE = 10**9
# Measured on Linux x86-64 with Python 3.11; other systems differ by some tens of megabytes.
TORCH_MB = {"cpu": 190, "cuda": 3000, "platform": 200}
TORCH_DISK_GB = {"cpu": 0.8, "cuda": 5.6, "platform": 0.8}
OTHERS_MB = {"train": 150, "dev": 40}
OTHERS_DISK_GB = 0.8
STAMP = "gristmill-setup.json"
PROBE = """
import json, sys
from importlib import metadata, util
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "python": list(sys.version_info[:3]), "prefix": sys.prefix, "executable": sys.executable,
    "bits": sys.maxsize.bit_length() + 1,
    "modules": [name for name in ("venv", "ensurepip", "pip") if util.find_spec(name)],
    "torch": version("torch") if util.find_spec("torch") else None,
    "missing": [name for name in sys.argv[1:] if version(name) is None],
}))
"""


class Stop(Exception):  # noqa: N818 (it ends the set-up, not always with an error)
    """One clear sentence for the user, then exit."""

    def __init__(self, sentence, code=4):
        super().__init__(sentence)
        self.code = code


def main(argv=None):
    """Set up, then run what was asked for; the result is the exit code."""
    options = parse(argv)
    try:
        check_platform()
        if not is_supported(sys.version_info):
            return go_on_with(other_interpreter(), argv)
        python = install(options)
        return follow(options, python) if python else 0
    except Stop as stop:
        print(f"gristmill set-up: {stop}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("\ngristmill set-up: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def parse(argv):
    """Read the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("goal", nargs="?", default="install", choices=("install", "quickstart", "test"))
    parser.add_argument("rest", nargs="*", help="after --: passed on to the quickstart or to pytest")
    parser.add_argument("--yes", action="store_true", help="do not ask before downloading")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return parser.parse_args(argv)


def install(options):
    """Make the environment ready; return its Python, or None after a dry run."""
    goal = "dev" if options.goal == "test" else "train"
    python, active = environment_python()
    state = probe(python, wanted(goal)) if python else None
    if active and not state:
        raise Stop(f"the active environment's Python does not run ({python}); deactivate it and try again.")
    if state and is_ready(state, goal):
        say(f"ready: {state['prefix']} (torch {state['torch']}); nothing to install.")
        return python
    if state:
        check_environment(state, active)
    plan = torch_plan(state, active)
    announce(state, plan, goal)
    if options.dry_run:
        return None
    ask(options)
    if not state or "pip" not in state["modules"]:
        python = make_environment(python, state)
    install_torch(python, plan)
    install_rest(python, goal)
    finish(python, goal)
    return python


# Interpreters and environments


def check_platform():
    """Stop unless torch and onnxruntime publish builds for this machine."""
    system, machine = platform.system(), platform.machine().lower()
    if machine not in PLATFORMS.get(system, ()):
        raise Stop(
            "Gristmill runs on Linux (x86-64, aarch64), macOS 14+ (Apple silicon) and Windows (x86-64); "
            f"this is {system or 'an unknown system'} on {machine or 'an unknown processor'}."
        )
    if system == "Darwin" and int((platform.mac_ver()[0] or "99").split(".")[0]) < 14:
        raise Stop(f"Gristmill needs macOS 14 or later; this is macOS {platform.mac_ver()[0]}.")
    if system == "Linux" and Path("/etc/alpine-release").exists():
        raise Stop("torch has no builds for Alpine's musl; use a system such as Debian, Ubuntu or Fedora.")


def other_interpreter():
    """The newest supported interpreter on the path that really runs (a pyenv shim may exist and fail)."""
    for version in supported_versions():
        found = shutil.which("python" + version)
        command = [found] if found else ["py", "-" + version] if os.name == "nt" else None
        state = probe_command(command) if command else None
        if state and is_supported(state["python"]):
            return state["executable"]
    raise Stop(
        f"Gristmill needs Python 3.11 to 3.14 and found only Python {platform.python_version()}; install one "
        "of them (for example python3.12) and run the command again."
    )


def supported_versions():
    """3.14 down to 3.11, as words."""
    return [f"3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]


def is_supported(version):
    """Whether a version (a sequence of numbers) is one we run on."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def go_on_with(python, argv):
    """Run this script again under a supported interpreter."""
    say(f"Python {platform.python_version()} is not supported; going on with {python}.")
    return subprocess.call([python, str(Path(__file__).resolve()), *(sys.argv[1:] if argv is None else argv)])


def environment_python():
    """The Python of the environment to use (None: there is none yet), and whether the user activated it."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = os.environ.get(variable)
        # conda's base is active in every shell by default: nobody chose it for this project
        if prefix and not (variable == "CONDA_PREFIX" and os.environ.get("CONDA_DEFAULT_ENV") == "base"):
            python = python_of(Path(prefix))
            if python is None:
                raise Stop(
                    f"{variable} names {prefix}, but there is no Python in it; deactivate it and run the "
                    "command again."
                )
            return str(python), Path(prefix).resolve() != ROOT / ".venv"
    if sys.prefix != sys.base_prefix:
        return sys.executable, Path(sys.prefix).resolve() != ROOT / ".venv"
    python = python_of(ROOT / ".venv")
    return (str(python), False) if python else (None, False)


def python_of(prefix):
    """The interpreter inside an environment, or None."""
    for name in ("bin/python", "Scripts/python.exe", "python.exe", "bin/python3"):
        if (prefix / name).exists():
            return prefix / name
    return None


def probe(python, names=()):
    """What an interpreter says about itself, or None when it does not run."""
    return probe_command([str(python)], names)


def probe_command(command, names=()):
    """`probe` for a command of several words."""
    try:
        result = subprocess.run(
            [*command, "-c", PROBE, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        return json.loads(result.stdout.decode()) if result.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def check_environment(state, active):
    """Stop for an environment that cannot be used as it is."""
    where, version = state["prefix"], ".".join(str(part) for part in state["python"])
    if not is_supported(state["python"]):
        raise Stop(
            f"Gristmill needs Python 3.11 to 3.14, and the environment {where} has {version}; deactivate or "
            "delete it and run the command again."
        )
    if state["bits"] != 64:
        raise Stop(f"Gristmill needs a 64-bit Python, and {where} has a {state['bits']}-bit one.")
    if active and is_old(state["torch"]) and not os.environ.get("GRISTMILL_TORCH"):
        raise Stop(
            f"the active environment {where} has torch {state['torch']} and Gristmill needs 2.13 or "
            "later; upgrade it there, or deactivate the environment to get a .venv of its own."
        )


def make_environment(python, state):
    """Make `.venv`, mend one that has lost its pip, or give pip to an active environment."""
    if python and probe(python):
        say(f"adding pip to {state['prefix']}")
        run([python, "-m", "ensurepip"], "pip could not be added to the environment")
        return python
    base = next((p for p in base_interpreters() if has_venv(p)), None)
    if base is None:
        raise Stop(
            "this Python cannot make virtual environments; on Debian and Ubuntu the missing package "
            "comes with: sudo apt install python3-venv python{}.{}-venv".format(*sys.version_info)
        )
    say(f"making {ROOT / '.venv'} with {base}")
    # --clear: what is there has no Python that runs
    run([base, "-m", "venv", "--clear", str(ROOT / ".venv")], "the virtual environment could not be made")
    return str(python_of(ROOT / ".venv"))


def base_interpreters():
    """This interpreter first, then the supported ones on the path."""
    yield sys.executable
    for version in supported_versions():
        found = shutil.which("python" + version)
        if found:
            yield found


def has_venv(python):
    """Whether an interpreter runs, is supported, and has venv and ensurepip (Debian packs them apart)."""
    state = probe(python)
    return bool(state and is_supported(state["python"]) and {"venv", "ensurepip"} <= set(state["modules"]))


# What to install


def requirements(group):
    """The requirements of an extra or a dependency group, as pyproject.toml has them."""
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    lists = {
        "core": project["project"]["dependencies"],
        "train": project["project"]["optional-dependencies"]["train"],
        "dev": project["dependency-groups"]["dev"],
    }
    return [item for item in lists[group] if isinstance(item, str)]


def wanted(goal):
    """Names of the distributions that must be there for a goal."""
    groups = ("core", "train", "dev") if goal == "dev" else ("core", "train")
    items = [item for group in groups for item in requirements(group)]
    return ["gristmill"] + [re.split(r"[^A-Za-z0-9._-]", item, maxsplit=1)[0] for item in items]


def release(version):
    """The first two numbers of a version: 2.13.0+cpu is (2, 13)."""
    numbers = re.findall(r"\d+", version)
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else (0, 0)


def is_old(torch):
    """Whether a version of torch (or None) is there and older than what we need."""
    return bool(torch) and release(torch) < OLDEST_TORCH


def pinned_torch():
    """The version of torch in constraints.txt."""
    match = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    if not match:
        raise Stop("constraints.txt must have a line torch==VERSION; it has none.")
    return match.group(1)


def has_nvidia_driver():
    """Whether a driver for an NVIDIA card is loaded: a card without one cannot use the large build."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    tool = shutil.which("nvidia-smi")
    return bool(tool) and is_quietly_done([tool, "-L"])


def torch_plan(state, active):
    """Which torch to install: kind is keep, given, cpu, cuda or platform; `what` is the requirement."""
    given = os.environ.get("GRISTMILL_TORCH", "").strip()
    if given:
        return {"kind": "given", "what": given}
    if state and state["torch"] and not is_old(state["torch"]):
        return {"kind": "keep", "what": f"torch=={state['torch']}"}
    linux = platform.system() == "Linux"
    kind = ("cuda" if has_nvidia_driver() else "cpu") if linux else "platform"
    return {"kind": kind, "what": f"torch=={pinned_torch()}"}


def announce(state, plan, goal):
    """Say where and what will be installed, and roughly how much of it there is to download."""
    kind = plan["kind"]
    words = {
        "keep": "is there already and is kept",
        "given": "as GRISTMILL_TORCH says",
        "cpu": f"the CPU build (no NVIDIA driver found), about {TORCH_MB['cpu']} MB to download",
        "cuda": f"the build for NVIDIA cards, about {TORCH_MB['cuda']} MB to download with its libraries",
        "platform": f"about {TORCH_MB['platform']} MB to download",
    }
    others = OTHERS_MB["train"] + (OTHERS_MB["dev"] if goal == "dev" else 0)
    say(f"environment: {state['prefix'] if state else str(ROOT / '.venv') + ' (new)'}")
    say(f"torch: {plan['what']}, {words[kind]}")
    say(f"numpy, onnxruntime, scikit-learn and so on: at most about {others} MB to download")
    check_disk(Path(state["prefix"]) if state else ROOT, TORCH_DISK_GB.get(kind, 0) + OTHERS_DISK_GB)


def check_disk(folder, gigabytes):
    """Stop before a download that cannot fit."""
    free = shutil.disk_usage(str(folder)).free / GIGABYTE
    if free < gigabytes:
        raise Stop(
            f"the set-up needs about {gigabytes:.1f} GB on the disk of {folder}, and {free:.1f} GB are free."
        )


def ask(options):
    """Ask once when somebody is there to answer."""
    if options.yes or not sys.stdin or not sys.stdin.isatty():
        return
    if input("Go on? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise Stop("nothing was installed.", code=1)


# Installing


def pip(python, *arguments):
    """The command line of the environment's own pip."""
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def install_torch(python, plan):
    """Install torch alone and first, so that nothing else can pull another build of it."""
    kind, what = plan["kind"], plan["what"]
    if kind == "keep":
        return
    if kind == "cpu":
        if not knows_cpu_build(python, what):
            install_with_uv(python, what)
            return
        what += "+cpu"
    words = shlex.split(what, posix=os.name != "nt") if kind == "given" else [what]
    run(pip(python, "install", *words), "torch could not be installed")


def knows_cpu_build(python, what):
    """Whether pip, as it is configured here, finds a wheel of the CPU build.

    The package index has no version that ends in +cpu, so this cannot start the download of the large build.
    """
    options = ("--quiet", "--dry-run", "--no-deps", "--only-binary", ":all:")
    command = pip(python, "install", *options, what + "+cpu")
    return is_quietly_done(command)


def is_quietly_done(command):
    """Whether a command succeeds; what it prints is not shown."""
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def install_with_uv(python, what):
    """uv knows by itself where the CPU builds of torch lie; plain pip would fetch the large build."""
    run(pip(python, "install", "uv"), "uv could not be installed")
    command = [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend=cpu", what]
    run(command, "the CPU build of torch could not be installed (GRISTMILL_TORCH may name a wheel instead)")


def install_rest(python, goal):
    """Install Gristmill from this clone with its extras; torch stays as it is."""
    state = probe(python)
    if not state or not state["torch"]:
        raise Stop(f"torch was installed and {python} cannot find it; delete the environment and try again.")
    group = requirements("dev") if goal == "dev" else []
    command = pip(python, "install", "--editable", f"{ROOT}[train]", f"torch=={state['torch']}", *group)
    run(command, "the packages could not be installed")


def run(command, trouble):
    """Run one step and show what it prints; a failure is one sentence."""
    say("$ " + " ".join(shlex.quote(str(word)) for word in command))
    sys.stdout.flush()
    code = subprocess.call([str(word) for word in command])
    if code != 0:
        raise Stop(
            f"{trouble} (exit code {code}, message above); check the network and run the same command "
            "again: it goes on where it stopped."
        )


def finish(python, goal):
    """Check that torch imports, then leave the stamp that makes the next call quick."""
    code = "import torch, gristmill; print(torch.__version__)"
    result = subprocess.run([python, "-c", code], capture_output=True)
    if result.returncode != 0:
        last = (result.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise Stop(f"torch is installed but does not import: {last}")
    state = probe(python)
    stamp = {"key": stamp_key(state), "goals": sorted({"train", goal} | set(old_goals(state)))}
    path = Path(state["prefix"]) / STAMP
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(str(part), str(path))
    say(f"ready: {state['prefix']} (torch {result.stdout.decode().strip()})")


# The stamp


def stamp_key(state):
    """What a set-up depends on: the two files, this clone's place, the Python, the choice of torch."""
    parts = [str(ROOT), str(state["python"]), os.environ.get("GRISTMILL_TORCH", "")]
    parts += [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()


def read_stamp(state):
    """The stamp of an environment, empty when there is none or it is damaged."""
    try:
        stamp = json.loads((Path(state["prefix"]) / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def old_goals(state):
    """The goals that the stamp vouches for, none when it belongs to an older state."""
    stamp = read_stamp(state)
    return stamp.get("goals", []) if stamp.get("key") == stamp_key(state) else []


def is_ready(state, goal):
    """Whether an earlier set-up reached this goal and everything it installed is still there."""
    return goal in old_goals(state) and bool(state["torch"]) and not state["missing"]


# What comes after


def follow(options, python):
    """Run the quickstart or the tests in the environment."""
    rest = [word for word in options.rest if word != "--"]
    if options.dry_run:
        return 0
    if options.goal == "test":
        return subprocess.call([python, "-m", "pytest", *rest], cwd=str(ROOT))
    command = str(Path(python).parent / ("gristmill.exe" if os.name == "nt" else "gristmill"))
    if options.goal == "quickstart":
        return subprocess.call([command, "quickstart", *rest])
    say(f"next: {command} quickstart")
    return 0


def say(line):
    """Tell the user; on stderr, so that results stay alone on stdout."""
    print(line, file=sys.stderr)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
