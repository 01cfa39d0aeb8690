"""Ultralytics classify through its command line: yolo26n-cls from its YAML, from scratch, with `time=`.

Ultralytics is AGPL-3.0: it is run here as a program in an environment of its own, and nothing of it is
imported or copied. It wants folders of classes, so links are laid out first, a tenth of the rows (or the
given valid part) as `val`. Its text results name the five likeliest classes of a picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import job as jobs
import numpy as np
import pictures

MODEL = "yolo26n-cls.yaml"
STARTING = {"train": 10.0, "predict": 6.0}
"""Seconds of a `yolo` command that are none of its work: imports, looking through the pictures, the end."""


def main() -> None:
    """Lay out, train, predict, answer."""
    job = jobs.read()
    work = job.out.parent / "yolo"
    _lay_out(job, work / "data")
    native = pictures.native_side(job.paths(job.train))
    side = 64 if native <= 64 else 128
    predicting = STARTING["predict"] + len(job.test) * 0.004 * (side / 64) ** 2
    training = max(5.0, job.left - STARTING["train"] - predicting)
    _yolo(
        job,
        work,
        "train",
        f"model={MODEL}",
        f"data={work / 'data'}",
        f"time={training / 3600:.6f}",
        f"imgsz={side}",
        f"seed={job.seed}",
        "batch=64",
        f"workers={job.threads}",
        "pretrained=False",
        "plots=False",
        f"fliplr={0.5 if job.flip else 0.0}",
        "amp=False",
        "name=fit",
    )
    best = next(work.glob("runs/fit/weights/best.pt"))
    _yolo(
        job,
        work,
        "predict",
        f"model={best}",
        f"source={work / 'test'}",
        f"imgsz={side}",
        "batch=64",
        "save=False",
        "save_txt=True",
        "name=answer",
    )
    job.answer(_answers(job, work / "runs" / "answer" / "labels"))


def _lay_out(job: jobs.Job, data: Path) -> None:
    """Links `train|val/CLASS/N.ext` (a class with one row is in both) and `../test/N.ext`."""
    learn, held = job.holdout(0.1)
    for part, rows in (("train", learn), ("val", held)):
        for row in rows:
            _link(job.root / job.train[row], data / part / job.labels[job.y[row]] / f"{row}")
    for code in set(range(len(job.labels))) - set(job.y[held].tolist()):
        row = int(np.flatnonzero(job.y == code)[0])
        _link(job.root / job.train[row], data / "val" / job.labels[code] / f"{row}")
    for row, name in enumerate(job.test):
        _link(job.root / name, data.parent / "test" / f"{row}")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.resolve(), target.with_name(target.name + source.suffix))


def _yolo(job: jobs.Job, work: Path, *words: str) -> None:
    """Run the command of this environment, quietly, offline, until shortly before the deadline."""
    command = [str(Path(sys.executable).parent / "yolo"), "classify", *words]
    command += [f"project={work / 'runs'}", "exist_ok=True", "device=cpu", "verbose=False"]
    env = {**os.environ, "YOLO_CONFIG_DIR": str(work), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    print(f"yolo {words[0]}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace")[-2000:])


def _answers(job: jobs.Job, folder: Path) -> np.ndarray:
    """The five likeliest classes of each picture, the likeliest first.

    They are written with two decimals, so ties are told apart by their order; other classes get nothing.
    """
    found = np.zeros((len(job.test), len(job.labels)))
    for row in range(len(job.test)):
        lines = (folder / f"{row}.txt").read_text(encoding="utf-8").splitlines()
        for rank, line in enumerate(lines):
            share, label = line.split(" ", 1)
            found[row, job.labels.index(label)] = float(share) + 1e-4 * (len(lines) - rank)
    return found


if __name__ == "__main__":
    main()
