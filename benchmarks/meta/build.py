"""Turn the rows of `collect.py` into the shipped meta-table, and judge the portfolio that it makes.

    python benchmarks/meta/build.py                    write src/gristmill/search/metatable.json
    python benchmarks/meta/build.py --judge            leave out one collection at a time
    python benchmarks/meta/build.py --judge --dry-run  print the comparison, append no rows

Judged on the sets of the collection that was left out: regret, the best score of the set's table minus the
best so far after going through a list on two workers of one thread. Lists: the built one, conditioned on
the facts of the left-out set and not; the hand-made one; random orders of what was measured. Features get
the resolution that the plan would give them. Anytime regret is its mean over the whole time. Rows go to
`results/portfolio.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import rowfile  # noqa: E402
from collect import space_of  # noqa: E402
from compare import interval  # noqa: E402

from gristmill import planning  # noqa: E402
from gristmill.experience import parent_of  # noqa: E402
from gristmill.models import catalog  # noqa: E402
from gristmill.search.metatable import (  # noqa: E402
    PLANNED,
    VERSION,
    Case,
    DataSet,
    Table,
    followed,
    greedy,
    merged,
    order,
)
from gristmill.search.portfolio import fitted  # noqa: E402
from gristmill.segment import config_hash  # noqa: E402
from gristmill.task import InputSpec, Target, Task  # noqa: E402

ROWS = HERE.parent / "results" / "meta.jsonl"
RESULTS = HERE.parent / "results" / "portfolio.jsonl"
SHIPPED = HERE.parents[1] / "src" / "gristmill" / "search" / "metatable.json"
BUDGETS = (30.0, 180.0, 600.0)
WORKERS = 2
RANDOM_ORDERS = 200
LEAST_REST = 2
"""Collections that must be left to build from; fewer are no judgement."""
LISTS = ("conditioned", "unconditioned", "hand-made", "random")


def main() -> int:
    """Write the table, or judge it."""
    options = _arguments()
    built = built_from(rowfile.read(options.rows))
    if not options.judge:
        text = json.dumps(built, separators=(",", ":")) + "\n"
        options.out.write_text(text)
        print(
            f"{options.out}: {len(built['sets'])} sets, {len(built['configs'])} configurations, {len(text)} B"
        )
        return 0
    rows = judged(as_measured(built), random_orders=options.random_orders)
    print(as_table(rows))
    if not options.dry_run:
        rowfile.append(options.results, rows)
    return 0


# building


def built_from(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The shipped format: configurations once, sets with their facts, curves rounded. A configuration that
    failed has no place; of several seeds the first counts."""
    numbers: dict[str, int] = {}
    configs: list[list[Any]] = []
    sets: dict[str, dict[str, Any]] = {}
    seen: set[tuple[str, str]] = set()
    for row in sorted(rows, key=lambda r: r["seed"]):
        config = {k: v for k, v in row["config"].items() if k not in PLANNED}
        key = config_hash(config)
        if not row["curve"] or (row["set"], key) in seen:
            continue
        seen.add((row["set"], key))
        if key not in numbers:
            numbers[key] = len(configs)
            configs.append([config, parent_of(config)])
        one = sets.setdefault(row["set"], _set_of(row))
        one["runs"].append([numbers[key], _features(row), _curve(row)])
    speed = speed_of(rows)
    for one in sets.values():
        one["speed"] = speed if one["modality"] == "image" else 1.0
    return {"version": VERSION, "configs": configs, "sets": list(sets.values())}


def speed_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds measured for a nominal second, as `gristmill plan` measures it: of the frozen network."""
    ratios = []
    for row in rows:
        if row["config"].get("features.backbone") == "lite0" and row.get("features_s"):
            facts = row["facts"]
            folded = _set_of(row)["facts"]["models"] > 1
            read = facts["train"] + (0 if folded else facts["valid"] + facts["calib"])
            task = task_of(row["modality"], facts)
            ratios.append(row["features_s"] / read / catalog.seconds_per_row(row["config"], task))
    return round(float(np.median(ratios)), 3) if ratios else 1.0


def _set_of(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = dict(row["facts"])
    folded = (
        facts["valid"] + facts["calib"] == facts["train"]
    )  # rows from before `models` was among the facts
    facts.setdefault("models", 6 if folded else 1)
    return {
        "name": row["set"],
        "collection": row["collection"],
        "modality": row["modality"],
        "facts": facts,
        "runs": [],
    }


def _features(row: Mapping[str, Any]) -> float | None:
    return round(row["features_s"], 2) if "features_s" in row else None


def _curve(row: Mapping[str, Any]) -> list[list[float]]:
    points = [*row["curve"], *([row["cooled"]] if row.get("cooled") else [])]
    return [[rows, round(s, 2), round(score, 4), round(noise or 0.0, 4)] for rows, s, score, noise in points]


# judging


def as_measured(built: Mapping[str, Any]) -> Table:
    """The table in seconds of the machine that it was measured on."""
    return Table.from_json({**built, "sets": [{**one, "speed": 1.0} for one in built["sets"]]})


@dataclass(frozen=True, kw_only=True)
class World:
    """A left-out set: what was measured on it, and the case that it is for a table without it."""

    data: DataSet
    own: Table
    case: Case
    best: float

    def regret(self, entries: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """The best score of the set's table minus the best that a list has reached: at the end of the time,
        and its mean over the whole time (a model counts when its training ends)."""
        found = followed(planned(entries, self.own, self.case), self.own, self.data.name, self.case)
        lacking, before, area = self.best, 0.0, 0.0
        for r in sorted(found, key=lambda r: r.seconds):
            area += lacking * (r.seconds - before)
            lacking, before = min(lacking, self.best - r.score), r.seconds
        area += lacking * (self.case.seconds - before)
        return lacking, area / self.case.seconds


def judged(table: Table, *, random_orders: int = RANDOM_ORDERS) -> list[dict[str, Any]]:
    """A row for each modality, budget and list; `cells`: configurations x sets that the table knew."""
    rows = []
    for modality in ("image", "table"):
        if len(table.collections(modality)) <= LEAST_REST:
            continue
        for seconds in BUDGETS:
            regrets = {name: _by_collection(table, modality, seconds, name, random_orders) for name in LISTS}
            known = {"cells": sum(e.data.modality == modality for e in table.entries)}
            rows += [{**_row(modality, seconds, name, regrets), **known} for name in LISTS]
    return rows


def _by_collection(
    table: Table, modality: str, seconds: float, name: str, random_orders: int
) -> dict[str, list[float]]:
    """(regret, anytime regret), means over the sets of each collection, by a list made without it."""
    found: dict[str, list[Any]] = defaultdict(list)
    for data in table.sets(modality):
        world = world_of(table, data, seconds)
        lists = LISTS_OF[name](table.without(data.collection), world, random_orders)
        found[data.collection].append(np.mean([world.regret(entries) for entries in lists], axis=0))
    return {collection: np.mean(values, axis=0).tolist() for collection, values in found.items()}


def world_of(table: Table, data: DataSet, seconds: float) -> World:
    """The world of one set of a table."""
    own = Table(entries=tuple(e for e in table.entries if e.data.name == data.name))
    case = Case(
        modality=data.modality,  # type: ignore[arg-type]
        space=space_of(task_of(data.modality, data.facts)),
        facts=data.facts,
        seconds=seconds,
        workers=WORKERS,
    )
    return World(data=data, own=own, case=case, best=max(p[2] for e in own.entries for p in e.curve))


def task_of(modality: str, facts: Mapping[str, float]) -> Task:
    """A task with these facts; its names mean nothing."""
    classes = int(facts["classes"])
    kind = ("regression", "regression", "binary", "multiclass")[min(classes, 3)]
    spec = {"channels": int(facts.get("channels", 3)), "size": int(facts.get("size", 0))}
    inputs = (
        (InputSpec(name="image", kind="image", spec=spec),)
        if modality == "image"
        else tuple(InputSpec(name=str(i), kind="number") for i in range(int(facts["columns"])))
    )
    target = Target(name="y", task=kind, labels=tuple(map(str, range(classes))))  # type: ignore[arg-type]
    return Task(inputs=inputs, targets=(target,), metric="accuracy" if classes else "rmse")


def _conditioned(rest: Table, world: World, _: int) -> list[list[dict[str, Any]]]:
    return [merged(greedy(rest, world.case), world.case) + order(rest, world.case, by_table=False)]


def _unconditioned(rest: Table, world: World, _: int) -> list[list[dict[str, Any]]]:
    blind = replace(world.case, facts=None)
    return [merged(greedy(rest, blind), blind) + order(rest, blind, by_table=False)]


def _hand_made(rest: Table, world: World, _: int) -> list[list[dict[str, Any]]]:
    return [order(rest, world.case, by_table=False)]


def _random(_: Table, world: World, count: int) -> list[list[dict[str, Any]]]:
    rng = random.Random(world.data.name)
    known = [{"config": dict(e.config)} for e in world.own.entries]
    return [rng.sample(known, len(known)) for _ in range(count)]


LISTS_OF: dict[str, Callable[[Table, World, int], list[list[dict[str, Any]]]]] = {
    "conditioned": _conditioned,
    "unconditioned": _unconditioned,
    "hand-made": _hand_made,
    "random": _random,
}


def planned(entries: Sequence[Mapping[str, Any]], own: Table, case: Case) -> list[dict[str, Any]]:
    """Features at the side that the plan would give them, of those measured: the largest within its share
    of the time, else the smallest."""
    sides = {b: _side(own, case, b, share) for b, share in _SHARES.items()}
    measured: dict[str, list[int]] = defaultdict(list)
    for e in own.entries:
        if "features.resolution" in e.config:
            measured[_but_side(e.config)].append(int(e.config["features.resolution"]))
    found = []
    for entry in entries:
        config = fitted(case.space, entry["config"]) or {}
        if known := measured.get(_but_side(config)):
            most = min(int(config["features.resolution"]), sides[str(config["features.backbone"])])
            config["features.resolution"] = max((s for s in known if s <= most), default=min(known))
        found += [{**entry, "config": config}] if config else []
    return found


_SHARES = {"lite0": planning.FEATURES_SHARE, "hog": planning.TRADITIONAL_SHARE}


def _side(own: Table, case: Case, backbone: str, share: float) -> int:
    mine = [e for e in own.entries if e.config.get("features.backbone") == backbone]
    sides = {int(e.config["features.resolution"]): e.features_s or 0.0 for e in mine}
    return max(
        (s for s, cost in sides.items() if cost <= share * case.seconds), default=min(sides, default=0)
    )


def _but_side(config: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in config.items() if k not in ("features.resolution", *PLANNED)}
    return config_hash(kept) if "features.resolution" in config else ""


def _row(
    modality: str, seconds: float, name: str, regrets: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, Any]:
    row = {
        "benchmark": "portfolio",
        "modality": modality,
        "seconds": seconds,
        "workers": WORKERS,
        "list": name,
    }
    for place, measure in enumerate(("regret", "anytime")):
        values = {c: v[place] for c, v in regrets[name].items()}
        beside = [v - regrets["hand-made"][c][place] for c, v in values.items()]
        row[measure] = {
            "mean": round(float(np.mean(list(values.values()))), 4),
            "interval": interval(list(values.values())),
            "minus_hand_made": round(float(np.mean(beside)), 4),
            "minus_hand_made_interval": interval(beside),
            "collections": {c: round(v, 4) for c, v in values.items()},
        }
    return {**row, **rowfile.stamp(("numpy",))}


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    if not rows:
        return f"too few collections: more than {LEAST_REST} are needed to judge"
    lines = [
        "| modality | time | list | regret (95 %) | minus hand-made (95 %) | anytime regret "
        "| minus hand-made (95 %) | regret by collection |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        end, anytime = r["regret"], r["anytime"]
        each = ", ".join(f"{c} {v:.3f}" for c, v in end["collections"].items())
        cells = [r["modality"], f"{r['seconds']:.0f} s", r["list"]]
        cells += [f"{end['mean']:.3f} {_ends(end['interval'], '.3f')}", _beside(end)]
        cells += [f"{anytime['mean']:.3f}", _beside(anytime), each]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(measure: Mapping[str, Any]) -> str:
    return f"{measure['minus_hand_made']:+.3f} {_ends(measure['minus_hand_made_interval'], '+.3f')}"


def _ends(values: Sequence[float], how: str) -> str:
    return f"({values[0]:{how}} to {values[1]:{how}})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--random-orders", type=int, default=RANDOM_ORDERS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
