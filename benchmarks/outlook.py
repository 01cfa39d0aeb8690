"""What more time buys: learn the rule of `gristmill.search.outlook` from tables, and judge it.

    python benchmarks/outlook.py --tables FOLDER            judge the shipped rule on the odd tasks
    python benchmarks/outlook.py --tables FOLDER --fit      learn it anew from the even tasks, then judge
    python benchmarks/outlook.py --tables FOLDER --quick    judge on a few odd tasks

Searches of the LCBench surrogate are run for several budgets by the own race (virtual clock). A pair
of budgets T and k T gives one case: the course until T, and the score at k T. Rows (claim, value, interval,
bar, ok) go to `results/outlook.jsonl`; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import rowfile  # noqa: E402
from engine import race  # noqa: E402
from lcbench import Lcbench  # noqa: E402

from gristmill.search.outlook import halving, outlook  # noqa: E402

RESULTS = HERE / "results" / "outlook.jsonl"
SHIPPED = HERE.parent / "src" / "gristmill" / "search" / "outlook.json"
FACTORS = (2, 5, 10)
BUDGETS = (3.0, 5.0, 6.0, 10.0, 15.0, 25.0, 30.0, 50.0)
"""In full trainings; every pair whose ratio is a factor is a case."""
NOMINAL = 0.8
"""The shipped interval is to hold this share of the cases."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A search that ended after T, and the score of a search k times as long."""

    task: str
    factor: int
    seconds: float
    course: tuple[tuple[float, float], ...]
    later: float

    @property
    def now(self) -> float:
        """The best score after T."""
        return self.course[-1][1]

    @property
    def error(self) -> float:
        """What it lacks to a perfect one."""
        return 1.0 - self.now


def main() -> int:
    """Fit when asked, judge, append the rows; 1 when a bar is missed."""
    options = _arguments()
    world = Lcbench(options.tables)
    if options.fit:
        learnt = _fit([c for t in world.tasks[::2] for c in _cases(world, t, options.seeds)])
        SHIPPED.write_text(json.dumps(learnt, indent=1) + "\n")
    judged = world.tasks[1::2][: 3 if options.quick else None]
    cases = [c for t in judged for c in _cases(world, t, 1 if options.quick else options.seeds)]
    rows = [row for factor in FACTORS for row in _claims([c for c in cases if c.factor == factor], factor)]
    for row in rows:
        print(json.dumps(row) if options.json else _plain(row))
    if not options.quick:
        rowfile.append(RESULTS, rows)
    return 0 if all(row["ok"] for row in rows) else 1


def _cases(world: Lcbench, task: str, seeds: int) -> Iterator[Case]:
    unit = world.scale(task).training
    for seed in range(seeds):
        ended = {}
        for budget in BUDGETS:
            credits, _ = race(world, task, seconds=budget * unit, workers=1, seed=seed, warm=True)
            ended[budget] = _rising(credits)
        for budget in BUDGETS:
            for factor in FACTORS:
                later = ended.get(factor * budget)
                if ended[budget] and later:
                    yield Case(
                        task=task,
                        factor=factor,
                        seconds=budget * unit,
                        course=ended[budget],
                        later=later[-1][1],
                    )


def _rising(credits: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Only the entries that were the best so far."""
    best, course = -math.inf, []
    for seconds, score in sorted(credits):
        if score > best:
            best = score
            course.append((seconds, score))
    return tuple(course)


def _fit(cases: list[Case]) -> dict[str, Any]:
    """Least squares of the log ratio of errors on the log of the last halving, and the spread around it."""
    factors = {}
    for factor in FACTORS:
        mine = [c for c in cases if c.factor == factor]
        slopes = np.array([halving(c.course, c.seconds) for c in mine])
        ratios = np.array([math.log(max(1e-4, 1 - c.later) / max(1e-4, 1 - c.now)) for c in mine])
        level, slope = np.linalg.lstsq(np.column_stack([np.ones_like(slopes), slopes]), ratios, rcond=None)[0]
        rest = ratios - np.minimum(0.0, level + slope * slopes)
        below, above = np.quantile(rest, [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
        line = {"level": level, "slope": slope, "below": below, "above": above}
        factors[str(factor)] = {name: round(float(x), 5) for name, x in line.items()}
    about = (
        "log(error after k times the time / error now) = level + slope * log(error now / at half the time)"
    )
    return {"version": 1, "about": about, "cases": len(cases), "factors": factors}


def _claims(cases: list[Case], factor: int) -> list[dict[str, Any]]:
    """Coverage of the interval (at least 0.7 of the nominal 0.8), and the error of the middle against the
    plain guess that nothing changes."""
    found = [next(o for o in outlook(c.course, c.seconds) if o.factor == factor) for c in cases]
    pairs = list(zip(found, cases, strict=True))
    inside = [o.least * c.error - 1e-4 <= 1 - c.later <= o.most * c.error + 1e-4 for o, c in pairs]
    missed = [abs(o.middle * c.error - (1 - c.later)) for o, c in pairs]
    plain = [abs(c.now - c.later) for c in cases]
    tasks = sorted({c.task for c in cases})
    ratio = float(np.mean(missed) / max(1e-9, np.mean(plain)))
    return [
        _row(
            f"coverage of the 80 % interval at {factor} x",
            float(np.mean(inside)),
            0.7,
            cases,
            tasks,
            above=True,
        ),
        _row(
            f"error of the middle over that of no change at {factor} x", ratio, 1.0, cases, tasks, above=False
        ),
    ]


def _row(
    claim: str, value: float, bar: float, cases: list[Case], tasks: list[str], *, above: bool
) -> dict[str, Any]:
    return {
        "claim": claim,
        "value": round(value, 4),
        "interval": None,
        "bar": bar,
        "ok": value >= bar if above else value <= bar,
        "cases": len(cases),
        "tasks": len(tasks),
        "commit": rowfile.commit(),
        "when": time.strftime("%Y-%m-%d"),
    }


def _plain(row: dict[str, Any]) -> str:
    return f"{'ok  ' if row['ok'] else 'MISS'} {row['claim']:55} {row['value']:.3f}  bar {row['bar']}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, required=True, help="the folder of the LCBench surrogate")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
