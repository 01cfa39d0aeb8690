"""LCBench as a world to search in: a surrogate of 34 tabular tasks and a network with seven settings.

The surrogate answers what a training of 1 to 52 epochs on a task would have scored and taken (YAHPO Gym, from
LCBench: Zimmer, Lindauer, Hutter 2021, arXiv 2006.13799). Epoch 1 is the state before training, never used.
Scores are validation accuracies in [0, 1], times are seconds; a row of the race is a hundredth of an epoch.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gristmill.segment import config_hash
from gristmill.space import Float, Int, Parameter, Space

EPOCHS = 52
ROWS_PER_EPOCH = 100
BASE_EPOCHS = 6
"""The first rung, about a tenth of a training: 6, 18 and (rounded) 52 epochs."""
LEFT_OUT = "167083"
SPACE = Space(
    parameters=(
        Parameter(name="batch_size", domain=Int(low=16, high=512, log=True), default=91),
        Parameter(name="learning_rate", domain=Float(low=1e-4, high=0.1, log=True), default=3e-3),
        Parameter(name="momentum", domain=Float(low=0.1, high=0.99), default=0.9),
        Parameter(name="weight_decay", domain=Float(low=1e-5, high=0.1), default=1e-2),
        Parameter(name="num_layers", domain=Int(low=1, high=5), default=3),
        Parameter(name="max_units", domain=Int(low=64, high=1024, log=True), default=256),
        Parameter(name="max_dropout", domain=Float(low=0.0, high=1.0), default=0.5),
    )
)
NAMES = tuple(p.name for p in SPACE.parameters)
_POOL = 1500
"""Random configurations: their median is regret 1."""
_CLIMBS, _KEPT, _CHILDREN = 8, 20, 10
"""Rounds of a local search from the best of the pool, which looks for the best known score."""
_TUNED = 3
"""The best so many of each task's local search may enter the portfolio of other tasks."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What regret is measured by: `best` known score of a task (0), `median` of random ones (1), mean
    seconds of a full `training` of a random configuration (the unit of budgets). `random_best`: of 1,500
    random configurations, a milder end of the scale."""

    best: float
    random_best: float
    median: float
    training: float

    def regret(self, score: float) -> float:
        """Normalised regret, 0 or more."""
        return max(0.0, (self.best - score) / (self.best - self.median))

    def mild_regret(self, score: float) -> float:
        """The same, with the best of 1,500 random configurations as its zero."""
        return max(0.0, (self.random_best - score) / (self.random_best - self.median))


class Lcbench:
    """The surrogate with a cache of its curves.

    Args:
        folder: Where `model.onnx` and `encoding.json` lie.
    """

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        self._curves: dict[tuple[str, tuple[float, ...]], tuple[np.ndarray, np.ndarray]] = {}
        self._pools: dict[str, np.ndarray] = {}
        self._tuned: dict[str, list[dict[str, Any]]] = {}
        self._transfers: dict[tuple[str, str], np.ndarray] = {}
        self._portfolios: dict[tuple[str, int], list[tuple[dict[str, Any], str]]] = {}
        self._nominal: dict[tuple[str, str], float] = {}
        self._scales: dict[str, Scale] = {}
        rng = random.Random("pool")
        self.pool = [SPACE.sample(rng) for _ in range(_POOL)]
        self.tasks = tuple(sorted((t for t in self._codes if t not in ("#na#", LEFT_OUT)), key=int))

    def curve(self, task: str, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Score and seconds since the start after each of 52 epochs, two float arrays (52,)."""
        values = tuple(float(config[name]) for name in NAMES)
        if (task, values) not in self._curves:
            epochs = np.arange(1, EPOCHS + 1)
            found = self._answer(task, np.repeat([values], EPOCHS, axis=0), epochs)
            self._curves[task, values] = found[0], np.maximum.accumulate(found[1])
        return self._curves[task, values]

    def final(self, task: str, configs: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n,) and seconds (n,) of full trainings."""
        values = np.array([[c[name] for name in NAMES] for c in configs], dtype=np.float64)
        return self._answer(task, values, np.full(len(configs), EPOCHS))

    def scale(self, task: str) -> Scale:
        """The ends of the regret's scale, from the pool and a local search around its best."""
        if task not in self._scales:
            scores, seconds = self.final(task, self.pool)
            top = self._climbed(task, scores)
            self._pools[task], self._tuned[task] = scores, [c for _, c in top[:_TUNED]]
            self._scales[task] = Scale(
                best=top[0][0],
                random_best=float(scores.max()),
                median=float(np.median(scores)),
                training=float(seconds.mean()),
            )
        return self._scales[task]

    def portfolio(self, task: str, length: int) -> list[tuple[dict[str, Any], str]]:
        """Configurations that complement each other best on all other tasks, chosen greedily from random
        ones and from those tuned on these others; nothing of `task` enters."""
        if (task, length) in self._portfolios:
            return self._portfolios[task, length]
        others = [t for t in self.tasks if t != task]
        scales = [self.scale(t) for t in others]
        entries = self.pool + [c for t in others for c in self._tuned[t]]
        scores = np.stack([self._on_all_entries(t, others, entries) for t in others])
        best, median = (np.array([[getattr(s, end)] for s in scales]) for end in ("best", "median"))
        regrets = np.maximum(0.0, (best - scores) / (best - median))
        reached, chosen = np.full(len(others), np.inf), []
        for _ in range(length):
            index = int(np.minimum(reached[:, None], regrets).mean(axis=0).argmin())
            chosen.append(index)
            reached = np.minimum(reached, regrets[:, index])
        found = [(SPACE.complete(entries[i]), "all") for i in dict.fromkeys(chosen)]
        self._portfolios[task, length] = found
        return found

    def nominal(self, task: str, config: dict[str, Any]) -> float:
        """Seconds per row as two timed batches might measure it: off by a fifth."""
        name = (task, config_hash(config))
        if name not in self._nominal:
            error = random.Random(f"{task}/{name[1]}").gauss(0.0, 0.2)
            seconds = float(self.final(task, [config])[1][0])
            self._nominal[name] = seconds / (EPOCHS * ROWS_PER_EPOCH) * math.exp(error)
        return self._nominal[name]

    def _on_all_entries(self, task: str, others: list[str], entries: list[dict[str, Any]]) -> np.ndarray:
        tuned = [np.empty(0)]
        for origin in others:
            if (task, origin) not in self._transfers:
                self._transfers[task, origin] = self.final(task, self._tuned[origin])[0]
            tuned.append(self._transfers[task, origin])
        assert len(entries) == _POOL + sum(map(len, tuned))
        return np.concatenate([self._pools[task], *tuned])

    def _climbed(self, task: str, scores: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        rng = random.Random(f"climb/{task}")
        top = [(float(scores[i]), self.pool[i]) for i in np.argsort(-scores)[:_KEPT]]
        for _ in range(_CLIMBS):
            children = [
                SPACE.mutate(c, rng, changes=rng.choice((1, 2))) for _, c in top for _ in range(_CHILDREN)
            ]
            top += zip(self.final(task, children)[0].tolist(), children, strict=True)
            top = sorted(top, key=lambda entry: -entry[0])[:_KEPT]
        return top

    def _answer(self, task: str, values: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        feed = {
            "x_cat": np.full((len(values), 1), self._codes[task], np.int32),
            "x_cont": np.column_stack([epochs, values]).astype(np.float32),
        }
        found = self._session.run(None, feed)[0].astype(np.float64)
        return np.clip(found[:, 1] / 100.0, 0.0, 1.0), np.maximum(1e-3, found[:, 0])
