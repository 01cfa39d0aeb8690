"""The promise "kill-proof", measured: real `gristmill fit` commands on real data, disturbed.

    python benchmarks/chaos.py                     every case; those that have a row are skipped
    python benchmarks/chaos.py --quick             four cases, fewer and shorter disturbances
    python benchmarks/chaos.py --only CASE,..      some of them (--list names them all)
    python benchmarks/chaos.py --table             the committed rows as Markdown

A case is a disturbance x counted mode (`--segments`) or the clock (`--time`). The data come with a
dependency: 300 of scikit-learn's digits as PNG, and its breast cancer table (569 rows) as CSV. Each run is
judged: it ends well, and what ended before says why in one sentence; no completed segment is lost; its time
is at most 1.5 times that of an undisturbed run (in counted mode a start of a process, `restart_s`, is set
aside for each kill; so are frozen time and the seconds of work whose files were damaged); the bundle
verifies in a fresh process; in counted mode the decision lines are byte-equal to the undisturbed run's.

A row a claim: claim, value, interval, bar, ok; with commit, cores, versions, seed and n. Exits 1 when a bar
is missed. Linux; where mounting is not allowed, a full disk and a read-only folder are made by other means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
sys.path[:0] = [str(SOURCE), str(HERE)]

import rowfile  # noqa: E402

from gristmill.errors import RunError  # noqa: E402
from gristmill.evaluation.interval import wilson  # noqa: E402
from gristmill.search.journal import Journal, Line, decision_bytes, read  # noqa: E402

RESULTS = HERE / "results" / "chaos.jsonl"
LIBRARIES = ("torch", "onnxruntime", "numpy", "scikit-learn", "pillow")
SEGMENTS = {"pictures": 6, "table": 8}
SECONDS = 30
SLOWEST = 1.5
PATIENCE_S = 300.0
COMPLETE = ("done", "cut", "diverged", "oom", "failed")
FREEZE_S = 60.0
DISK_MIB = 96


# ---------------------------------------------------------------- one command


@dataclass
class Phase:
    """One command from its start to its end."""

    code: int
    err: str
    seconds: float
    wrong: str = ""
    """What it should have done and did not."""

    @property
    def told(self) -> bool:
        """Ended well, or said why: a sentence, no traceback, no confession of a fault."""
        bad = self.wrong or "Traceback" in self.err or "a fault in Gristmill" in self.err
        killed = self.code in (0, -signal.SIGKILL, -signal.SIGTERM)
        why = killed or any(x.startswith(("error: ", "stopped")) for x in self.err.splitlines())
        return why and not bad


@dataclass
class Arena:
    """A run of one problem: its folder, the commands given so far, what was known when it was disturbed."""

    folder: Path
    data: str
    mode: str
    cache: Path
    fault: str = ""
    phases: list[Phase] = field(default_factory=list)
    before: list[tuple[Line, ...]] = field(default_factory=list)
    hits: int = 0
    """Disturbances that met their aim."""
    frozen_s: float = 0.0
    again_s: float = 0.0
    """Seconds of the segments whose files were damaged: that work must be done again."""
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    more: int = 0
    """Segments beyond the usual count."""
    seconds: int = SECONDS

    @property
    def run(self) -> Path:
        return self.folder / "model.run"

    @property
    def journal(self) -> Path:
        return self.run / "journal.jsonl"

    @property
    def bundle(self) -> Path:
        return self.folder / "model.grist"

    def command(self) -> list[str]:
        source = written(self.data, self.cache.parent)
        head = [sys.executable, "-m", "gristmill", "fit", str(source), "--out", str(self.bundle), "--json"]
        head += ["--metric", "accuracy", *(["--target", "diagnosis"] if self.data == "table" else [])]
        count = SEGMENTS[self.data] + self.more
        return [
            *head,
            *(["--segments", str(count)] if self.mode == "counted" else ["--time", f"{self.seconds}s"]),
        ]

    def environment(self) -> dict[str, str]:
        """This checkout first; the faults in front of it when one is wanted."""
        places = [str(HERE / "sabotage")] if self.fault else []
        env = {**os.environ, "GRISTMILL_CACHE": str(self.cache), "CHAOS_FAULT": self.fault}
        return {**env, "PYTHONPATH": os.pathsep.join([*places, str(SOURCE)])}

    def start(self) -> None:
        """Give the command; its output goes to files, so that no pipe can fill."""
        number = len(self.phases)
        logs = self.cache.parent / "logs"
        logs.mkdir(exist_ok=True)
        self.began = time.monotonic()
        with open(logs / "out", "wb") as out, open(logs / f"{number}.err", "wb") as err:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=out, stderr=err, cwd=self.cache.parent
            )

    def finish(self) -> Phase:
        """Wait for the end of the command; a run that never ends is killed and counts as silent."""
        assert self.process is not None
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait() and 99
        err = (self.cache.parent / "logs" / f"{len(self.phases)}.err").read_text(errors="replace")
        self.phases.append(Phase(code=code, err=err, seconds=time.monotonic() - self.began))
        return self.phases[-1]

    def whole(self) -> Phase:
        """The command from start to end."""
        self.start()
        return self.finish()

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def sleep(self, seconds: float) -> None:
        """Until `seconds` after the start of the command, or its end."""
        while self.running() and time.monotonic() - self.began < seconds:
            time.sleep(0.02)

    def until(self, happened: Callable[[], bool]) -> bool:
        """Wait for something or for the end of the command; whether it happened while it ran."""
        while self.running():
            if happened():
                return True
            time.sleep(0.02)
        return False

    def remember(self) -> None:
        """What the journal holds now must still be there at the end."""
        self.hits += 1
        if self.journal.exists():
            self.before.append(read(self.journal))

    def lines(self, kind: str) -> int:
        return sum(x.kind == kind for x in read(self.journal)) if self.journal.exists() else 0

    def workers(self) -> list[psutil.Process]:
        """Living workers of the driver."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [c for c in children if any("executors.worker" in a for a in c.cmdline())]
        return []


@cache
def written(data: str, folder: Path) -> Path:
    """The data set on disk, made once per case."""
    if data == "pictures":
        from gristmill.quickstart import write_digits

        every = write_digits(folder / "digits")
        for directory in every.iterdir():
            for path in sorted(directory.iterdir())[30:]:
                path.unlink()
        return every
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    names = [str(n).replace(" ", "_") for n in found.feature_names]
    lines = [",".join([*names, "diagnosis"])]
    for row, label in zip(found.data, found.target, strict=True):
        lines.append(",".join([*(f"{v:.6g}" for v in row), str(found.target_names[label])]))
    path = folder / "cancer.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


# ---------------------------------------------------------------- the disturbances: each takes an arena


Disturbance = Callable[[Arena, random.Random, "Reference", argparse.Namespace], None]


def undisturbed(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """Once more without any: the yardstick of the others, and that decisions repeat at all."""
    arena.hits += 1
    arena.whole()


def kill_worker(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """SIGKILL of a worker at random moments, while the driver lives."""
    moments = sorted(rng.uniform(0.15, 0.9) * reference.seconds for _ in range(_strikes(arena)))
    arena.start()
    for moment in moments:
        arena.sleep(moment)
        if arena.until(lambda: bool(arena.workers())) and (workers := arena.workers()):
            arena.remember()
            with contextlib.suppress(psutil.Error):
                rng.choice(workers).kill()
    arena.finish()


def kill_driver(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """SIGKILL of the driver at random moments, then the same command again."""
    moments = sorted(rng.uniform(0.02, 0.95) * reference.seconds for _ in range(_strikes(arena)))
    for last, moment in zip([0.0, *moments], moments, strict=False):
        arena.start()
        arena.sleep(moment - last if arena.mode == "clock" else moment)
        if arena.running():
            assert arena.process is not None
            arena.process.kill()
            arena.process.wait()
            arena.remember()
        if arena.finish().code == 0:
            return
    arena.whole()


def _strikes(arena: Arena) -> int:
    """A run against the clock takes 30 s however often it is hit; a counted one gets longer."""
    return 1 if arena.mode == "counted" else 4


def _signal(number: int) -> Disturbance:
    def send(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
        arena.start()
        if rng.random() < 0.5:
            arena.sleep(rng.uniform(0.05, 0.9) * reference.seconds)
        else:
            arena.until(lambda: (arena.run / "best.grist").exists())
            time.sleep(rng.uniform(0.0, 2.0))
        early = not (arena.run / "best.grist").exists()
        if arena.running():
            assert arena.process is not None
            arena.process.send_signal(number)
            sent = time.monotonic()
            arena.remember()
            phase = arena.finish()
            took = time.monotonic() - sent
            fits = phase.code == 128 + number and (early or arena.bundle.exists()) and took < 15.0
            if not fits and phase.code != 0:
                phase.err += (
                    f"Traceback: code {phase.code}, bundle {arena.bundle.exists()}, after {took:.1f} s"
                )
        else:
            arena.finish()
        if arena.phases[-1].code:
            arena.whole()

    return send


def _freeze(who: str) -> Disturbance:
    def freeze(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
        arena.start()
        arena.until(lambda: arena.lines("outcome") > 0)
        time.sleep(rng.uniform(0.0, 0.2) * reference.seconds)
        assert arena.process is not None
        workers = arena.workers()
        target = psutil.Process(arena.process.pid) if who == "driver" else rng.choice(workers or [None])
        if arena.running() and target is not None:
            arena.remember()
            began = time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                target.suspend()
                if who == "driver":
                    time.sleep(options.freeze)
                else:  # a worker that does not keep its cap is replaced meanwhile: no need to wait
                    while arena.running() and time.monotonic() - began < options.freeze:
                        time.sleep(0.1)
                target.resume()
            arena.frozen_s += time.monotonic() - began if who == "driver" or arena.mode == "counted" else 0.0
        arena.finish()

    return freeze


def full_disk(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """No byte fits any more from a random moment on; then there is room again, and the same command."""
    with _small_disk(arena) as (fill, free):
        arena.start()
        arena.sleep(rng.uniform(0.2, 0.9) * reference.seconds)
        if arena.running():
            arena.remember()
            fill()
        arena.finish()
        free()
        arena.hits = int(arena.phases[-1].code != 0)
        if arena.hits:
            arena.whole()
        _keep_result(arena)


@contextlib.contextmanager
def _small_disk(arena: Arena) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A file system of its own, filled by a ballast file; where mounting is not allowed, writes that fail."""
    home = arena.folder
    arena.folder = home / "disk"
    arena.folder.mkdir()
    if _mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(arena.folder)):
        ballast = arena.folder / "ballast"
        try:
            yield lambda: _fill(ballast), lambda: ballast.unlink(missing_ok=True)
        finally:
            arena.folder = home
            subprocess.run(["umount", "-l", str(home / "disk")], check=False)
        return
    marker = home / "full"
    arena.fault = f"full:{marker}"
    yield marker.touch, lambda: marker.unlink(missing_ok=True)


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(b"x" * 65536):
            pass
    with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
        while file.write(b"x"):
            pass


def _keep_result(arena: Arena) -> None:
    """The run and its bundle outlive the small disk."""
    home = arena.folder.parent
    for path in (arena.run, arena.bundle):
        if path.is_dir():
            shutil.copytree(path, home / path.name)
        elif path.exists():
            shutil.copy(path, home / path.name)


def _mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _read_only(during: bool) -> Disturbance:
    def close(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
        arena.start()
        arena.until(lambda: arena.lines("outcome") >= 2)
        if not during and arena.running():
            assert arena.process is not None
            arena.process.kill()
            arena.process.wait()
            arena.finish()
        arena.remember()
        with _closed(arena.run):
            if during:
                arena.finish()
            else:
                arena.whole()
        arena.hits = int(arena.phases[-1].code != 0)
        if arena.hits:
            arena.whole()

    return close


@contextlib.contextmanager
def _closed(folder: Path) -> Iterator[None]:
    """The folder read-only: mounted on itself so for the administrator, else by its permissions."""
    if os.geteuid() == 0 and _mount("--bind", str(folder), str(folder)):
        assert _mount("-o", "remount,bind,ro", str(folder))
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    every = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    modes = [p.stat().st_mode for p in every]
    for path in every:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path, mode in zip(every, modes, strict=True):
            path.chmod(mode)


def cut_journal(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """The last record cut at every byte (opened only), then one flipped byte (the command refuses)."""
    arena.whole()
    data, every = arena.journal.read_bytes(), read(arena.journal)
    start = data.rindex(b"\n", 0, -1) + 1
    copy = arena.folder / "copy.jsonl"
    for length in range(start, len(data) + 1):
        copy.write_bytes(data[:length])
        with Journal.open(copy, sync=False) as journal:
            kept = every if length >= len(data) - 1 else every[:-1]
            if journal.lines != kept:
                arena.phases[-1].wrong = f"cut to {length} bytes, a whole line is lost"
    damaged = bytearray(data)
    damaged[rng.randrange(start)] ^= 1 << rng.randrange(8)
    arena.journal.write_bytes(damaged)
    arena.hits += 1 + len(data) - start
    phase = arena.whole()
    if phase.code != RunError.exit_code or "--fresh" not in phase.err:
        phase.wrong = "a damaged journal was not refused"
    if arena.journal.read_bytes() != bytes(damaged):
        phase.wrong = "a damaged journal was changed"
    arena.journal.write_bytes(data)
    arena.before.append(every)
    arena.whole()  # prints its result


def _with_fault(fault: str, state: str) -> Disturbance:
    """Each network meets the fault; its outcome is `state`, or (hanging) it is asked and nothing comes."""

    def sabotage(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
        arena.fault = fault
        arena.whole()
        found = {x.data["id"]: x.data["state"] for x in read(arena.journal) if x.kind == "outcome"}
        asked = [x.data["segment"] for x in read(arena.journal) if x.kind == "ask"]
        arena.hits += sum(s["kind"] == "train" and found.get(s["id"], "lost") == state for s in asked)

    return sabotage


def jump(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """The wall clock goes a day ahead or back in the middle of the run."""
    day = rng.choice((-86400.0, 86400.0))
    arena.fault = f"clock:{day}:{rng.uniform(0.3, 0.7) * reference.seconds:.2f}"
    arena.whole()
    times = [x.t for x in read(arena.journal)]
    arena.hits += sum(abs(b - a) > abs(day) / 2 for a, b in pairwise(times))


def corrupt(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """The driver is killed, one bit in each file that segments keep turns over, the same command again."""
    arena.start()
    arena.until(lambda: len(list(arena.run.glob("segments/*-train-*/outcome.json"))) >= 2)
    if arena.running():
        assert arena.process is not None
        arena.process.kill()
        arena.process.wait()
        arena.remember()
    arena.finish()
    names = ("checkpoint.safetensors", "features.npy", "predictions.npy")
    paths = [p for name in names for p in arena.run.glob(f"segments/*/{name}")]
    for path in paths:
        _flip(path, rng)
    arena.hits, damaged = len(paths), {p.parent.name for p in paths}
    outcomes = [x.data for x in read(arena.journal) if x.kind == "outcome"]
    arena.again_s = sum(float(o["seconds"]) for o in outcomes if o["id"] in damaged)
    arena.whole()


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def two_drivers(arena: Arena, rng: random.Random, reference: Reference, options: Any) -> None:
    """The second is refused while the first lives; after its death the lock is free at once."""
    arena.start()
    arena.until(lambda: arena.lines("ask") > 0)
    first, began = arena.process, arena.began
    assert first is not None
    second = subprocess.run(
        arena.command(), env=arena.environment(), cwd=arena.cache.parent, capture_output=True, check=False
    )
    refusal = Phase(code=second.returncode, err=second.stderr.decode(), seconds=0.0)
    if refusal.code != RunError.exit_code or f"in use by process {first.pid} on" not in refusal.err:
        refusal.wrong = "the second driver was not refused with the first one's name"
    first.kill()
    first.wait()
    arena.began = began
    arena.remember()
    arena.finish()
    arena.whole()
    arena.phases.insert(1, refusal)


# ---------------------------------------------------------------- the cases


@dataclass(frozen=True, kw_only=True)
class Case:
    """One disturbance in one mode; `runs` counts (data set, number of runs)."""

    name: str
    mode: str
    disturb: Disturbance
    runs: tuple[tuple[str, int], ...]
    more: int = 0
    """Segments beyond the usual count."""
    same: bool = True
    """Whether counted decisions must equal the undisturbed ones: not where a fault is part of an outcome."""
    quick: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}/{self.mode}"


BOTH = (("pictures", 1), ("table", 1))
PICTURES = (("pictures", 1),)
TABLE = (("table", 1),)
CASES = (
    Case(name="undisturbed", mode="counted", disturb=undisturbed, runs=BOTH),
    Case(name="worker-kill", mode="counted", disturb=kill_worker, runs=(("pictures", 10), ("table", 10))),
    Case(name="worker-kill", mode="clock", disturb=kill_worker, runs=(("pictures", 3), ("table", 2))),
    Case(
        name="driver-kill",
        mode="counted",
        disturb=kill_driver,
        runs=(("pictures", 10), ("table", 10)),
        quick=True,
    ),
    Case(name="driver-kill", mode="clock", disturb=kill_driver, runs=(("pictures", 3), ("table", 2))),
    Case(name="sigint", mode="counted", disturb=_signal(signal.SIGINT), runs=BOTH),
    Case(name="sigint", mode="clock", disturb=_signal(signal.SIGINT), runs=PICTURES),
    Case(name="sigterm", mode="counted", disturb=_signal(signal.SIGTERM), runs=BOTH),
    Case(name="sigterm", mode="clock", disturb=_signal(signal.SIGTERM), runs=TABLE),
    Case(name="driver-frozen", mode="counted", disturb=_freeze("driver"), runs=PICTURES),
    Case(name="driver-frozen", mode="clock", disturb=_freeze("driver"), runs=TABLE),
    Case(name="worker-frozen", mode="counted", disturb=_freeze("worker"), runs=TABLE),
    Case(name="worker-frozen", mode="clock", disturb=_freeze("worker"), runs=PICTURES),
    Case(
        name="disk-full", mode="counted", disturb=full_disk, runs=(("pictures", 2), ("table", 1)), quick=True
    ),
    Case(name="disk-full", mode="clock", disturb=full_disk, runs=PICTURES),
    Case(name="read-only-before", mode="counted", disturb=_read_only(False), runs=PICTURES),
    Case(name="read-only-during", mode="counted", disturb=_read_only(True), runs=BOTH),
    Case(name="read-only-during", mode="clock", disturb=_read_only(True), runs=PICTURES),
    Case(name="journal-cut", mode="counted", disturb=cut_journal, runs=TABLE, quick=True),
    Case(name="clock-jump", mode="counted", disturb=jump, runs=(("pictures", 2),)),
    Case(name="clock-jump", mode="clock", disturb=jump, runs=(("table", 2),)),
    Case(name="corrupt-files", mode="counted", disturb=corrupt, runs=BOTH, more=4),
    Case(name="nan-loss", mode="counted", disturb=_with_fault("nan", "diverged"), runs=PICTURES, same=False),
    Case(name="nan-loss", mode="clock", disturb=_with_fault("nan", "diverged"), runs=BOTH),
    Case(name="memory-bomb", mode="counted", disturb=_with_fault("bomb", "oom"), runs=PICTURES, same=False),
    Case(name="memory-bomb", mode="clock", disturb=_with_fault("bomb", "oom"), runs=BOTH),
    Case(name="hanging-segment", mode="clock", disturb=_with_fault("hang", "lost"), runs=BOTH),
    Case(name="two-drivers", mode="counted", disturb=two_drivers, runs=PICTURES, quick=True),
)
"""No hanging segment in counted mode: there it takes five idle minutes to be noticed (`test_local.py`)."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run: seconds of the command, seconds until its first outcome, its decision lines."""

    seconds: float
    restart_s: float
    decisions: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one disturbed run did."""

    ended: bool
    told: bool
    lost: int
    ratio: float
    verified: bool
    same: bool
    hits: int
    restart_s: float
    note: str


def main() -> int:
    """Run what is missing, print one row a claim, return 1 when a bar is missed."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.table:
        print(table(rows))
        return 0
    chosen = _chosen(options)
    if options.list:
        print("\n".join(c.key for c in chosen))
        return 0
    made = []
    for case in chosen:
        if not options.quick and not options.again and case.key in {r["case"] for r in rows}:
            continue
        new = run_case(case, options)
        made += new
        if not (options.quick or options.dry):
            rowfile.append(options.results, new)
        for row in new:
            _print(row, options.json)
    kept = [r for r in rows if r["case"] in {c.key for c in chosen} - {r["case"] for r in made}]
    return 0 if all(r["ok"] for r in made + ([] if options.quick else kept)) else 1


def run_case(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs of a case; returns the rows of its claims."""
    judged, began = [], time.monotonic()
    for data, count in case.runs[: 1 if options.quick else None]:
        for number in range(min(count, options.most)):
            seed = f"{options.seed} {case.key} {data} {number}"
            judged.append(_run(case, data, random.Random(seed), options))
            if options.verbose:
                print(f"     {case.key} {data} {number}: {judged[-1]}", file=sys.stderr, flush=True)
    return _claims(case, judged, options, time.monotonic() - began)


def _run(case: Case, data: str, rng: random.Random, options: argparse.Namespace) -> Judged:
    reference = _reference(data, case.mode, case.more, options.time)
    with _arena(data, case.mode, case.more, options.time) as arena:
        case.disturb(arena, rng, reference, options)
        return _judge(case, arena, reference)


@contextlib.contextmanager
def _arena(data: str, mode: str, more: int, seconds: int) -> Iterator[Arena]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        home = Path(folder)
        (home / "work").mkdir()
        arena = Arena(
            folder=home / "work", data=data, mode=mode, cache=home / "cache", more=more, seconds=seconds
        )
        arena.command()  # writes the data, which is no part of the time
        try:
            yield arena
        finally:
            if arena.running():
                assert arena.process is not None
                arena.process.kill()
                arena.process.wait()


@cache
def _reference(data: str, mode: str, more: int, seconds: int) -> Reference:
    """Measured in this very process: its time is the yardstick."""
    with _arena(data, mode, more, seconds) as arena:
        arena.start()
        arena.until(lambda: arena.lines("outcome") > 0)
        restart_s = time.monotonic() - arena.began
        phase = arena.finish()
        if phase.code:
            raise SystemExit(f"the undisturbed run on {data} must end well:\n{phase.err[-2000:]}")
        return Reference(
            seconds=phase.seconds, restart_s=restart_s, decisions=decision_bytes(read(arena.journal))
        )


def _judge(case: Case, arena: Arena, reference: Reference) -> Judged:
    lines = read(arena.journal)
    ended = arena.phases[-1].code == 0
    silent = [p for p in arena.phases if not p.told]
    starts = [reference.restart_s] * arena.hits if case.name == "worker-kill" else []
    starts += [min(p.seconds, reference.restart_s) for p in arena.phases[1:]]
    starts = [] if case.mode == "clock" else starts  # there the time counts over all drivers
    spent = sum(p.seconds for p in arena.phases) - sum([arena.frozen_s, arena.again_s, *starts])
    same = case.mode != "counted" or not case.same or decision_bytes(lines) == reference.decisions
    notes = [f"exit {p.code}: {p.wrong or p.err.strip()[-300:]}" for p in silent]
    if not ended:
        notes.append(f"ended with {arena.phases[-1].code}: {arena.phases[-1].err.strip()[-300:]}")
    if not same:
        notes.append(_first_difference(decision_bytes(lines), reference.decisions))
    return Judged(
        ended=ended,
        told=not silent,
        lost=lost_segments(arena.before, lines),
        ratio=max(0.0, spent) / reference.seconds,
        verified=_verifies(arena),
        same=same,
        hits=arena.hits,
        restart_s=reference.restart_s,
        note=" | ".join(notes),
    )


def lost_segments(before: Sequence[tuple[Line, ...]], after: Sequence[Line]) -> int:
    """Completed segments whose outcome is gone or changed, or that were asked again."""
    kept = {x.data["id"]: x.data for x in after if x.kind == "outcome"}
    gone = {
        x.data["id"]
        for lines in before
        for x in lines
        if x.kind == "outcome" and x.data["state"] in COMPLETE and kept.get(x.data["id"]) != x.data
    }
    told: set[str] = set()
    for line in after:
        if line.kind == "outcome":
            told.add(line.data["id"])
        elif line.kind == "retry" and line.data["id"] in told:
            gone.add(line.data["id"])
    return len(gone)


def _first_difference(got: list[bytes], want: list[bytes]) -> str:
    for number, (one, other) in enumerate(zip(got, want, strict=False)):
        if one != other:
            return f"decision {number}: {one[:300]!r} instead of {other[:300]!r}"
    return f"{len(got)} decisions instead of {len(want)}"


def _verifies(arena: Arena) -> bool:
    path = arena.bundle
    arena.fault = ""
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "verify", str(path)],
        env=arena.environment(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _claims(
    case: Case, judged: Sequence[Judged], options: argparse.Namespace, seconds: float
) -> list[dict[str, Any]]:
    n = len(judged)
    extra = {
        "n": n,
        "disturbances": sum(j.hits for j in judged),
        "restart_s": round(max(j.restart_s for j in judged), 2),
        "wall_s": round(seconds, 1),
        "notes": [j.note for j in judged if j.note][:3],
    }

    def share(claim: str, held: int) -> dict[str, Any]:
        found = wilson(held / n, n)
        return _row(
            case, options, claim, held / n, [round(found.low, 4), round(found.high, 4)], 1.0, held == n, extra
        )

    slowest, lost, met = (
        max(j.ratio for j in judged),
        sum(j.lost for j in judged),
        sum(j.hits for j in judged),
    )
    rows = [
        _row(case, options, "disturbances", met, None, 1.0, met >= 1, extra),
        share("ends well", sum(j.ended for j in judged)),
        share("says why, no traceback", sum(j.told for j in judged)),
        _row(case, options, "completed segments lost", lost, None, 0.0, lost == 0, extra),
        _row(
            case,
            options,
            "time over undisturbed",
            round(slowest, 3),
            None,
            SLOWEST,
            slowest <= SLOWEST,
            extra,
        ),
        share("bundle verifies", sum(j.verified for j in judged)),
    ]
    if case.mode == "counted" and case.same:
        rows.append(share("decisions byte-equal", sum(j.same for j in judged)))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The newest rows of each case as Markdown."""
    columns = ("case", "runs", "disturbances", "ends well", "segments lost", "time", "verifies")
    columns = (*columns, "decisions equal", "rows from")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in CASES:
        mine = {r["claim"]: r for r in rows if r["case"] == case.key}
        if not mine:
            continue
        any_row = next(iter(mine.values()))

        def show(claim: str, form: str = "{:.0%}", mine: dict[str, Any] = mine) -> str:
            return form.format(mine[claim]["value"]) if claim in mine else "-"

        cells = (
            case.key,
            str(any_row["n"]),
            str(any_row["disturbances"]),
            show("ends well"),
            show("completed segments lost", "{:.0f}"),
            show("time over undisturbed", "{:.2f} x"),
            show("bundle verifies"),
            show("decisions byte-equal"),
            any_row["commit"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(
    case: Case,
    options: argparse.Namespace,
    claim: str,
    value: float,
    interval: list[float] | None,
    bar: float,
    ok: bool,
    extra: dict[str, Any],
) -> dict[str, Any]:
    return {
        "claim": claim,
        "case": case.key,
        "data": dict(case.runs),
        "time_s": options.time if case.mode == "clock" else None,
        "value": value,
        "interval": interval,
        "bar": bar,
        "ok": bool(ok),
        "seed": options.seed,
        **rowfile.stamp(LIBRARIES),
        **extra,
    }


def _chosen(options: argparse.Namespace) -> list[Case]:
    wanted = set(options.only.split(",")) if options.only else None
    known = {c.key for c in CASES} | {c.name for c in CASES}
    if wanted is not None and wanted - known:
        raise SystemExit(f"no such case: {', '.join(sorted(wanted - known))}; --list names them")
    if options.quick and wanted is None:
        return [c for c in CASES if c.quick]
    return [c for c in CASES if wanted is None or c.name in wanted or c.key in wanted]


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
        return
    interval = f" [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]" if row["interval"] else ""
    print(
        f"{'ok  ' if row['ok'] else 'MISS'} {row['case']:26} {row['claim']:26} {row['value']:.4g}{interval}"
        f"  bar {row['bar']:.4g}  n {row['n']}, {row['disturbances']} disturbances, {row['wall_s']} s"
        + ("" if row["ok"] else f"\n       {'; '.join(row['notes'])}"),
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", type=int, default=SECONDS, help="seconds of the runs against the clock")
    parser.add_argument("--only", default="", help="cases (worker-kill or worker-kill/clock), by commas")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--again", action="store_true", help="also what has a row")
    parser.add_argument("--dry", action="store_true", help="write no rows")
    parser.add_argument("--most", type=int, default=0, help="at most so many runs of a data set in a case")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    options.most = options.most or (2 if options.quick else 1000)
    options.freeze = 10.0 if options.quick else FREEZE_S
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
