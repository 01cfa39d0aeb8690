"""The conductor: `fit` reads as the six steps; `planning` and `finish` beside it hold the third and the last.

read -> Source -> scan, audit, split, prepare -> Prepared -> Study (ask, tell) -> Segment -> Outcome
-> Evaluation -> Bundle. The driver never imports torch: training, feature extraction and export run in
worker processes, which call `work` below.
"""

from __future__ import annotations

import json
import os
import tempfile
import time as _time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gristmill import data, experience, finish, packages, planning, reading
from gristmill.data._cache import cache_root
from gristmill.data.audit import Audit
from gristmill.data.prepare import Prepared, Scan
from gristmill.data.source import Source
from gristmill.deadline import Deadline, format_duration, parse_duration
from gristmill.errors import BudgetError, DataError, GristmillError, ResourceError
from gristmill.interrupts import Interrupts, remembered
from gristmill.limits import Limits
from gristmill.results import AuditResult, Event, NewData, Progress, Result
from gristmill.run import (
    Run,
    check_unpruned,
    claim,
    clear,
    identity_of,
    locate,
    output_path,
    read_json,
    write_json,
)
from gristmill.search.executors import memory
from gristmill.search.executors.local import LocalExecutor
from gristmill.search.executors.protocol import Executor
from gristmill.search.executors.ray import RayExecutor
from gristmill.search.journal import Journal
from gristmill.search.lock import RunLock
from gristmill.search.samplers import DEFAULT, Sampler
from gristmill.search.samplers import sampler as sampler_named
from gristmill.search.study import Study
from gristmill.segment import Outcome, Segment

BAD_SHARE = 0.05
"""Training goes on while at most this share of the files is unreadable."""
SAY_S = 5.0
"""Between two words about how far reading is."""
CLOCK_S = 2.0
"""A killed driver leaves at most about so many seconds of its search uncounted."""


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """The options that define the problem (not --time, --out or anything about output)."""

    target: str | None = None
    test: str | None = None
    valid: str | None = None
    inputs: str | None = None
    ignore: str | None = None
    group: str | None = None
    task: str | None = None
    metric: str | None = None
    from_scratch: bool = False
    max_latency: float | None = None
    max_size: float | None = None
    segments: int | None = None
    seed: int = 0
    sampler: str | None = None

    @property
    def limits(self) -> Limits:
        return Limits.of(self.max_latency, self.max_size)

    @property
    def proposer(self) -> Sampler:
        return sampler_named(self.sampler or DEFAULT)

    def read(self, source: Any) -> Source:
        if not isinstance(source, (str, os.PathLike)):
            x, y = source if isinstance(source, tuple) else (source, None)
            return data.from_arrays(x, y, task=self.task, metric=self.metric)
        return data.read(
            Path(source),
            target=self.target,
            test=self.test,
            valid=self.valid,
            inputs=self.inputs,
            ignore=self.ignore,
            group=self.group,
            task=self.task,
            metric=self.metric,
        )

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v not in (None, False)}

    def told(self) -> dict[str, Any]:
        """The options as a bundle tells them: no path, which may name people; the seed stands by itself."""
        return {k: v for k, v in self.to_json().items() if k not in ("test", "valid", "seed")}


def fit(
    path: Any,
    *,
    target: str | None = None,
    time: str | float = "10m",
    out: str | os.PathLike[str] | None = None,
    test: str | None = None,
    valid: str | None = None,
    inputs: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    from_scratch: bool = False,
    max_latency: float | None = None,
    max_size: float | None = None,
    segments: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    fresh: bool = False,
    take_over: bool = False,
    embed_examples: bool = False,
    ray: str | None = None,
    remember: bool = False,
    progress: Progress | None = None,
    already_spent: float = 0.0,
) -> Result:
    """Make a verified, deployable model from a folder of pictures or a table, within `time`.

    Args:
        path: A folder of pictures, a CSV or TSV, or `(x, y)` with x a list of paths or PIL pictures, a
            uint8 array (N, H, W[, C]) or a data frame, and y the labels.
        time: Wall clock of the whole call, all steps included (`"90s"`, `"10m"`, or seconds). An
            existing run of the same problem goes on; a larger time extends it.
        out: NAME.grist; the run folder NAME.run lies beside it. Default: the data's name, here.
        max_latency: Milliseconds from one file or row to its answer, on one core of this machine, that the
            model may take at most.
        max_size: Megabytes (10^6 bytes) that the bundle may have at most.
        segments: Counted mode: stop after this many segments whatever the clock says; repeatable.
        sampler: What proposes candidates after the portfolio, by name (`gristmill.search.samplers.sampler`):
            `tpe` is Optuna's (extra `optuna`). Default: ours.
        embed_examples: Let the report inside the bundle show pictures of the data.
        ray: HOST:PORT of a Ray cluster to train on, or `auto` (see `RayExecutor`); no part of the problem.
        remember: Add what the finished run measured (numbers and configurations only) to a table on this
            machine, from which `plan` says what score to expect.
        progress: Called with each `Event`.
        already_spent: Seconds that the command has used before this call.
        target, test, valid, inputs, ignore, group, task, metric, from_scratch, seed: as on the command line.

    Raises:
        GristmillError: with the rule, the value and the next step; see `gristmill.errors`.
    """
    began = _time.monotonic() - already_spent
    problem = _Problem(
        target=target,
        test=test,
        valid=valid,
        inputs=_joined(inputs),
        ignore=_joined(ignore),
        group=group,
        task=task,
        metric=metric,
        from_scratch=from_scratch,
        max_latency=max_latency,
        max_size=max_size,
        segments=segments,
        seed=seed,
        sampler=sampler,
    )
    _ = problem.limits, problem.proposer  # refuse nonsense before anything is read
    seconds = float("inf") if segments is not None else parse_duration(time)
    planning.check_time(seconds, segments)
    if ray is None:  # a driver of other machines needs less
        packages.check_training()
    source = problem.read(path)
    output = output_path(path if isinstance(path, (str, os.PathLike)) else None, out)
    run = locate(output, identity_of(source.fingerprint, problem.to_json()), fresh=fresh)
    with _owned(run, problem, take_over, fresh) as (journal, interrupts):
        if (done := _finished(run, seconds)) is not None:
            return done
        check_unpruned(run)
        spent = _time.monotonic() - began + finish.spent_before(journal)
        deadline = Deadline.after(seconds, already_spent=spent)
        how = _reading(run, source, deadline)
        session = _Session(
            run=run,
            problem=problem,
            source=how.of(source),
            longest=how.longest,
            journal=journal,
            interrupts=interrupts,
            deadline=deadline,
            progress=progress,
            embed_examples=embed_examples,
            ray=ray,
            remember=remember,
        )
        with closing(_executor(session)) as executor:
            prepared, scan, audited = _prepare(session)
            study, keeper = _plan(session, prepared, scan, _cores(session, executor))
            _race(session, study, executor, keeper)
            choice = _choose(session, study, executor, keeper)
        return _finish(session, study, keeper, choice, audited)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What all steps of one `fit` share; frozen, so no step changes it behind another's back."""

    run: Run
    problem: _Problem
    source: Source
    longest: int
    journal: Journal
    interrupts: Interrupts
    deadline: Deadline
    progress: Progress | None
    embed_examples: bool
    ray: str | None = None
    remember: bool = False

    def tell(self, kind: str, text: str, **facts: Any) -> None:
        if self.progress is not None:
            spent, left = self.deadline.spent(), self.deadline.left()
            self.progress(Event(kind=kind, text=text, spent=spent, left=left, facts=facts))

    def too_little(self) -> BudgetError:
        counted = self.problem.segments
        return BudgetError(
            f"The {'time' if counted is None else 'segments'} must be enough for at least one model.",
            got=format_duration(self.deadline.total) if counted is None else counted,
            next_step="give it more with --time; the same command goes on where it stopped"
            if counted is None
            else f"use --segments {counted + 4}, or --time 10m",
        )


def _prepare(session: _Session) -> tuple[Prepared, Scan, Audit]:
    """Steps 1 and 2: scan, audit, split, prepare. Said aloud: what was found, by file name."""
    source, tell = session.source, session.tell
    tell("step", source.layout)
    for note in source.notes:
        tell("note", note)
    scan = _scan(source, session.longest, lambda text: tell("step", text))
    audit = data.audit(source, scan)
    for f in audit.findings:
        if f.severity != "info":
            tell("warning", f"{f.message} {f.advice}".strip())
    _check_quarantine(source, scan)
    parts = data.split(source, audit, seed=session.problem.seed)
    for note in parts.notes:
        tell("note", note)
    return data.prepare(source, scan, audit, parts, session.run.prepared), scan, audit


def _reading(run: Run, source: Source, deadline: Deadline) -> reading.Reading:
    """Decided once: a run that goes on reads what it read before, however much time it is given."""
    if run.reading.exists():
        return reading.Reading.from_json(read_json(run.reading))
    found = reading.decide(source, deadline, planning.cores())
    write_json(run.reading, found.to_json())
    return found


def _scan(source: Source, longest: int, say: Callable[[str], None]) -> Scan:
    """Read every row once, and say every few seconds how far it is."""
    what = "pictures" if source.task.has_images else "rows"
    say(f"reading {source.rows} {what}")
    latest = _time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal latest
        if _time.monotonic() - latest >= SAY_S and done < total:
            latest = _time.monotonic()
            say(f"reading {what}: {done:,} of {total:,}")

    return data.scan(source, longest=longest, threads=planning.cores(), progress=progress)


def _check_quarantine(source: Source, scan: Scan) -> None:
    bad = [i for i, e in enumerate(scan.facts["error"]) if e] if "error" in scan.facts else []
    if len(bad) > BAD_SHARE * source.rows:
        first = bad[0]
        raise DataError(
            f"At most {BAD_SHARE:.0%} of the files may be unreadable.",
            got=f"{len(bad)} of {source.rows}, first {source.names[first]}: {scan.facts['error'][first]}",
            next_step="gristmill audit --json names them (the first 200); mend or delete them",
        )


def _executor(session: _Session) -> Executor:
    """The workers, started early: importing torch takes seconds, which pass while the data are read."""
    problem = session.problem
    context = {
        "run": str(session.run.folder),
        "cache": os.environ.get("GRISTMILL_CACHE", ""),
        # counted segments decide alike everywhere: there the measured time counts at the end only
        "max_latency": problem.max_latency if problem.segments is None else None,
        "max_size": problem.max_size,
    }
    if session.ray is not None:
        return RayExecutor(
            "gristmill.automl:work",
            context,
            address=session.ray,
            cpus=planning.cores(),
            folder=session.run.logs,
            patience=session.deadline.left() / 2,
            shared=(session.run.folder, cache_root()),
            requires=("torch",),
        )
    executor = LocalExecutor(
        function="gristmill.automl:work",
        context=context,
        cpus=planning.cores(),
        workers=planning.workers(planning.cores(), memory.total()),
        folder=session.run.logs,
    )
    executor.warm()
    return executor


def _cores(session: _Session, executor: Executor) -> tuple[int, int]:
    """Cores that train, and the workers that divide them; said where they are not simply one for each."""
    if isinstance(executor, RayExecutor):
        session.tell("note", executor.describe())
        for doubt in executor.doubts():
            session.tell("warning", doubt)
    slots = [slot.cpu for slot in executor.slots()] or [1] * planning.cores()
    if len(slots) < sum(slots) and session.ray is None:
        models = f"{len(slots)} models" if len(slots) > 1 else "one model"
        session.tell("note", f"{models} at a time on {sum(slots)} cores")
    return sum(slots), len(slots)


def _plan(
    session: _Session, prepared: Prepared, scan: Scan, cores: tuple[int, int]
) -> tuple[Study, finish.Keeper]:
    """Step 3: what to try first, from the speed measured on this machine."""
    session.tell("step", "measuring this machine and planning")
    table = experience.table(counted=session.problem.segments is not None)
    plan = planning.make(
        prepared,
        session.deadline,
        cores[0],
        count=cores[1],
        pretrained=not session.problem.from_scratch,
        limits=session.problem.limits,
        entries=session.run.kept_portfolio(),
        table=table,
    )
    session.run.keep_portfolio(plan.entries)
    for note in (*table.notes, *plan.notes):
        session.tell("note", note)
    study = Study(
        space=plan.space,
        learner=plan.learner,
        portfolio=plan.portfolio,
        journal=session.journal,
        settings=plan.settings(session.problem.seed, session.problem.segments),
        sampler=session.problem.proposer,
    )
    keeper = finish.Keeper(
        run=session.run,
        source=session.source,
        prepared=prepared,
        plan=plan,
        deadline=session.deadline,
        reference=finish.reference_of(session.source, scan, prepared),
        decode_s=finish.decode_seconds(scan),
        journal=session.journal,
        say=session.tell,
        seed=session.problem.seed,
        options=session.problem.told(),
        started=session.deadline.spent(),
    )
    return study, keeper


def _race(session: _Session, study: Study, executor: Executor, keeper: finish.Keeper) -> None:
    """Step 4: ask for segments, hand them to free workers, tell what came of them, until the time is used."""
    session.interrupts.may_raise = False
    session.tell("step", f"searching: training candidates; a candidate's number says {keeper.scale()}")
    worked, began = _time.process_time(), session.deadline.spent()
    while not session.interrupts.signal:
        left = _left(session, keeper)
        while (segment := study.ask(left=left, slots=executor.slots())) is not None:
            executor.submit(segment)
        if not study.open or left <= 0:
            break
        for outcome in executor.wait(executor.clock.now() + min(0.5, max(0.05, left))):
            check_room(outcome)
            study.tell(outcome)
            _note_progress(session, study, outcome)
            keeper.consider(study, left)
        session.tell("tick", _status(study, keeper))
        _note_time(session)
    for segment in study.open:
        executor.cancel(segment.id)
    if study.stopped:
        session.tell("note", f"the search ends early: {study.stopped}")
    keeper.searched = session.deadline.spent()
    own = {"seconds": keeper.searched - began, "own_s": _time.process_time() - worked}
    session.journal.append("searched", {k: round(v, 3) for k, v in own.items()})


def check_room(outcome: Outcome) -> None:
    """Raise ResourceError for an outcome that met a full or closed disk: no matter of its candidate."""
    if outcome.state == "full":
        raise ResourceError(
            "The disk must take what is written.",
            got=outcome.reason,
            next_step="free some space, or open the folder for writing, and run the same command again; "
            "it goes on where it stopped",
        )


def _left(session: _Session, keeper: finish.Keeper) -> float:
    counted = session.problem.segments is not None
    return float("inf") if counted else session.deadline.left() - keeper.reserve()


def _note_time(session: _Session) -> None:
    """Journal the time used when it has grown by CLOCK_S: what a driver used counts although it is killed."""
    spent = round(session.deadline.spent(), 2)
    if spent >= finish.spent_before(session.journal) + CLOCK_S:
        session.journal.append("clock", {"spent": spent})


def _note_progress(session: _Session, study: Study, outcome: Outcome) -> None:
    session.journal.append("clock", {"spent": round(session.deadline.spent(), 2)})
    _say(session, study, outcome)


def _say(session: _Session, study: Study, outcome: Outcome) -> None:
    title = _title(study, study.segment(outcome.id))
    if outcome.state in ("failed", "oom", "diverged", "lost"):
        session.tell("warning", f"{title}: {outcome.state} ({outcome.reason})")
    elif outcome.score is not None:
        session.tell("note", f"{title}: {outcome.score:.3f} after {outcome.seconds:.0f}s", id=outcome.id)


def _title(study: Study, segment: Segment) -> str:
    own = segment.kind != "features"  # computed for one trial, they serve others as well
    return planning.title(segment.config, study.trial_of(segment.id).repeat if own else 0)


def _status(study: Study, keeper: finish.Keeper) -> str:
    running = ", ".join(sorted({_title(study, s) for s in study.open})) or "nothing"
    best = "no model yet" if keeper.score is None else f"best so far {keeper.headline()}"
    return f"{best}; now: {running}"


def _choose(session: _Session, study: Study, executor: Executor, keeper: finish.Keeper) -> finish.Choice:
    """Step 5: the ensemble, calibrated; without folds its one-shot members learn from valid, too."""
    session.tell("step", "choosing and calibrating the final model")
    stopped = bool(session.interrupts.signal)
    choice = finish.decide(keeper, study, executor, stopped=stopped)
    if choice is None and stopped:
        raise session.interrupts.error(" before there was a model")
    if choice is None:
        raise session.too_little()
    return choice


def _finish(
    session: _Session, study: Study, keeper: finish.Keeper, choice: finish.Choice, audited: Audit
) -> Result:
    """Step 6: build, verify, read the test part once, report."""
    session.tell("step", "verifying and testing the final model")
    stopped = bool(session.interrupts.signal)
    made = finish.conclude(
        keeper,
        study,
        choice,
        audit=audited,
        seed=session.problem.seed,
        stopped=stopped,
        embed_examples=session.embed_examples,
        options=session.problem.to_json(),
    )
    result = Result(
        bundle=session.run.output,
        report=session.run.report,
        evaluation=made.evaluation,
        metric=keeper.prepared.task.metric,
        score=made.score,
        state="stopped" if stopped else "finished",
        spent=session.deadline.spent(),
        leaderboard=made.leaderboard,
        audit=audited.to_json(),
        headline=made.headline,
        traditional=made.traditional,
        difference=made.difference,
    )
    budget = None if session.problem.segments is not None else session.deadline.total
    write_json(session.run.result, {**result.to_json(), "budget": budget})
    session.journal.append("clock", {"spent": round(session.deadline.spent(), 2)})
    if stopped:
        raise session.interrupts.error(f"; the best model so far is {session.run.output}")
    if session.remember:
        speed = keeper.plan.case.scale
        told = experience.remember(session.journal.lines, keeper.prepared, session.source, speed)
        session.tell("note", told)
    return result


def audit(
    path: Any,
    *,
    target: str | None = None,
    test: str | None = None,
    valid: str | None = None,
    inputs: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    group: str | None = None,
    task: str | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Only the data report; arguments as in `fit`."""
    problem = _Problem(
        target=target,
        test=test,
        valid=valid,
        inputs=_joined(inputs),
        ignore=_joined(ignore),
        group=group,
        task=task,
    )
    source = problem.read(path)
    how = reading.decide(source, None, planning.cores())
    source = how.of(source)
    scan = _scan(source, how.longest, _sayer(progress))
    return AuditResult(source=source, audit=data.audit(source, scan))


def plan(
    path: Any,
    *,
    target: str | None = None,
    time: str | float = "10m",
    test: str | None = None,
    valid: str | None = None,
    inputs: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    from_scratch: bool = False,
    max_latency: float | None = None,
    max_size: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> planning.Forecast:
    """What `fit` would do in `time` on this machine, and what more time would buy; nothing is trained."""
    problem = _Problem(
        target=target,
        test=test,
        valid=valid,
        inputs=_joined(inputs),
        ignore=_joined(ignore),
        group=group,
        task=task,
        metric=metric,
        from_scratch=from_scratch,
        max_latency=max_latency,
        max_size=max_size,
        seed=seed,
    )
    limits = problem.limits  # refuses nonsense before anything is read
    seconds = parse_duration(time)
    planning.check_time(seconds)
    packages.check_training()
    deadline = Deadline.after(seconds)
    source = problem.read(path)
    how = reading.decide(source, deadline, planning.cores())
    source = how.of(source)
    scan = _scan(source, how.longest, _sayer(progress))
    audited = data.audit(source, scan)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        prepared = data.prepare(source, scan, audited, data.split(source, audited, seed=seed), Path(folder))
        return planning.forecast(
            prepared,
            seconds,
            deadline.spent(),
            planning.cores(),
            pretrained=not from_scratch,
            limits=limits,
            table=experience.table(counted=False),
        )


def _sayer(progress: Progress | None) -> Callable[[str], None]:
    def say(text: str) -> None:
        if progress is not None:
            progress(Event(kind="step", text=text, spent=0.0, left=float("inf")))

    return say


def evaluate(bundle: str | os.PathLike[str], path: Any) -> NewData:
    """Score a bundle on new labelled data with the metrics of its training.

    Raises:
        DataError: if the data lack the target, or hold labels that the bundle does not know.
    """
    from gristmill import scoring

    return NewData(**scoring.score(bundle, path))


def write_report(path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run folder or a bundle as one HTML file; returns its path.

    Raises:
        UsageError: if `path` is neither, or the run has no report yet.
    """
    from gristmill import scoring

    return scoring.write_report(Path(path), None if out is None else Path(out))


def leaderboard(run: str | os.PathLike[str]) -> Sequence[Mapping[str, Any]]:
    """The candidates of a finished run, best first.

    Raises:
        UsageError: if it is no run folder.
    """
    from gristmill import scoring

    return scoring.leaderboard(Path(run))


def _finished(run: Run, seconds: float) -> Result | None:
    """The result of a run that has already used the time it is given, or None."""
    if not (run.result.exists() and run.output.exists()):
        return None
    record = read_json(run.result)
    budget = record.get("budget")
    if record["state"] != "finished" or (budget is not None and seconds > budget * 1.001):
        return None
    return replace(Result.from_json(record), reused=True)


def work(segment: Segment, context: Mapping[str, Any]) -> Outcome:
    """Perform one segment in a worker process: train, fit or extract, then export what can be deployed.

    Args:
        segment: The piece of work; its parents' outcomes lie in their folders of the run.
        context: `run`, the run folder; `threads` for it (default 1); `halvings`, when memory was short:
            how often to halve its batches; `max_latency` and `max_size`, the limits of a model, or None.
    """
    from gristmill import training

    run = Path(context["run"])
    folder = run / "segments" / segment.id
    folder.mkdir(parents=True, exist_ok=True)
    prepared = _opened(str(run / "prepared"))
    parents = {p: _outcome_of(run / "segments" / p) for p in segment.parents}
    threads, halvings = int(context.get("threads", 1)), int(context.get("halvings", 0))
    outcome = training.perform(segment, prepared, folder, parents, threads=threads, halvings=halvings)
    limits = Limits.of(context.get("max_latency"), context.get("max_size"))
    return finish.with_member(segment, prepared, outcome, folder, limits)


def _outcome_of(folder: Path) -> Outcome:
    """The outcome of a parent; when a file of it is damaged, its segment is performed once more."""
    from gristmill.training import checkpoint

    parent = Segment.from_json(json.loads((folder / "outcome.json").read_text())["segment"])
    return checkpoint.finished(parent, folder) or work(parent, {"run": str(folder.parents[1])})


@lru_cache(maxsize=1)
def _opened(folder: str) -> Prepared:
    return Prepared.open(Path(folder))


@contextmanager
def _owned(run: Run, problem: _Problem, take_over: bool, fresh: bool) -> Iterator[tuple[Journal, Interrupts]]:
    """The run as its only driver: locked, claimed, its journal open, signals remembered."""
    new = fresh or not (run.folder / "run.json").exists()
    with (
        _locked(run, take_over) as lock,
        remembered() as interrupts,
        _tidy(run) if new else nullcontext(),
    ):
        claim(run, problem.to_json(), fresh=fresh)
        with Journal.open(run.journal, guard=lock.check) as journal:
            try:
                yield journal, interrupts
            except ImportError:  # what extension modules make of a signal that comes while they load
                if not (interrupts.signal and interrupts.may_raise):
                    raise
                raise interrupts.error(" before there was a model") from None


def _locked(run: Run, take_over: bool) -> RunLock:
    try:
        return RunLock(run.folder / "lock", take_over=take_over)
    except OSError:
        with suppress(OSError):
            run.folder.rmdir()  # an empty one only
        raise


@contextmanager
def _tidy(run: Run) -> Iterator[None]:
    """Leave no new run folder behind when the data or the disk stopped it before
    anything was trained."""
    try:
        yield
    except (GristmillError, OSError):
        if not (run.folder / "segments").exists():
            clear(run)
            (run.folder / "lock").unlink(missing_ok=True)
            run.folder.rmdir()
        raise


def _joined(columns: str | Sequence[str] | None) -> str | None:
    return columns if columns is None or isinstance(columns, str) else ",".join(columns)
