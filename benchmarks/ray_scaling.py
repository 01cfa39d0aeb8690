"""How much more gets done with a second worker on Ray, and what Ray costs beside workers of our own.

    python benchmarks/ray_scaling.py            five rounds; adds rows to results/ray_scaling.jsonl
    python benchmarks/ray_scaling.py --quick    two short rounds, no row is kept

A segment is real work of about 50 ms on one thread: products of float32 matrices by numpy. In a round one
worker on Ray, two workers on Ray, one and two local worker processes each get the same wall clock, in turning
order. What two local ones do beside one is what the machine gives (two threads of a core do not do twice as
much), and has no bar. A ratio is taken within its round; the interval is the range of the rounds. Two free
cores and the extra `ray` are needed. A row a claim; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rowfile

from gristmill.search.executors.local import LocalExecutor
from gristmill.search.executors.protocol import Executor
from gristmill.search.executors.ray import RayExecutor
from gristmill.segment import Outcome, Segment

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "ray_scaling.jsonl"
LIBRARIES = ("ray", "numpy")
SIDE, PRODUCTS = 512, 12
BARS: dict[str, float | None] = {
    "two workers on Ray against one": 1.7,
    "two workers on Ray against two local ones": 0.95,
    "two local workers against one": None,
}


def burn(segment: Segment, context: Mapping[str, Any]) -> Outcome:
    """The work of one segment, in the worker."""
    import numpy as np

    x = np.random.default_rng(segment.seed).standard_normal((SIDE, SIDE), dtype=np.float32)
    y = x
    for _ in range(PRODUCTS):
        y = x @ y
        y /= np.abs(y).max()
    return Outcome(id=segment.id, state="done", score=float(np.abs(y).mean()))


def finished(executor: Executor, seconds: float) -> int:
    """Segments that end within `seconds`, every free slot being filled at once."""
    asked = 0

    def fill() -> None:
        nonlocal asked
        while executor.slots():
            executor.submit(Segment(id=f"s{asked}", kind="fit", config={}, seed=asked))
            asked += 1

    end = executor.clock.now() + seconds
    done = 0
    fill()
    while executor.clock.now() < end:
        outcomes = executor.wait(end)
        assert all(o.state == "done" for o in outcomes), outcomes
        done += len(outcomes)
        fill()
    while executor.open:  # not counted, and not cancelled: that would cost the next call its warm workers
        executor.wait(executor.clock.now() + 60.0)
    return done


def make(kind: str, folder: Path) -> Executor:
    """An executor of one of the kinds, its workers up and warm."""
    options: dict[str, Any] = {"folder": folder / kind, "path": (str(HERE),)}
    if kind.startswith("local"):
        executor: Executor = LocalExecutor("ray_scaling:burn", {}, cpus=int(kind[-1]), **options)
    else:
        executor = RayExecutor("ray_scaling:burn", {}, cpus=int(kind[-1]), **options)
    finished(executor, 1.0)
    return executor


def round_of(number: int, seconds: float) -> dict[str, int]:
    """Segments that each kind finishes, one kind after another."""
    kinds = ["ray1", "ray2", "local1", "local2"]
    found = {}
    for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            executor = make(kind, Path(folder))
            try:
                found[kind] = finished(executor, seconds)
            finally:
                executor.close()
    return found


def main() -> int:
    """Measure, print a row a claim, return 1 when a bar is missed."""
    options = _arguments()
    rounds, seconds = (2, 4.0) if options.quick else (5, 15.0)
    counts = []
    for number in range(rounds):
        counts.append(round_of(number, seconds))
        print(f"round {number + 1}: {counts[-1]}", file=sys.stderr, flush=True)
    ratios = {
        "two workers on Ray against one": [c["ray2"] / c["ray1"] for c in counts],
        "two workers on Ray against two local ones": [c["ray2"] / c["local2"] for c in counts],
        "two local workers against one": [c["local2"] / c["local1"] for c in counts],
    }
    rows = [_row(claim, found, counts, seconds, options.quick) for claim, found in ratios.items()]
    for row in rows:
        _print(row, options.json)
    if not options.quick:
        rowfile.append(options.results, rows)
    return 0 if all(row["ok"] for row in rows) else 1


def _row(claim: str, ratios: list[float], counts: Any, seconds: float, quick: bool) -> dict[str, Any]:
    value, bar = round(statistics.median(ratios), 4), BARS[claim]
    return {
        "claim": claim,
        "value": value,
        "interval": [round(min(ratios), 4), round(max(ratios), 4)],
        "bar": bar,
        "ok": bar is None or value >= bar,
        "mode": "quick" if quick else "full",
        "seed": 0,
        "round_s": seconds,
        "segments": counts,
        **rowfile.stamp(LIBRARIES),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    low, high = row["interval"]
    print(
        f"{'ok  ' if row['ok'] else 'MISS'} {row['claim']:42} {row['value']:.3f}"
        f" [{low:.3f}, {high:.3f}]" + ("" if row["bar"] is None else f"  bar {row['bar']:.2f}"),
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
