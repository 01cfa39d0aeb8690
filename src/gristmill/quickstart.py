"""The main job on real data that come with a dependency: scikit-learn's 1,797 handwritten digits."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill import packages
from gristmill.automl import fit
from gristmill.errors import UsageError, VerificationError
from gristmill.results import Event, Result


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What the quickstart found: the fit's result, and a prediction made by the bundle in a fresh process."""

    result: Result
    example: str
    predicted: str
    truth: str

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            **self.result.to_json(),
            "example": self.example,
            "predicted": self.predicted,
            "truth": self.truth,
            "verified": True,
        }

    def summary(self) -> str:
        """What a person reads at the end, with the next commands."""
        program, data = packages.program(), Path(self.example).parents[1]
        bundle = shlex.quote(str(self.result.bundle))
        return "\n".join(
            (
                self.result.summary(),
                "",
                f"Verified in a fresh process; {self.example} is a {self.truth}, predicted: {self.predicted}",
                "Next, try:",
                f"  {program} predict {bundle} {shlex.quote(self.example)}",
                f"  {program} serve {bundle}",
                "    (then open http://127.0.0.1:8000)",
                f"  {program} fit YOUR_PICTURES --time 10m",
                f"    (one folder per class, like {data})",
            )
        )


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's digits as `folder/CLASS/NNNN.png` (32x32 grey); returns the folder.

    The 8x8 originals are enlarged four times so that a person can recognise them.
    """
    packages.check_training()
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{i:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return folder


def run(
    folder: Path,
    *,
    time: str | float = "90s",
    progress: Callable[[Event], None] | None = None,
    already_spent: float = 0.0,
) -> Quickstart:
    """Write the digits, fit on them, then verify and predict with the bundle in a fresh process.

    Raises:
        UsageError: if `folder` is something else.
        ResourceError: if packages that training needs are absent; nothing is written then.
        VerificationError: if the fresh process cannot verify the bundle or predict with it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            "The quickstart works in a folder.", got=folder, next_step="choose another with --out"
        )
    data = write_digits(folder / "digits")
    result = fit(
        data,
        time=time,
        out=folder / "digits.grist",
        metric="accuracy",
        progress=progress,
        already_spent=already_spent,
    )
    example = next(iter(sorted((data / "7").glob("*.png"))))
    _fresh("verify", str(result.bundle))
    predicted = json.loads(_fresh("predict", str(result.bundle), str(example), "--json"))
    return Quickstart(result=result, example=str(example), predicted=_label(predicted), truth="7")


def _label(prediction: dict[str, Any]) -> str:
    return str(prediction["outputs"]["label"]["value"])


def _fresh(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise VerificationError(
            f"`gristmill {arguments[0]}` in a fresh process must succeed.",
            got=done.stderr.strip() or done.stdout.strip(),
            next_step=f"run it by hand: {packages.program()} {shlex.join(arguments)}",
        )
    return done.stdout
