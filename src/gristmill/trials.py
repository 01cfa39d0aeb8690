"""The journal of a run for other tools: a table of its segments, an Optuna storage, an MLflow store.

Only the journal is read, so this works while a run goes on and after its checkpoints were pruned. Nothing
is written into the run. pandas, optuna and mlflow are imported when they are asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gristmill import packages
from gristmill.errors import UsageError, of_the_disk
from gristmill.run import read_json
from gristmill.search.journal import Line, read

if TYPE_CHECKING:
    import pandas as pd

State = Literal["done", "stopped", "running", "refused"]
FORMATS = ("csv", "optuna", "mlflow")
_COLUMNS = (
    *("trial", "segment", "kind", "family", "view", "source", "state", "reason", "score", "noise"),
    *("asked", "ended", "seconds", "cost", "left", "cap_s", "from_rows", "to_rows", "rows_seen"),
    *("peak_memory", "why"),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One segment of a trial. `asked`, `ended`: seconds since the epoch; `ended` is None while it is open.

    `outcome` and `segment` are the records of the journal; the outcome is empty while it is open.
    """

    asked: float
    ended: float | None
    cost: float
    left: float | None
    why: str
    segment: Mapping[str, Any]
    outcome: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The outcome's, or `open`."""
        return str(self.outcome.get("state", "open"))

    @property
    def score(self) -> float | None:
        """Of an outcome that may be ranked or deployed."""
        return self.outcome.get("score") if self.state in ("done", "cut") else None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One configuration on one data view: everything the journal says of it.

    `refused`: why it never entered, with `at`, seconds since the epoch; else empty.
    """

    number: int
    config: Mapping[str, Any]
    view: str
    source: str
    at: float
    work: tuple[Work, ...] = ()
    refused: str = ""

    @property
    def best(self) -> Work | None:
        """The segment with the highest score."""
        scored = [w for w in self.work if w.score is not None]
        return max(scored, key=lambda w: (w.score or 0.0, w.asked), default=None)

    @property
    def curve(self) -> tuple[tuple[int, float, float], ...]:
        """(training rows seen, score, seconds since the epoch) of each scored segment; of two at the same
        rows (a rung and its cooldown) the better one."""
        points: dict[int, tuple[float, float]] = {}
        for w in self.work:
            rows = int(w.outcome.get("rows_seen", 0))
            if w.score is not None and w.score >= points.get(rows, (-math.inf, 0.0))[0]:
                points[rows] = (w.score, w.ended or w.asked)
        return tuple((rows, score, t) for rows, (score, t) in sorted(points.items()))

    @property
    def state(self) -> State:
        """`done`: it has a score; `running`: a segment is open; `refused`; else `stopped`."""
        if self.refused:
            return "refused"
        if any(w.state == "open" for w in self.work):
            return "running"
        return "done" if self.best is not None else "stopped"

    @property
    def ended(self) -> float | None:
        """When its last segment came back, in seconds since the epoch; None while one is open."""
        ends = [w.ended for w in self.work]
        return None if None in ends else max([self.at, *(e for e in ends if e is not None)])

    @property
    def reason(self) -> str:
        """Why it was refused, or what the last segment that failed said."""
        said = [str(w.outcome.get("reason", "")) for w in self.work if w.state not in ("open", "done")]
        return self.refused or next((s for s in reversed(said) if s), "")


def records(lines: Iterable[Line]) -> tuple[Record, ...]:
    """Every trial of a journal in order of entering, then the configurations that were only refused."""
    entered: dict[int, Line] = {}
    work: dict[int, list[Work]] = {}
    told: dict[str, Line] = {}
    refused: dict[str, Line] = {}
    asks: list[Line] = []
    for line in lines:
        if line.kind == "ask":
            asks.append(line)
        elif line.kind == "outcome":
            told[line.data["id"]] = line
        elif line.kind == "refuse":
            refused[line.data["key"]] = line
    for line in asks:
        number = int(line.data["trial"])
        if "config" in line.data:
            entered[number] = line
        work.setdefault(number, []).append(_work(line, told.get(line.data["segment"]["id"])))
    found = [_entered(number, line, work[number]) for number, line in sorted(entered.items())]
    known = {_same(r.config, r.view) for r in found}
    outside = [x for x in refused.values() if _same(x.data["config"], x.data["view"]) not in known]
    return (*found, *(_refused(len(found) + i, line) for i, line in enumerate(outside)))


def _work(ask: Line, told: Line | None) -> Work:
    return Work(
        asked=ask.t,
        ended=None if told is None else told.t,
        cost=float(ask.data["cost"]),
        left=_number(ask.data.get("left")),
        why=str(ask.data.get("why", "")),
        segment=ask.data["segment"],
        outcome={} if told is None else told.data,
    )


def _entered(number: int, line: Line, work: Sequence[Work]) -> Record:
    data = line.data
    return Record(
        number=number,
        config=data["config"],
        view=data["view"],
        source=data["source"],
        at=line.t,
        work=tuple(work),
    )


def _refused(number: int, line: Line) -> Record:
    data = line.data
    return Record(
        number=number,
        config=data["config"],
        view=data["view"],
        source=data["source"],
        at=line.t,
        refused=data["reason"],
    )


def _same(config: Mapping[str, Any], view: str) -> tuple[Any, ...]:
    return (*sorted((k, repr(v)) for k, v in config.items()), view)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def of_run(run: str | os.PathLike[str]) -> tuple[Record, ...]:
    """The trials of a run folder.

    Raises:
        UsageError: if it is no run folder.
        RunError: if its journal is damaged.
    """
    folder = Path(run)
    if not (folder / "run.json").is_file() or not (folder / "journal.jsonl").is_file():
        raise UsageError(
            "A run folder must hold run.json and journal.jsonl.", got=run, next_step="gristmill runs"
        )
    return records(read(folder / "journal.jsonl"))


def history(run: str | os.PathLike[str]) -> pd.DataFrame:
    """Every segment of a run as a pandas DataFrame; then a row for each configuration that was refused.

    Columns: trial (number), segment (id; missing for a refused configuration), kind, family, view, source,
    state (that of the outcome, or `open`, `refused`), reason, score and noise (0 = majority or mean,
    1 = perfect), asked and ended (UTC), seconds (of work), cost (the seconds predicted), left (seconds left
    for search when it was asked), cap_s, from_rows, to_rows, rows_seen, peak_memory (bytes), why, and a
    column `config.NAME` for every parameter.

    Raises:
        UsageError: if it is no run folder.
        ResourceError: if pandas is missing.
    """
    return _frame(of_run(run))


def _frame(found: Sequence[Record]) -> pd.DataFrame:
    pd = packages.needed("pandas", "gristmill.history")
    rows = sorted((row for r in found for row in _rows(r)), key=lambda row: row["state"] == "refused")
    names = sorted({f"config.{name}" for r in found for name in r.config})
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, *names])
    for name in ("asked", "ended"):
        frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
    return frame


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    shared = {
        "trial": record.number,
        "family": record.config.get("family"),
        "view": record.view,
        "source": record.source,
        **{f"config.{name}": value for name, value in record.config.items()},
    }
    if record.refused:
        yield {**shared, "state": "refused", "reason": record.refused, "asked": record.at}
    for w in sorted(record.work, key=lambda w: w.asked):
        asked = {k: w.segment.get(k) for k in ("kind", "cap_s", "from_rows", "to_rows")}
        told = {
            k: w.outcome.get(k) for k in ("reason", "score", "noise", "rows_seen", "seconds", "peak_memory")
        }
        times = {"asked": w.asked, "ended": w.ended, "cost": w.cost, "left": w.left, "why": w.why}
        yield {**shared, "segment": w.segment["id"], "state": w.state, **asked, **told, **times}


def export(run: str | os.PathLike[str], to: str, out: str | os.PathLike[str]) -> Path:
    """Write the history of a run for another tool; returns the path.

    Args:
        run: The run folder.
        to: `csv`: the table of `history`. `optuna`: an SQLite storage, a trial per configuration with its
            parameters and its score at each rung (open it with `optuna-dashboard sqlite:///OUT`). `mlflow`:
            an SQLite store, a run per configuration (`mlflow ui --backend-store-uri sqlite:///OUT`).
        out: A file that must not exist yet; it appears whole or not at all.

    Raises:
        UsageError: if the format is unknown, the file exists, or `run` is no run folder.
        ResourceError: if the package for the format is missing, or the disk is full.
    """
    if to not in FORMATS:
        raise UsageError("--to must be one of csv, optuna, mlflow.", got=to, next_step="use --to csv")
    found, target, name = of_run(run), Path(out), Path(run).resolve().stem
    about = read_json(Path(run) / "run.json")
    with _new(target) as temporary:
        if to == "csv":
            _frame(found).to_csv(temporary, index=False)
        elif to == "optuna":
            _to_optuna(
                packages.needed("optuna", "--to optuna", extra="optuna"), found, name, about, temporary
            )
        else:
            packages.needed("mlflow", "--to mlflow", extra="mlflow", also=("sqlalchemy", "alembic"))
            _to_mlflow(found, name, about, temporary)
    return target


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` when all went well."""
    if target.exists():
        raise UsageError(
            "The export must not overwrite a file.", got=target, next_step="choose another name with --out"
        )
    if not target.absolute().parent.is_dir():
        folder = target.parent
        raise UsageError("The folder of --out must exist.", got=folder, next_step=f"mkdir -p {folder}")
    temporary = target.absolute().with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise of_the_disk(error) or error from None
    finally:
        for rest in temporary.parent.glob(f"{temporary.name}*"):  # SQLite's own journal, too
            rest.unlink()


# optuna


def _to_optuna(optuna: Any, found: Sequence[Record], name: str, about: Mapping[str, Any], path: Path) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(_sqlite(path))
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        study.set_user_attr("identity", str(about.get("identity", "")))
        for key, value in _options(about).items():
            study.set_user_attr(f"option.{key}", value)
        kinds = _domains(found)
        for record in found:
            study.add_trial(_optuna_trial(optuna, record, kinds))
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(before)


def _optuna_trial(optuna: Any, record: Record, kinds: Mapping[str, tuple[str, Any]]) -> Any:
    state = optuna.trial.TrialState
    best = record.best
    states = {
        "done": state.COMPLETE,
        "stopped": state.FAIL,
        "running": state.RUNNING,
        "refused": state.PRUNED,
    }
    trial = optuna.trial.create_trial(
        state=states[record.state],
        value=best.score if best is not None and record.state == "done" else None,
        params={k: _as(kinds[k][0], v) for k, v in record.config.items()},
        distributions={k: _distribution(optuna, *kinds[k]) for k in record.config},
        intermediate_values={rows: score for rows, score, _ in record.curve},
        user_attrs=_attributes(record),
    )
    trial.datetime_start = datetime.fromtimestamp(record.at)  # local, as optuna's are
    if record.state != "running" and record.ended is not None:
        trial.datetime_complete = datetime.fromtimestamp(record.ended)
    return trial


def _domains(found: Sequence[Record]) -> dict[str, tuple[str, Any]]:
    """Kind and extent of each parameter over all trials: (int | float, (low, high)) or (choice, options)."""
    values: dict[str, list[Any]] = {}
    for record in found:
        for name, value in record.config.items():
            values.setdefault(name, []).append(value)
    return {name: _domain(seen) for name, seen in values.items()}


def _domain(seen: Sequence[Any]) -> tuple[str, Any]:
    plain = [v for v in seen if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(plain) == len(seen) and all(math.isfinite(v) for v in plain):
        kind = "int" if all(isinstance(v, int) for v in plain) else "float"
        return kind, (min(plain), max(plain))
    options = {repr(v): v for v in map(_choice, seen)}
    return "choice", tuple(options[key] for key in sorted(options))


def _choice(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _as(kind: str, value: Any) -> Any:
    return _choice(value) if kind == "choice" else float(value) if kind == "float" else value


def _distribution(optuna: Any, kind: str, extent: Any) -> Any:
    made = optuna.distributions
    if kind == "choice":
        return made.CategoricalDistribution(extent)
    low, high = extent
    log = low > 0 and high >= 30 * low
    return (
        made.IntDistribution(low, high, log=log)
        if kind == "int"
        else made.FloatDistribution(low, high, log=log)
    )


# mlflow


def _to_mlflow(found: Sequence[Record], name: str, about: Mapping[str, Any], path: Path) -> None:
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # not through the client: it would make a folder `mlruns` where the user stands
    store = SqlAlchemyStore(_sqlite(path), "mlflow-artifacts:/")
    try:
        about_run = {"identity": about.get("identity", ""), **_options(about)}
        tags = [ExperimentTag(k, str(v)) for k, v in about_run.items()]
        experiment = store.create_experiment(name, tags=tags)
        for record in found:
            _log(store, experiment, record)
    finally:
        store.engine.dispose()  # Windows renames no open file


def _log(store: Any, experiment: str, record: Record) -> None:
    from mlflow.entities import Metric, Param, RunStatus, RunTag

    states = {"done": "FINISHED", "stopped": "FAILED", "running": "RUNNING", "refused": "KILLED"}
    title, start = f"trial {record.number}", round(record.at * 1000)
    made = store.create_run(experiment, user_id="", start_time=start, tags=[], run_name=title).info.run_id
    store.log_batch(
        made,
        metrics=[Metric("score", s, round(t * 1000), rows) for rows, s, t in record.curve],
        params=[Param(k, str(v)[:500]) for k, v in record.config.items()],
        tags=[RunTag(k, str(v)) for k, v in _attributes(record).items()],
    )
    if record.state != "running":
        status = RunStatus.from_string(states[record.state])
        store.update_run_info(made, status, round((record.ended or record.at) * 1000), title)


def _attributes(record: Record) -> dict[str, Any]:
    best = record.best
    found = {
        "view": record.view,
        "source": record.source,
        "segments": len(record.work),
        "seconds": round(sum(float(w.outcome.get("seconds", 0.0)) for w in record.work), 3),
        "peak_memory": max((int(w.outcome.get("peak_memory", 0)) for w in record.work), default=0),
        "noise": None if best is None else best.outcome.get("noise"),
        "reason": record.reason,
    }
    return {k: v for k, v in found.items() if v not in (None, "")}


def _options(about: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(about.get("options", {}))
    return {k: v for k, v in given.items() if v is not None and v is not False and v not in ("", [])}


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path.absolute().as_posix()}"
