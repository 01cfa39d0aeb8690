"""The study: ask for the next segment, tell what came of it. The journal is its only memory.

    study = Study(space=space, learner=learner, portfolio=portfolio, journal=journal, settings=settings)
    while (segment := study.ask(left=deadline.left(), slots=executor.slots())) is not None: ...
    study.tell(outcome)

Made from a journal that has lines, it goes on where the last driver stopped: open segments are asked
again unchanged.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from gristmill.errors import RunError
from gristmill.search.journal import Journal, Line
from gristmill.search.ledger import Candidate, Ledger, Trial
from gristmill.search.race import Race, RaceSettings, Refusal, Step, Stop, complete
from gristmill.search.samplers import Sampler, default_sampler
from gristmill.segment import Config, Learner, Outcome, Resources, Segment, config_hash
from gristmill.space import Space

_RETRIES = 1
_RETRIES_COUNTED = 5  # losses to kills enter no decision; a segment that kills its worker each time does
_REPEATED = 1_000_003  # between the seeds of two trainings of one configuration: no user's seed is that near
_DECIDING = ("id", "state", "score", "noise", "rows_seen")


class Study:
    """Decides which segments are worth running, from what earlier ones brought.

    Args:
        space: What may be chosen; `family` names the learner's family, where there are several.
        learner: What the race must know about a configuration: a pure function of it.
        portfolio: (configuration, view) pairs, in the order in which they are to be tried.
        journal: Where every decision is written before it is acted upon; None: kept in memory only.
        settings: Rows, seed, and whether the clock decides.
        sampler: Proposes configurations after the portfolio; default_sampler() by default.
    """

    def __init__(
        self,
        *,
        space: Space,
        learner: Callable[[Config], Learner],
        portfolio: Sequence[tuple[Config, str]],
        journal: Journal | None = None,
        settings: RaceSettings,
        sampler: Sampler | None = None,
    ) -> None:
        self._journal = Journal.in_memory() if journal is None else journal
        self._queue: deque[str] = deque()
        self._arrived: dict[str, Outcome] = {}
        self._lost: dict[str, int] = {}
        self._workers = 0
        self.settings = _as_begun(settings, self._journal.lines)
        plan = [(complete(space, config), view) for config, view in portfolio]
        self._race = Race(self.settings, space, plan, sampler or default_sampler())
        counted = self.settings.counted is not None
        self._ledger = Ledger(learner, space.defaults, counted=counted, ways=self._race.rungs_left)
        self._resume()

    # the two verbs

    def ask(self, *, left: float, slots: Sequence[Resources]) -> Segment | None:
        """The next segment to run, or None when no slot is free or nothing worthwhile can start now.

        Args:
            left: Seconds left for search (not looked at in counted mode).
            slots: The free slots of the executor.
        """
        if not slots or (left <= 0 and self.settings.counted is None):
            return None
        if self._queue:
            return self._ask_again(self._queue.popleft(), left)
        if self.settings.counted is not None:
            return self._ask_counted(slots)
        left = _milliseconds(left)  # what is written is what is used
        step = self._decide(left, self._busy() + len(slots))
        return None if step is None else self._commit(step, left, slots)

    def tell(self, outcome: Outcome) -> None:
        """Take in what came of a segment. A lost one is asked again once, unchanged; an outcome of a
        segment that is not open is ignored."""
        if outcome.id not in self._ledger.open or outcome.id in self._arrived:
            return
        outcome = _finite(outcome)
        if outcome.state == "lost" and self._may_retry(outcome):
            return
        self._journal.append("outcome", outcome.to_json())
        self._arrived[outcome.id] = outcome
        if self.settings.counted is None:
            self._apply(outcome.id)
        elif self._ledger.asked >= self.settings.counted:
            self._apply_in_order()

    # what is known

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every configuration that entered, in order, then those that were refused."""
        entered = tuple(self._trial(c) for c in self._ledger.candidates)
        return entered + tuple(self._refused_trials())

    @property
    def leaderboard(self) -> tuple[Trial, ...]:
        """Trials with a deployable outcome, best first; of equals the cheaper one."""
        scored = [t for t in (self._trial(c) for c in self._ledger.candidates) if t.score is not None]
        return tuple(sorted(scored, key=lambda t: (-(t.score or 0.0), t.seconds, t.number)))

    @property
    def best(self) -> Trial | None:
        """The first of the leaderboard."""
        return self.leaderboard[0] if self._ledger.best_score > -math.inf else None

    @property
    def open(self) -> tuple[Segment, ...]:
        """Segments that were asked and whose outcome has not been told, in order of asking."""
        return tuple(s for s in self._ledger.open.values() if s.id not in self._arrived)

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """Outcomes by segment id, in the order in which they were taken in."""
        return self._ledger.outcomes

    @property
    def messages(self) -> tuple[str, ...]:
        """Families that were left out, each with its reason."""
        return tuple(self._ledger.dead_families.values())

    @property
    def stopped(self) -> str:
        """Why the search was ended before its time, in plain words with the numbers behind it; empty while
        it goes on. It goes on when the run is extended or a late outcome changes what may be gained."""
        return self._ledger.stop

    def outcome(self, segment_id: str) -> Outcome:
        """The outcome of a segment. Raises KeyError when there is none yet."""
        return self._arrived[segment_id] if segment_id in self._arrived else self._ledger.outcomes[segment_id]

    def segment(self, segment_id: str) -> Segment:
        """A segment that was asked. Raises KeyError when it was not."""
        return self._ledger.segments[segment_id]

    def trial_of(self, segment_id: str) -> Trial:
        """The trial that asked for a segment. Raises KeyError when it was not asked."""
        return self._trial(self._ledger.owner[segment_id])

    # asking

    def _busy(self) -> int:
        return len(self._ledger.open) - len(self._queue) - len(self._arrived)

    def _ask_again(self, segment_id: str, left: float) -> Segment:
        self._journal.append("retry", {"id": segment_id})
        segment = self._ledger.open[segment_id]
        if self.settings.counted is not None:
            return segment
        return replace(segment, cap_s=min(segment.cap_s, left))

    def _ask_counted(self, slots: Sequence[Resources]) -> Segment | None:
        """Tells enter in the order of asking, and only when a decision waits for them: which tells a
        decision has seen is then no matter of timing."""
        assert self.settings.counted is not None
        self._workers = self._workers or self._busy() + len(slots)
        while True:
            left = self.settings.counted - self._ledger.asked
            if left > 0 and len(self._ledger.open) < self._workers:
                step = self._decide(left, self._workers)
                if step is not None:
                    return self._commit(step, left, slots)
            if not self._apply_next():
                return None

    def _decide(self, left: float, workers: int) -> Step | None:
        while isinstance(found := self._race.decide(self._ledger, left, workers), Refusal):
            data = _refuse_data(found, left, workers)
            self._journal.append("refuse", data, decision=True)
            self._ledger.refuse(data)
        if isinstance(found, Stop):
            self._end(found, left, workers)
            return None
        return found

    def _end(self, stop: Stop, left: float, workers: int) -> None:
        """Written once, though the driver may ask again while the last segments run."""
        if self._ledger.stop:
            return
        data = {"reason": stop.reason, "left": left, "workers": workers}
        self._journal.append("stop", data, decision=True)
        self._ledger.end(data)

    def _commit(self, step: Step, left: float, slots: Sequence[Resources]) -> Segment:
        segment = self._segment(step)
        workers = self._workers or self._busy() + len(slots)
        new = step.candidate.number == len(self._ledger.candidates)
        data = _ask_data(step, segment, left, workers, new=new)
        self._journal.append("ask", data, decision=True)
        self._ledger.ask(segment, data)
        return segment

    def _segment(self, step: Step) -> Segment:
        of_features = step.kind == "features"
        view = "all" if of_features else step.candidate.view
        name = config_hash(step.config) if of_features else step.candidate.key.partition("-")[0]
        seed = _seed(step, self.settings)
        return Segment(
            id=f"{name}-{view}-{step.kind}-{step.to_rows}-s{seed}",
            kind=step.kind,
            config=dict(step.config),
            view=view,
            seed=seed,
            parents=step.parents,
            from_rows=step.from_rows,
            to_rows=step.to_rows,
            cap_s=_milliseconds(step.cap),
        )

    # telling

    def _may_retry(self, outcome: Outcome) -> bool:
        self._lost[outcome.id] = self._lost.get(outcome.id, 0) + 1
        limit = _RETRIES if self.settings.counted is None else _RETRIES_COUNTED
        if self._lost[outcome.id] > limit:
            return False
        self._journal.append("lost", {"id": outcome.id, "reason": outcome.reason, "seconds": outcome.seconds})
        self._queue.append(outcome.id)
        return True

    def _apply_in_order(self) -> None:
        while self._apply_next():
            pass

    def _apply_next(self) -> bool:
        first = next(iter(self._ledger.open), None)
        if first is None or first not in self._arrived:
            return False
        self._apply(first)
        return True

    def _apply(self, segment_id: str) -> None:
        outcome = self._arrived.pop(segment_id)
        told = outcome.to_json()
        stopped = self._ledger.tell(outcome)
        data = {name: told[name] for name in _DECIDING} | ({"stopped": stopped} if stopped else {})
        self._journal.append("tell", data, decision=True)

    # resuming

    def _resume(self) -> None:
        lines = self._journal.lines
        if not any(line.kind == "start" for line in lines):
            self._journal.append("start", {"settings": _settings_data(self.settings)})
            return
        for line in lines:
            self._fold(line)
        self._queue.extend(s.id for s in self.open if s.id not in self._queue)
        self._journal.append("resume", {"open": list(self._queue), "settings": _settings_data(self.settings)})
        if self.settings.counted is None:
            for segment_id in list(self._arrived):
                self._apply(segment_id)
        elif self._ledger.asked >= self.settings.counted:
            self._apply_in_order()

    def _fold(self, line: Line) -> None:
        data = line.data
        if line.kind == "ask":
            self._workers = int(data["workers"]) if self.settings.counted is not None else 0
            self._ledger.ask(Segment.from_json(data["segment"]), data)
        elif line.kind == "refuse":
            self._ledger.refuse(data)
        elif line.kind == "stop":
            self._ledger.end(data)
        elif line.kind == "outcome":
            self._arrived[data["id"]] = Outcome.from_json(data)
        elif line.kind == "tell":
            self._ledger.tell(self._arrived.pop(data["id"]))
        elif line.kind == "lost":
            self._lost[data["id"]] = self._lost.get(data["id"], 0) + 1

    # views for readers

    def _trial(self, candidate: Candidate) -> Trial:
        best = candidate.best
        return Trial(
            number=candidate.number,
            config=dict(candidate.config),
            view=candidate.view,
            family=candidate.family,
            source=candidate.source,
            state=self._state(candidate),
            score=None if best is None else best.score,
            noise=None if best is None else best.noise,
            outcome=None if best is None else best.id,
            rows=candidate.rows,
            seconds=candidate.seconds,
            curve=tuple((rows, score) for rows, score, _ in candidate.points),
            cooled=candidate.cooled > 0,
            reason=candidate.stopped or candidate.topped,
            repeat=candidate.repeat,
        )

    def _state(self, candidate: Candidate) -> str:
        if candidate.key in self._ledger.refused:
            return "refused"
        if candidate.stopped:
            return "stopped"
        if candidate.running is not None:
            return "running"
        return "waiting" if candidate in self._ledger.waiting else "idle"

    def _refused_trials(self) -> Iterable[Trial]:
        number = len(self._ledger.candidates)
        for line in self._journal.lines:
            if line.kind != "refuse" or line.data["key"] not in self._ledger.refused:
                continue
            if line.data["key"] in self._ledger.by_key:
                continue
            yield Trial(
                number=number,
                config=line.data["config"],
                view=line.data["view"],
                family=str(line.data["config"].get("family", "")),
                source=line.data["source"],
                state="refused",
                reason=line.data["reason"],
            )
            number += 1


def replay(
    lines: Iterable[Line],
    *,
    space: Space,
    learner: Callable[[Config], Learner],
    portfolio: Sequence[tuple[Config, str]],
    sampler: Sampler | None = None,
) -> list[str]:
    """Decide everything in a journal anew from the numbers written in it; returns each difference.

    The oracle of the tests: the list is empty, or a decision used something that is not in the journal.
    """
    lines = tuple(lines)
    start = next(line for line in lines if line.kind == "start")
    study = Study(
        space=space,
        learner=learner,
        portfolio=portfolio,
        settings=RaceSettings(**_settings_values(start.data["settings"])),
        sampler=sampler,
    )
    found = []
    for line in lines:
        if line.kind in ("ask", "refuse", "stop"):
            decided = study._race.decide(study._ledger, line.data["left"], line.data["workers"])
            if (got := _brief(decided, study.settings)) != (want := _brief_line(line)):
                found.append(f"decision {line.seq}: written {want}, decided anew {got}")
        study._fold(line)
    return found


def _brief(decided: Step | Refusal | Stop | None, settings: RaceSettings) -> object:
    if isinstance(decided, Step):
        s, cap = decided, None if math.isinf(decided.cap) else _milliseconds(decided.cap)
        return (s.kind, dict(s.config), _seed(s, settings), s.from_rows, s.to_rows, list(s.parents), cap)
    if isinstance(decided, Stop):
        return decided.reason
    return decided.candidate.key if decided is not None else None


def _brief_line(line: Line) -> object:
    if line.kind == "stop":
        return line.data["reason"]
    if line.kind == "refuse":
        return line.data["key"]
    s = line.data["segment"]
    ways = (s["from_rows"], s["to_rows"], list(s["parents"]), s["cap_s"])
    return (s["kind"], dict(s["config"]), s["seed"], *ways)


def _seed(step: Step, settings: RaceSettings) -> int:
    """Features are the same for every repeat of what reads them."""
    return settings.seed + _REPEATED * (0 if step.kind == "features" else step.candidate.repeat)


def _ask_data(step: Step, segment: Segment, left: float, workers: int, *, new: bool) -> dict[str, Any]:
    candidate = step.candidate
    data: dict[str, Any] = {
        "trial": candidate.number,
        "why": step.why,
        "left": left,
        "cost": round(step.cost, 3),
        "workers": workers,
        "segment": segment.to_json(),
    }
    if new:
        data |= {"config": dict(candidate.config), "view": candidate.view, "source": candidate.source}
        data |= {"repeat": candidate.repeat} if candidate.repeat else {}
    return data


def _refuse_data(refusal: Refusal, left: float, workers: int) -> dict[str, Any]:
    c = refusal.candidate
    return {
        "key": c.key,
        "config": dict(c.config),
        "view": c.view,
        "source": c.source,
        "left": left,
        "reason": refusal.reason,
        "workers": workers,
    }


def _settings_data(settings: RaceSettings) -> dict[str, Any]:
    return {**asdict(settings), "views": list(settings.views)}


def _settings_values(data: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(RaceSettings)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}


def _as_begun(settings: RaceSettings, lines: Sequence[Line]) -> RaceSettings:
    """The settings a run began with: a rung must mean the same rows for all of it, however fast the
    machine is today. More time may raise the highest rung, unless segments are counted.

    Raises:
        RunError: if the seed or the count differ, which belong to the problem.
    """
    start = next((line for line in lines if line.kind == "start"), None)
    if start is None:
        return settings
    begun = replace(settings, **_settings_values(start.data["settings"]))
    if (begun.seed, begun.counted) != (settings.seed, settings.counted):
        raise RunError(
            "A run goes on with its own seed and number of segments.",
            got=f"seed {settings.seed}, {settings.counted} segments; it had {begun.seed}, {begun.counted}",
            next_step="give the same options, or start again with --fresh",
        )
    if begun.counted is not None:
        return begun
    latest = [int(x.data["settings"]["max_rows"]) for x in lines if x.kind in ("start", "resume")]
    return replace(begun, max_rows=max(settings.max_rows, *latest), views=settings.views)


def _milliseconds(seconds: float) -> float:
    """Rounded down, so that no cap passes the time left."""
    return seconds if math.isinf(seconds) else math.floor(seconds * 1000) / 1000


def _finite(outcome: Outcome) -> Outcome:
    """The outcome as JSON can hold it; a score that is no number is a training that diverged."""
    data = json.loads(json.dumps(outcome.to_json(), default=str), parse_constant=lambda _: None)
    cleaned = Outcome.from_json({**data, "seconds": data["seconds"] or 0.0})
    if outcome.score is not None and cleaned.score is None:
        state = "diverged" if cleaned.state in ("done", "cut") else cleaned.state
        return cleaned.with_state(state, outcome.reason or f"its score was {outcome.score}")
    return cleaned
