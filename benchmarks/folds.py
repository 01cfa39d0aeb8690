"""Folds against one hold-out on small data, at the same number of segments.

    python benchmarks/folds.py --data FOLDER              the grid; cells that have a row are skipped
    python benchmarks/folds.py --data FOLDER --quick      two small tables, one seed
    python benchmarks/folds.py --table                    the committed rows, by set and size, as Markdown

A cell draws `rows` labelled rows from the training part of a set, fits them with `gristmill.fit` in counted
mode and scores the bundle on other, held-back rows of the same training part; an official test part is never
opened. Ways: `folds` and `holdout`, the same number of segments. A row holds the error on the held-back rows
(1 - accuracy, or RMSE), what valid said, how reliable its confidence is, and CPU seconds of the whole fit (a
busy machine stretches the wall clock). The claims: folds are not worse on average over all cells (geometric
mean of error ratios <= 1), and what valid says is nearer to the truth (the same mean, over the sets).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rowfile
from main_job import HERE, LIBRARIES

import gristmill
from gristmill import automl, planning, reading
from gristmill.search.executors.local import LocalExecutor
from gristmill.segment import Outcome, Resources, Segment

RESULTS = HERE / "results" / "folds.jsonl"
SIZES = (300, 600, 1200)
SEEDS = (0, 1, 2)
WAYS = ("folds", "holdout")
HELD_BACK = 3000
"""Rows to judge on, at most: of small sets what the largest size leaves."""
SIDE = 64
"""Pictures are read at this many pixels, so that the grid ends."""


@dataclass(frozen=True, kw_only=True)
class Set:
    """One data set: how to write a subset of its training part, and how it is fitted."""

    name: str
    write: Callable[[Path, np.random.Generator, int, Path], dict[str, Any]]
    metric: str
    segments: int


def main() -> int:
    """Run what is missing, print it, return 1 when a claim does not hold."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if not options.table:
        import torch  # noqa: F401  so that no cell pays for it

        reading.LONGEST = SIDE
        planning._sides = lambda *_: {"lite0": SIDE, "hog": SIDE}
        automl._executor = lambda session: _Here(session)  # type: ignore[assignment, arg-type]
        known = {_key(r) for r in rows}
        for chosen, size, seed, way in _cells(options):
            if (chosen.name, size, seed, way) in known and not options.quick:
                continue
            row = run_cell(chosen, size, seed, way, Path(options.data))
            rows.append(row)
            if not options.quick:
                rowfile.append(options.results, [row])
            print(json.dumps(row) if options.json else _line(row), flush=True)
    print(table(rows))
    return 0 if all(claims(rows).values()) else 1


def run_cell(chosen: Set, size: int, seed: int, way: str, data: Path) -> dict[str, Any]:
    """Fit one subset in one way; the row of what came of it."""
    split: Any = sys.modules["gristmill.data.split"]
    split.FOLDS_BELOW = 10**9 if way == "folds" else 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        os.environ["GRISTMILL_CACHE"] = str(work / "cache")
        how = chosen.write(data, np.random.default_rng([seed, size]), size, work)
        began, worked = time.monotonic(), time.process_time()
        made = gristmill.fit(
            **how, metric=chosen.metric, segments=chosen.segments, seed=seed, out=work / "model.grist"
        )
        wall, worked = time.monotonic() - began, time.process_time() - worked
        record = json.loads((work / "model.run" / "report.json").read_text())
    test, valid = record["evaluation"], record["valid"]
    return {
        "set": chosen.name,
        "rows": size,
        "seed": seed,
        "way": way,
        "segments": chosen.segments,
        "metric": chosen.metric,
        "test": _error(test, chosen.metric),
        "valid": _error(valid, chosen.metric),
        "confidence": _confidence(test),
        "held_back": test["n"],
        "cpu_s": round(worked, 2),
        "wall_s": round(wall, 2),
        "members": [c["title"] for c in made.leaderboard if c["weight"] > 0],
        **rowfile.stamp(LIBRARIES),
    }


def _error(evaluation: dict[str, Any], metric: str) -> float:
    value = float(evaluation["metrics"][metric]["value"])
    return value if metric == "rmse" else 1.0 - value


def _confidence(evaluation: dict[str, Any]) -> float:
    """How far stated confidence is off: log loss of labels; of numbers |coverage of the 90 % range - 0.9|."""
    if "log_loss" in evaluation["metrics"]:
        return float(evaluation["metrics"]["log_loss"]["value"])
    sets = evaluation.get("sets")
    return abs(float(sets["coverage"]) - 0.9) if sets else math.nan


# ---------------------------------------------------------------- the sets


def _digits(data: Path, rng: np.random.Generator, size: int, work: Path) -> dict[str, Any]:
    from gristmill.quickstart import write_digits

    paths = sorted(write_digits(work / "all").glob("*/*.png"))
    return {"from_scratch": True} | _folders(paths, rng, size, work)


def _trashnet(data: Path, rng: np.random.Generator, size: int, work: Path) -> dict[str, Any]:
    lines = list(csv.DictReader((data / "trashnet-320" / "split.csv").open()))
    paths = [data / "trashnet-320" / x["path"] for x in lines if x["split"] == "train"]
    return _folders(paths, rng, size, work)


def _folders(paths: list[Path], rng: np.random.Generator, size: int, work: Path) -> dict[str, Any]:
    order = rng.permutation(len(paths))
    held = order[max(SIZES) :][:HELD_BACK]
    for part, rows in (("train", order[:size]), ("test", held)):
        for i in rows.tolist():
            (work / "pictures" / part / paths[i].parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(paths[i], work / "pictures" / part / paths[i].parent.name / paths[i].name)
    return {"path": work / "pictures"}


def _adult(data: Path, rng: np.random.Generator, size: int, work: Path) -> dict[str, Any]:
    return {"target": "income"} | _lines(data / "tables/adult/train.csv", rng, size, work, lambda i: True)


def _houses(data: Path, rng: np.random.Generator, size: int, work: Path) -> dict[str, Any]:
    path = data / "tables/california-housing/housing.csv"
    return {"target": "median_house_value"} | _lines(path, rng, size, work, lambda i: bool(i % 5))


def _lines(
    path: Path, rng: np.random.Generator, size: int, work: Path, trains: Callable[[int], bool]
) -> dict[str, Any]:
    head, *lines = path.read_text().splitlines(keepends=True)
    lines = [x for i, x in enumerate(lines) if trains(i)]
    order = rng.permutation(len(lines))
    for name, rows in (("train", order[:size]), ("held", order[-HELD_BACK:])):
        (work / f"{name}.csv").write_text(head + "".join(lines[i] for i in rows))
    return {"path": work / "train.csv", "test": str(work / "held.csv")}


SETS = (
    Set(name="adult", write=_adult, metric="accuracy", segments=6),
    Set(name="california-housing", write=_houses, metric="rmse", segments=6),
    Set(name="digits", write=_digits, metric="accuracy", segments=3),
    Set(name="trashnet-320", write=_trashnet, metric="accuracy", segments=3),
)


# ---------------------------------------------------------------- in this process


class _Here(LocalExecutor):
    """Performs segments in this process, one after the other: no process start, no second torch."""

    def __init__(self, session: Any) -> None:
        self._context = {"run": str(session.run.folder)}
        self._done: list[Outcome] = []
        self.clock = _Clock()  # type: ignore[assignment]

    def close(self) -> None:
        automl._opened.cache_clear()

    def slots(self) -> list[Resources]:
        return [Resources(cpu=1)] if not self._done else []

    @property
    def open(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(o.id for o in self._done)

    def submit(self, segment: Segment) -> None:
        self._done.append(automl.work(segment, self._context))

    def wait(self, until: float) -> list[Outcome]:
        done, self._done = self._done, []
        return done

    def cancel(self, segment_id: str) -> None:
        self._done = [o for o in self._done if o.id != segment_id]


class _Clock:
    def now(self) -> float:
        return time.monotonic()


# ---------------------------------------------------------------- what it says


def claims(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether folds are not worse than a hold-out: in error, and in what valid says of it."""
    made, ratios = {}, _pairs(rows)
    if ratios:
        made["error, folds / holdout"] = _geometric(ratios) <= 1.0
    nearer = _nearer(rows)
    if nearer:
        made["|valid - test|, folds / holdout"] = _geometric(list(nearer.values())) <= 1.0
    return made


def _nearer(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By set: root mean square of valid - test with folds over that with a hold-out, cells of both only."""
    cell = {_key(r): r["valid"] - r["test"] for r in rows}
    found = {}
    for chosen in SETS:
        keys = [
            k[:3] for k in cell if k[0] == chosen.name and k[3] == "folds" and (*k[:3], "holdout") in cell
        ]
        squares = [sum(cell[*k, way] ** 2 for k in keys) for way in WAYS[:2]]
        if keys:
            found[chosen.name] = math.sqrt(squares[0] / max(squares[1], 1e-12))
    return found


def _pairs(rows: list[dict[str, Any]]) -> list[float]:
    cell = {_key(r): r["test"] for r in rows}
    keys = [k[:3] for k in cell if k[3] == "folds" and (*k[:3], "holdout") in cell]
    return [cell[*k, "folds"] / cell[*k, "holdout"] for k in keys]


def _geometric(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(max(r, 1e-9)) for r in ratios)) if ratios else math.nan


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds by set and size, then ratios by size, as Markdown."""
    lines = [
        "| set | rows | way | seeds | error | \\|valid - test\\| | confidence | CPU time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for chosen in SETS:
        for size in SIZES:
            for way in WAYS:
                mine = [r for r in rows if (r["set"], r["rows"], r["way"]) == (chosen.name, size, way)]
                if mine:
                    lines.append(_means(chosen.name, size, way, mine))
    lines += ["", "| rows | error, folds / hold-out | cells |", "|---|---|---|"]
    for size in (*SIZES, "all"):
        ratios = _pairs([r for r in rows if size in ("all", r["rows"])])
        lines.append(f"| {size} | {_geometric(ratios):.3f} | {len(ratios)} |")
    shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in _nearer(rows).items())
    lines += ["", f"|valid - test|, folds / hold-out, root mean squares: {shown}"]
    lines += ["", *(f"{'ok  ' if ok else 'MISS'} {claim}" for claim, ok in claims(rows).items())]
    return "\n".join(lines)


def _means(name: str, size: int, way: str, mine: list[dict[str, Any]]) -> str:
    def mean(values: list[float]) -> str:
        return f"{statistics.fmean(values):.4g}"

    cells = (
        mean([r["test"] for r in mine]),
        mean([abs(r["valid"] - r["test"]) for r in mine]),
        mean([r["confidence"] for r in mine]),
        mean([r["cpu_s"] for r in mine]) + " s",
    )
    return f"| {name} | {size} | {way} | {len(mine)} | {' | '.join(cells)} |"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['set']:20} {row['rows']:5} seed {row['seed']} {row['way']:11} error {row['test']:.4g}"
        f"  valid {row['valid']:.4g}  confidence {row['confidence']:.3f}  {row['cpu_s']:.1f} s"
    )


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["set"], row["rows"], row["seed"], row["way"])


def _cells(options: argparse.Namespace) -> list[tuple[Set, int, int, str]]:
    sets = [s for s in SETS if not options.only or s.name in options.only.split(",")]
    if options.quick:
        return [(s, 300, 0, w) for s in SETS[:2] for w in WAYS[:2]]
    sizes = [int(s) for s in options.sizes.split(",")] if options.sizes else SIZES
    ways = options.ways.split(",") if options.ways else WAYS
    return [(s, size, seed, w) for seed in SEEDS for size in sizes for s in sets for w in ways]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default=os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared")) + "/data"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--sizes", default="", help="numbers of rows, separated by commas")
    parser.add_argument("--ways", default="", help="ways, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
