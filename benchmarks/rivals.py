"""Searches to compare with, on a simulated clock: each is asked for work when a worker is free.

A job trains a configuration from one epoch to another. Rivals are credited with every epoch that they pass
(from epoch 2 on), finished or not; Gristmill only with outcomes that its study was told.
"""

from __future__ import annotations

import heapq
import json
import random
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lcbench import BASE_EPOCHS, EPOCHS, SPACE, Lcbench

from gristmill.space import Float

RUNGS = (BASE_EPOCHS, 17, EPOCHS)
ETA = 3
Credit = tuple[float, float]
"""Seconds since the start, score."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train `config` up to `to_epoch`, on from the checkpoint of `from_epoch` (0: from scratch)."""

    config: dict[str, Any]
    from_epoch: int
    to_epoch: int
    token: Any = None


class Rival(Protocol):
    """Proposes jobs and is told the score of each that ended."""

    def next(self) -> Job: ...

    def told(self, job: Job, score: float) -> None: ...


def simulate(rival: Rival, world: Lcbench, task: str, *, seconds: float, workers: int) -> list[Credit]:
    """What the rival had reached when; no job ends after `seconds`."""
    now, running, credits, count = 0.0, [], [], 0
    while True:
        while len(running) < workers:
            job = rival.next()
            scores, times = world.curve(task, job.config)
            begin = float(times[job.from_epoch - 1]) if job.from_epoch else 0.0
            for epoch in range(max(2, job.from_epoch + 1), job.to_epoch + 1):
                credits.append((now + float(times[epoch - 1]) - begin, float(scores[epoch - 1])))
            heapq.heappush(running, (now + float(times[job.to_epoch - 1]) - begin, count, job))
            count += 1
        now, _, job = heapq.heappop(running)
        if now >= seconds:
            return sorted(c for c in credits if c[0] <= seconds)
        rival.told(job, float(world.curve(task, job.config)[0][job.to_epoch - 1]))


class RandomSearch:
    """Full trainings of configurations drawn from the space."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"random/{seed}")

    def next(self) -> Job:
        return Job(config=SPACE.sample(self._rng), from_epoch=0, to_epoch=EPOCHS)

    def told(self, job: Job, score: float) -> None:
        """Nothing is learnt."""


@dataclass
class ResumedHalving:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), checkpoints resumed, random
    proposals: whoever is among the best third of a rung and was not promoted yet goes on, top rung first."""

    seed: int
    _rungs: list[list[tuple[float, int, dict[str, Any]]]] = field(default_factory=lambda: [[] for _ in RUNGS])
    _promoted: list[set[int]] = field(default_factory=lambda: [set() for _ in RUNGS])
    _count: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(f"halving/{self.seed}")

    def next(self) -> Job:
        for level in range(len(RUNGS) - 2, -1, -1):
            ranked = sorted(self._rungs[level], key=lambda entry: (-entry[0], entry[1]))
            for _, number, config in ranked[: len(ranked) // ETA]:
                if number not in self._promoted[level]:
                    self._promoted[level].add(number)
                    return self._job(config, level + 1, number)
        self._count += 1
        return self._job(SPACE.sample(self._rng), 0, self._count)

    def told(self, job: Job, score: float) -> None:
        level, number = job.token
        self._rungs[level].append((score, number, job.config))

    @staticmethod
    def _job(config: dict[str, Any], level: int, number: int) -> Job:
        begin = RUNGS[level - 1] if level else 0
        return Job(config=config, from_epoch=begin, to_epoch=RUNGS[level], token=(level, number))


class OptunaSearch:
    """A sampler of Optuna; with a pruner a trial reports at the rungs and ends where it is pruned."""

    def __init__(self, sampler: Any, pruner: Any = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._optuna, self._pruned = optuna, pruner is not None
        self._study = optuna.create_study(
            direction="maximize", sampler=sampler, pruner=pruner or optuna.pruners.NopPruner()
        )
        self._domains = {p.name: _distribution(p.domain) for p in SPACE.parameters}
        self._going: list[Job] = []

    def next(self) -> Job:
        if self._going:
            return self._going.pop(0)
        trial = self._study.ask(self._domains)
        return Job(
            config=dict(trial.params),
            from_epoch=0,
            to_epoch=RUNGS[0] if self._pruned else EPOCHS,
            token=trial,
        )

    def told(self, job: Job, score: float) -> None:
        trial = job.token
        if self._pruned:
            trial.report(score, job.to_epoch)
            if job.to_epoch < EPOCHS and trial.should_prune():
                self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
                return
            if job.to_epoch < EPOCHS:
                rung = RUNGS[RUNGS.index(job.to_epoch) + 1]
                self._going.append(
                    Job(config=job.config, from_epoch=job.to_epoch, to_epoch=rung, token=trial)
                )
                return
        self._study.tell(trial, score)


class SmacSearch:
    """SMAC3's multi-fidelity facade (Hyperband brackets, random forest) in an environment of its own,
    asked over pipes. It trains each budget from scratch, as the library does."""

    def __init__(self, python: str, seed: int) -> None:
        script = Path(__file__).with_name("smac_process.py")
        domains = [
            [p.name, type(p.domain).__name__, p.domain.low, p.domain.high, p.domain.log]
            for p in SPACE.parameters
        ]
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send({"seed": seed, "domains": domains, "low": BASE_EPOCHS, "high": EPOCHS, "eta": ETA})

    def next(self) -> Job:
        self._send({"ask": True})
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        epoch = max(2, min(EPOCHS, round(answer["budget"])))
        return Job(config=answer["config"], from_epoch=0, to_epoch=epoch, token=answer["id"])

    def told(self, job: Job, score: float) -> None:
        self._send({"id": job.token, "cost": 1.0 - score})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def tpe(seed: int) -> OptunaSearch:
    """Optuna's default sampler (constant liar when trials run side by side)."""
    import optuna

    return OptunaSearch(optuna.samplers.TPESampler(seed=seed))


def gp(seed: int) -> OptunaSearch:
    """Optuna's Gaussian process sampler."""
    import optuna

    return OptunaSearch(optuna.samplers.GPSampler(seed=seed))


def tpe_hyperband(seed: int) -> OptunaSearch:
    """Optuna's default sampler with its Hyperband pruner over the same rungs."""
    import optuna

    pruner = optuna.pruners.HyperbandPruner(
        min_resource=BASE_EPOCHS, max_resource=EPOCHS, reduction_factor=ETA
    )
    return OptunaSearch(optuna.samplers.TPESampler(seed=seed), pruner)


RIVALS: dict[str, Callable[[int], Any]] = {
    "random": RandomSearch,
    "tpe": tpe,
    "gp": gp,
    "tpe+hyperband": tpe_hyperband,
    "resumed halving": ResumedHalving,
}


def _distribution(domain: Any) -> Any:
    import optuna

    if isinstance(domain, Float):
        return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)
    return optuna.distributions.IntDistribution(domain.low, domain.high, log=domain.log)
