"""A plain Optuna study over a torch loop: TPE, median pruning, then the best configuration on all rows.

Half of the time is searched (a trial gets a tenth of it), the rest trains the winner; the search space is
what tutorials tune: rate, decay, smoothing, crop, resolution, and the width or the rate of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import expert
import job as jobs
import numpy as np
import optuna
import pictures
import torch
from torch import nn

import training

SEARCHED = 0.5
TRIALS = 10


def main() -> None:
    """Search, train the winner, predict."""
    job = jobs.read()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = _Search(job)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=job.seed, n_startup_trials=4),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    until = job.left * (1 - SEARCHED)
    search.cap = (job.left - until) / TRIALS
    while job.left - search.cap > until or not study.trials:
        study.optimize(search, n_trials=1)
    search.finish(study.best_params)


class _Search:
    def __init__(self, job: jobs.Job) -> None:
        self.job = job
        self.cap = 0.0
        self.pixels: dict[int, np.ndarray] = {}
        self.learn, self.held = job.holdout()
        side, self.width = expert.first_look(job)
        smaller = max(32, side // 2) if job.from_scratch else max(64, side // 64 * 32)
        self.sides = sorted({side, smaller})
        self.widths = sorted({self.width, max(16, self.width // 2)})

    def maker(self, chosen: Mapping[str, Any]) -> Callable[[], nn.Module]:
        """How the network of a configuration is made."""
        return lambda: expert.make(self.job, chosen.get("width", self.width))

    def recipe(self, chosen: Mapping[str, Any]) -> training.Recipe:
        """The recipe of a configuration."""
        names = ("rate", "decay", "smoothing", "crop", "head")
        return training.Recipe(flip=self.job.flip, **{n: chosen[n] for n in names if n in chosen})

    def at(self, side: int) -> np.ndarray:
        """The training pictures at a side, decoded once."""
        if side not in self.pixels:
            self.pixels[side] = pictures.load(self.job.paths(self.job.train), side, self.job.threads)
        return self.pixels[side]

    def __call__(self, trial: optuna.Trial) -> float:
        scratch = self.job.from_scratch
        chosen: dict[str, Any] = {
            "rate": trial.suggest_float("rate", *((5e-4, 2e-2) if scratch else (1e-4, 5e-3)), log=True),
            "decay": trial.suggest_float("decay", 1e-3, 0.2, log=True),
            "smoothing": trial.suggest_float("smoothing", 0.0, 0.2),
            "crop": trial.suggest_float("crop", 0.0, 0.2),
            "side": trial.suggest_categorical("side", self.sides),
        }
        if scratch:
            chosen["width"] = trial.suggest_categorical("width", self.widths)
        else:
            chosen["head"] = trial.suggest_float("head", 1.0, 20.0, log=True)
        x, network = self.at(chosen["side"]), self.maker(chosen)()

        def score() -> float:
            return self.job.score(self.job.y[self.held], training.predict(network, x[self.held], flip=False))

        def unpromising(share: float) -> bool:
            trial.report(score(), int(share * 8))
            network.train()
            return trial.should_prune()

        training.train(
            network,
            x[self.learn],
            self.job.y[self.learn],
            self.recipe(chosen),
            seconds=0.85 * self.cap,
            seed=self.job.seed,
            weights=self.job.class_weights(),
            stop=unpromising,
        )
        if trial.should_prune():
            raise optuna.TrialPruned
        return score()

    def finish(self, chosen: Mapping[str, Any]) -> None:
        """The winner on all rows until the deadline."""
        job, side = self.job, chosen["side"]
        x = self.at(side)
        x_test = pictures.load(job.paths(job.test), side, job.threads)
        network = self.maker(chosen)()
        seconds = job.left - expert.SPARE - training.predict_seconds(network, x_test, flip=job.flip)
        network = training.train(
            network,
            x,
            job.y,
            self.recipe(chosen),
            seconds=max(1.0, seconds),
            seed=job.seed,
            weights=job.class_weights(),
        )
        job.answer(training.predict(network, x_test, flip=job.flip, left=lambda: job.left - 1.0))


if __name__ == "__main__":
    main()
