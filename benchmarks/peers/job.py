"""What every peer is given and must give back, and its clock.

A peer is a script that is run as

    python SCRIPT --root FOLDER --train train.csv --test test.csv --out predictions.csv --started UNIX_TIME
                  --time SECONDS --seed N --threads N --metric M [--from-scratch] [--no-flip]

`train.csv` has the columns file, label, part (train, or valid where the data set comes with such a part);
`test.csv` has the column file alone: no peer ever sees a label of the part it is judged on. Files are
relative to FOLDER. `predictions.csv` has the column file and one column of probabilities per label.

The clock runs from `--started`, the moment at which the process was asked for: imports and predictions count.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fit: rows in the order of the lists; `y`: codes into `labels`; `valid`: given valid rows."""

    root: Path
    train: tuple[str, ...]
    y: np.ndarray
    valid: np.ndarray
    labels: tuple[str, ...]
    test: tuple[str, ...]
    started: float
    seconds: float
    seed: int
    threads: int
    metric: str
    from_scratch: bool
    flip: bool
    out: Path

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.started + self.seconds - time.time()

    def paths(self, files: Sequence[str]) -> list[str]:
        """The files with the folder in front."""
        return [str(self.root / f) for f in files]

    def class_weights(self) -> np.ndarray | None:
        """Weights (K,) with mean 1 over rows, for a metric that counts each class alike; otherwise None."""
        if self.metric != "balanced_accuracy":
            return None
        counts = np.bincount(self.y, minlength=len(self.labels))
        return (len(self.y) / (len(self.labels) * np.maximum(counts, 1))).astype(np.float32)

    def holdout(self, share: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
        """Row ids to learn from and to choose by: the given valid part, or a stratified share.

        A class with a single row stays on the learning side.
        """
        if self.valid.any():
            return np.flatnonzero(~self.valid), np.flatnonzero(self.valid)
        rng, chosen = np.random.default_rng(self.seed), []
        for code in range(len(self.labels)):
            rows = rng.permutation(np.flatnonzero(self.y == code))
            chosen.append(rows[: int(len(rows) * share + rng.random())] if len(rows) > 1 else rows[:0])
        held = np.sort(np.concatenate(chosen))
        return np.setdiff1d(np.arange(len(self.y)), held), held

    def score(self, y: np.ndarray, outputs: np.ndarray) -> float:
        """The metric of the set, for choices that a peer makes on its own validation rows."""
        hit = outputs.argmax(axis=1) == y
        if self.metric == "balanced_accuracy":
            return float(np.mean([hit[y == code].mean() for code in np.unique(y)]))
        return float(hit.mean())

    def answer(self, probabilities: np.ndarray) -> None:
        """Write the predictions, probabilities (test rows, K) in the order of `test` and `labels`, and end.

        The process ends without taking the libraries down, which is no work of a peer and can cost seconds.
        """
        assert probabilities.shape == (len(self.test), len(self.labels)), probabilities.shape
        temporary = self.out.with_suffix(".part")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", *self.labels])
            for name, row in zip(self.test, probabilities, strict=True):
                writer.writerow([name, *(f"{p:.6g}" for p in row)])
        os.replace(temporary, self.out)
        sys.stderr.flush()
        os._exit(0)


def read() -> Job:
    """The job from the command line."""
    parser = argparse.ArgumentParser()
    for name in ("--root", "--train", "--test", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--started", type=float, default=time.time())
    parser.add_argument("--time", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--no-flip", action="store_true", help="a mirrored picture may be another class")
    given = parser.parse_args()
    rows = _rows(given.train)
    labels = tuple(sorted({r["label"] for r in rows}))
    return Job(
        root=given.root,
        train=tuple(r["file"] for r in rows),
        y=np.array([labels.index(r["label"]) for r in rows]),
        valid=np.array([r["part"] == "valid" for r in rows]),
        labels=labels,
        test=tuple(r["file"] for r in _rows(given.test)),
        started=given.started,
        seconds=given.time,
        seed=given.seed,
        threads=given.threads,
        metric=given.metric,
        from_scratch=given.from_scratch,
        flip=not given.no_flip,
        out=given.out,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
