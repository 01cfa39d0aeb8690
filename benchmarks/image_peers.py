"""Gristmill and its peers on pictures: same machine, same wall clock, same parts, one judge.

    python benchmarks/image_peers.py --data FOLDER --python P --yolo-python Q    the grid, resumable
    python benchmarks/image_peers.py --data FOLDER --from-scratch ...     only without any weights
    python benchmarks/image_peers.py --data FOLDER --quick                one set, 60 s, frozen features
    python benchmarks/image_peers.py --data FOLDER --inner ...            test parts stay closed
    python benchmarks/image_peers.py --table                                      the committed rows

P and Q are the interpreters of the environments in benchmarks/peers/README.md. A cell (set, peer, time,
seed, mode) gives one row; cells that have a row are skipped. What each row got right lies in a cache folder
(`--cache`), so that differences are paired; the comparisons become rows of their own (`claim`). Exits 1
when a bar is missed: per set not worse than the best peer beyond the paired 95 % interval, and the geometric
mean of the error ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "peers"), str(HERE)]

import judge  # noqa: E402
import rowfile  # noqa: E402
import splits  # noqa: E402

RESULTS = HERE / "results" / "image_peers.jsonl"
OURS = "gristmill"
RATIO_BARS = {60: 1.0, 180: 0.85, 600: 0.75}
"""Bar of the geometric mean of error ratios to the best peer, by seconds of wall clock."""
GRACE = (0.1, 15.0)
"""A peer is killed when it is later than this share of its time, or these seconds if they are more."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A script, the modes it can run in, and the distributions whose versions go into its rows."""

    name: str
    script: str
    modes: tuple[str, ...]
    versions: tuple[str, ...]
    yolo: bool = False


BOTH = ("weights", "from-scratch")
PEERS = (
    Peer(name=OURS, script="gristmill_fit.py", modes=BOTH, versions=("torch", "onnxruntime")),
    Peer(name="frozen-lr", script="frozen.py", modes=("weights",), versions=("onnxruntime", "scikit-learn")),
    Peer(name="expert", script="expert.py", modes=BOTH, versions=("torch",)),
    Peer(name="fastai", script="fastai_learner.py", modes=BOTH, versions=("fastai", "torch", "torchvision")),
    Peer(name="optuna", script="optuna_search.py", modes=BOTH, versions=("optuna", "torch")),
    Peer(
        name="autokeras",
        script="autokeras_images.py",
        modes=BOTH[1:],
        versions=("autokeras", "keras", "torch"),
    ),
    Peer(
        name="ultralytics",
        script="yolo_classify.py",
        modes=BOTH[1:],
        versions=("ultralytics", "torch"),
        yolo=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit to be made."""

    set: str
    peer: str
    time_s: int
    seed: int
    mode: str
    part: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rows the same cell."""
        return (self.set, self.peer, self.time_s, self.seed, self.mode, self.part)

    @property
    def file(self) -> str:
        """Name of the file of per-row correctness."""
        return f"{self.part}/{self.set}-{self.peer}-{self.time_s}s-seed{self.seed}-{self.mode}.npz"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: `ok`, `late` (it answered after its allowance), `killed` or `failed`."""

    state: str
    reason: str
    wall: float


def main() -> int:
    """Run what is missing, print a row per cell and claim, return 1 when a bar is missed."""
    options = _arguments()
    rows = rowfile.read(options.results)
    if options.table:
        print(table(rows))
        return 0
    _warm(options)
    done = {row_key(r) for r in rows if r["kind"] == "cell" and (r["state"] != "failed" or not options.retry)}
    for cell in cells(options):
        if cell.key in done and not options.quick:
            continue
        row = run_cell(cell, options, openings(rows, cell.set))
        rows.append(row)
        _keep([row], options)
    fresh = claims(rows, options.cache, part=_part(options))
    changed = [c for c in fresh if not options.quick and claim_core(c) not in map(claim_core, rows)]
    if changed:
        _keep(changed, options)
    elif options.quick:
        _print(fresh, options.json)
    ours = [r for r in rows if r["kind"] == "cell" and r["peer"] == OURS and r["part"] == _part(options)]
    return 0 if all(c["ok"] for c in fresh) and all(r["state"] == "ok" for r in ours) else 1


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The grid: all entrants of a set, time and mode in a row, the first one taking turns."""
    if options.quick:
        names = (OURS, "frozen-lr")
        yield from (
            Cell(set="trashnet-320", peer=n, time_s=60, seed=0, mode="weights", part="quick") for n in names
        )
        return
    turn = 0
    for seed in options.seeds:
        for seconds in options.time:
            for mode in BOTH[1:] if options.from_scratch else BOTH:
                for chosen in splits.SETS:
                    if options.only and chosen.name not in options.only:
                        continue
                    peers = [p.name for p in PEERS if mode in p.modes]
                    turn += 1
                    for name in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                        if not options.peers or name in options.peers:
                            yield Cell(
                                set=chosen.name,
                                peer=name,
                                time_s=seconds,
                                seed=seed,
                                mode=mode,
                                part=_part(options),
                            )


def run_cell(cell: Cell, options: argparse.Namespace, opened: int) -> dict[str, Any]:
    """Fit once in an empty folder, judge the answer; the row says what happened, whatever it was."""
    chosen = next(s for s in splits.SETS if s.name == cell.set)
    peer = next(p for p in PEERS if p.name == cell.peer)
    learned, judged = splits.parts(chosen, Path(options.data), inner=cell.part != "test")
    labels = sorted({r.label for r in learned})
    python = options.yolo_python if peer.yolo else options.python
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        work = Path(folder)
        command = _command(cell, peer, chosen, learned, judged, options, work, python)
        ended = run_until(command, cell.time_s, work, _environment(cell, options, work))
        result: dict[str, Any] = {"score": None, "interval": None}
        state, reason = ended.state, ended.reason
        if state in ("ok", "late"):
            try:
                found = judge.read_answer(work / "predictions.csv", [r.file for r in judged], labels)
                result = _judged(cell, chosen.metric, judged, labels, found, options.cache)
            except judge.BadAnswerError as error:
                state, reason = "failed", str(error)
    return {
        "kind": "cell",
        **{k: getattr(cell, k) for k in ("set", "peer", "time_s", "seed", "mode", "part")},
        "state": state,
        "reason": reason,
        "metric": chosen.metric,
        **result,
        "rows": len(judged),
        "wall_s": round(ended.wall, 2),
        "overshoot_s": round(ended.wall - cell.time_s, 2),
        "test_openings": opened + (cell.part == "test" and state in ("ok", "late")),
        "commit": rowfile.commit(),
        "cores": options.threads,
        "machine": platform.machine(),
        "versions": _versions(python, peer.versions),
        "when": time.strftime("%Y-%m-%d"),
    }


def _judged(
    cell: Cell, metric: str, judged: list[splits.Row], labels: list[str], found: np.ndarray, cache: Path
) -> dict[str, Any]:
    """Score an answer and keep what it got right for paired comparisons."""
    y, names = truth(judged)
    codes = np.array([labels.index(n) if n in labels else -1 for n in names])[y]
    hit = judge.hits(found, codes)
    path = cache / cell.file
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(
        temporary,
        files=np.array([r.file for r in judged]),
        y=y,
        hit=hit,
        labels=np.array(labels),
        probabilities=found.astype(np.float32),
    )
    os.replace(temporary, path)
    low, high = judge.interval(metric, y, hit)
    return {
        "score": judge.score(metric, y, hit),
        "interval": [low, high],
        "hits": {"file": cell.file, "sha256": hashlib.sha256(np.packbits(hit).tobytes()).hexdigest()},
    }


def truth(judged: Sequence[splits.Row]) -> tuple[np.ndarray, list[str]]:
    """Codes (n,) of the true labels into the sorted labels of the judged rows, and those labels."""
    names = sorted({r.label for r in judged})
    return np.array([names.index(r.label) for r in judged]), names


def run_until(command: list[str], seconds: float, work: Path, env: dict[str, str]) -> Ended:
    """Run a command, its clock started by now; kill its whole group when it is hopelessly late."""
    command = [*command, "--started", repr(time.time())]
    began = time.monotonic()
    limit = seconds + max(GRACE[0] * seconds, GRACE[1])
    log = work / "stderr.txt"
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            command, cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    wall = time.monotonic() - began
    if code is None:
        return Ended(state="killed", reason=f"no end within {limit:.0f} s", wall=wall)
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = " ".join(lines[-2:]) or f"exit code {code}"
        return Ended(state="failed", reason=reason[-300:], wall=wall)
    return Ended(state="late" if wall > seconds + allowance(seconds) else "ok", reason="", wall=wall)


def allowance(seconds: float) -> float:
    """How much later than asked for still counts as in time: 2 %, at least 3 s."""
    return max(0.02 * seconds, 3.0)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing running: workers of a dead peer would slow the next one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(
    cell: Cell,
    peer: Peer,
    chosen: splits.Set,
    learned: list[splits.Row],
    judged: list[splits.Row],
    options: argparse.Namespace,
    work: Path,
    python: str,
) -> list[str]:
    _list(work / "train.csv", ("file", "label", "part"), [(r.file, r.label, r.part) for r in learned])
    _list(work / "test.csv", ("file",), [(r.file,) for r in judged])
    root = (Path(options.data) / chosen.folder).resolve()
    command = [python, str(HERE / "peers" / peer.script), "--root", str(root), "--metric", chosen.metric]
    command += ["--train", str(work / "train.csv"), "--test", str(work / "test.csv")]
    command += ["--out", str(work / "predictions.csv"), "--time", str(cell.time_s), "--seed", str(cell.seed)]
    command += ["--threads", str(options.threads)]
    command += ["--from-scratch"] if cell.mode == "from-scratch" else []
    return command + ([] if chosen.flip else ["--no-flip"])


def _list(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def _environment(cell: Cell, options: argparse.Namespace, work: Path) -> dict[str, str]:
    """Our source first, the threads, no cache of ours from earlier; the others may keep read weights."""
    source = str(HERE.parent / "src")
    threads = {
        n: str(options.threads) for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    if cell.peer == OURS:  # it divides the cores among its workers itself
        threads = {}
    cache = work / "cache" if cell.peer == OURS else Path(options.cache) / "weights"
    paths = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH", "")) if p)
    return {
        **os.environ,
        **threads,
        "PYTHONPATH": paths,
        "GRISTMILL_CACHE": str(cache),
        "CUDA_VISIBLE_DEVICES": "",
    }


def _warm(options: argparse.Namespace) -> None:
    """Write the network's file once: to make it is no work of a peer that merely reads it."""
    code = (
        "from gristmill.models.features import backbone_onnx as made\n"
        "[made('lite0', side, 3) for side in range(64, 225, 32)]"
    )
    cell = Cell(set="", peer="", time_s=0, seed=0, mode="", part="")
    subprocess.run([options.python, "-c", code], env=_environment(cell, options, Path()), check=True)


# ---------------------------------------------------------------- claims


def claims(rows: list[dict[str, Any]], cache: Path, *, part: str) -> list[dict[str, Any]]:
    """Per mode, time and set ours against the best peer; per mode and time the mean of the ratios."""
    found: list[dict[str, Any]] = []
    cell_rows = [r for r in rows if r["kind"] == "cell" and r["part"] == part]
    for mode, seconds in sorted({(r["mode"], r["time_s"]) for r in cell_rows if r["peer"] == OURS}):
        against = []
        for chosen in splits.SETS:
            mine = [r for r in cell_rows if r["set"] == chosen.name and r["time_s"] == seconds]
            claim = _against_best(mine, mode, cache)
            if claim is not None:
                against.append({"kind": "claim", "mode": mode, "time_s": seconds, "part": part, **claim})
        found += against
        if against:
            found.append(_ratio(against, mode, seconds, part))
    return found


def eligible(rows: list[dict[str, Any]], mode: str) -> dict[str, list[dict[str, Any]]]:
    """Judged rows by entrant: of the mode, and with weights also of peers that know from scratch alone."""
    found: dict[str, list[dict[str, Any]]] = {}
    for peer in PEERS:
        own = mode if mode in peer.modes else peer.modes[-1]
        if own == mode or mode == "weights":
            mine = [r for r in rows if r["peer"] == peer.name and r["mode"] == own]
            if mine:
                found[peer.name] = mine
    return found


def _against_best(rows: list[dict[str, Any]], mode: str, cache: Path) -> dict[str, Any] | None:
    """Ours minus the peer with the best mean score, over the seeds that both have."""
    entrants = eligible(rows, mode)
    ours = {r["seed"]: r for r in entrants.pop(OURS, [])}
    scores = {n: [r["score"] for r in mine if r["score"] is not None] for n, mine in entrants.items()}
    scores = {n: s for n, s in scores.items() if s}
    if not ours or not scores:
        return None
    best = max(scores, key=lambda n: sum(scores[n]) / len(scores[n]))
    theirs = {r["seed"]: r for r in entrants[best] if r["score"] is not None}
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    any_row = theirs[seeds[0]]
    base = {"claim": "minus the best peer", "set": any_row["set"], "best": best, "seeds": seeds, "bar": 0.0}
    base["theirs"] = sum(theirs[s]["score"] for s in seeds) / len(seeds)
    base["peers"] = sorted(scores)
    if any(ours[s]["score"] is None for s in seeds):
        return {**base, "ours": None, "value": None, "interval": None, "ratio": None, "ok": False}
    base["ours"] = sum(ours[s]["score"] for s in seeds) / len(seeds)
    base["ratio"] = judge.error_ratio(base["ours"], base["theirs"], any_row["rows"])
    gap = _paired([ours[s] for s in seeds], [theirs[s] for s in seeds], cache)
    late = [s for s in seeds if ours[s]["state"] == "late"]
    ok = gap is not None and gap.high >= 0.0 and not late
    low_high = None if gap is None else [gap.low, gap.high]
    return {**base, "value": base["ours"] - base["theirs"], "interval": low_high, "late": late, "ok": ok}


def _paired(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], cache: Path) -> judge.Difference | None:
    """The paired difference of the means over seeds, or None where a file of correctness is not here."""
    pairs = [[_hits(r, cache) for r in side] for side in (ours, theirs)]
    if any(p is None for side in pairs for p in side):
        return None
    y = pairs[0][0][0]  # type: ignore[index]
    first, second = (np.mean([hit for _, hit in side], axis=0) for side in pairs)  # type: ignore[misc]
    return judge.paired(ours[0]["metric"], y, first, second)


def _hits(row: dict[str, Any], cache: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and correctness behind a row; a file that is not the one judged is not used."""
    path = Path(cache) / row["hits"]["file"]
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as held:
        y, hit = held["y"], held["hit"]
    same = hashlib.sha256(np.packbits(hit).tobytes()).hexdigest() == row["hits"]["sha256"]
    return (y, hit) if same and len(hit) == row["rows"] else None


def _ratio(against: list[dict[str, Any]], mode: str, seconds: int, part: str) -> dict[str, Any]:
    ratios = [c["ratio"] for c in against if c["ratio"] is not None]
    value = judge.geometric_mean(ratios) if ratios else None
    bar = RATIO_BARS.get(seconds, 1.0)
    return {
        "kind": "claim",
        "mode": mode,
        "time_s": seconds,
        "part": part,
        "claim": "geometric mean of error ratios to the best peer",
        "set": "all",
        "value": value,
        "bar": bar,
        "coverage": f"{len(ratios)} of {len(splits.SETS)} sets",
        "ok": value is not None and value <= bar and len(ratios) == len(against),
    }


def claim_core(row: dict[str, Any]) -> str:
    """What makes a claim news: everything but when and where it was computed."""
    return json.dumps(row, sort_keys=True)


# ---------------------------------------------------------------- the table


def table(rows: list[dict[str, Any]]) -> str:
    """The committed rows as Markdown: per mode and time the scores of everyone, the claims, the coverage."""
    times = sorted({r["time_s"] for r in rows if r["kind"] == "cell" and r["part"] == "test"})
    tables = [_one_table(rows, mode, seconds) for mode in BOTH for seconds in times]
    return "\n\n".join(tables) or "No row is committed yet: coverage is nothing."


def _one_table(rows: list[dict[str, Any]], mode: str, seconds: int) -> str:
    mine = [r for r in rows if r["part"] == "test" and r["time_s"] == seconds]
    fits = [r for r in mine if r["kind"] == "cell"]
    held = {s.name: eligible([r for r in fits if r["set"] == s.name], mode) for s in splits.SETS}
    names = [p.name for p in PEERS if mode == "weights" or mode in p.modes]
    title = "With weights where a peer can use them" if mode == "weights" else "From scratch, everyone"
    head = ["set (metric)", *names, "ours minus the best (95 % interval)", "error ratio"]
    lines = [f"### {title}, {seconds} s", "", _line(head), _line(["---"] * len(head))]
    for chosen in splits.SETS:
        scores = [_score_cell(held[chosen.name].get(n, [])) for n in names]
        claim = _last_claim(mine, mode, chosen.name)
        named = f"{chosen.name} ({chosen.metric})"
        lines.append(_line([named, *scores, _gap(claim), _number(claim, "ratio")]))
    return "\n".join([*lines, "", *_below(_last_claim(mine, mode, "all"), held, len(names))])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _below(overall: dict[str, Any] | None, held: dict[str, Any], entrants: int) -> Iterator[str]:
    """What stands under a table: the mean ratio and its bar, how much of the grid there is, the commits."""
    if overall:
        mark = "holds" if overall["ok"] else "is missed"
        yield (
            f"Geometric mean of error ratios to the best peer: {_number(overall, 'value')}"
            f" ({overall['coverage']}); the bar {overall['bar']} {mark}."
        )
        yield ""
    shown = [r for by_peer in held.values() for mine in by_peer.values() for r in mine]
    seeds = sorted({r["seed"] for r in shown})
    commits = sorted({r["commit"] for r in shown})
    yield (
        f"Coverage: {len(shown)} of {entrants * len(splits.SETS) * max(1, len(seeds))} cells,"
        f" seeds {', '.join(map(str, seeds)) or 'none'}; rows from {', '.join(commits) or 'no commit yet'}."
    )


def _score_cell(rows: list[dict[str, Any]]) -> str:
    """The mean over seeds; what failed or was late is said."""
    scores = [r["score"] for r in rows if r["score"] is not None]
    bad = [r for r in rows if r["state"] != "ok"]
    text = f"{sum(scores) / len(scores):.4f}" if scores else "-"
    if not bad:
        return text
    said = ", ".join(f"{r['overshoot_s']:+.0f} s" if r["state"] == "late" else r["state"] for r in bad)
    return f"{text} ({said})"


def _last_claim(rows: list[dict[str, Any]], mode: str, name: str) -> dict[str, Any] | None:
    fitting = [r for r in rows if r["kind"] == "claim" and r["mode"] == mode and r["set"] == name]
    return fitting[-1] if fitting else None


def _gap(claim: dict[str, Any] | None) -> str:
    if claim is None or claim["value"] is None:
        return "-"
    low_high = claim["interval"]
    inside = f" ({low_high[0]:+.4f} to {low_high[1]:+.4f})" if low_high else ""
    return f"{claim['value']:+.4f}{inside}, {claim['best']}"


def _number(claim: dict[str, Any] | None, name: str) -> str:
    return "-" if claim is None or claim[name] is None else f"{claim[name]:.3f}"


# ---------------------------------------------------------------- files and options


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the cell that a row is of."""
    return tuple(row[k] for k in ("set", "peer", "time_s", "seed", "mode", "part"))


def openings(rows: list[dict[str, Any]], name: str) -> int:
    """How often committed rows have opened the test part of a set so far."""
    return max((r["test_openings"] for r in rows if r["kind"] == "cell" and r["set"] == name), default=0)


def _keep(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    _print(rows, options.json)
    if options.quick:
        return
    rowfile.append(options.results, rows)


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    for row in rows:
        say = json.dumps if as_json else _cell_line if row["kind"] == "cell" else _claim_line
        print(say(row), flush=True)


def _cell_line(row: dict[str, Any]) -> str:
    score = "-" if row["score"] is None else f"{row['score']:.4f}"
    what = f"{row['state']:6} {row['set']:16} {row['peer']:12} {row['time_s']:4}s {row['mode']:12}"
    return f"{what} seed {row['seed']} {score}  {row['overshoot_s']:+.1f} s  {row['reason']}"


def _claim_line(row: dict[str, Any]) -> str:
    value = "-" if row["value"] is None else f"{row['value']:+.4f}"
    inside = row.get("interval")
    between = f" ({inside[0]:+.4f} to {inside[1]:+.4f})" if inside else ""
    mark, against = "ok" if row["ok"] else "MISS", row.get("best") or row.get("coverage")
    what = f"{mark:6} {row['set']:16} {row['claim']} ({against}): {value}{between}"
    return f"{what}, bar {row['bar']}, {row['time_s']} s, {row['mode']}"


def _versions(python: str, names: Sequence[str]) -> dict[str, str]:
    """Of the distributions in the environment of a peer; absent where it has none."""
    code = (
        "import json,sys,importlib.metadata as m\nf={'python':sys.version.split()[0]}\n"
        "for n in sys.argv[1:]:\n  try: f[n]=m.version(n)\n  except m.PackageNotFoundError: pass\n"
        "print(json.dumps(f))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _part(options: argparse.Namespace) -> str:
    return "quick" if options.quick else "inner" if options.inner else "test"


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("GRISTMILL_SHARED", str(HERE.parents[1] / "shared"))
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers, names = (lambda t: [int(x) for x in t.split(",")]), (lambda t: t.split(","))
    add = parser.add_argument
    add("--data", default=shared + "/data")
    add("--results", type=Path, default=RESULTS)
    add("--cache", type=Path, default=home / "gristmill-benchmarks" / "image_peers")
    add("--python", default=sys.executable, help="interpreter of the peers' environment")
    add("--yolo-python", default=None, help="interpreter of Ultralytics' environment (default: --python)")
    add("--threads", type=int, default=cores)
    add("--seeds", type=numbers, default=[0], help="numbers, separated by commas")
    add("--time", type=numbers, default=[180, 600], help="seconds, separated by commas")
    add("--only", type=names, default=[], help="names of sets, separated by commas")
    add("--peers", type=names, default=[], help="names of entrants, separated by commas")
    add("--retry", action="store_true", help="run cells again whose row says that they failed")
    for flag in ("--from-scratch", "--quick", "--inner", "--table", "--json"):
        add(flag, action="store_true")
    options = parser.parse_args(words)
    options.yolo_python = options.yolo_python or options.python
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
