"""The state of a search: a pure fold over what was asked, refused and told.

Nothing here decides; `race.py` reads it and proposes the next step. The journal's lines, folded again
in order, give the same ledger.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gristmill.search.cost import CostModel, extraction
from gristmill.search.samplers import History, Observation
from gristmill.segment import Config, Learner, Outcome, Segment, config_hash

IDENTICAL_FAILURES = 3
_TAIL = 5
"""The best so many candidates tell how far apart the best ones lie."""
_TREND_MOVED = 0.02
"""A mean that moved by less makes no forecast worth computing again."""
_MOST_GAINED, _MOST_LOST = 3.0, 0.4
"""Bounds of what one rung changes, in logarithms of odds: beyond them a single trunk was odd."""
_RACE_KINDS = ("train", "distil")
_SLOW_START = 0.5
"""Below this score a rung says little of the next: curves from scratch begin slowly and then fall steeply
(traffic signs, rung by rung: errors of 0.87, 0.59, 0.31, 0.06)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration on one data view, as far as it got.

    `state`: waiting (for its features), running, idle, stopped (no more work goes in), refused.
    `score`, `noise`, `outcome`: of its best outcome that can be deployed; None before there is one.
    `rows`: training rows seen; `seconds`: of all its segments; `curve`: (rows, score) of each rung.
    `source`: portfolio, proposal, or repeat: the `repeat`-th training with another seed of one of those.
    `reason`: why it was stopped or refused.
    """

    number: int
    config: Config
    view: str
    family: str
    source: str
    state: str
    score: float | None = None
    noise: float | None = None
    outcome: str | None = None
    rows: int = 0
    seconds: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()
    cooled: bool = False
    reason: str = ""
    repeat: int = 0


def candidate_key(config: Config, defaults: Config, view: str, repeat: int = 0) -> str:
    """What makes two candidates the same: the configuration's hash, the view, and the repeat."""
    return f"{config_hash(config, defaults)}-{view}" + (f"-{repeat}" if repeat else "")


@dataclass
class Candidate:
    """The changing side of a trial, private to the search."""

    number: int
    config: dict[str, Any]
    view: str
    family: str
    source: str
    learner: Learner
    defaults: Config
    """Of the space: what equals its default is no part of the key."""
    named: str = ""
    """The key, once it has been asked for: hashing it takes as long as all else that a proposal costs."""
    parent: str | None = None
    """Hash of the features configuration it reads."""
    repeat: int = 0
    """0, or which training with another seed it is."""
    rows: int = 0
    checkpoint: str | None = None
    points: list[tuple[int, float, float]] = field(default_factory=list)
    tried: set[int] = field(default_factory=set)
    running: str | None = None
    best: Outcome | None = None
    cooled: int = 0
    """Rows of the trunk that the latest cooldown branched off from."""
    seconds: float = 0.0
    stopped: str = ""
    """Why no more work goes into it."""
    topped: str = ""
    """Why its trunk grows no further; a cooldown from its last checkpoint is still possible."""
    again: bool = False
    """Nothing could be trained within the cap: it may enter once more with fewer rows."""
    entered_again: bool = False
    measured: bool = False
    """Its own speed is known to the cost model."""

    @property
    def key(self) -> str:
        """Hash of configuration, name of the view, and the repeat: what makes two candidates the same."""
        self.named = self.named or candidate_key(self.config, self.defaults, self.view, self.repeat)
        return self.named

    @property
    def idle(self) -> bool:
        """A trunk that can go on."""
        return self.checkpoint is not None and self.running is None and not self.stopped

    @property
    def works(self) -> bool:
        """Whether its nominal work takes any time beside starting."""
        learner = self.learner
        return (
            learner.resumable or learner.parent is not None or learner.seconds_per_row * learner.rows > 0.02
        )

    def at(self, rows: int) -> tuple[float, float] | None:
        """Score and noise at a rung, if it has been there as a whole."""
        return next(((s, n) for r, s, n in self.points if r == rows), None)

    def potential(self, rungs_left: int) -> float:
        """The score it may reach: each further rung multiplies its error as the last one did (by 0.4 at the
        best; halves it at a first rung and before half of the way), a cooldown takes another quarter.
        An optimistic bound for leaving out what cannot win, not a forecast."""
        if not self.points:
            return self.best.score if self.best and self.best.score is not None else 0.0
        score = self.points[-1][1]
        error, ratio = max(0.0, 1.0 - score), 0.5
        if len(self.points) > 1:
            before = max(1e-9, 1.0 - self.points[-2][1])
            ratio = min(0.97, max(0.4, 0.9 * (error - self.points[-1][2]) / before))
            if score < _SLOW_START:
                ratio = min(0.5, ratio)
        return max(score, 1.0 - error * ratio**rungs_left * 0.75)


@dataclass
class Rung:
    """Trunks that have reached one number of rows as a whole, best first."""

    _order: list[tuple[float, int]] = field(default_factory=list)
    _waiting: list[tuple[float, int]] = field(default_factory=list)
    _before: list[tuple[float, int]] = field(default_factory=list)

    def put(self, score: float, number: int, before: float | None = None) -> None:
        """Enter a trunk, not yet promoted. `before`: its score at the rung below."""
        insort(self._order, (-score, number))
        insort(self._waiting, (-score, number))
        if before is not None:
            insort(self._before, (-before, number))

    def leave(self, score: float, number: int) -> None:
        """The trunk went on, or can not go on."""
        place = bisect_left(self._waiting, (-score, number))
        if place < len(self._waiting) and self._waiting[place] == (-score, number):
            del self._waiting[place]

    def __len__(self) -> int:
        return len(self._order)

    def promotable(self, eta: int) -> list[tuple[int, bool]]:
        """Numbers of waiting trunks among the best 1/eta, and whether only noise may put them there
        (the one next to the quota)."""
        quota = max(1, len(self._order) // eta)
        limit = self._order[quota] if quota < len(self._order) else (float("inf"), 0)
        chosen = []
        for entry in self._waiting[: quota + 1]:
            if entry > limit:
                break
            chosen.append((entry[1], entry == limit))
        return chosen

    def bound(self, eta: int) -> float:
        """Score of the last trunk within the quota."""
        return -self._order[max(1, len(self._order) // eta) - 1][0]

    def top(self, count: int) -> list[int]:
        """Numbers of the best trunks."""
        return [number for _, number in self._order[:count]]

    def settled(self, count: int) -> float:
        """When the best `count` trunks here were the best of those that came already at the rung below, and
        twice as many came: the score that the last of them had there. Otherwise minus infinity.

        The ranking criterion of PASHA (Bohdal et al. 2023, arXiv 2207.06940), with hard ranks.
        """
        if len(self._before) < 2 * count or len(self._before) < len(self._order):
            return float("-inf")
        if {number for _, number in self._before[:count]} != set(self.top(count)):
            return float("-inf")
        return -self._before[count - 1][0]


@dataclass
class Trend:
    """How the odds of an error (error / score) usually change from one rung to the next, learnt from those
    that went on.

    It makes scores of different rungs comparable: without it the best of a low rung would stand behind
    every trunk that was trained longer, with an optimistic bound before all of them. Odds, not errors:
    learning curves begin slowly, so of two trunks at 0.1 and 0.34 the first is far behind. By errors
    every poor small network was forecast at 0.96 once the leader had come from 0.34 to 0.97, and the sampler
    proposed nothing else (traffic signs, the last third of a run).
    """

    _kept: dict[int, tuple[int, float, int]] = field(default_factory=dict)
    """By rung: the rung above, the mean change of the logarithm of the odds, how many trunks it is of."""

    def learn(self, points: list[tuple[int, float, float]]) -> bool:
        """Take in a trunk that has just reached its last rung; whether forecasts changed by it."""
        if len(points) < 2:
            return False
        (rows, before, _), (above, after, _) = points[-2:]
        kept = min(_MOST_LOST, max(-_MOST_GAINED, _log_odds(after) - _log_odds(before)))
        known, mean, count = self._kept.get(rows, (above, 0.0, 0))
        if above != known:
            return False
        moved = (kept - mean) / (count + 1)
        self._kept[rows] = (above, mean + moved, count + 1)
        return abs(moved) > _TREND_MOVED

    def forecast(self, candidate: Candidate) -> float:
        """The score that it would have on the highest rung that anyone has reached, or has reached."""
        assert candidate.best is not None and candidate.best.score is not None
        if not candidate.points or candidate.topped or candidate.stopped:
            return candidate.best.score
        rows, score, _ = candidate.points[-1]
        odds = _log_odds(score)
        while rows in self._kept:
            rows, mean, _ = self._kept[rows]
            odds += mean
        return max(candidate.best.score, 1.0 / (1.0 + math.exp(odds)))


class Ledger:
    """Candidates, rungs, open segments, outcomes and costs after the lines folded so far."""

    def __init__(
        self,
        learner: Callable[[Config], Learner],
        defaults: Config,
        *,
        counted: bool,
        ways: Callable[[Candidate], int],
    ) -> None:
        self._learner = learner
        self._defaults = dict(defaults)
        self._counted = counted
        self._ways = ways
        self.cost = CostModel()
        self.history = History()
        self.trend = Trend()
        self.candidates: list[Candidate] = []
        self.by_key: dict[str, Candidate] = {}
        self.features: dict[str, str] = {}
        """Hash of a features configuration: id of its segment."""
        self.segments: dict[str, Segment] = {}
        self.owner: dict[str, Candidate] = {}
        self.open: dict[str, Segment] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.rungs: dict[int, Rung] = {}
        self.shown: dict[str, dict[int, float]] = {}
        """The best score of each family at each rung."""
        self.refused: dict[str, tuple[float, str]] = {}
        self.dead_families: dict[str, str] = {}
        self.waiting: list[Candidate] = []
        """Candidates that entered and whose own segment has not been asked: features first, or again."""
        self.repeats: list[Candidate] = []
        """Those that were trained once more with another seed."""
        self.asked = 0
        self.decisions = 0
        self.horizon = 0.0
        self.last_left = 0.0
        self.spent = 0.0
        """Seconds of all segments told."""
        self.entry_cost = 0.0
        self.worked = 0
        """Candidates that entered with more to do than a floor (the majority class, the mean)."""
        self.best_score = float("-inf")
        self.leader: Outcome | None = None
        """The outcome with that score, the latest of equals."""
        self.stop = ""
        """Why the search was ended early; empty while it goes on."""
        self._failures: dict[str, tuple[str, int]] = {}

    @property
    def noise(self) -> float:
        """Standard error of the best score; 0 before there is one, or where it is not known."""
        return (self.leader.noise or 0.0) if self.leader else 0.0

    # candidates

    def candidate(
        self, config: Config, view: str, source: str, *, repeat: int = 0, key: str = ""
    ) -> Candidate:
        """A candidate that has not entered yet. `key`: its own, where that is known already."""
        learner = self._learner(config)
        return Candidate(
            number=len(self.candidates),
            config=dict(config),
            view=view,
            defaults=self._defaults,
            named=key,
            family=str(config.get("family", "")),
            source=source,
            learner=learner,
            parent=None if learner.parent is None else config_hash(learner.parent),
            repeat=repeat,
        )

    def key(self, config: Config, view: str, repeat: int = 0) -> str:
        """What makes two candidates the same."""
        return candidate_key(config, self._defaults, view, repeat)

    def features_ready(self, candidate: Candidate) -> bool:
        """Whether the features it reads (if any) are there, all of them or as many as the cap allowed."""
        if candidate.parent is None:
            return True
        outcome = self.outcomes.get(self.features.get(candidate.parent, ""))
        return outcome is not None and _usable(outcome)

    # folding

    def ask(self, segment: Segment, data: Mapping[str, Any]) -> None:
        """Fold an ask line."""
        number = int(data["trial"])
        if number == len(self.candidates):
            repeat = int(data.get("repeat", 0))
            self._enter(self.candidate(data["config"], data["view"], data["source"], repeat=repeat), data)
        candidate = self.candidates[number]
        self.segments[segment.id] = self.open[segment.id] = segment
        self.owner[segment.id] = candidate
        self.asked += 1
        self.stop = ""
        self._time(data.get("left"))
        if segment.kind == "features":
            assert candidate.parent is not None
            self.features[candidate.parent] = segment.id
            self.waiting.append(candidate)
        else:
            self._start(candidate, segment)

    def refuse(self, data: Mapping[str, Any]) -> None:
        """Fold a refuse line."""
        self._time(data.get("left"))
        self.refused[data["key"]] = (float(data["left"]), data["reason"])
        candidate = self.by_key.get(data["key"])
        if candidate is not None:
            candidate.stopped, candidate.again = data["reason"], False
            self._unwait(candidate)

    def end(self, data: Mapping[str, Any]) -> None:
        """Fold a stop line: nothing was worth its cost any more."""
        self._time(data.get("left"))
        self.stop = str(data["reason"])

    def expected_gain(self, seconds: float) -> tuple[float, float]:
        """By how much `seconds` of further candidates like those so far would raise the best score, and
        how many they would be.

        The number of records among m further draws after n is ln(1 + m / n), and where the upper tail
        falls off exponentially a record is higher by as much as the best few stand apart on average
        (Renyi's representation; the estimator of Weissman 1978).
        """
        scored = len(self.history)
        further = seconds * scored / max(1e-9, self.spent)
        top = [c.value for c in self.history.top(_TAIL + 1)]
        if len(top) <= _TAIL:
            return float("inf"), further
        spread = sum(top[:_TAIL]) / _TAIL - top[_TAIL]
        return spread * math.log1p(further / scored), further

    def tell(self, outcome: Outcome) -> str:
        """Fold a tell line; returns the message when it stops a family, else an empty text."""
        segment = self.open.pop(outcome.id)
        candidate = self.owner[outcome.id]
        self.outcomes[outcome.id] = outcome
        candidate.seconds += outcome.seconds
        self.spent += outcome.seconds
        if not self._counted:
            self._learn(candidate, segment, outcome)
        if segment.kind == "features":
            self._features_told(segment, outcome)
        else:
            self._work_told(candidate, segment, outcome)
        return self._count_failure(candidate.family, outcome)

    def _enter(self, candidate: Candidate, data: Mapping[str, Any]) -> None:
        self.candidates.append(candidate)
        self.by_key[candidate.key] = candidate
        self.refused.pop(candidate.key, None)
        self.worked += candidate.works
        if candidate.repeat:
            self.repeats.append(candidate)
        if candidate.source == "portfolio":
            self.entry_cost += float(data["cost"])

    def _start(self, candidate: Candidate, segment: Segment) -> None:
        self._unwait(candidate)
        candidate.running = segment.id
        candidate.entered_again = candidate.entered_again or candidate.again
        candidate.again = False
        if segment.kind == "cooldown":
            candidate.cooled = segment.from_rows
            return
        candidate.tried.add(segment.to_rows)
        self._leave_rung(candidate)

    def _leave_rung(self, candidate: Candidate) -> None:
        if candidate.points and candidate.points[-1][0] in self.rungs:
            rows, score, _ = candidate.points[-1]
            self.rungs[rows].leave(score, candidate.number)

    def _unwait(self, candidate: Candidate) -> None:
        if candidate in self.waiting:
            self.waiting.remove(candidate)

    def _time(self, left: float | None) -> None:
        """Time runs down; when it grew by more than a new estimate of the reserves explains, the run was
        extended."""
        self.decisions += 1
        if left is None:
            return
        if self.horizon == 0.0:
            self.horizon = left
        elif left > 1.2 * self.last_left + 1.0:
            self.horizon += left - self.last_left
        self.last_left = left

    def _learn(self, candidate: Candidate, segment: Segment, outcome: Outcome) -> None:
        if segment.kind == "features":
            group = extraction(candidate.learner.parent)
            self.cost.learn(str(candidate.parent), group, segment, outcome, candidate.learner)
        else:
            self.cost.learn(candidate.key, candidate.family, segment, outcome, candidate.learner)
            candidate.measured = True

    def _features_told(self, segment: Segment, outcome: Outcome) -> None:
        if _usable(outcome):
            return
        for candidate in [c for c in self.waiting if self.features.get(str(c.parent)) == segment.id]:
            candidate.stopped = f"its features: {outcome.state} {outcome.reason}".strip()
            self._unwait(candidate)

    def _work_told(self, candidate: Candidate, segment: Segment, outcome: Outcome) -> None:
        candidate.running = None
        if outcome.score is not None and outcome.state in ("done", "cut"):
            self._scored(candidate, outcome)
        trained = outcome.rows_seen > segment.from_rows and outcome.score is not None
        if segment.kind not in _RACE_KINDS:
            if segment.kind == "fit" and outcome.state != "done":
                candidate.stopped = f"{outcome.state} {outcome.reason}".strip()
        elif outcome.state == "done" and outcome.score is not None:
            self._rung_reached(candidate, segment, outcome)
        elif outcome.state == "cut" and trained:
            candidate.rows, candidate.checkpoint = outcome.rows_seen, outcome.id
        elif outcome.state == "cut":
            self._nothing_trained(candidate)
        elif candidate.checkpoint is not None:
            candidate.topped = f"{outcome.state} {outcome.reason}".strip()
        else:
            candidate.stopped = f"{outcome.state} {outcome.reason}".strip()
        self._observe(candidate)

    def _scored(self, candidate: Candidate, outcome: Outcome) -> None:
        best = candidate.best
        if best is None or best.score is None or (outcome.score or 0.0) >= best.score:
            candidate.best = outcome
        assert outcome.score is not None
        if outcome.score >= self.best_score:
            self.best_score, self.leader = outcome.score, outcome

    def _rung_reached(self, candidate: Candidate, segment: Segment, outcome: Outcome) -> None:
        score = outcome.score if outcome.score is not None else 0.0
        candidate.rows, candidate.checkpoint = segment.to_rows, outcome.id
        candidate.points.append((segment.to_rows, score, outcome.noise or 0.0))
        before = candidate.points[-2][1] if len(candidate.points) > 1 else None
        self.rungs.setdefault(segment.to_rows, Rung()).put(score, candidate.number, before)
        shown = self.shown.setdefault(candidate.family, {})
        shown[segment.to_rows] = max(score, shown.get(segment.to_rows, score))
        if self.trend.learn(candidate.points):
            for other in self.candidates:
                if other.points and other.points[-1][0] < segment.to_rows:
                    self._observe(other)

    def _nothing_trained(self, candidate: Candidate) -> None:
        if candidate.checkpoint is not None:  # an established trunk stays where it is
            return
        if candidate.entered_again:
            candidate.stopped = "twice nothing could be trained within its time"
        else:
            candidate.again = True
            self.waiting.append(candidate)

    def _observe(self, candidate: Candidate) -> None:
        if candidate.best is None or candidate.best.score is None or candidate.repeat:
            return
        self.history.put(
            candidate.number,
            Observation(
                config={**candidate.config, "view": candidate.view},
                value=self.trend.forecast(candidate),
                rows=candidate.rows,
                seconds=0.0 if self._counted else candidate.seconds,  # a sampler must not see the clock
            ),
        )

    def _count_failure(self, family: str, outcome: Outcome) -> str:
        if outcome.state in ("done", "cut"):
            self._failures.pop(family, None)
            return ""
        signature = f"{outcome.state}: {re.sub(r'[0-9]+', '#', outcome.reason)}"
        before, count = self._failures.get(family, ("", 0))
        count = count + 1 if before == signature else 1
        self._failures[family] = (signature, count)
        if count < IDENTICAL_FAILURES or family in self.dead_families:
            return ""
        message = (
            f"The family {family or '(unnamed)'} is left out from here on: {count} of its segments in a row "
            f"ended alike ({outcome.state}: {outcome.reason or 'no reason given'})."
        )
        self.dead_families[family] = message
        return message


def _log_odds(score: float) -> float:
    """Of an error; a score at the floor or below counts as a thousandth."""
    return math.log(max(1e-9, 1.0 - score) / max(1e-3, score))


def _usable(outcome: Outcome) -> bool:
    """Features that were cut short still serve when some were kept."""
    return outcome.state == "done" or (outcome.state == "cut" and bool(outcome.artefacts))
