"""Gristmill as a user runs it: `fit` on a table of pictures, then `predict` with the bundle.

fit needs a test part, or it cuts one out of the training rows. It gets pictures of the judged part whose
labels are dealt out in turn: its own figures mean nothing here, and no label of that part is seen.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import job as jobs
import numpy as np

import gristmill

PREFIX = "class "
"""So that labels such as 00015 are not taken for numbers."""
STAND_IN = 64
"""Pictures of the stand-in test part (at least one per class): few, since all are predicted afterwards."""


def main() -> None:
    """Write the tables, fit until shortly before the deadline, predict."""
    job = jobs.read()
    folder = job.out.parent
    names = [f"{PREFIX}{label}" for label in job.labels]
    labels = np.array(names)[job.y]
    learned = [i for i in range(len(labels)) if not job.valid[i]]
    given = [i for i in range(len(labels)) if job.valid[i]]
    few = job.test[:: max(1, len(job.test) // max(STAND_IN, len(job.labels)))]
    train = _table(folder / "train-rows.csv", job, [job.train[i] for i in learned], labels[learned])
    test = _table(folder / "stand-in.csv", job, few, np.resize(np.array(names), len(few)))
    valid = (
        _table(folder / "valid-rows.csv", job, [job.train[i] for i in given], labels[given])
        if given
        else None
    )
    result = gristmill.fit(
        str(train),
        target="label",
        valid=valid,
        test=test,
        metric=job.metric,
        task="binary" if len(job.labels) == 2 else "multiclass",
        time=f"{job.left - _predicting(job):.1f}s",
        out=str(folder / "model.grist"),
        seed=job.seed,
        from_scratch=job.from_scratch,
    )
    model = gristmill.load(str(result.bundle))
    found = model.predict(job.paths(job.test))
    even = dict.fromkeys(names, 1.0 / len(names))
    rows = [even if p.error else p.probabilities for p in found]
    job.answer(np.array([[row.get(name, 0.0) for name in names] for row in rows]))


def _predicting(job: jobs.Job) -> float:
    """Seconds kept for predicting: 4 ms a picture and core count of two, at most a tenth of the time."""
    return min(0.1 * job.seconds, 3.0 + 0.008 * len(job.test) / max(1, job.threads))


def _table(path: Path, job: jobs.Job, files: Sequence[str], labels: np.ndarray) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "label"])
        for name, label in zip(files, labels.tolist(), strict=True):
            writer.writerow([os.path.relpath(job.root / name, path.parent), label])
    return str(path)


if __name__ == "__main__":
    main()
