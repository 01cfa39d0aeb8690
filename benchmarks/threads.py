"""Two workers with one thread each against one worker with two threads: rows per second, by ratio.

    python benchmarks/threads.py             every case, nine rounds
    python benchmarks/threads.py --quick     the same code, three short rounds, nothing is kept

The cases are a training step of convstack and of mbconv as their recipes make it, and the extraction of
frozen features. The settings take turns round by round, so a machine that gets slower meanwhile slows both.
The claim: one thread a worker gives at least as many rows per second in all. A row a case: claim, value (the
median ratio), interval (the middle half of the rounds), bar, ok; with rows per second, commit, cores and
versions. Exits 1 when a bar is missed, 2 on a machine with fewer than two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rowfile

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "threads.jsonl"
LIBRARIES = ("torch", "onnxruntime", "numpy")
CASES: dict[str, tuple[str, int]] = {
    "convstack 32 px": ("convstack", 32),
    "convstack 64 px": ("convstack", 64),
    "mbconv 64 px": ("mbconv", 64),
    "mbconv 128 px": ("mbconv", 128),
    "features lite0 128 px": ("features", 128),
}
SETTINGS = {"two workers of one thread": (2, 1), "one worker of two threads": (1, 2)}
BAR = 1.0
TOLERANCE = 0.03
"""Ratios within this of the bar are equal: rounds of one setting differ by as much."""


def main() -> int:
    """Measure the cases, print one row a claim, return 1 when a bar is missed."""
    options = _arguments()
    if options.serve:
        return serve(*options.serve.split(","))
    if len(os.sched_getaffinity(0)) < 2:
        print("two cores are needed to compare workers with threads", file=sys.stderr)
        return 2
    ok = True
    for name in CASES:
        if options.only and name not in options.only.split(","):
            continue
        row = measured(name, rounds=3 if options.quick else 9, seconds=2.0 if options.quick else 6.0)
        row["mode"] = "quick" if options.quick else "whole"
        ok &= row["ok"]
        if not options.quick:
            rowfile.append(options.results, [row])
        _print(row, options.json)
    return 0 if ok else 1


def measured(name: str, *, rounds: int, seconds: float) -> dict[str, Any]:
    """One case in both settings, in turns; all processes live throughout and idle between their turns."""
    teams = {key: [_Worker(name, threads) for _ in range(n)] for key, (n, threads) in SETTINGS.items()}
    rates: dict[str, list[float]] = {key: [] for key in SETTINGS}
    try:
        for number in range(rounds + 1):  # the first round warms up
            for key in SETTINGS if number % 2 else reversed(SETTINGS):
                rate = _team_rate(teams[key], seconds)
                if number:
                    rates[key].append(rate)
    finally:
        for worker in (w for team in teams.values() for w in team):
            worker.close()
    many, one = (rates[key] for key in SETTINGS)
    return _row(name, many, one)


def _team_rate(team: list[_Worker], seconds: float) -> float:
    """Rows per second of all workers of a team together, while all of them work."""
    for worker in team:
        worker.begin(seconds)
    return sum(worker.end() for worker in team)


class _Worker:
    """A process that repeats one case for some seconds whenever it is told to."""

    def __init__(self, name: str, threads: int) -> None:
        count = str(threads)
        env = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        command = [sys.executable, str(Path(__file__)), "--serve", f"{name},{count}"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True)
        self._read()

    def begin(self, seconds: float) -> None:
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)

    def end(self) -> float:
        """Rows per second of the turn."""
        return float(self._read())

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with code {self._process.wait()}")
        return line


def serve(name: str, threads: str) -> int:
    """The worker: says `ready`, then answers each number of seconds with rows per second."""
    import torch

    torch.set_num_threads(int(threads))
    work, rows = _work(name, int(threads))
    work()
    print("ready", flush=True)
    for line in sys.stdin:
        began, done, wanted = time.perf_counter(), 0, float(line)
        while time.perf_counter() - began < wanted:
            work()
            done += rows
        print(done / (time.perf_counter() - began), flush=True)
    return 0


def _work(name: str, threads: int) -> tuple[Callable[[], object], int]:
    """Something to repeat, and the rows that it goes through."""
    family, side = CASES[name]
    return _extraction(side, threads) if family == "features" else _training_step(family, side)


def _extraction(side: int, threads: int) -> tuple[Callable[[], object], int]:
    import numpy as np

    from gristmill.models import features
    from gristmill.training.once import FEATURES_BATCH_PIXELS

    count = max(1, FEATURES_BATCH_PIXELS // side**2)
    pictures = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    session = features.open_session(features.backbone_onnx("lite0-layers", side, 3), threads)
    return lambda: session.run(["features"], {"image": pictures}), count


def _training_step(family: str, side: int) -> tuple[Callable[[], object], int]:
    """A step as the loop takes it: passes, both optimizers, the average of the weights."""
    import torch
    from torch import nn

    from gristmill.models import catalog
    from gristmill.task import InputSpec, Target, Task
    from gristmill.training import recipe as recipes
    from gristmill.training.optim import Average, optimizers

    labels = tuple("abcdefghij")
    task = Task(
        inputs=(InputSpec(name="image", kind="image", spec={"channels": 3, "size": side}),),
        targets=(Target(name="label", task="multiclass", labels=labels),),
        metric="accuracy",
    )
    config = _config(family, side)
    recipe = recipes.from_config(config, task, rows=10_000, resolution=side)
    torch.manual_seed(0)
    network: Any = catalog.build(config, task).to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if recipe.freeze_norm and isinstance(module, nn.BatchNorm2d):
            module.eval()
    used = optimizers(network, recipe)
    average = Average(network, batch=recipe.batch, share=0.1, horizon=100_000)
    x = (torch.rand(recipe.batch, 3, side, side) * 255).to(memory_format=torch.channels_last)
    y = torch.randint(0, len(labels), (recipe.batch,))
    size, count = recipe.micro_batch or recipe.batch, iter(range(1, 10**9))

    def step() -> None:
        for part in range(0, recipe.batch, size):
            logits = network(x[part : part + size])
            loss = nn.functional.cross_entropy(logits, y[part : part + size], reduction="sum")
            (loss / recipe.batch).backward()
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(network, next(count))

    return step, recipe.batch


def _config(family: str, side: int) -> dict[str, Any]:
    from gristmill.models import catalog

    defaults = {p.name: p.default for p in catalog.family(family).parameters}
    return {"family": family, **defaults, f"{family}.resolution": side}


def _row(name: str, many: list[float], one: list[float]) -> dict[str, Any]:
    ratios = sorted(a / b for a, b in zip(many, one, strict=True))
    value = statistics.median(ratios)
    quarter = len(ratios) // 4
    return {
        "claim": "two workers of one thread over one of two threads, rows per second",
        "case": name,
        "value": round(value, 4),
        "interval": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        "bar": BAR,
        "ok": value >= BAR - TOLERANCE,
        "rounds": len(ratios),
        "rows_per_s": {k: round(statistics.median(v), 1) for k, v in zip(SETTINGS, (many, one), strict=True)},
        "load": round(os.getloadavg()[0], 2),
        "seed": 0,
        **rowfile.stamp(LIBRARIES),
    }


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    low, high = row["interval"]
    many, one = row["rows_per_s"].values()
    print(
        f"{'ok  ' if row['ok'] else 'MISS'} {row['case']:24} ratio {row['value']:.3f} [{low:.3f}, {high:.3f}]"
        f"  bar {row['bar']:.2f}  {many:.1f} against {one:.1f} rows/s",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds; no row is kept")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--only", help="these cases, separated by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
