"""The run folder: NAME.run beside NAME.grist. Identity, paths, spent time, the final record.

NAME.run/
  run.json        identity and options of the problem
  journal.jsonl   everything that was asked and came back
  reading.json    how much of the data is read, and how large
  portfolio.json  what is tried first, as it was decided when the run began
  prepared/       parts, targets, views (row ids; the pictures lie in the shared store)
  segments/ID/    checkpoint, predictions, deployable member, outcome.json
  logs/           output of the workers
  best.grist      best verified bundle so far
  traditional.grist  the traditional model that the report shows beside it
  report.html     the full report (with pictures)
  report.json     the same as numbers
  result.json     what the finished run found
  lock            held by the operating system while a driver lives
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.errors import RunError, UsageError, of_the_disk

if TYPE_CHECKING:
    from gristmill.search.lock import RunLock

RUN_VERSION = 1
WRITING_S = 2.0
"""A finished run's journal is at most so many seconds ahead of its result, which is written just before."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Paths of one run. `folder` is NAME.run, `output` is NAME.grist."""

    folder: Path
    output: Path
    identity: str

    @property
    def journal(self) -> Path:
        """The append-only journal."""
        return self.folder / "journal.jsonl"

    @property
    def portfolio(self) -> Path:
        """What is tried first, in the order that was decided when the run began."""
        return self.folder / "portfolio.json"

    @property
    def reading(self) -> Path:
        """How much of the data is read, and how large, as it was decided when the run began."""
        return self.folder / "reading.json"

    @property
    def prepared(self) -> Path:
        """Parts, targets and views."""
        return self.folder / "prepared"

    @property
    def best(self) -> Path:
        """The best verified bundle so far."""
        return self.folder / "best.grist"

    @property
    def report(self) -> Path:
        """The full report."""
        return self.folder / "report.html"

    @property
    def result(self) -> Path:
        """The record of the finished run."""
        return self.folder / "result.json"

    @property
    def logs(self) -> Path:
        """Output of the workers."""
        return self.folder / "logs"

    def segment(self, segment_id: str) -> Path:
        """The folder of one segment."""
        return self.folder / "segments" / segment_id

    def kept_portfolio(self) -> list[dict[str, Any]]:
        """The portfolio entries that the run began with; empty when it has not begun. A run goes on with
        them although the table that ordered them has grown since: its decisions stay the same.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.portfolio.exists():
            return []
        entries = read_json(self.portfolio).get("entries")
        if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
            raise _damaged(self.portfolio, "it holds no list of entries")
        return entries

    def keep_portfolio(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write the portfolio entries that the run begins with, once."""
        if not self.portfolio.exists():
            write_json(self.portfolio, {"version": RUN_VERSION, "entries": [dict(e) for e in entries]})


def output_path(path: str | os.PathLike[str] | None, out: str | os.PathLike[str] | None) -> Path:
    """NAME.grist: as asked for with --out, else the data's name in the current folder.

    Raises:
        UsageError: if --out has another ending or its folder does not exist.
    """
    if out is None:
        name = Path(path).resolve().stem if path is not None else "model"
        return Path.cwd() / f"{name or 'model'}.grist"
    chosen = Path(out)
    if chosen.suffix != ".grist":
        chosen = chosen.with_name(chosen.name + ".grist") if not chosen.suffix else chosen
    if chosen.suffix != ".grist":
        raise UsageError(
            "The output must end in .grist.", got=out, next_step=f"use --out {chosen.stem}.grist"
        )
    check_folder(chosen)
    return chosen.absolute()


def check_folder(output: Path) -> None:
    """Raise UsageError when a file cannot be written at `output` because its folder does not exist."""
    if not output.absolute().parent.is_dir():
        raise UsageError(
            "The folder of the output must exist.", got=output.parent, next_step=f"mkdir -p {output.parent}"
        )


def identity_of(fingerprint: str, options: Mapping[str, Any]) -> str:
    """Name of a problem: the data's fingerprint and the options that define it."""
    text = json.dumps({"data": fingerprint, "options": options}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def locate(output: Path, identity: str, *, fresh: bool = False) -> Run:
    """The run folder of `output`, made when absent; the caller locks it, then calls `claim`.

    Raises:
        RunError: if NAME.grist exists without its run, or the folder holds something else.
    """
    run = Run(folder=output.with_suffix(".run"), output=output, identity=identity)
    _check_kinds(run)
    if not (run.folder / "run.json").exists() and output.exists() and not fresh:
        raise RunError(
            "The output must not exist yet, unless its run folder lies beside it.",
            got=output,
            next_step="choose another name with --out, or overwrite it with --fresh",
        )
    strangers = [e.name for e in run.folder.iterdir() if e.name != "lock"] if run.folder.exists() else []
    if strangers and "run.json" not in strangers:
        raise RunError(
            "A run folder must be empty or made by Gristmill.",
            got=f"{run.folder} holding {strangers[0]}",
            next_step="choose another name with --out",
        )
    try:
        run.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise of_the_disk(error) or error from None
    return run


def _check_kinds(run: Run) -> None:
    for path, kind, fits in (
        (run.folder, "a folder", run.folder.is_dir()),
        (run.output, "a file", run.output.is_file()),
    ):
        if path.exists() and not fits:
            raise RunError(
                f"{path.name} must be {kind}: here the run keeps what it makes.",
                got="something else of this name",
                next_step="choose another name with --out",
            )


def claim(run: Run, options: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Under the lock: check that the folder belongs to this problem, or (fresh) clear and mark it.

    Raises:
        RunError: if the folder belongs to another problem.
    """
    if fresh:
        clear(run)
    description = run.folder / "run.json"
    if description.exists():
        _check_identity(run, description, options)
    else:
        write_json(description, {"version": RUN_VERSION, "identity": run.identity, "options": dict(options)})


def clear(run: Run) -> None:
    """Delete everything in the run folder but the lock, and NAME.grist."""
    for entry in run.folder.iterdir():
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    run.output.unlink(missing_ok=True)


def _check_identity(run: Run, description: Path, options: Mapping[str, Any]) -> None:
    known = read_json(description)
    if known.get("identity") == run.identity:
        return
    before = known.get("options", {})
    changed = [
        f"{k} was {before.get(k)!r}, is {options.get(k)!r}"
        for k in sorted({*before, *options})
        if before.get(k) != options.get(k)
    ]
    raise RunError(
        "A run can only go on with the same data and the same problem.",
        got=f"{run.folder.name}: {'; '.join(changed) or 'the data have changed since'}",
        next_step="use --fresh to start it anew (this deletes the old run), or another name with --out",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a record of a run.

    Raises:
        RunError: if it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, error) from None
    return found


def _damaged(path: Path, why: object) -> RunError:
    return RunError(
        f"{path.name} must be readable.",
        got=f"{path}: {why}",
        next_step="run fit with --fresh to start it anew (this deletes the old run)",
    )


def write_json(path: Path, data: object) -> None:
    """Write `data` as JSON under a temporary name, then rename."""
    write_bytes(path, json.dumps(data, indent=1, allow_nan=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes under a temporary name, flush to disk, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs in `folder`, each with its name, state, score and size in bytes; newest first."""
    found = []
    for path in sorted(folder.glob("*.run")):
        if not (path / "run.json").exists():
            continue
        result = _result(path / "result.json")
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        found.append(
            {
                "name": path.name,
                "state": result.get("state", "unfinished"),
                "metric": result.get("metric"),
                "score": result.get("score"),
                "seconds": result.get("spent"),
                "bytes": size,
                "changed": path.stat().st_mtime,
            }
        )
    return sorted(found, key=lambda r: -float(r["changed"]))


def _result(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.exists() else {}
    except RunError:
        return {"state": "damaged"}


def prune(path: Path) -> int:
    """Delete what a finished run no longer needs (segments, logs, the rival); returns the bytes freed.

    A pruned run cannot go on, so this is marked in run.json before anything is deleted.

    Raises:
        UsageError: if it is no run folder.
        RunError: if the run is not finished, or a driver is extending it.
    """
    if not (path / "run.json").exists():
        raise UsageError("A run folder must hold run.json.", got=path, next_step="gristmill runs")
    with _lock_to_prune(path):
        _check_finished(path)
        write_json(path / "run.json", {**read_json(path / "run.json"), "pruned": True})
        freed = 0
        for target in (path / "segments", path / "logs"):
            if target.is_dir():
                freed += sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
                shutil.rmtree(target)
        if (rival := path / "traditional.grist").is_file():
            freed += rival.stat().st_size
            rival.unlink()
        return freed


def check_unpruned(run: Run) -> None:
    """Raise RunError when the run's checkpoints were deleted: nothing can go on without them."""
    if read_json(run.folder / "run.json").get("pruned"):
        raise RunError(
            "A pruned run cannot go on: what it trained was deleted.",
            got=run.folder.name,
            next_step="use --fresh to start it anew (this deletes the old run and its model), "
            "or another name with --out",
        )


def _lock_to_prune(path: Path) -> RunLock:
    from gristmill.search.lock import RunLock

    try:
        return RunLock(path / "lock")
    except RunError as error:
        raise RunError(
            "Only a run without a driver can be pruned.",
            got=error.got,
            next_step="wait until it ends, or stop it",
        ) from None


def _check_finished(path: Path) -> None:
    """Raise RunError unless the run is finished; of one that was extended, the extension counts."""
    from gristmill.search.journal import read

    result = _result(path / "result.json")
    journal = path / "journal.jsonl"
    clock = [float(x.data["spent"]) for x in read(journal) if x.kind == "clock"] if journal.exists() else []
    extended = result and max(clock, default=0.0) > float(result.get("spent") or 0.0) + WRITING_S
    if result.get("state") != "finished" or extended:
        raise RunError(
            "Only a finished run can be pruned.",
            got=f"{path} was extended and stopped on the way" if extended else path,
            next_step="give its fit command again, it goes on; or delete the folder to give it up",
        )
