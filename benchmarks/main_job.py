"""The main job, measured: `gristmill fit` as a user runs it, on real data sets, against the clock.

    python benchmarks/main_job.py --data FOLDER            the grid; cells that have a row are skipped
    python benchmarks/main_job.py --data FOLDER --quick    two sets at 30 s, inner splits of training parts
    python benchmarks/main_job.py --data FOLDER --inner    the grid without opening any test part
    python benchmarks/main_job.py --table                  the committed rows as the README shows them

A row a claim: claim, value, interval, bar, ok; with commit, cores, versions, seed, wall clock, peak memory
and how often the test part has been opened by a committed row. Exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import rowfile

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "main_job.jsonl"
LIBRARIES = ("torch", "onnxruntime", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True, kw_only=True)
class Set:
    """One data set: where it lies, how it is fitted, and the floor its score must reach."""

    name: str
    path: str
    metric: str
    bar: float
    seconds: int
    options: tuple[str, ...] = ()
    lower_is_better: bool = False
    wall: int | None = None
    """Most seconds of wall clock, where more than fitting is timed; else the deadline's own rule holds."""
    memory: int | None = None
    """Most MiB that all processes may hold together, where that is judged; preparing again is timed there."""


QUICKSTART = "quickstart"
"""The set that comes along: digits written, fitted, verified and predicted by one command."""
SETS = (
    Set(name=QUICKSTART, path="", metric="accuracy", bar=0.97, seconds=90, wall=180),
    Set(name="cifar10-12k", path="cifar10-12k", metric="accuracy", bar=0.79, seconds=180, memory=2048),
    Set(name="trashnet-320", path="trashnet-320", metric="accuracy", bar=0.88, seconds=180),
    Set(name="pneumoniamnist", path="pneumoniamnist", metric="balanced_accuracy", bar=0.82, seconds=180),
    Set(name="gtsrb-mini", path="gtsrb-mini", metric="accuracy", bar=0.93, seconds=180),
    Set(
        name="adult",
        path="tables/adult/train.csv",
        metric="roc_auc",
        bar=0.905,
        seconds=120,
        options=("--target", "income", "--test", "tables/adult/test.csv"),
    ),
    Set(
        name="california-housing",
        path="tables/california-housing/housing.csv",
        metric="rmse",
        bar=50_000.0,
        seconds=120,
        options=("--target", "median_house_value"),
        lower_is_better=True,
    ),
)
DEADLINE_CELLS = (
    *((s.name, 30) for s in SETS if s.name != QUICKSTART),
    *((name, 300) for name in ("cifar10-12k", "gtsrb-mini", "adult")),
    ("trashnet-320", 600),
)
"""Cells that are run for the deadline alone; the score cells count for it too."""
HELP_S, PREPARED_AGAIN_S = 0.4, 2.0
"""`gristmill --help`, the quickest of five; reading and preparing data that an earlier run has prepared."""
OWN_WORK, OWN_WORK_FROM_S = 0.05, 180
"""The driver's own work may take this part of a search of so many seconds or more."""


def main() -> int:
    """Run what is missing, print one row a claim, return 1 when a bar is missed."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.table:
        print(table(rows))
        return 0
    for name, seconds in _cells(options):
        chosen = next(s for s in SETS if s.name == name)
        if _key(name, seconds, options) in {_row_key(r) for r in rows} and not options.quick:
            continue
        new = run_cell(chosen, seconds, options, openings=_openings(rows, name))
        rows += new
        if not options.quick:
            rowfile.append(options.results, new)
        for row in new:
            _print(row, options.json)
    wanted = [r for r in rows if not options.quick or r["mode"] == "quick"]
    newest = {(r["set"], r["time_s"], r["mode"], r["claim"]): r for r in wanted}
    return 0 if all(r["ok"] for r in newest.values()) else 1


def run_cell(
    chosen: Set, seconds: int, options: argparse.Namespace, *, openings: int
) -> list[dict[str, Any]]:
    """Fit once in an empty folder with an empty cache; returns the rows of its claims."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        command = _command(chosen, seconds, options, work)
        env = {**os.environ, "GRISTMILL_CACHE": str(work / "cache")}
        began = time.monotonic()
        with _peak_memory() as watch, _early_copy(work, max(seconds * 0.1, 20.0)):
            process = subprocess.Popen(
                command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            watch.process = psutil.Process(process.pid)
            out, err = process.communicate()
        wall = time.monotonic() - began
        if process.returncode:
            print(err[-2000:], file=sys.stderr)
            return [
                _row(chosen, seconds, options, "fit ends well", 0.0, None, 1.0, False, openings, wall=wall)
            ]
        result = json.loads(out)
        early = _verifies(work / "early.grist", env)
        measured = {
            "own": own_work(work),
            "again_s": None
            if chosen.memory is None or seconds < chosen.seconds
            else _prepared_again(command, work, env),
            "help_s": _help(env) if chosen.name == QUICKSTART else None,
        }
        return _claims(chosen, seconds, options, result, wall, watch.peak, early, openings, **measured)


def _claims(
    chosen: Set,
    seconds: int,
    options: argparse.Namespace,
    result: dict[str, Any],
    wall: float,
    peak: int,
    early: bool,
    openings: int,
    *,
    own: float | None,
    again_s: float | None,
    help_s: float | None,
) -> list[dict[str, Any]]:
    interval = result["evaluation"]["metrics"][chosen.metric]
    value, low, high = (float(interval[k]) for k in ("value", "low", "high"))
    extra = {"wall_s": round(wall, 2), "peak_mib": peak >> 20, "headline": result["headline"]}

    def make(claim, v, i, bar, ok):
        return _row(chosen, seconds, options, claim, v, i, bar, ok, openings, **extra)

    over = wall - seconds
    allowed = max(0.02 * seconds, 3.0) if chosen.wall is None else chosen.wall - seconds
    rows = [make("overshoot_s", round(over, 2), None, allowed, over <= allowed)]
    rows.append(make("bundle by the first tenth verifies", float(early), None, 1.0, early))
    if chosen.memory is not None:
        held = peak >> 20
        rows.append(make("peak memory, MiB", held, None, chosen.memory, held <= chosen.memory))
    timed = (("preparing again", again_s, PREPARED_AGAIN_S), ("gristmill --help", help_s, HELP_S))
    for name, taken, limit in timed:
        if taken is not None:
            rows.append(make(f"{name}, seconds", taken, None, limit, taken < limit))
    if own is not None and seconds >= OWN_WORK_FROM_S:
        rows.append(make("own work of the driver while searching", own, None, OWN_WORK, own <= OWN_WORK))
    if seconds >= chosen.seconds:
        ok = value <= chosen.bar if chosen.lower_is_better else value >= chosen.bar
        rows.append(make(chosen.metric, value, [low, high], chosen.bar, ok or bool(options.inner)))
        rows.append(_against_traditional(make, result))
    return rows


def own_work(work: Path) -> float | None:
    """CPU seconds of the driver as a part of the core seconds of the search; None where there was none."""
    for path in work.glob("**/journal.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if line["kind"] == "searched":
                own_s, seconds = line["data"]["own_s"], max(1e-9, line["data"]["seconds"])
                return round(own_s / (rowfile.cores() * seconds), 4)
    return None


def _prepared_again(command: list[str], work: Path, env: dict[str, str]) -> float:
    """Seconds from the start of a second, equal command on the same data to the start of its planning, less
    those of a command that only finds that its data are not there: imports are no preparation."""
    began = time.monotonic()
    subprocess.run(
        [*command[:4], "nothing", "--out", "none.grist"], cwd=work, env=env, capture_output=True, check=False
    )
    startup = time.monotonic() - began
    second = ["again.grist" if word == "model.grist" else word for word in command]
    process = subprocess.Popen(
        second, cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    planned = (e for e in map(json.loads, process.stderr) if e["text"].startswith("measuring this machine"))
    spent = next((float(e["spent"]) for e in planned), float("inf"))  # it ended before: a missed bar
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return round(max(0.0, spent - startup), 2)


def _help(env: dict[str, str]) -> float:
    """Seconds of the quickest of five."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "gristmill", "--help"], env=env, capture_output=True, check=True
        )
        return time.perf_counter() - began

    return round(min(once() for _ in range(5)), 3)


def _against_traditional(make: Any, result: dict[str, Any]) -> Any:
    """The gain, paired on the rows of the test part."""
    if result["traditional"] is None:  # there was no time for it: the claim is not shown
        return make("minus the traditional model", 0.0, None, 0.0, False)
    gap = {k: round(float(v), 5) for k, v in result["difference"].items()}
    interval = [gap["low"], gap["high"]]
    return make("minus the traditional model", gap["value"], interval, 0.0, gap["high"] >= 0)


def _command(chosen: Set, seconds: int, options: argparse.Namespace, work: Path) -> list[str]:
    data = Path(options.data).resolve()
    path, extra = data / chosen.path, [str(data / o) if o.endswith(".csv") else o for o in chosen.options]
    if options.inner or options.quick:
        path, extra = (
            inner_split(data, chosen, work / "inner"),
            [o for o in extra if "test.csv" not in o and o != "--test"],
        )
    if chosen.name == QUICKSTART:
        return [
            sys.executable,
            "-m",
            "gristmill",
            "quickstart",
            "--out",
            "q",
            "--time",
            f"{seconds}s",
            "--json",
        ]
    head = [
        sys.executable,
        "-m",
        "gristmill",
        "fit",
        str(path),
        "--time",
        f"{seconds}s",
        "--out",
        "model.grist",
    ]
    return [*head, "--metric", chosen.metric, "--seed", str(options.seed), "--json", *extra]


def inner_split(data: Path, chosen: Set, target: Path) -> Path:
    """The training part alone: the fit cuts its own test part from it, the real one stays closed."""
    source = data / chosen.path
    if source.suffix == ".csv":
        target.mkdir()
        lines = source.read_text().splitlines(keepends=True)
        kept = lines if "train" in source.name else [lines[0], *(x for i, x in enumerate(lines[1:]) if i % 5)]
        (target / source.name).write_text("".join(kept))
        return target / source.name
    if (source / "split.csv").exists():
        for line in (source / "split.csv").read_text().splitlines()[1:]:
            name, part = line.rsplit(",", 1)
            if part == "train":
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, target / name)
        return target
    for part in ("train", "val"):
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
    return target if (target / "val").exists() else target / "train"


@contextlib.contextmanager
def _early_copy(work: Path, seconds: float) -> Iterator[None]:
    """Copy best.grist at the moment when a kill would have struck."""

    def copy() -> None:
        best = next(work.glob("**/best.grist"), None)
        if best is not None:
            shutil.copy(best, work / "early.grist")

    began = time.monotonic()
    timer = threading.Timer(seconds, copy)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        final = next(work.glob("**/*.grist"), work / "none")
        if time.monotonic() - began < seconds and final.exists():  # it had ended before the kill would strike
            shutil.copy(final, work / "early.grist")


def _verifies(path: Path, env: dict[str, str]) -> bool:
    if not path.exists():
        return False
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "verify", str(path)], env=env, capture_output=True, check=False
    )
    return done.returncode == 0


class _Watch:
    """Samples the memory of a process tree twice a second; shared pages are counted once (PSS)."""

    def __init__(self) -> None:
        self.process: psutil.Process | None = None
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            if self.process is None:
                continue
            with contextlib.suppress(psutil.Error):
                tree = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(_pss(p) for p in tree))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _pss(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.uss))
    except psutil.Error:
        return 0


@contextlib.contextmanager
def _peak_memory() -> Iterator[_Watch]:
    watch = _Watch()
    try:
        yield watch
    finally:
        watch.stop()


def table(rows: list[dict[str, Any]]) -> str:
    """The newest score and overshoot of each set on its test part, in its own time, as Markdown."""
    lines = [
        "| set | metric | score (95 % interval) | time | overshoot | rows from |",
        "|---|---|---|---|---|---|",
    ]
    for chosen in SETS:
        cell = (chosen.name, chosen.seconds, "test")
        mine = [r for r in rows if (r["set"], r["time_s"], r["mode"]) == cell]
        score = next((r for r in reversed(mine) if r["claim"] == chosen.metric), None)
        if score is None:
            continue
        over = next(
            r["value"] for r in mine if r["claim"] == "overshoot_s" and r["wall_s"] == score["wall_s"]
        )
        low, high = score["interval"]
        figures = f"{score['value']:.4g} ({low:.4g} to {high:.4g})"
        cells = (
            chosen.name,
            chosen.metric,
            figures,
            f"{score['time_s']} s",
            f"{over:+.1f} s",
            score["commit"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(
    chosen: Set,
    seconds: int,
    options: argparse.Namespace,
    claim: str,
    value: float,
    interval: Any,
    bar: float,
    ok: bool,
    openings: int,
    **extra: Any,
) -> dict[str, Any]:
    mode = "quick" if options.quick else "inner" if options.inner else "test"
    return {
        "claim": claim,
        "set": chosen.name,
        "time_s": seconds,
        "mode": mode,
        "seed": options.seed,
        "value": value,
        "interval": interval,
        "bar": bar,
        "ok": bool(ok),
        "test_openings": openings + (mode == "test"),
        **rowfile.stamp(LIBRARIES),
        **extra,
    }


def _cells(options: argparse.Namespace) -> list[tuple[str, int]]:
    if options.quick:
        return [("pneumoniamnist", 30), ("california-housing", 30)]
    score = [(s.name, s.seconds) for s in SETS]
    cells = score if options.scores_only else [*score, *DEADLINE_CELLS]
    return [c for c in cells if not options.only or c[0] in options.only.split(",")]


def _key(name: str, seconds: int, options: argparse.Namespace) -> tuple[Any, ...]:
    return (name, seconds, options.seed, "inner" if options.inner else "test")


def _row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["set"], row["time_s"], row["seed"], row["mode"])


def _openings(rows: list[dict[str, Any]], name: str) -> int:
    return max((r["test_openings"] for r in rows if r["set"] == name), default=0)


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    interval = f" [{row['interval'][0]:.4f}, {row['interval'][1]:.4f}]" if row["interval"] else ""
    print(
        f"{'ok  ' if row['ok'] else 'MISS'} {row['set']:20} {row['time_s']:4}s {row['claim']:36}"
        f" {row['value']:.5g}{interval}  bar {row['bar']:.5g}  peak {row.get('peak_mib', 0)} MiB",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default=os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared")) + "/data"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--scores-only", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
