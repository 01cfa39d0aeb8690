"""The search engine, measured on tables: what it reaches in 3 to 50 full trainings, and its deadline.

    python benchmarks/search.py --tables FOLDER            the grid; cells that have a row are skipped
    python benchmarks/search.py --tables FOLDER --quick    three odd tasks, ten trainings, no row kept
    python benchmarks/search.py --only cold,warm --again   these methods anew
    python benchmarks/search.py --table                    the committed rows as Markdown

FOLDER holds `lcbench/model.onnx`. Settings were chosen on the even tasks of the sorted list, all rows are of
the odd ones; a warm start's portfolio comes from the other 33 tasks. Regret: 1 is the median of random
configurations, 0 the best of 1,500 of them (the scale on which the bars were set) or, stricter and without a
bar, the best score known of a task, from a local search around these. Budgets are full trainings: the mean
seconds of 52 epochs of a random configuration, summed over the workers. Rivals count each epoch they pass, we
only what the study was told. Optuna and SMAC3 (`--smac PYTHON`, an environment of its own) are skipped aloud
where they are missing.
Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rowfile
from compare import interval, ranks
from deadline_simulation import overshoots
from engine import race
from lcbench import Lcbench
from rivals import RIVALS, SmacSearch, simulate

from gristmill.search.samplers import Mixture, Mutation, Prior, Sampler, default_sampler, sampler

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search.jsonl"
LIBRARIES = ("numpy", "onnxruntime", "optuna", "scikit-learn")
BUDGETS: tuple[int, ...] = (3, 5, 10, 20, 50)
QUICK_TO = 10
GRID: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 38, 50)
"""Times, in full trainings, at which the longest run is looked at."""
HALF = Mixture(parts=((0.5, Mutation()), (0.5, Prior())))
"""The proposals without their quarter from a Gaussian process."""
ADAPTED = "cold with Optuna's TPE"
OURS: dict[str, tuple[bool, Callable[[], Sampler]]] = {
    "cold": (False, default_sampler),
    "warm": (True, default_sampler),
    "cold without gp": (False, lambda: HALF),
    "warm without gp": (True, lambda: HALF),
    ADAPTED: (False, lambda: sampler("tpe")),
}
"""Whether there is a portfolio, and the sampler."""
VARIANTS = ("cold without gp", "warm without gp", ADAPTED)
"""Of ours; they take no place in the ranking."""
METHODS = (*OURS, *RIVALS, "smac")
HORIZON = {"gp": 20, "smac": 20, ADAPTED: 20}
"""Methods whose own work is slow are run to fewer trainings."""
HORIZON_OF_TWO = 20
"""And all with two workers, to keep the whole under 40 minutes."""
CEILING = 3.0
"""A regret beyond this counts as this, so that one broken start does not drown the mean."""
SIMULATIONS = 300
Cell = dict[str, Any]


def main() -> int:
    """Run what is missing, print a row a claim, return 1 when a bar is missed."""
    options = _arguments()
    if options.quick:
        _shorten()
    rows = rowfile.read(options.results)
    if options.table:
        print(table(rows))
        return 0
    new = list(_run(options, rows))
    if options.rows_only:
        return 0
    found = claims(new if options.quick else rows + new, quick=options.quick)
    for row in found:
        _print(row, options.json)
    return 0 if all(row["ok"] for row in found) else 1


def _run(options: argparse.Namespace, rows: list[Cell]) -> Iterator[Cell]:
    """Compute the cells without a row, each appended as it is ready."""
    done = set() if options.quick or options.again else {_key(r) for r in rows}
    world = Lcbench(Path(options.tables) / "lcbench")
    tasks = world.tasks[1::2][:3] if options.quick else world.tasks[1::2]
    for method in _methods(options):
        for workers in (1,) if options.quick or method in HORIZON else options.workers:
            for task in tasks:
                seeds = 1 if options.quick else options.seeds
                if (method, workers, task) not in done:
                    yield _kept(options, cell(world, method, task, workers, seeds, options))
    if ("deadline", 0, "simulated") not in done and _wanted(options, "deadline"):
        count = 60 if options.quick else SIMULATIONS
        yield _kept(options, _deadline_cell(count))


def cell(
    world: Lcbench, method: str, task: str, workers: int, seeds: int, options: argparse.Namespace
) -> Cell:
    """Regrets of one method on one task: by seed and budget, and along the longest run."""
    began = time.monotonic()
    scale = world.scale(task)
    budgets = [b for b in BUDGETS if b <= _horizon(method, workers)]
    reached, along = [], []
    for seed in range(seeds):
        if method in OURS:
            runs = [
                race(
                    world,
                    task,
                    seconds=b * scale.training / workers,
                    workers=workers,
                    seed=seed,
                    warm=OURS[method][0],
                    sampler=OURS[method][1](),
                )[0]
                for b in budgets
            ]
        else:
            rival = SmacSearch(options.smac, seed) if method == "smac" else RIVALS[method](seed)
            until = budgets[-1] * scale.training / workers
            runs = [simulate(rival, world, task, seconds=until, workers=workers)] * len(budgets)
            if method == "smac":
                rival.close()
        unit = scale.training / workers
        reached.append([_best(run, b * unit) for run, b in zip(runs, budgets, strict=True)])
        along.append([_best(runs[-1], g * unit) for g in GRID if g <= budgets[-1]])
    return {
        "kind": "cell",
        "method": method,
        "workers": workers,
        "task": task,
        "budgets": budgets,
        "seeds": list(range(seeds)),
        "n": seeds,
        "regret": _rounded(reached, scale.regret),
        "mild_regret": _rounded(reached, scale.mild_regret),
        "along": _rounded(along, scale.regret),
        "wall_s": round(time.monotonic() - began, 1),
        **rowfile.stamp(LIBRARIES),
    }


def _deadline_cell(count: int) -> Cell:
    ratios, worst = overshoots(count)
    return {
        "kind": "cell",
        "method": "deadline",
        "workers": 0,
        "task": "simulated",
        "n": count,
        "seeds": [0, count - 1],
        "worst_share_of_allowed": round(max(ratios), 4),
        "broken": sum(r > 1.0 for r in ratios),
        "worst": worst,
        **rowfile.stamp(LIBRARIES),
    }


def _best(credits: list[tuple[float, float]], until: float) -> float:
    return max((score for at, score in credits if at <= until * (1 + 1e-9)), default=0.0)


def _rounded(scores: list[list[float]], regret: Any) -> list[list[float]]:
    return [[round(min(CEILING, regret(x)), 5) for x in row] for row in scores]


# claims


def claims(rows: list[Cell], *, quick: bool = False) -> list[dict[str, Any]]:
    """A row a claim, from the newest row of each cell."""
    cells = {_key(r): r for r in rows if r["kind"] == "cell"}
    found = [*_regret_claims(cells), *_rank_claims(cells), *_cold_claims(cells), *_speed_claims(cells)]
    for row in found:
        row["ok"] = row["ok"] or (quick and "warm" not in row["claim"])  # three tasks settle nothing more
    deadline = cells.get(("deadline", 0, "simulated"))
    if deadline is not None:
        name = f"overshoot of {deadline['n']} simulated searches, worst, as a part of what is allowed"
        worst = deadline["worst_share_of_allowed"]
        found.append(_claim(name, worst, None, 1.0, worst <= 1.0))
    return found


def _regret_claims(cells: dict[Any, Cell]) -> Iterator[dict[str, Any]]:
    bars = {3: 0.10, 10: 0.03}
    for workers in (1, 2):
        for measure, zero in (("regret", "best known"), ("mild_regret", "best of 1,500 random")):
            for method in METHODS:
                table = _by_task(cells, method, workers, measure)
                for i, budget in enumerate(b for b in BUDGETS if b <= _horizon(method, workers)):
                    if table is None:
                        continue
                    values = table[:, i]
                    judged = (method, workers, measure) == ("warm", 1, "mild_regret")
                    bar = bars.get(budget) if judged else None
                    name = f"{method}: regret at {budget}, {workers} worker, 0 = {zero}"
                    mean = float(values.mean())
                    yield _claim(name, mean, interval(values), bar, bar is None or mean <= bar)


def _rank_claims(cells: dict[Any, Cell]) -> Iterator[dict[str, Any]]:
    for i, budget in enumerate(BUDGETS):
        tables = {m: _by_task(cells, m, 1) for m in METHODS if budget <= _horizon(m, 1)}
        known = {m: t[:, i] for m, t in tables.items() if t is not None and m not in VARIANTS}
        if "warm" not in known or len(known) < 2 or len({len(v) for v in known.values()}) > 1:
            continue
        places = ranks(np.stack(list(known.values())))
        mine = places[list(known).index("warm")]
        for name, row in zip(known, places, strict=True):
            ok = name == "warm" or interval(mine - row)[0] <= 0.0
            bar = None if name == "warm" else float(mine.mean())
            yield _claim(f"mean rank at {budget}: {name}", float(row.mean()), interval(row), bar, ok)


def _cold_claims(cells: dict[Any, Cell]) -> Iterator[dict[str, Any]]:
    mine = _by_task(cells, "cold", 1)
    for rival, strictly in (("tpe+hyperband", True), ("resumed halving", False)):
        other = _by_task(cells, rival, 1)
        if mine is None or other is None or len(mine) != len(other):
            continue
        for i, budget in enumerate(BUDGETS):
            difference = mine[:, i] - other[:, i]
            low, high = interval(difference)
            ok = high < 0.0 if strictly else low <= 0.0
            name = f"cold minus {rival} at {budget}"
            yield _claim(name, float(difference.mean()), [low, high], 0.0, ok)


def _speed_claims(cells: dict[Any, Cell]) -> Iterator[dict[str, Any]]:
    """Full trainings until the mean regret of TPE after 50 is reached."""
    goal = _by_task(cells, "tpe", 1)
    for method in ("cold", "warm"):
        along = _by_task(cells, method, 1, "along")
        if goal is None or along is None:
            continue
        reached = [g for g, x in zip(GRID, along.mean(axis=0), strict=True) if x <= goal[:, -1].mean()]
        first = float(reached[0]) if reached else float("inf")
        last = float(BUDGETS[-1])
        name = f"{method}: trainings to the regret of TPE at {BUDGETS[-1]}"
        yield _claim(name, first, None, last, first <= last)


def _by_task(cells: dict[Any, Cell], method: str, workers: int, measure: str = "regret") -> np.ndarray | None:
    """Means over seeds, (tasks, budgets); None without rows."""
    mine = sorted((k[2], c) for k, c in cells.items() if k[:2] == (method, workers))
    return np.array([np.mean(c[measure], axis=0) for _, c in mine]) if mine else None


def _claim(name: str, value: float, interval: Any, bar: float | None, ok: bool) -> dict[str, Any]:
    return {"claim": name, "value": round(value, 4), "interval": interval, "bar": bar, "ok": bool(ok)}


def table(rows: list[Cell]) -> str:
    """Mean regret of each method on the odd tasks, one worker and two, as Markdown."""
    cells = {_key(r): r for r in rows if r["kind"] == "cell"}
    lines = [
        "| method | workers | n | " + " | ".join(f"at {b}" for b in BUDGETS) + " | rows from |",
        "|---" * 9 + "|",
    ]
    for workers in (1, 2):
        for method in METHODS:
            values = _by_task(cells, method, workers)
            if values is None:
                continue
            mine = [c for k, c in cells.items() if k[:2] == (method, workers)]
            shown = [f"{x:.3f}" for x in values.mean(axis=0)]
            shown += ["-"] * (len(BUDGETS) - len(shown))
            commits = ", ".join(sorted({c["commit"] for c in mine}))
            lines.append(
                f"| {method} | {workers} | {len(mine)} x {mine[0]['n']} | {' | '.join(shown)} | {commits} |"
            )
    return "\n".join(lines)


# rows


def _methods(options: argparse.Namespace) -> Iterator[str]:
    for method in METHODS:
        if not _wanted(options, method):
            continue
        ours = (method in OURS and method != ADAPTED) or method in ("smac", "random", "resumed halving")
        if not ours and importlib.util.find_spec("optuna") is None:
            print(f"skipped: {method} needs optuna (pip install optuna)", file=sys.stderr)
            continue
        if method == "smac" and not options.smac:
            print("skipped: smac needs --smac PYTHON, an interpreter that has smac", file=sys.stderr)
            continue
        if options.quick and method in HORIZON:
            print(f"skipped in a quick run: {method}", file=sys.stderr)
            continue
        yield method


def _shorten() -> None:
    """To ten trainings: most of the time goes into the longer ones."""
    global BUDGETS, GRID
    BUDGETS = tuple(b for b in BUDGETS if b <= QUICK_TO)
    GRID = tuple(g for g in GRID if g <= QUICK_TO)


def _horizon(method: str, workers: int) -> int:
    return min(HORIZON.get(method, BUDGETS[-1]), BUDGETS[-1] if workers == 1 else HORIZON_OF_TWO)


def _wanted(options: argparse.Namespace, method: str) -> bool:
    return not options.only or method in options.only.split(",")


def _key(row: Cell) -> tuple[Any, ...]:
    return (row["method"], row["workers"], row["task"])


def _kept(options: argparse.Namespace, row: Cell) -> Cell:
    if not options.quick:
        rowfile.append(options.results, [row])
    return row


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    spread = f"[{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]" if row["interval"] else ""
    bar = "" if row["bar"] is None else f"bar {row['bar']:.3g}"
    print(f"{'ok  ' if row['ok'] else 'MISS'} {row['claim']:62} {row['value']:7.3f} {spread:18} {bar}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared"))
    parser.add_argument("--tables", default=shared + "/search-tables")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=lambda x: [int(w) for w in x.split(",")], default=[1, 2])
    parser.add_argument("--only", default="", help=f"of {', '.join(METHODS)}, deadline; separated by commas")
    parser.add_argument("--smac", default="", help="an interpreter that has smac")
    parser.add_argument("--again", action="store_true", help="run cells anew that have a row")
    parser.add_argument("--rows-only", action="store_true", help="compute rows, judge nothing")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
