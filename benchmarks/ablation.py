"""What each ingredient of the picture recipes is worth: a base as it ships, and one change at a time.

    python benchmarks/ablation.py --data FOLDER                 the queue; cells that have a row are skipped
    python benchmarks/ablation.py --data FOLDER --minutes 30    stop after half an hour, go on another day
    python benchmarks/ablation.py --data FOLDER --quick         two cells on digits, 8 CPU seconds each
    python benchmarks/ablation.py --table                       the committed rows, differences with intervals

A row is one change on one set with one seed: accuracy on the inner validation part of the training part after
a fixed budget of CPU seconds of one thread (so that a busy machine changes little), the cooldown included.
Test parts are never read. The claim of a row is the difference to its base, in points; its interval is two
standard errors of the two measurements. A shipped ingredient misses its bar when dropping it is better beyond
the interval: then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "meta"))

import collect  # noqa: E402
import rowfile  # noqa: E402
from sets import SETS, MetaSet  # noqa: E402

from gristmill import planning  # noqa: E402
from gristmill.segment import config_hash  # noqa: E402

RESULTS = HERE / "results" / "ablation.jsonl"
LIBRARIES = ("torch", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A configuration that others are compared with, on some sets; `seconds`: CPU seconds for each cell."""

    name: str
    sets: tuple[str, ...]
    seconds: float
    config: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any]]
    """By what is changed: the parameters that differ from the base."""


FEATURES = {"family": "features", "features.backbone": "lite0", "features.resolution": 96}
UPPER = {
    "family": "mbconv",
    "mbconv.resolution": 96,
    "mbconv.tune": "upper",
    "mbconv.rate": 1e-4,
    "mbconv.head_factor": 1.0,
    "mbconv.smoothing": 0.0,
    "aug.flip": "on",
}
CONVSTACK = {
    "family": "convstack",
    "convstack.resolution": 32,
    "convstack.width": 16,
    "aug.flip": "on",
}
BASES = (
    Base(
        name="features",
        sets=("cifar10-12k", "trashnet-320"),
        seconds=200.0,
        config=FEATURES,
        changes={
            "mirror": {"features.mirror": "on"},
            "hidden layer": {"features.head": "mlp"},
            "mirror and hidden layer": {"features.mirror": "on", "features.head": "mlp"},
            "last layer only": {"features.pool": "last"},
        },
    ),
    Base(
        name="fine-tuning",
        sets=("trashnet-320", "cifar10-12k"),
        seconds=60.0,
        config=UPPER,
        changes={
            "all layers": {"mbconv.tune": "all"},
            "no mirror": {"aug.flip": "off"},
            "half the rate": {"mbconv.rate": 5e-5},
            "twice the rate": {"mbconv.rate": 2e-4},
            "label smoothing": {"mbconv.smoothing": 0.1},
            "head three times as fast": {"mbconv.head_factor": 3.0},
        },
    ),
    Base(
        name="convstack",
        sets=("cifar10-12k", "gtsrb-mini"),
        seconds=60.0,
        config=CONVSTACK,
        changes={
            "no mirror": {"aug.flip": "off"},
            "no shift": {"aug.shift": 0.0},
            "no label smoothing": {"convstack.smoothing": 0.0},
            "cutout": {"aug.cutout": 0.25},
            "colour": {"aug.colour": 0.2},
        },
    ),
)


def main() -> int:
    """Work through the queue until it is empty or the minutes are over; 1 when a shipped choice loses."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.table:
        _print(rows, options.json)
        return 0 if all(c["ok"] for c in claims(rows)) else 1
    until = time.monotonic() + 60.0 * options.minutes
    for base in _bases(options):
        for name in [s for s in base.sets if not options.sets or s in options.sets.split(",")]:
            chosen = replace(next(s for s in SETS if s.name == name), seconds=base.seconds)
            rows += _measured(base, chosen, options, rows, until)
    _print(rows, options.json)
    return 0 if all(c["ok"] for c in claims(rows)) else 1


def _measured(
    base: Base, chosen: MetaSet, options: argparse.Namespace, rows: list[dict[str, Any]], until: float
) -> list[dict[str, Any]]:
    """The missing rows of one base on one set, one seed after the other: an early stop is whole."""
    known = {(*_key(r), r["key"]) for r in rows}  # a changed configuration is measured anew
    cells = [
        (seed, change, {**base.config, **changed})
        for seed in range(options.seeds)
        for change, changed in {"": {}, **base.changes}.items()
        if (base.name, chosen.name, change, seed, config_hash({**base.config, **changed})) not in known
    ]
    new: list[dict[str, Any]] = []
    if not cells or time.monotonic() > until:
        return new
    with tempfile.TemporaryDirectory(prefix="ablation-") as folder:
        prepared = collect.prepared_of(chosen, Path(options.data), Path(folder))
        space = collect.space_of(prepared.task)
        for seed, change, config in cells[: options.most]:
            if time.monotonic() > until:
                break
            cell = collect.Cell(chosen, prepared, Path(folder), seed, space)
            try:
                new.append(_row(base, change, cell.row(config)))
            finally:
                cell.close()
            print(_line(new[-1]), flush=True)
            if not options.quick:
                rowfile.append(options.results, new[-1:])
    return new


def _row(base: Base, change: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured: the end of the curve, which is the cooldown where there is one."""
    end = found.get("cooled") or (found["curve"][-1] if found["curve"] else None)
    rows_seen, seconds, score, noise = end or (0, 0.0, None, None)
    return {
        "base": base.name,
        "change": change,
        "set": found["set"],
        "seed": found["seed"],
        "config": found["config"],
        "key": config_hash(found["config"]),
        "title": planning.title(found["config"]),
        "state": found["state"],
        "score": score,
        "noise": noise,
        "rows_seen": rows_seen,
        "cpu_s": seconds,
        "budget_s": base.seconds,
        "commit": found["commit"],
        "versions": {name: version(name) for name in LIBRARIES},
        "when": found["when"],
    }


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One claim per change and set, over the seeds that both it and its base have: what the change gains.

    `value` and `interval` are in points of the score scaled from 0 (majority) to 100 (perfect).
    """
    found = []
    scored = {_key(r): r for r in rows if r["score"] is not None}
    for base, name, change in dict.fromkeys((r["base"], r["set"], r["change"]) for r in rows if r["change"]):
        pairs = [
            (r, scored[base, name, "", r["seed"]])
            for r in scored.values()
            if (r["base"], r["set"], r["change"]) == (base, name, change)
            and (base, name, "", r["seed"]) in scored
        ]
        if not pairs:
            continue
        gains = [100.0 * (mine["score"] - other["score"]) for mine, other in pairs]
        value = sum(gains) / len(gains)
        error = 100.0 * sum(a["noise"] ** 2 + b["noise"] ** 2 for a, b in pairs) ** 0.5 / len(pairs)
        shipped = all(_is_default(b, a) for a, b in pairs)
        found.append(
            {
                "claim": f"{base}: {change}",
                "set": name,
                "value": round(value, 2),
                "interval": [round(value - 2 * error, 2), round(value + 2 * error, 2)],
                "bar": 0.0,
                "seeds": len(pairs),
                "cpu_s": [pairs[0][0]["cpu_s"], pairs[0][1]["cpu_s"]],
                "ok": not shipped or value - 2 * error <= 0.0,
            }
        )
    return found


def _is_default(base: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    """Whether the base is what ships, at no higher price than the change: dearer changes may be better."""
    return bool(changed["cpu_s"] <= 1.2 * base["cpu_s"])


def table(rows: list[dict[str, Any]]) -> str:
    """The claims as Markdown."""
    lines = ["| change | set | gain in points (interval) | seeds | CPU s, base's |", "|---|---|---|---|---|"]
    for c in claims(rows):
        low, high = c["interval"]
        gain = f"{c['value']:+.1f} ({low:+.1f} to {high:+.1f})"
        seconds = f"{c['cpu_s'][0]:.0f}, {c['cpu_s'][1]:.0f}"
        lines.append(f"| {c['claim']} | {c['set']} | {gain} | {c['seeds']} | {seconds} |")
    return "\n".join(lines)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    print("\n".join(map(json.dumps, claims(rows))) if as_json else table(rows))


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return row["base"], row["set"], row["change"], row["seed"]


def _line(row: Mapping[str, Any]) -> str:
    score = "-" if row["score"] is None else f"{row['score']:.4f}"
    what = row["change"] or "base"
    head = f"{row['base']:12} {row['set']:14} {what:24} seed {row['seed']} {row['state']:5}"
    return f"{head} {score} {row['rows_seen']:>6} rows {row['cpu_s']:.0f} s"


def _bases(options: argparse.Namespace) -> list[Base]:
    if options.quick:
        base = next(b for b in BASES if b.name == "convstack")
        return [replace(base, sets=("digits",), seconds=8.0)]
    return [b for b in BASES if not options.only or b.name in options.only.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=".", help="the folder with the data sets")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", help="names of bases, comma-separated")
    parser.add_argument("--sets", help="names of sets, comma-separated")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--most", type=int, default=None, help="cells a base and set, in their order")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.most, options.seeds = 2, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
