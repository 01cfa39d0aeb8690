"""AutoKeras 3 by its documentation: `ImageClassifier.fit` on arrays, on Keras' torch backend, from scratch.

AutoKeras has no time limit (and its search copies callbacks, which breaks those of a user), so the search is
interrupted from outside when the time is nearly up. It saves the best epoch of each trial; the best of
those answers, or the next best when the best could not predict in time. The first trial is a small net, as
AutoKeras chooses it.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import autokeras
import job as jobs
import keras_tuner
import numpy as np
import pictures
import torch
from autokeras import pipeline as pipelines
from keras_tuner.src.engine import tuner_utils

MOST_SIDE = 96
"""AutoKeras takes arrays of one size; larger ones leave no time for a single epoch on a CPU."""
RESERVE = 0.1


class TimeIsUp(BaseException):
    """Not an Exception: the tuner turns those into failed trials and goes on."""


def main() -> None:
    """Decode, search until the alarm, answer with the best epoch seen."""
    job = jobs.read()
    torch.set_num_threads(job.threads)
    native = pictures.native_side(job.paths(job.train))
    side = min(native, MOST_SIDE)
    x = pictures.load(job.paths(job.train), side, job.threads)
    x_test = pictures.load(job.paths(job.test), side, job.threads)
    best: dict[str, float] = {}
    _watch(best)
    classifier = autokeras.ImageClassifier(
        num_classes=len(job.labels),
        directory=str(job.out.parent / "autokeras"),
        overwrite=True,
        max_trials=1000,
        seed=job.seed + 1,  # zero means no seed
        objective=keras_tuner.Objective("val_accuracy", "max"),
    )
    _search(job, classifier, x)
    job.answer(_answer(job, classifier, best, x_test))


def _watch(best: dict[str, float]) -> None:
    """Note what each checkpoint is worth when it is saved: AutoKeras keeps no score of a running trial."""
    save = tuner_utils.SaveBestEpoch._save_model

    def noted(self: Any) -> None:
        save(self)
        best[self.filepath] = float(self.best_value)

    tuner_utils.SaveBestEpoch._save_model = noted


def _search(job: jobs.Job, classifier: Any, x: np.ndarray) -> None:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    learn, held = job.holdout()
    y = job.y[:, None] if len(job.labels) == 2 else np.eye(len(job.labels), dtype=np.float32)[job.y]
    weights = job.class_weights()
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, job.left - RESERVE * job.seconds - 3.0))
    try:
        classifier.fit(
            x[learn],
            y[learn],
            validation_data=(x[held], y[held]),
            class_weight=None if weights is None else dict(enumerate(weights.tolist())),
            verbose=0,
        )
    except TimeIsUp:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _answer(job: jobs.Job, classifier: Any, best: dict[str, float], x: np.ndarray) -> np.ndarray:
    """Probabilities of the best checkpoint that can predict before the deadline."""
    tuner = classifier.tuner
    trials = {tuner._get_checkpoint_fname(i): t for i, t in tuner.oracle.trials.items()}
    ranked = sorted((f for f in best if f in trials), key=lambda f: -best[f])
    if not ranked:
        raise SystemExit("no trial ended an epoch within the time")
    for at, file in enumerate(ranked):
        trial = trials[file]
        rows = pipelines.load_pipeline(tuner._pipeline_path(trial.trial_id)).transform_x(x)
        model = tuner.load_model(trial)
        model.predict(rows[:32], verbose=0)
        before = time.monotonic()
        model.predict(rows[:32], verbose=0)
        needed = (time.monotonic() - before) * len(x) / 32
        if needed <= job.left - 1.0 or at + 1 == len(ranked):
            break
    outputs = np.asarray(model.predict(rows, verbose=0, batch_size=64), dtype=np.float64)
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


if __name__ == "__main__":
    main()
