"""Into how many workers should the cores of a machine be divided? Simulated, on the LCBench surrogate.

    python benchmarks/divide.py --tables FOLDER          the even tasks, with the portfolio; what has rows is
                                                         skipped
    python benchmarks/divide.py --tables FOLDER --quick  two tasks, up to four cores, no row kept

C cores are C / t workers of t threads. A worker of t threads is t ** SPEED as fast as one of a thread
(`benchmarks/threads.py`: 1.50 to 1.77 times with two, median 1.75). Each division gets the same wall clock:
the time in which one core alone would do so many mean full trainings. Regret as in `benchmarks/search.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rowfile
from compare import interval
from engine import race
from lcbench import Lcbench

import search

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "divide.jsonl"
CORES = (2, 4, 8, 16)
TRAININGS = (0.5, 1.0, 2.0)
"""Wall clock, in mean full trainings of one core."""
SPEED = 0.8
LEAST = 0.5
"""Regret of a search that has scored nothing counts as half the way from the best to the median."""


def main() -> int:
    """Race every division on every task; print the mean regrets and keep them."""
    options = _arguments()
    world = Lcbench(Path(options.tables) / "lcbench")
    tasks = world.tasks[::2][: 2 if options.quick else None]
    known = [] if options.quick else rowfile.read(options.results)
    done = {(r["cores_divided"], r["trainings"]) for r in known}
    for cores in CORES[:2] if options.quick else CORES:
        for trainings in TRAININGS:
            if (cores, trainings) not in done:
                rows = divided(world, tasks, cores, trainings)
                print(table(rows), flush=True)
                if not options.quick:
                    rowfile.append(options.results, rows)
    return 0


def threads_of(cores: int) -> list[int]:
    """Powers of two up to all cores."""
    return [2**k for k in range(cores.bit_length())]


def divided(world: Lcbench, tasks: list[str], cores: int, trainings: float) -> list[dict[str, Any]]:
    """A row for each number of threads; `minus_one_thread`: paired over tasks, with its interval."""
    regrets = {t: [_regret(world, task, cores, t, trainings) for task in tasks] for t in threads_of(cores)}
    return [
        {
            "cores_divided": cores,
            "threads": threads,
            "trainings": trainings,
            "regret": round(float(np.mean(values)), 5),
            "minus_one_thread": round(float(np.mean(np.subtract(values, regrets[1]))), 5),
            "interval": interval(np.subtract(values, regrets[1])),
            "speed": SPEED,
            "n": len(tasks),
            "seeds": [0],
            **rowfile.stamp(search.LIBRARIES),
        }
        for threads, values in regrets.items()
    ]


def _regret(world: Lcbench, task: str, cores: int, threads: int, trainings: float) -> float:
    scale = world.scale(task)
    seconds = trainings * scale.training * threads**SPEED
    credits, _ = race(world, task, seconds=seconds, workers=cores // threads, seed=0, warm=True)
    best = max((score for at, score in credits if at <= seconds), default=None)
    return LEAST if best is None else min(LEAST, scale.regret(best))


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""
    return "\n".join(_line(r) for r in rows)


def _line(r: dict[str, Any]) -> str:
    division = f"{r['cores_divided'] // r['threads']:2} x {r['threads']:2} threads"
    regret = f"{r['regret']:.4f} {r['minus_one_thread']:+.4f} {r['interval']}"
    return f"{r['cores_divided']:3} cores, {r['trainings']:3} trainings: {division}  {regret}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared"))
    parser.add_argument("--tables", default=shared + "/search-tables")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
