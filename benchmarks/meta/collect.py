"""Collect the meta-table: configurations x data sets x learning curves, by the product's own segments.

    python benchmarks/meta/collect.py --data FOLDER              the queue; cells that have a row are skipped
    python benchmarks/meta/collect.py --data FOLDER --minutes 30 stop after half an hour, go on another day
    python benchmarks/meta/collect.py --data FOLDER --quick      two configurations on digits, kept nowhere
    python benchmarks/meta/collect.py --coverage                 how much of the table there is

A row is one configuration on one set: score on valid after each rung, and after a cooldown at the end, with
the CPU seconds of one thread until then (CPU seconds, so that a busy machine changes little). Only
training parts are read, and of them only an inner validation part is looked at. `build.py` turns the table
into the portfolio.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import rowfile  # noqa: E402
from sets import SETS, MetaSet, read  # noqa: E402

from gristmill import data, experience, planning, reading  # noqa: E402
from gristmill.data.prepare import Prepared  # noqa: E402
from gristmill.models import catalog  # noqa: E402
from gristmill.search.portfolio import load as load_portfolio  # noqa: E402
from gristmill.segment import Outcome, Segment, config_hash  # noqa: E402
from gristmill.space import Space  # noqa: E402
from gristmill.task import Task  # noqa: E402
from gristmill.training import parameters_of  # noqa: E402

RESULTS = HERE.parent / "results" / "meta.jsonl"
FIRST_ROWS = 1000
"""Training rows of the first rung; each further rung is twice as far."""
COOLDOWN = 0.3
DRAWN = {"image": 40, "table": 24}
"""Configurations drawn from the prior beside the shipped ones, the same for every set."""
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "image": (
        {"family": "mbconv", "mbconv.resolution": 96, "mbconv.rate": 1e-4, "mbconv.head_factor": 1.0}
        | {"mbconv.smoothing": 0.0},
        {"family": "mbconv", "mbconv.resolution": 160, "mbconv.tune": "upper", "mbconv.rate": 1e-4}
        | {"mbconv.head_factor": 1.0, "mbconv.smoothing": 0.0},
        {"family": "features", "features.backbone": "lite0", "features.resolution": 128},
        {"family": "features", "features.backbone": "lite0", "features.resolution": 128}
        | {"features.head": "mlp"},
        {"family": "resnet", "resnet.resolution": 32, "resnet.grid": 32, "resnet.width": 32},
        {"family": "convstack", "convstack.resolution": 64, "convstack.grid": 32, "convstack.width": 32},
        {"family": "convnext", "convnext.resolution": 64, "convnext.grid": 16, "convnext.width": 32},
    ),
    "table": (
        {"family": "trees", "trees.rate": 0.03, "trees.leaves": 31, "trees.columns": 0.5},
        {"family": "mlp", "mlp.width": 128, "mlp.depth": 2, "mlp.dropout": 0.1, "mlp.bins": 32},
        {"family": "mlp", "mlp.width": 256, "mlp.depth": 2, "mlp.dropout": 0.0, "mlp.bins": 16},
    ),
}
"""Configurations that may belong into the portfolio; what they do not name is default."""
SEGMENT_CAP_S = 600.0
"""Wall-clock limit of a segment, against hangs; the budget of a configuration is in CPU seconds."""


def main() -> int:
    """Work through the queue until it is empty or the minutes are over."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.coverage:
        print(coverage(rows))
        return 0
    until = time.monotonic() + 60.0 * options.minutes
    for chosen in _sets(options):
        with tempfile.TemporaryDirectory(prefix="meta-") as folder:
            collect(chosen, options, Path(folder), {_key(r) for r in rows}, until)
        if time.monotonic() > until:
            break
    return 0


def collect(
    chosen: MetaSet, options: argparse.Namespace, work: Path, known: set[tuple[str, str, int]], until: float
) -> None:
    """The missing rows of one set."""
    prepared = prepared_of(chosen, Path(options.data), work)
    space = space_of(prepared.task)
    wanted = list(_configurations(chosen, prepared, space))[: options.most]
    missing = [c for c in wanted if (chosen.name, config_hash(c, space.defaults), options.seed) not in known]
    cell = Cell(chosen, prepared, work, options.seed, space)
    try:
        for config in missing:
            if time.monotonic() > until:
                return
            row = cell.row(config)
            print(_line(row), flush=True)
            if not options.quick:
                rowfile.append(options.results, [row])
    finally:
        cell.close()


class Cell:
    """The worker process of one set, and the features that its configurations share."""

    def __init__(self, chosen: MetaSet, prepared: Prepared, work: Path, seed: int, space: Space) -> None:
        self._set, self._prepared, self._work, self._seed = chosen, prepared, work, seed
        self._space = space
        self._features: dict[str, tuple[Outcome, float]] = {}
        self._pool = _pool()

    def row(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Train one configuration as far as its CPU seconds go; a crash is a row, too."""
        network = catalog.family(config["family"]).learner == "network"
        found = self._network(config) if network else self._one_shot(config)
        return {
            "set": self._set.name,
            "collection": self._set.collection,
            "modality": self._set.modality,
            "metric": self._set.metric,
            "facts": experience.facts_of(self._prepared),
            "config": dict(config),
            "key": config_hash(config, self._space.defaults),
            "seed": self._seed,
            **found,
            "commit": rowfile.commit(),
            "when": time.strftime("%Y-%m-%d"),
        }

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _one_shot(self, config: Mapping[str, Any]) -> dict[str, Any]:
        parent = catalog.family(config["family"]).features(config)
        before, spent = (None, 0.0) if parent is None else self._extracted(parent)
        if before is not None and before.state != "done":
            return {"state": before.state, "reason": before.reason, "curve": []}
        rows = len(self._prepared.parts.train)
        parents = () if before is None else (before.id,)
        outcome, seconds = self._run(self._segment(config, "fit", 0, rows, parents))
        total = round(spent + seconds, 2)
        curve = [] if outcome.score is None else [[rows, total, outcome.score, outcome.noise]]
        return {
            "state": outcome.state,
            "reason": outcome.reason,
            "features_s": round(spent, 2),
            "curve": curve,
        }

    def _extracted(self, parent: Mapping[str, Any]) -> tuple[Outcome, float]:
        name = config_hash(parent)
        if name not in self._features:
            rows = sum(len(getattr(self._prepared.parts, n)) for n in ("train", "valid", "calib"))
            self._features[name] = self._run(self._segment(parent, "features", 0, rows, ()))
        return self._features[name]

    def _network(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Rungs while the next one, at the price of the last, and a cooldown behind it are affordable."""
        curve: list[list[float]] = []
        last: Outcome | None = None
        begin, rows, spent = 0, FIRST_ROWS, 0.0
        state, reason = "done", ""
        while True:
            parents = () if last is None else (last.id,)
            outcome, seconds = self._run(self._segment(config, "train", begin, rows, parents))
            state, reason = outcome.state, outcome.reason
            spent += seconds
            if outcome.state != "done":
                break
            curve.append([rows, round(spent, 2), outcome.score, outcome.noise])
            last, price = outcome, seconds / (rows - begin)
            if spent + price * rows * (1.0 + 2.0 * COOLDOWN) > self._set.seconds:
                break
            begin, rows = rows, 2 * rows
        cooled = self._cooled(config, last, int(curve[-1][0]), spent) if last and curve else None
        return {"state": state, "reason": reason, "curve": curve, "cooled": cooled}

    def _cooled(self, config: Mapping[str, Any], last: Outcome, rows: int, spent: float) -> Any:
        to = rows + round(COOLDOWN * rows)
        outcome, seconds = self._run(self._segment(config, "cooldown", rows, to, (last.id,)))
        return [to, round(spent + seconds, 2), outcome.score, outcome.noise] if outcome.score else None

    def _segment(
        self, config: Mapping[str, Any], kind: Any, begin: int, rows: int, parents: tuple[str, ...]
    ) -> Segment:
        return Segment(
            id=f"{config_hash(config)}-{kind}-{rows}-s{self._seed}",
            kind=kind,
            config=dict(config),
            seed=self._seed,
            parents=parents,
            from_rows=begin,
            to_rows=rows,
            cap_s=SEGMENT_CAP_S,
        )

    def _run(self, segment: Segment) -> tuple[Outcome, float]:
        try:
            record, seconds = self._pool.submit(_perform, segment.to_json(), str(self._work)).result()
        except BrokenProcessPool as error:  # the worker died: the next configuration gets a new one
            self._pool = _pool()
            return Outcome(id=segment.id, state="lost", reason=str(error)), 0.0
        return Outcome.from_json(record), seconds


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_alone)


def _alone() -> None:
    """One thread, whatever library asks; torch imported before anything is timed."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)


def _perform(record: Mapping[str, Any], run: str) -> tuple[dict[str, Any], float]:
    """In the worker: one segment, and its CPU seconds."""
    from gristmill import automl

    segment = Segment.from_json(record)
    began = time.process_time()
    outcome = automl.work(segment, {"run": run})
    outcome = replace(outcome, facts={})
    return outcome.to_json(), time.process_time() - began


def prepared_of(chosen: MetaSet, data_folder: Path, work: Path) -> Prepared:
    source = read(chosen, data_folder, work)
    scan = data.scan(source, longest=reading.LONGEST, threads=1)
    audit = data.audit(source, scan)
    return data.prepare(source, scan, audit, data.split(source, audit, seed=0), work / "prepared")


def space_of(task: Task) -> Space:
    """The space that configurations are drawn from: all that the families with weights offer, also what a
    run leaves to the fit."""
    names = (f.name for f in catalog.families(task))
    return Space(parameters=catalog.space(task).parameters + parameters_of(names))


def _configurations(chosen: MetaSet, prepared: Prepared, space: Space) -> Iterator[dict[str, Any]]:
    """The shipped portfolio, the candidates for it, then draws from the prior, families in turn; mirrors as
    the plan decides."""
    flips = "on" if prepared.task.has_images and planning.flips_keep_labels(prepared) else "off"
    found: dict[str, dict[str, Any]] = {}
    entries = [{"config": config} for config in CANDIDATES[chosen.modality]]
    shipped = [config for config, _ in load_portfolio(chosen.modality, space)]  # type: ignore[arg-type]
    further = [config for config, _ in load_portfolio(chosen.modality, space, entries=entries)]  # type: ignore[arg-type]
    for config in (*shipped, *further, *_drawn(space, DRAWN[chosen.modality])):
        if "aug.flip" in config:
            config = {**config, "aug.flip": flips}
        found.setdefault(config_hash(config, space.defaults), config)
    return iter(found.values())


def _drawn(space: Space, count: int) -> list[dict[str, Any]]:
    """Draws with a fixed seed, the same number from each family that has something to choose."""
    rng, families = random.Random(0), [f for f in space["family"].domain.options if f != "constant"]  # type: ignore[union-attr]
    drawn: dict[str, list[dict[str, Any]]] = {str(f): [] for f in families}
    wanted = -(-count // len(drawn))
    while any(len(configs) < wanted for configs in drawn.values()):
        config = space.sample(rng)
        if len(drawn.get(config["family"], range(wanted))) < wanted:
            drawn[config["family"]].append(config)
    turns = zip(*drawn.values(), strict=True)
    return [config for turn in turns for config in turn][:count]


def coverage(rows: list[dict[str, Any]]) -> str:
    """Rows by set, as Markdown."""
    lines = ["| set | collection | configurations | failed |", "|---|---|---|---|"]
    for chosen in SETS:
        mine = [r for r in rows if r["set"] == chosen.name]
        failed = sum(not r["curve"] for r in mine)
        lines.append(f"| {chosen.name} | {chosen.collection} | {len(mine)} | {failed} |")
    return "\n".join(lines)


def _key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["set"], row["key"], row["seed"]


def _line(row: Mapping[str, Any]) -> str:
    best = max((point[2] for point in (*row["curve"], *filter(None, [row.get("cooled")]))), default=None)
    seconds = max((p[1] for p in (*row["curve"], *filter(None, [row.get("cooled")]))), default=0.0)
    score = "-" if best is None else f"{best:.3f}"
    return f"{row['set']:20} {row['state']:6} {score:>6} {seconds:6.1f}s  {planning.title(row['config'])}"


def _sets(options: argparse.Namespace) -> list[MetaSet]:
    if options.quick:
        return [replace(s, seconds=8.0) for s in SETS if s.name == "digits"]
    return [s for s in SETS if not options.only or s.name in options.only.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=".", help="the folder with the data sets")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", help="names of sets, comma-separated")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=None, help="configurations a set, in their order")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--coverage", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.most = 2
    return options


if __name__ == "__main__":
    sys.exit(main())
