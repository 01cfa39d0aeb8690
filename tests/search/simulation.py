"""A small world to search in: one-shot learners that read features, and networks trained in rungs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gristmill.deadline import VirtualClock
from gristmill.search.executors.virtual import VirtualExecutor
from gristmill.search.journal import Journal
from gristmill.search.race import RaceSettings
from gristmill.search.study import Study
from gristmill.segment import Config, Learner, Outcome, Segment
from gristmill.space import Choice, Float, Int, Parameter, Space

ROWS = 8000
SPACE = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("fit", "net")), default="fit"),
        Parameter(
            name="fit.c", domain=Float(low=1e-4, high=1, log=True), default=1e-2, when=("family", ("fit",))
        ),
        Parameter(
            name="fit.side",
            domain=Choice(options=(32, 64, 128), ordered=True),
            default=64,
            when=("family", ("fit",)),
        ),
        Parameter(
            name="net.rate", domain=Float(low=1e-4, high=1, log=True), default=1e-2, when=("family", ("net",))
        ),
        Parameter(name="net.width", domain=Int(low=8, high=64), default=32, when=("family", ("net",))),
    )
)
PORTFOLIO: tuple[tuple[dict[str, Any], str], ...] = (
    ({"family": "fit"}, "all"),
    ({"family": "fit", "fit.side": 128}, "all"),
    ({"family": "net"}, "all"),
    ({"family": "net", "net.rate": 0.05}, "all"),
    ({"family": "net", "net.width": 64}, "all"),
    ({"family": "fit"}, "deduplicated"),
    ({"family": "net", "net.rate": 0.2}, "all"),
)
VIEWS = ("all", "deduplicated")
Answer = Callable[[Segment], tuple[Outcome, float]]


def settings(**changes: Any) -> RaceSettings:
    return RaceSettings(**{"base_rows": ROWS, "max_rows": 27 * ROWS, "views": VIEWS, **changes})


def learner(config: Config) -> Learner:
    if config["family"] == "net":
        return Learner(resumable=True, seconds_per_row=5e-4 * config["net.width"] / 32, rows=ROWS)
    side = config["fit.side"]
    return Learner(
        resumable=False,
        parent={"side": side},
        parent_seconds_per_row=2e-5 * side,
        seconds_per_row=1e-4,
        rows=ROWS,
    )


def answer(segment: Segment) -> tuple[Outcome, float]:
    """Scores and seconds as real learners might give them; networks notice when a rung cannot fit."""
    if segment.kind == "features":
        per_row = 2e-5 * segment.config["side"]
        return done(segment, None, per_row), 1 + per_row * segment.to_rows
    c = segment.config
    if segment.kind == "fit":
        score = 0.8 - 0.05 * abs(math.log10(c["fit.c"]) + 2) + 0.02 * math.log2(c["fit.side"] / 64)
        return done(segment, score), 2.0
    width = c["net.width"] / 32
    error = (0.15 + 0.1 * abs(math.log10(c["net.rate"]) + 1.5)) * (1 + 5600 / segment.to_rows) / width**0.2
    per_row = 6e-4 * width
    seconds = 2 + per_row * (segment.to_rows - segment.from_rows)
    if seconds > segment.cap_s:
        facts = {"seconds_per_row": per_row}
        return Outcome(id=segment.id, state="cut", rows_seen=segment.from_rows, facts=facts), 2.0
    return done(segment, 1 - error * (0.8 if segment.kind == "cooldown" else 1.0), per_row), seconds


def done(segment: Segment, score: float | None, per_row: float | None = None) -> Outcome:
    facts = {} if per_row is None else {"seconds_per_row": per_row}
    return Outcome(
        id=segment.id, state="done", score=score, noise=0.01, rows_seen=segment.to_rows, facts=facts
    )


def study(journal: Journal | None = None, portfolio: Any = PORTFOLIO, **changes: Any) -> Study:
    return Study(
        space=SPACE, learner=learner, portfolio=portfolio, journal=journal, settings=settings(**changes)
    )


def drive(
    found: Study,
    *,
    seconds: float = math.inf,
    workers: int = 2,
    answer: Answer = answer,
    stop_after: int | None = None,
) -> list[Segment]:
    """The conductor's loop on a virtual clock; returns the segments in order of asking.
    `stop_after`: leave, as a killed driver would, when so many outcomes have been told."""
    executor = VirtualExecutor(answer, workers=workers, clock=VirtualClock())
    asked: list[Segment] = []
    told = 0
    while True:
        while slots := executor.slots():
            segment = found.ask(left=seconds - executor.clock.now(), slots=slots)
            if segment is None:
                break
            asked.append(segment)
            executor.submit(segment)
        if not executor.open or executor.clock.now() >= seconds:
            return asked
        for outcome in executor.wait(seconds):
            found.tell(outcome)
            told += 1
            if told == stop_after:
                return asked


def run(path: Path | None = None, **options: Any) -> Study:
    """A study driven to its end, over a journal file when a path is given."""
    keys = ("seconds", "workers", "answer", "stop_after")
    driving = {k: options.pop(k) for k in keys if k in options}
    found = study(None if path is None else Journal.open(path, sync=False), **options)
    drive(found, **driving)
    if path is not None:
        found._journal.close()
    return found
