"""Run the code blocks of the README and of the examples' page as a user would, in an empty folder.

    python scripts/readme.py [PAGE...]

A block runs when the line before it is `<!-- run -->`. The `bash` and `python` blocks of one page run one
after the other in the same temporary folder, which holds a few stand-ins for a user's data: `photos/` (three
classes of small pictures), `new.jpg`, `houses.csv` (numbers, categories and a price), and `examples`. So that
this takes a minute, every `--time 10m` and `time="10m"` is shortened; nothing else is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- run -->\s*\n```(bash|python)\n(.*?)```", re.DOTALL)
SHORT = "45s"
LIMIT_S = 240


def main(argv: list[str] | None = None) -> int:
    """Run every marked block; the exit code is 1 when one fails or when there is none."""
    named = sys.argv[1:] if argv is None else argv
    pages = [Path(name) for name in named] or [ROOT / "README.md", ROOT / "examples" / "README.md"]
    failed = [page.name for page in pages if not run_page(page)]
    return 1 if failed else 0


def run_page(page: Path) -> bool:
    """Run the blocks of one page in a fresh folder; False when one fails or the page has none."""
    blocks = list(marked_blocks(page.read_text(encoding="utf-8")))
    print(f"{page.parent.name}/{page.name}: {len(blocks)} blocks to run", flush=True)
    with tempfile.TemporaryDirectory(prefix="gristmill-readme-") as name:
        write_stand_ins(Path(name))
        return bool(blocks) and all(run_block(language, code, Path(name)) for language, code in blocks)


def marked_blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and code of each marked block, times shortened."""
    for language, code in BLOCK.findall(text):
        yield language, re.sub(r"(--time |time=\")\d+\w+", rf"\g<1>{SHORT}", code)


def run_block(language: str, code: str, folder: Path) -> bool:
    """Run one block in `folder` with this interpreter's environment first on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "GRISTMILL_CACHE": str(folder / ".cache")}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    print("\n".join(f"  | {line}" for line in code.rstrip().splitlines()), flush=True)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"  did not end within {LIMIT_S} s")
        return False
    if done.returncode:
        print(f"  exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.returncode == 0


def write_stand_ins(folder: Path) -> None:
    """A user's data in small: pictures in class folders, one new picture, a table."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_diabetes, load_digits

    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    digits = load_digits(n_class=3)
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for i, (image, digit) in enumerate(zip(pixels, digits.target, strict=True)):
        path = folder / "photos" / ("daisy", "rose", "tulip")[digit] / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    Image.fromarray(pixels[0]).resize((32, 32)).save(folder / "new.jpg")
    table = load_diabetes(as_frame=True).frame.rename(columns={"target": "price", "sex": "district"})
    table["district"] = np.where(table["district"] > 0, "north", "south")
    table.to_csv(folder / "houses.csv", index=False)


if __name__ == "__main__":
    sys.exit(main())
