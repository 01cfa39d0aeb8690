"""How the search engine itself scales: 1, 8, 64 and 512 workers on a simulated clock, one LCBench task.

    python benchmarks/scaling.py --tables FOLDER     rows, docs/scaling.svg and the table in docs/scaling.md
    python benchmarks/scaling.py --quick             1 and 64 workers, no row kept

The driver is real (race, journal encoded and written to a file as in a run), only training is simulated.
Every number of workers gets the same search time, so more workers train more. Speed-up is to equal regret:
the time one worker needs to the regret that it ends with, over the time so many need. Decisions a second are
real seconds of asks and tells, without the surrogate. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rowfile
from engine import SETTINGS, Tables
from lcbench import SPACE, Lcbench

import search
from gristmill.deadline import VirtualClock
from gristmill.search import Journal, RaceSettings, Study, VirtualExecutor
from gristmill.search.samplers import Mixture, Mutation, Prior, default_sampler

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scaling.jsonl"
PAGE, PLOT = HERE.parent / "docs" / "scaling.md", HERE.parent / "docs" / "scaling.svg"
WORKERS = (1, 8, 64, 512)
TRAININGS = 4.0
"""Search time of every run, in mean full trainings."""
BAR = 1000.0
"""Decisions per second at 512 workers, with prior and mutation only."""
CHEAP, WHOLE = "mutations and prior", "a quarter from the Gaussian process"
SAMPLERS = {CHEAP: lambda: Mixture(parts=((0.5, Mutation()), (0.5, Prior()))), WHOLE: default_sampler}
CELLS = (*((workers, CHEAP) for workers in WORKERS), (8, WHOLE))
"""The rate of the process, which is what the default sampler spends its time on, is told apart."""


def main() -> int:
    """Run what is missing, print, write the page; 1 when a bar is missed."""
    options = _arguments()
    rows = [] if options.quick or not options.results.exists() else _read(options.results)
    done = set() if options.again else {_key(r) for r in rows}
    world = Lcbench(Path(options.tables) / "lcbench")
    for cell in ((1, CHEAP), (64, CHEAP)) if options.quick else CELLS:
        if cell in done:
            continue
        row = measure(world, world.tasks[options.task], *cell)
        rows = [r for r in rows if _key(r) != cell] + [row]
        if not options.quick:
            rowfile.append(options.results, [row])
        print(json.dumps(row) if options.json else _line(row), flush=True)
    whole = next((r for r in rows if r["sampler"] == WHOLE), None)
    rows = _with_speed_up(sorted((r for r in rows if r["sampler"] == CHEAP), key=lambda r: r["workers"]))
    if not options.quick:
        _replace(PLOT, plot(rows))
        _replace(PAGE, _page(PAGE.read_text(), rows, whole))
    last = rows[-1]
    ok = last["decisions_per_s"] >= BAR
    print(
        f"{'ok  ' if ok else 'MISS'} decisions per second at {last['workers']} workers: "
        f"{last['decisions_per_s']:.0f}, bar {BAR:.0f}"
    )
    return 0 if ok else 1


def measure(world: Lcbench, task: str, workers: int, sampler: str) -> dict[str, Any]:
    """Drive one search to its end."""
    scale, tables = world.scale(task), _Timed(world, task)
    seconds = TRAININGS * scale.training
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        study = Study(
            space=SPACE,
            learner=tables.learner,
            portfolio=[],
            journal=Journal.open(path, sync=False),
            settings=RaceSettings(**{**SETTINGS, "least_candidates": 10**9}),
            sampler=SAMPLERS[sampler](),
        )
        executor = VirtualExecutor(tables.answer, workers=workers, clock=VirtualClock())
        curve, busy, own = _drive(study, executor, seconds, tables)
        size = path.stat().st_size
    decisions = sum(line.seq is not None for line in study._journal.lines)
    segments = len(study.outcomes)
    return {
        "workers": workers,
        "sampler": sampler,
        "task": task,
        "trainings": TRAININGS,
        "segments": segments,
        "regret": round(scale.regret(curve[-1][1]), 5),
        "curve": [[round(at / scale.training, 4), round(min(3.0, scale.regret(x)), 5)] for at, x in curve],
        "idle_share": round(1.0 - busy / (seconds * workers), 4),
        "decisions": decisions,
        "engine_s": round(own, 3),
        "decisions_per_s": round(decisions / own, 1),
        "journal_bytes_per_segment": round(size / max(1, segments)),
        "n": 1,
        "seeds": [0],
        **rowfile.stamp(search.LIBRARIES),
    }


class _Timed(Tables):
    """The tables, with the real seconds that their answers take."""

    spent = 0.0

    def learner(self, config: Any) -> Any:
        began = time.process_time()
        found = super().learner(config)
        self.spent += time.process_time() - began
        return found


def _drive(
    study: Study, executor: VirtualExecutor, seconds: float, tables: _Timed
) -> tuple[Any, float, float]:
    """The best score along the way, busy worker seconds, the engine's own processor seconds."""
    curve, best, busy, own = [], -1.0, 0.0, 0.0
    while True:
        while True:
            began = time.process_time()
            segment = study.ask(left=seconds - executor.clock.now(), slots=executor.slots())
            own += time.process_time() - began
            if segment is None:
                break
            executor.submit(segment)
        if not executor.open or executor.clock.now() >= seconds:
            return curve, busy, own - tables.spent
        for outcome in executor.wait(seconds):
            began = time.process_time()
            study.tell(outcome)
            own += time.process_time() - began
            busy += outcome.seconds
            if outcome.score is not None and outcome.score > best:
                best = outcome.score
                curve.append((executor.clock.now(), best))


def _with_speed_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    goal = rows[0]["curve"][-1]
    for row in rows:
        at = next((at for at, regret in row["curve"] if regret <= goal[1]), None)
        row["speed_up"] = None if at is None else round(goal[0] / at, 2)
    return rows


def plot(rows: list[dict[str, Any]]) -> str:
    """Regret over search time, a step line for each number of workers, as SVG."""
    width, height, left, bottom = 640, 360, 56, 40
    colours = ("#4477aa", "#228833", "#ccbb44", "#ee6677")
    top = max(min(1.0, y) for r in rows for _, y in r["curve"])

    def x(at: float) -> float:
        return left + (width - left - 16) * at / TRAININGS

    def y(regret: float) -> float:
        return 16 + (height - bottom - 16) * (1 - min(top, regret) / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Regret over search time by number of workers">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} 16V{height - bottom}H{width - 16}" fill="none" stroke="#444"/>',
        f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">search time in full trainings</text>',
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">regret</text>',
    ]
    for tick in range(int(TRAININGS) + 1):
        parts.append(f'<text x="{x(tick):.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick}</text>')
    for share in (0.0, 0.5, 1.0):
        value = share * top
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for i, (row, colour) in enumerate(zip(rows, colours, strict=False)):
        first, *rest = row["curve"]
        steps = "".join(f"H{x(at):.1f}V{y(regret):.1f}" for at, regret in rest)
        parts.append(
            f'<path d="M{x(first[0]):.1f} {y(first[1]):.1f}{steps}H{x(TRAININGS):.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{width - 120}" y="{32 + 16 * i}" fill="{colour}">{row["workers"]} workers</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _page(text: str, rows: list[dict[str, Any]], whole: dict[str, Any] | None) -> str:
    """The page with its table between the two marks replaced."""
    head = (
        "| workers | segments | regret | speed-up | idle | decisions/s | journal bytes/segment | rows from |"
    )
    lines = [head, "|---" * 8 + "|"]
    for r in rows:
        speed = "not reached" if r["speed_up"] is None else f"{r['speed_up']:.1f} x"
        lines.append(
            f"| {r['workers']} | {r['segments']} | {r['regret']:.3f} | {speed} | {r['idle_share']:.1%} | "
            f"{r['decisions_per_s']:.0f} | {r['journal_bytes_per_segment']} | {r['commit']} |"
        )
    if whole is not None:
        lines += [
            "",
            f"With {WHOLE} (the default sampler), {whole['workers']} workers: "
            f"{whole['decisions_per_s']:.0f} decisions/s (rows from {whole['commit']}).",
        ]
    begin, end = "<!-- rows -->\n", "<!-- end of rows -->"
    before, _, rest = text.partition(begin)
    return before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def _read(path: Path) -> list[dict[str, Any]]:
    found = [{"sampler": CHEAP, **r} for r in map(json.loads, path.read_text().splitlines())]
    return list({_key(r): r for r in found}.values())


def _key(row: dict[str, Any]) -> tuple[int, str]:
    return row["workers"], row["sampler"]


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['workers']:4} workers, {row['sampler']}  "
        f"{row['segments']:6} segments  regret {row['regret']:.4f}  "
        f"idle {row['idle_share']:.1%}  {row['decisions_per_s']:.0f} decisions/s  "
        f"{row['journal_bytes_per_segment']} journal bytes/segment"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared"))
    parser.add_argument("--tables", default=shared + "/search-tables")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--task", type=int, default=7, help="position in the sorted list of tasks")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
