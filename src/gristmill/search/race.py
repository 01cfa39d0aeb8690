"""What to do next: asynchronous successive halving over resumed segments, the portfolio first.

Rungs are absolute numbers of training rows (base, base * eta, base * eta**2, ...; eta is 3, and 2 in a run of
minutes, where few candidates fit), so more time only adds rungs. What
would take too long to the base enters at a rung below it. Trunks are compared within a rung only; a network
with pretrained weights below the base goes before those that are not even forecast to come near to what it
has shown. In order of preference a free slot gets

1. the own segment of a configuration whose features are ready, or that enters again with fewer rows;
2. the next of the portfolio, in its order, while it has used less than 30 % of the time; what is refused
   for its price may have a smaller size in its place (`Parameter.shrinks`);
3. the next rung of the best trunk, where there are several slots; the promotion of a trunk among the best
   third of its rung, or the cooldown of one that is among the best two and as far as its time allows;
4. the rest of the portfolio, also what was too expensive as long as other entries waited;
5. the best trunk once more with another seed, for the ensemble, when the time left is the last in which that
   gets as far: a new configuration could not either;
6. a proposal of the sampler;
7. when nothing new is worth its time, the best model once more with another seed.

One rule stands above them: what the best two trunks still need, up to the highest rung that fits and
the cooldown after it, is never given away. When a step would eat into that, the trunk goes first.
A rung sends nobody up before it has filled, while something new can begin; once the rung above has
confirmed its ranking, only the best two go up. The search ends early when the time left promises less than
it is worth. Measured by `benchmarks/search.py`.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from gristmill.errors import UsageError
from gristmill.search.cost import extraction
from gristmill.search.ledger import Candidate, Ledger, candidate_key
from gristmill.search.samplers import Sampler
from gristmill.segment import Config, SegmentKind
from gristmill.space import Choice, Parameter, Space

VIEW = "view"
_LOWEST = 64  # the lowest rung is the base divided by this, or a little more
_SAFETY = 1.1  # a predicted time is trusted with this margin
_TRIES = 50  # proposals looked at before a slot is left idle
_LOOKED_AT = 8  # waiting trunks of a rung that are weighed for one decision
_FIRST = 2  # entries with real work that may take most of the time: something must come of every run
_FIRST_SHARE = 0.6
_ONE_SHOT_SHARE = 0.35
_SMALL_S = 4.0  # what takes no longer than this may enter a short run, too, up to
_SMALL_SHARE = 0.35
_LAST_CALL = (
    0.75  # a partner of the best trunk begins when getting as far would take this part of the time left
)
_PARTNER_LEAST = 4  # and not with fewer rows than those of the best divided by this
_CLEARLY = 0.75  # part of another's error that a trunk below the base has at most to go before it
_SHRINK_PAYS = 0.7  # fewer rows are only taken for a price lower by this factor: starting costs the same


@dataclass(frozen=True, kw_only=True)
class RaceSettings:
    """How the race is run. Rows are training rows seen; shares are of the time left for search."""

    base_rows: int
    """The first rung: about a tenth of a full training; earlier ranks say little."""
    max_rows: int
    """No trunk is trained further than this (its cooldown comes on top)."""
    seed: int = 0
    eta: int = 3
    views: tuple[str, ...] = ("all",)
    counted: int | None = None
    """Ask exactly this many segments, without looking at any clock; None: until the time is used."""
    cooldown: float = 0.3
    """Length of a cooldown as a share of its trunk's rows."""
    stretch: float = 5.0
    """A cooldown is up to this many times as long where the time allows it and no further rung fits: at equal
    rows it is as good (0.682 against 0.680, see `training.recipe`), so what is left goes into more rows. Five
    times is what is left where the next of rungs twice apart, with its cooldown, does not quite fit."""
    portfolio_share: float = 0.3
    """Part of the slots' time that may go into first segments of the portfolio before promotions."""
    entry_share: float = 0.15
    """A configuration whose first segment takes more than this part of the time left is shrunk or refused."""
    way_share: float = 0.75
    """A rung is aimed at when the whole way there and the cooldown fit into this part of the search time."""
    ripe: int = 3
    """A rung sends trunks up when it has seen as many, unless there is nothing new to begin."""
    survivors: int = 2
    """Trunks whose finish is protected."""
    least_gain: float = 0.001
    """Worth of the whole search time, as a part of the error; a part of the time is worth that part of it.
    The search ends early when the time left promises less."""
    least_noise: float = 0.1
    """The same as a part of the score's standard error, where that is more: less could not be noticed."""
    least_candidates: int = 30
    """But not before so many candidates have been scored."""
    repeats: int = 3
    """The best configuration is trained with at most so many further seeds, in time nothing else needs."""

    def __post_init__(self) -> None:
        if not (self.base_rows > 0 and self.max_rows > 0 and self.eta >= 2 and self.views):
            raise ValueError(f"rows must be positive, eta at least 2, views not empty; got {self}")

    def ladder(self) -> tuple[int, ...]:
        """The rungs in rows, those below the base for shrunk entries included, ascending."""
        base = min(self.base_rows, self.max_rows)
        below = [base // self.eta**k for k in range(1, _LOWEST) if self.eta**k <= _LOWEST]
        rungs = [rows for rows in reversed(below) if rows > 0]
        while base <= self.max_rows:
            rungs.append(base)
            base *= self.eta
        return tuple(dict.fromkeys(rungs))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A segment to ask: everything but its id and seed."""

    candidate: Candidate
    kind: SegmentKind
    config: Config
    from_rows: int
    to_rows: int
    parents: tuple[str, ...]
    cost: float
    cap: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A configuration that may not enter, and why."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Nothing further is worth its cost, and why."""

    reason: str


class Race:
    """Reads a ledger and proposes; holds no state of its own."""

    def __init__(
        self, settings: RaceSettings, space: Space, portfolio: Sequence[tuple[Config, str]], sampler: Sampler
    ) -> None:
        self._settings = settings
        self._space = space | _view_parameter(settings.views) if VIEW not in space.defaults else space
        self._portfolio = tuple(
            (config, view, candidate_key(config, space.defaults, view)) for config, view in portfolio
        )
        self._smaller = {
            key: tuple((c, candidate_key(c, space.defaults, view)) for c in space.shrunk(config))
            for config, view, key in self._portfolio
        }
        self._sampler = sampler
        self._ladder = settings.ladder()
        self._base = min(settings.base_rows, settings.max_rows)
        self._timed = settings.counted is None

    def decide(self, ledger: Ledger, left: float, workers: int) -> Step | Refusal | Stop | None:
        """The next step, a refusal to be noted before asking again, a stop when new candidates are not
        worth their cost, or None when nothing is worthwhile now.

        `left`: seconds left for search; in counted mode the number of segments left.
        """
        finalists = self._finalists(ledger, left)
        wish = self._wish(ledger, finalists, left, workers)
        if isinstance(wish, Refusal):
            return wish
        if wish is not None and wish.candidate.source == "proposal" and self._enters(ledger, wish):
            reason = self._enough(ledger, left, workers)
            if reason:
                last = self._last_steps(ledger, finalists, left) or self._repeat(ledger, left)
                return last or Stop(reason=reason)
        held = 0  # counted mode: the last segments belong to the cooldowns of trunks that are running
        for trunk in finalists:
            if left <= held:
                return None
            if wish is not None and trunk is wish.candidate:
                return wish
            held += self._will_cool(ledger, trunk)
            step, need = self._way(ledger, trunk, left)
            cost = 0.0 if wish is None else wish.cost
            if step is not None and (wish is None or self._safe(cost + need) > left):
                return step
        return None if left <= held else wish or self._repeat(ledger, left)

    @staticmethod
    def _enters(ledger: Ledger, step: Step) -> bool:
        return step.candidate.number == len(ledger.candidates)

    def _last_steps(self, ledger: Ledger, finalists: list[Candidate], left: float) -> Step | None:
        """What the best trunks still need, once nothing new begins."""
        steps = (self._way(ledger, trunk, left)[0] for trunk in finalists)
        return next((step for step in steps if step is not None), None)

    def _enough(self, ledger: Ledger, left: float, workers: int) -> str:
        """Why no new candidate is worth its cost: all that fit into the time left would gain less than
        that time is worth. Empty while one is. With segments counted, all of them are run."""
        if not self._timed or len(ledger.history) < self._settings.least_candidates:
            return ""
        gain, further = ledger.expected_gain(left * workers)
        noise = ledger.noise
        whole = max(
            self._settings.least_gain * max(0.0, 1.0 - ledger.best_score), self._settings.least_noise * noise
        )
        worth = whole * min(1.0, left / (ledger.horizon or left))
        if gain > worth:
            return ""
        return (
            f"about {further:.0f} more candidates fit into the {left:.0f} s left; going by the "
            f"{len(ledger.history)} so far they would raise the best score by {gain:.2g}, "
            f"and less than {worth:.2g} is not worth that time"
        )

    def _will_cool(self, ledger: Ledger, trunk: Candidate) -> bool:
        return not self._timed and trunk.running is not None and ledger.open[trunk.running].kind == "train"

    def rungs_left(self, candidate: Candidate) -> int:
        """Rungs above the one it stands on."""
        return len(self._ladder) - bisect_right(self._ladder, candidate.rows)

    # preferences

    def _wish(
        self, ledger: Ledger, finalists: list[Candidate], left: float, workers: int
    ) -> Step | Refusal | None:
        options = (
            self._waiting(ledger, left),
            self._planned(ledger, left, workers, within=self._settings.portfolio_share),
            self._leading(ledger, finalists, left, workers),
            self._promotions(ledger, finalists, left),
            self._planned(ledger, left, workers, within=float("inf")),
            self._partner(ledger, finalists, left, workers),
            self._second_look(ledger, left),
            self._proposals(ledger, left),
            self._promotions(ledger, finalists, left, ripe=False),
        )
        return next((step for steps in options for step in steps), None)

    def _waiting(self, ledger: Ledger, left: float) -> Iterator[Step | Refusal]:
        for candidate in ledger.waiting:
            if candidate.family in ledger.dead_families:
                continue
            if candidate.again:
                yield self._second_entry(ledger, candidate, left)
            elif ledger.features_ready(candidate):
                step = self._first(ledger, candidate, left, candidate.learner.rows)
                if self._fits(step.cost, left):
                    yield step

    def _second_entry(self, ledger: Ledger, candidate: Candidate, left: float) -> Step | Refusal:
        """Once more with fewer rows, now that its speed has been measured, or not at all."""
        tried = min(candidate.tried, default=self._base)
        for rows in reversed(self._rungs_below(ledger, candidate, tried)):
            step = self._first(ledger, candidate, left, rows)
            if step.cost <= max(0.2 * left, self._entry_limit(left, exempt=False)):
                return step
        cost = self._first(ledger, candidate, left, tried).cost
        return Refusal(
            candidate=candidate, reason=f"measured: its first segment takes {cost:.1f} s of {left:.1f} s left"
        )

    def _planned(self, ledger: Ledger, left: float, workers: int, within: float) -> Iterator[Step | Refusal]:
        budget = within * (ledger.horizon or left) * (workers if self._timed else 1)
        exempt = ledger.worked < _FIRST
        if not exempt and ledger.entry_cost >= budget:
            return
        for config, view, key in self._portfolio:
            if key in ledger.by_key:
                continue
            if self._refused(ledger, key, left):
                yield from self._shrunk(ledger, key, view, left, exempt)
                continue
            candidate = ledger.candidate(config, view, "portfolio", key=key)
            if candidate.learner.barred:
                yield Refusal(candidate=candidate, reason=candidate.learner.barred)
            elif self._may_enter(ledger, candidate):
                entry = self._entry(ledger, candidate, left, exempt)
                if entry is not None:
                    yield entry

    def _shrunk(self, ledger: Ledger, refused: str, view: str, left: float, exempt: bool) -> Iterator[Step]:
        """A refused entry in its place with the largest size that may enter. Without it a run whose first
        features were refused at 128 pixels did without any (natural photos: 0.69, not 0.83)."""
        for config, key in self._smaller[refused]:
            if key in ledger.by_key:
                return
            candidate = ledger.candidate(config, view, "portfolio", key=key)
            if candidate.learner.barred:
                continue
            if not self._may_enter(ledger, candidate):
                return  # its features are being computed
            entry = self._entry(ledger, candidate, left, exempt)
            if isinstance(entry, Step):
                yield replace(entry, why=f"{entry.why}, smaller than what was refused")
                return

    def _second_look(self, ledger: Ledger, left: float) -> Iterator[Step]:
        """The entries of the portfolio that were refused for their price. Once the others have had their turn
        they compete with proposals only and may take more of the time, and prices are known better."""
        if not self._timed:
            return
        for config, view, key in self._portfolio:
            if key in ledger.by_key or key not in ledger.refused:
                continue
            candidate = ledger.candidate(config, view, "portfolio", key=key)
            if self._may_enter(ledger, candidate):
                entry = self._entry(ledger, candidate, left, exempt=False, limit=_ONE_SHOT_SHARE * left)
                if isinstance(entry, Step) and self._can_matter(ledger, candidate, left, entry.to_rows):
                    yield entry

    def _leading(
        self, ledger: Ledger, finalists: list[Candidate], left: float, workers: int
    ) -> Iterator[Step]:
        """The next rung of the best trunk: with more than one slot it never waits, for what it waits is lost
        to the highest rung that it can reach."""
        if self._timed and workers > 1 and finalists:
            step, _ = self._way(ledger, finalists[0], left)
            if step is not None and step.kind == "train":
                yield step

    def _promotions(
        self, ledger: Ledger, finalists: list[Candidate], left: float, *, ripe: bool = True
    ) -> Iterator[Step]:
        """`ripe`: only from rungs that as many trunks have reached as compete for one place above."""
        for rows in sorted(ledger.rungs, reverse=True):
            unripe = ripe and len(ledger.rungs[rows]) < self._settings.ripe
            if unripe and rows >= self._base:
                continue
            for candidate in self._promotable(ledger, rows, left) if rows < self._ladder[-1] else ():
                if unripe and not (candidate.learner.least_rows and candidate in finalists[:1]):
                    continue  # few start low and show early: the best of all trunks need not wait for more
                step, _ = self._way(ledger, candidate, left)
                if step is not None and (step.kind == "train" or candidate in finalists):
                    yield step
        uncooled = [c for c in ledger.repeats if c.idle and c.cooled < c.rows]
        for candidate in (*finalists, *uncooled):  # those that grow no further, or whose rung was cut
            step, _ = self._way(ledger, candidate, left)
            if step is not None and step.kind == "cooldown":
                yield step

    def _promotable(self, ledger: Ledger, rows: int, left: float) -> list[Candidate]:
        """The best waiting trunks of a rung. One that cannot win any more never will (scores only
        rise), so it is taken out of the rung's queue: no decision changes, and none looks at it again."""
        rung, found = ledger.rungs[rows], []
        least = self._least_to_go_on(ledger, rows)
        for number, by_noise in rung.promotable(self._settings.eta):
            candidate = ledger.candidates[number]
            if candidate.points[-1][1] + candidate.points[-1][2] < least:
                break
            if self._hopeless(ledger, candidate, self.rungs_left(candidate)):
                rung.leave(candidate.points[-1][1], number)
            elif not self._worthwhile(ledger, candidate, left):
                continue  # its cooldown is running, or it is too late for it
            elif not by_noise or self._within_noise(ledger, candidate, rows):
                found.append(candidate)
            if len(found) == _LOOKED_AT:
                break
        return found

    def _least_to_go_on(self, ledger: Ledger, rows: int) -> float:
        """Once the rung above has confirmed the ranking of this one, only who would be among the best two
        of those that went on goes on, too: the others would but confirm it again."""
        above = ledger.rungs.get(next((r for r in self._ladder if r > rows), 0))
        return float("-inf") if above is None else above.settled(self._settings.survivors)

    def _proposals(self, ledger: Ledger, left: float) -> Iterator[Step]:
        rng = random.Random(f"{self._settings.seed}/{ledger.decisions}")
        for _ in range(_TRIES):
            drawn = self._sampler.propose(self._space, ledger.history, rng)
            if drawn is None:
                return
            config = self._space.complete(drawn)
            if set(config) <= {"family", VIEW}:
                continue  # nothing to be chosen: a floor, which the portfolio has tried
            view = str(config.pop(VIEW))
            candidate = ledger.candidate(config, view, "proposal")
            if not self._may_enter(ledger, candidate):
                continue
            step = self._entry(ledger, candidate, left, exempt=False)
            if not isinstance(step, Step) or not self._can_matter(ledger, candidate, left, step.to_rows):
                continue
            # asked last, for the key is hashed then: most that is drawn near the end is too expensive
            if candidate.key not in ledger.by_key and candidate.key not in ledger.refused:
                yield step

    # entering

    def _may_enter(self, ledger: Ledger, candidate: Candidate) -> bool:
        if candidate.family in ledger.dead_families or candidate.learner.barred:
            return False
        if candidate.parent is None or candidate.parent not in ledger.features:
            return True
        return ledger.features_ready(candidate)  # else: still being computed, or failed

    def _refused(self, ledger: Ledger, key: str, left: float) -> bool:
        """A refusal is for lack of time, so it falls when there is clearly more (the run was extended)."""
        return key in ledger.refused and left < 1.5 * ledger.refused[key][0] + 1.0

    def _entry(
        self, ledger: Ledger, candidate: Candidate, left: float, exempt: bool, limit: float | None = None
    ) -> Step | Refusal | None:
        """Its first segment, with fewer rows where it is too expensive, else a refusal; None when not
        enough counted segments are left. `limit`: seconds to its first score, else by the usual shares."""
        rows = [self._base if candidate.learner.resumable else candidate.learner.rows]
        if candidate.learner.resumable and self._timed:
            rows += reversed(self._rungs_below(ledger, candidate, rows[0]))
        whole = self._entry_price(ledger, candidate, rows[0])
        if not self._timed:
            return self._first(ledger, candidate, left, rows[0]) if left >= whole else None
        if limit is None:
            limit = self._entry_limit(left, exempt, one_shot=not candidate.learner.resumable)
        for r in rows:
            price = whole if r == rows[0] else self._entry_price(ledger, candidate, r)
            if price <= limit and (r == rows[0] or price <= _SHRINK_PAYS * whole):
                return self._first(ledger, candidate, left, r)
        reason = f"its first score would take {whole:.1f} s, it may take {limit:.1f} of the {left:.1f} s left"
        return Refusal(candidate=candidate, reason=reason)

    def _rungs_below(self, ledger: Ledger, candidate: Candidate, rows: int) -> list[int]:
        """Rungs below `rows` at which it may enter: a proposal only where others of its family were."""
        least = candidate.learner.least_rows or candidate.learner.rows
        below = [r for r in self._ladder if min(least, rows // self._settings.eta) <= r < rows]
        if candidate.source == "portfolio" or candidate.again:
            return below
        return [r for r in below if r in ledger.shown.get(candidate.family, {})]

    def _entry_limit(self, left: float, exempt: bool, one_shot: bool = False) -> float:
        """Seconds that may go into the way to a first score, which for a one-shot learner is its last."""
        if exempt or one_shot:
            return (_FIRST_SHARE if exempt else _ONE_SHOT_SHARE) * left
        return max(self._settings.entry_share * left, min(_SMALL_S, _SMALL_SHARE * left))

    def _entry_price(self, ledger: Ledger, candidate: Candidate, rows: int) -> float:
        """Cost until it has its first score, of `rows` rows where it is a trunk."""
        learner = candidate.learner
        if learner.parent is not None and candidate.parent not in ledger.features:
            extracted = self._seconds(ledger, candidate, "features", learner.rows)
            return extracted + self._seconds(ledger, candidate, "fit", learner.rows)
        return self._seconds(ledger, candidate, "train" if learner.resumable else "fit", rows)

    def _can_matter(self, ledger: Ledger, candidate: Candidate, left: float, entry: int) -> bool:
        """A new trunk is worth its first rung only while it could still be promoted and cooled down, and
        while half the error that its family has shown so far would be a gain."""
        if not candidate.learner.resumable:
            return True
        goal = self._goal(ledger, candidate, left, entry)
        shown = [x for x in ledger.shown.get(candidate.family, {}).items() if x[0] <= goal]
        if goal <= entry and self._timed and entry < self._ladder[-1]:
            return False
        if not shown:
            return True
        rows, score = max(shown)
        missing = sum(rows < rung <= goal for rung in self._ladder)
        return 1.0 - max(0.0, 1.0 - score) * 0.5 ** (missing + 1) >= ledger.best_score

    def _repeat(self, ledger: Ledger, left: float) -> Step | None:
        """The best model once more with another seed, as far as it had come, where that and its cooldown fit
        and nothing is under way that may bring other work."""
        others = [s for s in ledger.open.values() if not ledger.owner[s.id].repeat]
        if not self._timed or any(s.kind != "cooldown" for s in others):
            return None
        best = self._to_repeat(ledger)
        if best is None:
            return None
        return self._once_more(ledger, best, best.cooled, left)

    def _once_more(self, ledger: Ledger, best: Candidate, rows: int, left: float) -> Step | None:
        """`best` with another seed up to `rows` rows (if it is a trunk), where that and its cooldown fit."""
        count = 1 + _repeats(ledger, best)
        if count > self._settings.repeats:
            return None
        candidate = ledger.candidate(best.config, best.view, "repeat", repeat=count)
        cooling = 0.0
        if candidate.learner.resumable:
            cooling = self._seconds(ledger, candidate, "cooldown", self._cooldown_rows(rows))
        else:
            rows = candidate.learner.rows
        step = self._first(ledger, candidate, left, rows, reserve=cooling)
        return step if self._fits(step.cost + cooling, left) else None

    def _partner(
        self, ledger: Ledger, finalists: list[Candidate], left: float, workers: int
    ) -> Iterator[Step]:
        """The best trunk once more with another seed, beside it, while that can still get about as far."""
        if not self._timed or workers < 2 or not finalists:
            return
        best = finalists[0]
        noise = ledger.noise
        leads = ledger.trend.forecast(best) >= ledger.best_score - noise
        if not leads or not best.learner.seeded or best.repeat or _repeats(ledger, best):
            return
        under_way = ledger.open[best.running] if best.running is not None else None
        goal = under_way.to_rows if under_way is not None and under_way.kind == "train" else best.rows
        if self._chain(ledger, best, goal, goal, from_start=True) < _LAST_CALL * left:
            return
        for rows in [r for r in reversed(self._ladder) if goal // _PARTNER_LEAST <= r <= goal]:
            step = self._once_more(ledger, best, rows, left)
            if step is not None:
                yield step
                return

    def _to_repeat(self, ledger: Ledger) -> Candidate | None:
        """The best candidate that another seed would change, if it is as good as the best of all within the
        noise, and if less error than that noise would be noticed."""
        noise = ledger.noise
        if 1.0 - ledger.best_score <= noise:
            return None
        found = [c for c in ledger.candidates if c.learner.seeded and not c.repeat and self._whole(c)]
        best = max(found, key=lambda c: (_score(c), -c.number), default=None)
        return best if best is not None and _score(best) >= ledger.best_score - noise else None

    def _whole(self, candidate: Candidate) -> bool:
        """Whether its training came to an end: a one-shot fit, or a cooldown from a rung."""
        if candidate.best is None or candidate.stopped or candidate.running is not None:
            return False
        return not candidate.learner.resumable or candidate.cooled in self._ladder

    def _first(
        self, ledger: Ledger, candidate: Candidate, left: float, rows: int, reserve: float = 0.0
    ) -> Step:
        learner = candidate.learner
        if learner.parent is not None and candidate.parent not in ledger.features:
            cost = self._seconds(ledger, candidate, "features", learner.rows)
            return self._step(candidate, "features", left, cost, to_rows=learner.rows, why="features for it")
        kind: SegmentKind = "train" if learner.resumable else "fit"
        parents = (ledger.features[candidate.parent],) if candidate.parent is not None else ()
        cost = self._seconds(ledger, candidate, kind, rows)
        why = f"enters from {candidate.source}"
        return self._step(
            candidate, kind, left, cost, to_rows=rows, parents=parents, why=why, reserve=reserve
        )

    # going on

    def _finalists(self, ledger: Ledger, left: float) -> list[Candidate]:
        """The best trunks that can go on: ranked at the base, then re-ranked among those that reached
        each higher rung, so that only results of one rung are compared. Those that show early and are
        still below the base stand before the first one that is not even forecast to come near to them."""
        ranked: list[int] = []
        for rows in sorted(ledger.rungs, key=lambda r: (r >= self._base, r)):
            top = ledger.rungs[rows].top(8)
            below = [n for n in ranked if n not in top]
            first = next((i for i, n in enumerate(ranked) if n in top), 0)
            ranked = below[:first] + top + below[first:]
        trunks = [ledger.candidates[n] for n in ranked]
        forecast = ledger.trend.forecast
        early = sorted((c for c in trunks if self._shows_early(c)), key=forecast, reverse=True)
        found = list[Candidate]()
        for trunk in (c for c in trunks if not self._shows_early(c)):
            while early and early[0].points[-1][1] > 1.0 - _CLEARLY * (1.0 - forecast(trunk)):
                found.append(early.pop(0))
            found.append(trunk)
        found += early
        worthwhile = (c for c in found if c.running or self._worthwhile(ledger, c, left))
        return list(islice(worthwhile, self._settings.survivors))  # weighing all took half of a decision

    def _shows_early(self, trunk: Candidate) -> bool:
        """Whether it starts from weights and is still below the base."""
        return bool(trunk.learner.least_rows) and trunk.rows < self._base

    def _worthwhile(self, ledger: Ledger, trunk: Candidate, left: float) -> bool:
        """Whether it can go on, and could become the best in the time there is."""
        if not trunk.idle or self._hopeless(ledger, trunk, self.rungs_left(trunk)):
            return False
        goal = self._goal(ledger, trunk, left)
        return not self._hopeless(ledger, trunk, sum(trunk.rows < rows <= goal for rows in self._ladder))

    def _hopeless(self, ledger: Ledger, trunk: Candidate, rungs: int) -> bool:
        """Whether not even `rungs` more could make it the best. Once true, true for ever: scores only
        rise."""
        if trunk.stopped or trunk.family in ledger.dead_families:
            return True
        noise = trunk.points[-1][2] if trunk.points else 0.0
        return trunk.potential(rungs) + noise < ledger.best_score

    def _within_noise(self, ledger: Ledger, candidate: Candidate, rows: int) -> bool:
        reached = candidate.at(rows)
        return reached is not None and reached[0] + reached[1] >= ledger.rungs[rows].bound(self._settings.eta)

    def _way(self, ledger: Ledger, trunk: Candidate, left: float) -> tuple[Step | None, float]:
        """Its next step towards the highest rung that fits, and the time until it is cooled down there."""
        if trunk.running is not None or not trunk.idle:
            return None, 0.0
        goal = self._goal(ledger, trunk, left)
        if goal > trunk.rows:
            rows = next(r for r in self._rungs_above(trunk) if r <= goal)
            cost = self._seconds(ledger, trunk, "train", rows - trunk.rows)
            reserve = self._seconds(ledger, trunk, "cooldown", self._cooldown_rows(rows))
            step = self._step(
                trunk,
                "train",
                left,
                cost,
                to_rows=rows,
                reserve=reserve,
                why=f"promoted from {trunk.rows} rows",
            )
            return step, self._chain(ledger, trunk, goal, min(trunk.tried))
        if trunk.cooled == trunk.rows:
            return None, 0.0
        length = self._last_rows(ledger, trunk, left)
        cost = self._seconds(ledger, trunk, "cooldown", length)
        if not self._fits(cost, left):
            return None, 0.0
        why = "as far as time allows"
        return self._step(trunk, "cooldown", left, cost, to_rows=trunk.rows + length, why=why), cost

    def _goal(self, ledger: Ledger, trunk: Candidate, left: float, entry: int = 0) -> int:
        """The highest rung whose way fits, else where it stands. `entry`: where a new one would enter."""
        goal = trunk.rows
        if trunk.topped:
            return goal
        share = self._settings.way_share * (ledger.horizon or left)
        entry = entry or min(trunk.tried, default=self._base)
        for rows in [r for r in self._rungs_above(trunk) if r >= entry]:
            if not self._fits(self._chain(ledger, trunk, rows, entry), left):
                break
            if self._chain(ledger, trunk, rows, entry, from_start=True) > share:
                break
            goal = rows
        return goal

    def _rungs_above(self, trunk: Candidate) -> list[int]:
        return [r for r in self._ladder if r > trunk.rows and r not in trunk.tried]

    def _chain(
        self, ledger: Ledger, trunk: Candidate, goal: int, entry: int, from_start: bool = False
    ) -> float:
        """Seconds of all segments from the rung of its entry up to `goal` rows and of the cooldown there."""
        per_row, fixed_s = self._pace(ledger, trunk)
        rows = 0 if from_start else trunk.rows
        rungs = [r for r in self._ladder if rows < r <= goal and r >= entry]
        trained = rungs[-1] - rows if rungs else 0
        return per_row * (trained + self._cooldown_rows(goal)) + (len(rungs) + 1) * fixed_s

    # amounts

    def _cooldown_rows(self, rows: int) -> int:
        return max(1, round(self._settings.cooldown * rows))

    def _last_rows(self, ledger: Ledger, trunk: Candidate, left: float) -> int:
        """Rows of the cooldown of a trunk that no further rung fits: longer as far as the time allows."""
        least = self._cooldown_rows(trunk.rows)
        start = self._seconds(ledger, trunk, "cooldown", 0)
        per_row = (self._seconds(ledger, trunk, "cooldown", least) - start) / least
        if per_row <= 0.0:
            return least
        fitting = int((left / _SAFETY - start) / per_row)
        return max(least, min(fitting, round(self._settings.stretch * self._settings.cooldown * trunk.rows)))

    def _seconds(self, ledger: Ledger, candidate: Candidate, kind: SegmentKind, rows: int) -> float:
        """Predicted seconds of a segment; in counted mode each segment costs one."""
        learner = candidate.learner
        if kind == "features" and self._timed:
            group, per_row = extraction(learner.parent), learner.parent_seconds_per_row
            return ledger.cost.seconds(
                str(candidate.parent), group, rows, per_row=per_row, fixed_s=learner.fixed_s
            )
        per_row, fixed_s = self._pace(ledger, candidate)
        return per_row * rows + fixed_s

    def _pace(self, ledger: Ledger, candidate: Candidate) -> tuple[float, float]:
        """Seconds per row, and of each segment beside."""
        if not self._timed:
            return 0.0, 1.0
        learner = candidate.learner
        known = candidate.key if candidate.measured else ""  # hashing each proposal would cost most of all
        return ledger.cost.pace(
            known, candidate.family, per_row=learner.seconds_per_row, fixed_s=learner.fixed_s
        )

    def _safe(self, cost: float) -> float:
        return cost * _SAFETY if self._timed else cost

    def _fits(self, cost: float, left: float) -> bool:
        return self._safe(cost) <= left

    def _step(
        self,
        candidate: Candidate,
        kind: SegmentKind,
        left: float,
        cost: float,
        *,
        to_rows: int,
        why: str,
        parents: tuple[str, ...] = (),
        reserve: float = 0.0,
    ) -> Step:
        resumed = kind in ("train", "cooldown") and candidate.checkpoint is not None
        return Step(
            candidate=candidate,
            kind=kind,
            config=candidate.learner.parent or {} if kind == "features" else candidate.config,
            from_rows=candidate.rows if resumed else 0,
            to_rows=to_rows,
            parents=(candidate.checkpoint,) if resumed and candidate.checkpoint else parents,
            cost=cost,
            cap=self._cap(kind, cost, left, self._safe(reserve), first=not resumed),
            why=why,
        )

    def _cap(self, kind: SegmentKind, cost: float, left: float, reserve: float, *, first: bool) -> float:
        """Seconds it may take: room for a wrong estimate, never what its own cooldown needs."""
        if not self._timed:
            return float("inf")
        if kind == "cooldown":
            return max(0.5, left)
        room = max(3.0 * cost, (0.3 if first else 0.15) * left, min(10.0, 0.7 * left))
        return max(0.5, min(room, left - reserve))


def complete(space: Space, config: Config) -> dict[str, Any]:
    """`config` with every active parameter named. Raises UsageError where it does not lie in the space."""
    try:
        return space.complete({k: v for k, v in config.items() if k != VIEW or VIEW in space.defaults})
    except UsageError as error:
        raise UsageError(f"A portfolio must lie in its space: {error.rule}", got=error.got) from error


def _repeats(ledger: Ledger, best: Candidate) -> int:
    """How many trainings of `best` with another seed there are."""
    return sum(ledger.key(best.config, best.view, c.repeat) == c.key for c in ledger.repeats)


def _score(candidate: Candidate) -> float:
    return float("-inf") if candidate.best is None or candidate.best.score is None else candidate.best.score


def _view_parameter(views: tuple[str, ...]) -> Space:
    return Space(parameters=(Parameter(name=VIEW, domain=Choice(options=views), default=views[0]),))
