"""Everything that must hold besides the tests: lint, types, licences, the README's code blocks.

    python scripts/check.py                    all of it
    python scripts/check.py lint types         some of it

The tools are those of the environment that runs this file (set up by `make test`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CHECKS: dict[str, tuple[list[str], ...]] = {
    "lint": ([PYTHON, "-m", "ruff", "check", "."], [PYTHON, "-m", "ruff", "format", "--check", "."]),
    "types": ([PYTHON, "-m", "mypy"],),
    "licences": ([PYTHON, str(ROOT / "scripts" / "licences.py")],),
    "readme": ([PYTHON, str(ROOT / "scripts" / "readme.py")],),
}


def main(argv: list[str] | None = None) -> int:
    """Run the checks that are named (all when none is); the exit code is 1 when one fails."""
    wanted = (sys.argv[1:] if argv is None else argv) or list(CHECKS)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        print(f"there are the checks {', '.join(CHECKS)}; got {', '.join(unknown)}", file=sys.stderr)
        return 2
    failed = [name for name in wanted if not holds(name)]
    print(
        f"checks: {len(wanted) - len(failed)} of {len(wanted)} hold"
        + "".join(f"; {name} fails" for name in failed)
    )
    return 1 if failed else 0


def holds(name: str) -> bool:
    """Run one check to its end and say how long it took."""
    start = time.monotonic()
    print(f"== {name}", flush=True)
    codes = [subprocess.call(command, cwd=ROOT) for command in CHECKS[name]]
    print(f"== {name}: {'ok' if not any(codes) else 'FAILS'} ({time.monotonic() - start:.0f} s)", flush=True)
    return not any(codes)


if __name__ == "__main__":
    sys.exit(main())
