"""What was measured on other data: configurations x data sets x learning curves, and what follows from it.

    table = extended(path)                   the shipped numbers, and those of the user's own runs
    entries = order(table, case)             what to try first, for `gristmill.search.portfolio.load`
    left = expected(table, case)             the share of the floor's error that a run is expected to leave

`benchmarks/meta/collect.py` measures, `benchmarks/meta/build.py` writes `metatable.json` and judges it on
collections that were left out. Scores are on the common scale: 0 is the floor (always the majority, or the
mean), 1 is perfect; so 1 minus a score is the share of the floor's error that is left.
"""

from __future__ import annotations

import heapq
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from gristmill.search.portfolio import Modality, fitted, shipped
from gristmill.segment import Config, config_hash
from gristmill.space import Space

VERSION = 1
BY_TABLE = False
"""Whether the table decides the order of the portfolio; the hand-made list does otherwise. Off: on four
left-out collections of pictures, measured with the hand-made list only, the mean regret over three minutes
was 0.040 by the table and 0.039 by hand (`benchmarks/results/portfolio.jsonl`)."""
LEAST_COLLECTIONS = 3
"""With fewer of a modality the table says nothing: no order, no expectation."""
PLANNED = ("aug.flip",)
"""Parameters that the plan decides from the user's data: no part of what a table compares."""
_FAR = 0.1  # weight of a data set that is like the user's in nothing, beside 1 for one alike in all
_WIDTHS = {"train": math.log(8.0), "classes": math.log(4.0), "size": math.log(4.0), "columns": math.log(4.0)}
_FREE = 2  # picks of the table before the entries that are always in the list
_CHEAPEST_S = 0.05  # what costs less is priced so, or the cheapest would win however little it gains
_QUANTILES = (0.1, 0.5, 0.9)

Point = tuple[float, float, float, float]
"""(training rows, nominal seconds of one thread since the start, score, its standard error)."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a data set is, in numbers. Sets of one origin share the `collection`, which counts as one.

    `facts`: `train`, `valid`, `calib` (rows), `models` (trained for each candidate, with folds more than 1),
    `classes` (0: regression), and `size` in pixels or `columns`.
    """

    name: str
    collection: str
    modality: str
    facts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One configuration on one data set. `curve` ascends in seconds; a network's last point may be cooled.

    `features_s`: seconds of its features, a part of every point's; None for what is trained in rungs.
    `parent`: names these features; entries with the same one share them.
    """

    data: DataSet
    config: Config
    curve: tuple[Point, ...]
    features_s: float | None = None
    parent: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """All entries; `notes` say in plain words what could not be read."""

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Table:
        """Read the shipped format: configurations once, then sets whose runs name them by number."""
        configs = record["configs"]
        found: list[Entry] = []
        for one in record["sets"]:
            runs = [[*configs[number], features_s, curve] for number, features_s, curve in one["runs"]]
            found += _entries({**one, "runs": runs})
        return Table(entries=tuple(found))

    def sets(self, modality: str) -> tuple[DataSet, ...]:
        """The data sets of a modality, in their order; of one that was measured twice the later facts."""
        return tuple({e.data.name: e.data for e in self.entries if e.data.modality == modality}.values())

    def collections(self, modality: str) -> tuple[str, ...]:
        """The collections of a modality."""
        return tuple(dict.fromkeys(d.collection for d in self.sets(modality)))

    def without(self, collection: str) -> Table:
        """The table as it would be had this collection not been measured."""
        return replace(self, entries=tuple(e for e in self.entries if e.data.collection != collection))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Data to come, and the time for them.

    `facts` as in `DataSet`; None: nothing is known of them, so all collections count alike, at the costs
    that were measured. `seconds`: of search, with `workers` of one thread. `scale`: seconds here for a
    nominal second.
    """

    modality: Modality
    space: Space
    facts: Mapping[str, float] | None = None
    seconds: float
    workers: int = 1
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What an entry of a list brought: `seconds` since the start, its `score` and `noise`."""

    seconds: float
    score: float
    noise: float


# reading


def load() -> Table:
    """The shipped table."""
    text = resources.files(__package__).joinpath("metatable.json").read_text(encoding="utf-8")
    return Table.from_json(json.loads(text))


def extended(path: Path, table: Table | None = None) -> Table:
    """`table` (default: the shipped one) with the user's own runs, one JSON line each, where there are any.

    A line that cannot be read is left out; the table then has a note that says so. Never raises.
    """
    table = load() if table is None else table
    lines, damaged = local_lines(path)
    own = [entry for line in lines for entry in _entries(line)]
    note = (
        f"{path} is damaged: {damaged} of its runs {'is' if damaged == 1 else 'are'} left out; "
        "delete it to be rid of this note"
    )
    return Table(entries=(*table.entries, *own), notes=(*table.notes, *([note] if damaged else [])))


def local_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The readable records of a local table, and how many lines (or files) could not be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError:
        return [], 1
    found: list[dict[str, Any]] = []
    lines = [line for line in text.split("\n") if line.strip()]
    for line in lines:
        try:
            record = json.loads(line)
            list(_entries(record))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            continue
        found.append(record)
    return found, len(lines) - len(found)


def _entries(record: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a set whose runs are (configuration, parent, features_s, curve); checks each number.
    `speed`: seconds as they were measured for a nominal one, in which the entries are."""
    if record.get("version", VERSION) != VERSION:
        raise ValueError(f"the version must be {VERSION}; got {record['version']!r}")
    facts = {str(k): _number(v) for k, v in record["facts"].items()}
    if not (
        {"train", "valid", "calib", "models", "classes"} <= set(facts)
        and min(facts["train"], facts["models"]) >= 1
    ):
        raise ValueError(f"the facts must name the rows, the models and the classes; got {facts}")
    names = [str(record[name]) for name in ("name", "collection", "modality")]
    data = DataSet(name=names[0], collection=names[1], modality=names[2], facts=facts)
    speed = _number(record.get("speed", 1.0))
    for config, parent, features_s, curve in record["runs"]:
        if not isinstance(config.get("family"), str) or not all(map(_is_value, config.values())):
            raise ValueError(f"a configuration must name a family and hold plain values; got {config}")
        yield Entry(
            data=data,
            config=config,
            curve=tuple(_point(p, speed) for p in curve),
            features_s=None if features_s is None else _number(features_s) / speed,
            parent=str(parent),
        )


def _point(values: Sequence[Any], speed: float) -> Point:
    rows, seconds, score, noise = map(_number, values)
    if rows < 0 or seconds < 0 or score > 1.0 or noise < 0:
        raise ValueError(f"a point must be (rows, seconds, score up to 1, noise); got {values}")
    return rows, seconds / speed, score, noise


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"a finite number is needed; got {value!r}")
    return float(value)


def _is_value(value: Any) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


# the order of the portfolio


def order(table: Table, case: Case, *, by_table: bool = BY_TABLE) -> list[dict[str, Any]]:
    """Entries for `portfolio.load`: what to try first on these data, best first.

    By the table: the floor, then the picks of `greedy`, the promised entries of the shipped list behind
    the first two picks at the latest; then the rest of the shipped list, for what the table does not know.
    The shipped list as it is where the table has fewer than LEAST_COLLECTIONS of the modality.
    """
    hand_made = [_bare(e) for e in shipped(case.modality)]
    if not by_table or len(table.collections(case.modality)) < LEAST_COLLECTIONS:
        return hand_made
    return merged(greedy(table, case), case) + hand_made


def merged(picks: Sequence[Config], case: Case) -> list[dict[str, Any]]:
    """The picks among the entries that are in every list; the first pick that is alike in what an entry's
    `same` names stands for that entry (its resolution is the plan's affair)."""
    floor, *waiting = [e for e in shipped(case.modality) if e.get("fixed")]
    found = [_bare(floor)]
    for number, config in enumerate(picks, 1):
        stands_for = next((e for e in waiting if _counts_as(config, e, case.space)), None)
        found.append({"config": dict(config)} if stands_for is None else _bare(stands_for))
        waiting = [e for e in waiting if e is not stands_for]
        if number == _FREE:
            found, waiting = [*found, *map(_bare, waiting)], []
    return [*found, *map(_bare, waiting)]


def greedy(table: Table, case: Case) -> list[dict[str, Any]]:
    """Configurations in greedy order: each is the one with the largest mean gain per second of its cost.

    The gain over the best so far is averaged over the data sets of the table, weighted by how like they are
    to the user's, and 0 where a configuration was not measured; costs are those expected on the user's
    data, features that are there already are free, and only what fits into the time left is picked. Ends
    when nothing gains. Greedy portfolios: Auto-sklearn 2.0 (Feurer et al. 2022, arXiv 2007.04074) and
    zero-shot AutoML with pretrained models (Ozturk et al. 2022, arXiv 2206.08476); gain per cost: Quick-Tune
    (Arango et al. 2023, arXiv 2306.03828).
    """
    grid, weights = _grid(table, case), _weights(table.sets(case.modality), case.facts)
    best, paid, spent = dict.fromkeys(weights, 0.0), set[str](), 0.0
    found: list[dict[str, Any]] = []
    while grid:
        left = case.seconds - spent / case.workers
        gains = {key: _gain(row, weights, best, paid, left) for key, row in grid.items()}
        key = min(gains, key=lambda k: (-gains[k][0] / gains[k][1], k))
        gain, cost = gains[key]
        if gain <= 0.0:
            break
        row = grid.pop(key)
        for name, cell in row.cells.items():
            best[name] = max(best[name], cell.until(left, paid)[0])
        paid |= {cell.parent for cell in row.cells.values()}
        spent += cost
        found.append(row.config)
    return found


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """An entry at the price of the user's data: `scores` are the best so far at `times`."""

    times: tuple[float, ...]
    scores: tuple[float, ...]
    noises: tuple[float, ...]
    parent: str
    parent_s: float

    def until(self, left: float, paid: Iterable[str]) -> tuple[float, float, float]:
        """(score, seconds, noise) of the last point within `left` seconds; all 0 when there is none."""
        free = self.parent_s if self.parent and self.parent in paid else 0.0
        last = bisect_right(self.times, left + free) - 1
        if last < 0:
            return 0.0, 0.0, 0.0
        return self.scores[last], max(_CHEAPEST_S, self.times[last] - free), self.noises[last]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A configuration in the user's space, and its cells by the name of the data set."""

    config: dict[str, Any]
    cells: Mapping[str, _Cell]


def _gain(
    row: _Row, weights: Mapping[str, float], best: Mapping[str, float], paid: set[str], left: float
) -> tuple[float, float]:
    """Mean gain over all data sets, and mean seconds on those where it fits."""
    gain = cost = fitting = 0.0
    for name, cell in row.cells.items():
        score, seconds, _ = cell.until(left, paid)
        if seconds:
            gain += weights[name] * max(0.0, score - best[name])
            cost += weights[name] * seconds
            fitting += weights[name]
    return gain, cost / fitting if fitting else math.inf


def _grid(table: Table, case: Case) -> dict[str, _Row]:
    """By key, the rows of the modality that the user's space offers as they were measured."""
    found: dict[str, _Row] = {}
    for entry in table.entries:
        config = _offered(case.space, entry.config) if entry.data.modality == case.modality else None
        if config is None or not entry.curve:
            continue
        cells = found[_key(config)].cells if _key(config) in found else {}
        found[_key(config)] = _Row(config=config, cells={**cells, entry.data.name: _priced(entry, case)})
    return found


def _offered(space: Space, config: Config) -> dict[str, Any] | None:
    """The configuration in this space; None when it would become another one there."""
    kept = {k: v for k, v in config.items() if k not in PLANNED}
    known = [p for p in space.parameters if p.name in kept]
    return fitted(space, kept) if all(p.domain.contains(kept[p.name]) for p in known) else None


def _key(config: Config) -> str:
    return config_hash({k: v for k, v in config.items() if k not in PLANNED})


def _priced(entry: Entry, case: Case) -> _Cell:
    """Features cost by the rows that are read, fits by training rows and models, networks by models."""
    theirs = entry.data.facts
    ours = theirs if case.facts is None else case.facts
    models = ours["models"] / theirs["models"]
    before = entry.features_s or 0.0
    if entry.features_s is None:
        parent_s, per_second = 0.0, models
    else:
        parent_s = case.scale * before * _read(ours) / _read(theirs)
        per_second = models * ours["train"] / theirs["train"]
    scores, noises = list[float](), list[float]()
    for _, _, score, noise in entry.curve:
        better = not scores or score > scores[-1]
        scores.append(score if better else scores[-1])
        noises.append(noise if better else noises[-1])
    return _Cell(
        times=tuple(parent_s + case.scale * per_second * max(0.0, p[1] - before) for p in entry.curve),
        scores=tuple(scores),
        noises=tuple(noises),
        parent=entry.parent,
        parent_s=parent_s,
    )


def _read(facts: Mapping[str, float]) -> float:
    """Rows whose features are computed: with folds valid and calib are training rows."""
    return facts["train"] if facts["models"] > 1 else facts["train"] + facts["valid"] + facts["calib"]


def _weights(sets: Sequence[DataSet], facts: Mapping[str, float] | None) -> dict[str, float]:
    """By name, summing to 1: the likeness to the user's data, shared by the sets of a collection."""
    shared = [d.collection for d in sets]
    raw = {d.name: _likeness(d.facts, facts) / shared.count(d.collection) for d in sets}
    return {name: weight / sum(raw.values()) for name, weight in raw.items()}


def _likeness(theirs: Mapping[str, float], ours: Mapping[str, float] | None) -> float:
    """From _FAR to 1, falling with the distance of the logarithms of rows, classes and picture size or
    columns (eight times the rows, or four times the classes, is one standard deviation)."""
    if ours is None:
        return 1.0
    both = [(n, w) for n, w in _WIDTHS.items() if n in theirs and n in ours]
    steps = (math.log(max(1.0, theirs[n]) / max(1.0, ours[n])) / width for n, width in both)
    return _FAR + (1.0 - _FAR) * math.exp(-sum(s * s for s in steps) / 2.0)


def _counts_as(config: Config, entry: Mapping[str, Any], space: Space) -> bool:
    promised = _offered(space, entry["config"])
    names = entry.get("same", config.keys())
    return promised is not None and all(config.get(n) == promised.get(n) for n in ("family", *names))


def _bare(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("config", "view") if name in entry}


# what to expect


def expected(table: Table, case: Case) -> tuple[float, float, float] | None:
    """(low, middle, high) share of the floor's error that a run is expected to leave: a tenth, half and nine
    tenths of the measured collections leave less, which with a handful of them is nearly their range. None
    where the table has fewer than LEAST_COLLECTIONS of the modality.

    Weighted quantiles over the data sets, each reached by the list that the rest of the table makes, at the
    costs of the user's data.
    """
    sets = table.sets(case.modality)
    if len(table.collections(case.modality)) < LEAST_COLLECTIONS:
        return None
    lists = {c: order(table.without(c), case) for c in table.collections(case.modality)}
    grid = _grid(table, case)
    left = {d.name: 1.0 - settled(_followed(lists[d.collection], grid, d.name, case)) for d in sets}
    low, middle, high = _quantiles(left, _weights(sets, case.facts))
    return low, middle, high


def followed(
    entries: Iterable[Mapping[str, Any]], table: Table, name: str, case: Case
) -> tuple[Reached, ...]:
    """What going through a list brings on one data set of the table: the next entry goes to the first free
    worker, is trained as far as was measured while it fits, and is skipped when it does not or is unknown."""
    return _followed(entries, _grid(table, case), name, case)


def _followed(
    entries: Iterable[Mapping[str, Any]], grid: Mapping[str, _Row], name: str, case: Case
) -> tuple[Reached, ...]:
    free = [0.0] * case.workers
    paid, seen, found = set[str](), set[str](), list[Reached]()
    for entry in entries:
        config = fitted(case.space, entry["config"]) if entry.get("view", "all") == "all" else None
        row = None if config is None else grid.get(_key(config))
        if config is None or row is None or name not in row.cells or _key(config) in seen:
            continue
        cell = row.cells[name]
        score, seconds, noise = cell.until(case.seconds - free[0], paid)
        if seconds:
            found.append(Reached(seconds=free[0] + seconds, score=score, noise=noise))
            heapq.heapreplace(free, free[0] + seconds)
            seen.add(_key(config))
            paid.add(cell.parent)
    return tuple(found)


def settled(reached: Sequence[Reached]) -> float:
    """The score to expect of the best: the mean of all within a standard error of the highest, because the
    highest of many noisy scores is too high. 0, the floor, where there is none."""
    if not reached:
        return 0.0
    top = max(reached, key=lambda r: r.score)
    near = [r.score for r in reached if r.score >= top.score - top.noise]
    return max(0.0, sum(near) / len(near))


def _quantiles(values: Mapping[str, float], weights: Mapping[str, float]) -> tuple[float, ...]:
    """Weighted quantiles: each value stands at the middle of its weight, lines between them."""
    names = sorted(values, key=lambda n: (values[n], n))
    places, before = list[float](), 0.0
    for name in names:
        places.append(before + weights[name] / 2.0)
        before += weights[name]
    return tuple(_between(q, places, [values[n] for n in names]) for q in _QUANTILES)


def _between(place: float, places: Sequence[float], values: Sequence[float]) -> float:
    above = bisect_right(places, place)
    if above in (0, len(places)):
        return values[min(above, len(places) - 1)]
    left, right = places[above - 1], places[above]
    return values[above - 1] + (values[above] - values[above - 1]) * (place - left) / (right - left)
