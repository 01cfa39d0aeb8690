"""From outcomes to a bundle: choose, calibrate, build, check against the trained model, read the test part.

The conductor's second half. `Keeper` keeps the best verified bundle so far while the race runs; `conclude`
makes NAME.grist.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gristmill import narrative, planning
from gristmill.data.audit import Audit
from gristmill.data.prepare import WITH_VALID, Prepared, Scan
from gristmill.data.source import Source
from gristmill.deadline import Deadline
from gristmill.deployment import bundle, runtime
from gristmill.deployment.member import seconds_per_rows
from gristmill.errors import ResourceError, VerificationError
from gristmill.evaluation import calibrate, ensemble
from gristmill.evaluation.evaluate import evaluate
from gristmill.evaluation.interval import paired
from gristmill.evaluation.metrics import floors
from gristmill.evaluation.records import Evaluation
from gristmill.limits import NO_LIMITS, Limits
from gristmill.models import catalog
from gristmill.models.weights import LITE0
from gristmill.report import Rival, headline, render
from gristmill.run import Run, read_json, write_bytes, write_json
from gristmill.search.executors.protocol import Executor
from gristmill.search.journal import Journal
from gristmill.search.study import Study
from gristmill.segment import Artefact, Outcome, Segment
from gristmill.task import spoken
from gristmill.training import checkpoint

Say = Callable[..., None]
AGREEMENT_ROWS = 500
"""Validation rows on which the bundle is compared with the trained model, from the original files."""
EARLY_ROWS = 32
"""The same for the bundles kept on the way, which must not cost the race its time."""
AGREEMENT = 0.995
"""Share of equal labels that a bundle must reach; regression: within 1e-3 target standard deviations."""
TIE = 1e-3
"""Labels whose probabilities are this close are equal: trained logits are kept as float16."""
MOST_MEMBERS = 4
ENSEMBLE_COST = 1.6
"""The final ensemble may cost this many times what its best member costs, as far as the reserve goes."""
SAFETY = 1.25
AGAIN, AGAIN_KNOWN = 1.25, 0.7
"""Fitting again with the validation rows takes at most this many times what the first fit took: all of it on
more rows, or one fit with the strength that the first one found on a ladder of them."""
MOST_RESERVED = 0.4
"""The reserve never takes more than this part of the budget; then only a part of the test rows is read."""
REBUILD_SHARE = 0.02
"""A better bundle is built on the way only when building costs at most this part of the time left."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial that can be deployed.

    `outputs`: float32 (valid + calib, K) logits, or (valid + calib, 1) values in the target's unit; with
    folds they are out of fold. `deployed`: what the model itself says on valid, (valid, K); without folds
    the same.
    `cost`: measured seconds of one core per row predicted with others, `latency_s` alone. `size`: bytes of
    its network. `folder`: its member folder.
    """

    id: str
    title: str
    config: Mapping[str, Any]
    view: str
    role: str
    score: float
    noise: float
    outputs: np.ndarray
    deployed: np.ndarray
    cost: float
    latency_s: float
    size: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The final model before it is a file: members with weights, calibration, and what it does on valid.

    `outputs`: calibrated, of valid and then calib rows, by which it is judged. `deployed`: calibrated, of
    valid rows, what its bundle must say; with folds it has learnt from these rows.
    """

    members: tuple[tuple[Candidate, float], ...]
    temperature: float
    threshold: float | None
    answer_set: float | None
    outputs: np.ndarray
    deployed: np.ndarray
    valid: Evaluation

    @property
    def cost(self) -> float:
        """Seconds of one core per predicted row."""
        return sum(c.cost for c, _ in self.members)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What `conclude` made: the evaluation that counts and the words for it."""

    evaluation: Evaluation
    score: float
    headline: str
    leaderboard: Sequence[Mapping[str, Any]]
    traditional: float | None
    difference: Mapping[str, float] | None


# ---------------------------------------------------------------- in the worker


def with_member(
    segment: Segment, prepared: Prepared, outcome: Outcome, folder: Path, limits: Limits
) -> Outcome:
    """The outcome with its deployable member: `member/model.onnx` and `member/member.json`.

    Exported at once, in the worker that has torch loaded, so that every scored outcome can be deployed by a
    driver that never imports torch. Its size and prediction time are measured here, too; one that is beyond
    the limits loses its score with the reason, so no time is spent on it any more.
    """
    if outcome.score is None or "checkpoint" not in outcome.artefacts:
        return outcome
    from gristmill.deployment import export
    from gristmill.training import deployable

    ready = deployable(outcome, near=folder.parent)
    path = export.write_member(folder / "member", segment.config, prepared.task, ready.tensors, ready.meta)
    size = path.stat().st_size
    predict_s, latency_s = seconds_per_rows(path.parent, (16, 1))
    facts = {
        **outcome.facts,
        "predict_s": predict_s,
        "latency_s": latency_s,
        "bytes": size,
    }
    if catalog.role(segment.config) != "floor" and (why := limits.exceeded(facts["latency_s"], size)):
        return replace(outcome, score=None, noise=None, reason=why, facts=facts)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    artefacts = {**outcome.artefacts, "member": Artefact(uri=str(path), sha256=sha256)}
    return replace(outcome, artefacts=artefacts, facts=facts)


# ---------------------------------------------------------------- choosing


def candidates(study: Study, prepared: Prepared) -> list[Candidate]:
    """The deployable trials, best first."""
    found = []
    for trial in study.leaderboard:
        outcome = study.outcome(str(trial.outcome))
        if not _deployable(outcome):
            continue
        found.append(
            Candidate(
                id=outcome.id,
                title=planning.title(trial.config, trial.repeat),
                config=trial.config,
                view=trial.view,
                role=catalog.role(trial.config),
                score=float(outcome.score or 0.0),
                noise=float(outcome.noise or 0.0),
                outputs=_outputs(outcome, prepared),
                deployed=_deployed(outcome, prepared),
                cost=float(outcome.facts.get("predict_s", 0.0)),
                latency_s=float(outcome.facts.get("latency_s", 0.0)),
                size=int(outcome.facts.get("bytes", 0)),
                folder=Path(outcome.artefacts["member"].uri).parent,
            )
        )
    return found


def _deployable(outcome: Outcome) -> bool:
    needed = [a for role, a in outcome.artefacts.items() if role in ("member", "predictions", "deployed")]
    return "member" in outcome.artefacts and all(_intact(a.uri, a.sha256) for a in needed)


@cache  # looked at after every outcome; written once, never changed
def _intact(uri: str, sha256: str) -> bool:
    return Path(uri).is_file() and checkpoint.digest(Path(uri)) == sha256


def _deployed(outcome: Outcome, prepared: Prepared) -> np.ndarray:
    role = checkpoint.DEPLOYED if checkpoint.DEPLOYED in outcome.artefacts else "predictions"
    return _outputs(outcome, prepared, role)[: len(prepared.parts.valid)]


def _outputs(outcome: Outcome, prepared: Prepared, role: str = "predictions") -> np.ndarray:
    stored = np.load(outcome.artefacts[role].uri, allow_pickle=False).astype(np.float32)
    if prepared.task.target.task != "regression":
        return np.asarray(stored)
    scale = outcome.facts["target"]
    return np.asarray(stored * np.float32(scale["std"]) + np.float32(scale["mean"]))


def choose(
    found: Sequence[Candidate],
    prepared: Prepared,
    *,
    cost_cap: float = math.inf,
    limits: Limits = NO_LIMITS,
) -> Choice:
    """The greedy ensemble on valid, then temperature, threshold and answer sets on calib.

    Args:
        found: At least one candidate.
        cost_cap: Seconds of one core per row that prediction may cost.
        limits: Of the members together; each of `found` keeps them alone.
    """
    task, target = prepared.task, prepared.task.target
    y = np.asarray(prepared.targets[target.name])
    valid = prepared.parts.valid
    # mixed in, the floor would only shift answers towards the most frequent class, by chance on few rows
    found = [c for c in found if c.role != "floor"] or found
    by_id = {c.id: c for c in found}
    costs, cap = {c.id: c.cost for c in found}, cost_cap
    if not limits.none:  # one number for all: the largest part that it uses up of what is allowed
        costs = {c.id: max(c.cost / cost_cap, limits.share(c.latency_s, c.size)) for c in found}
        cap = 1.0
    weights = ensemble.greedy(
        {c.id: c.outputs[: len(valid)] for c in found},
        y[valid],
        task.metric,
        target,
        costs=costs,
        cost_cap=cap,
        max_members=MOST_MEMBERS,
    )
    return calibrated(tuple((by_id[i], w) for i, w in weights.items()), prepared)


def calibrated(
    members: tuple[tuple[Candidate, float], ...], prepared: Prepared, valid_figures: Evaluation | None = None
) -> Choice:
    """The choice of `members`, calibrated on calib and judged on valid.

    Args:
        valid_figures: What is known of it on valid already (of members that have since learnt from valid).
    """
    target = prepared.task.target
    y = np.asarray(prepared.targets[target.name])
    valid, calib = prepared.parts.valid, prepared.parts.calib
    weights = [w for _, w in members]
    raw = ensemble.combine([c.outputs for c, _ in members], weights, target)
    deployed = ensemble.combine([c.deployed for c, _ in members], weights, target)
    if target.task == "regression":
        heat, threshold = 1.0, None
        outputs = before = raw
        width = calibrate.residual_quantile(y[calib], raw[len(valid) :])
        answer_set = width if math.isfinite(width) else None
    else:
        heat = calibrate.temperature(raw[len(valid) :], y[calib])
        outputs, before = np.exp(calibrate.apply_temperature(raw, heat)), np.exp(raw)
        deployed = np.exp(calibrate.apply_temperature(deployed, heat))
        threshold = calibrate.choose_threshold(outputs[len(valid) :], y[calib]).threshold
        answer_set = calibrate.conformal_quantile(outputs[len(valid) :], y[calib])
    judged = valid_figures or evaluate(
        target,
        y[valid],
        outputs[: len(valid)],
        metric=prepared.task.metric,
        part="valid",
        names=prepared.names,
        rows=valid,
        floor=floors(y[prepared.parts.train], y[valid], target),
        uncalibrated=_labels_only(target, before[: len(valid)]),
        threshold=threshold,
        answer_set=answer_set,
    )
    return Choice(
        members=members,
        temperature=heat,
        threshold=threshold,
        answer_set=answer_set,
        outputs=outputs,
        deployed=deployed,
        valid=judged,
    )


def _labels_only(target: Any, outputs: np.ndarray) -> np.ndarray | None:
    return None if target.task == "regression" else outputs


# ---------------------------------------------------------------- building


def agreement(model: runtime.Model, choice: Choice, source: Source, prepared: Prepared, rows: int) -> float:
    """Share of validation rows on which the bundle, reading the files, says what the trained model said.

    Raises:
        VerificationError: below AGREEMENT; such a bundle is not shipped.
    """
    valid = prepared.parts.valid
    chosen = np.random.default_rng(0).permutation(len(valid))[:rows]
    said = model.outputs(source.originals(valid[chosen]))
    meant = choice.deployed[chosen]
    if prepared.task.target.task == "regression":
        y = np.asarray(prepared.targets[prepared.task.target.name])[prepared.parts.train]
        equal = np.abs(said[:, 0] - meant[:, 0]) <= 1e-3 * np.nanstd(y)
    else:
        given = np.take_along_axis(meant, said.argmax(axis=1)[:, None], axis=1)[:, 0]
        equal = given >= meant.max(axis=1) - TIE
    share = float(equal.mean())
    if share < AGREEMENT:
        raise VerificationError(
            f"A bundle must agree with the trained model on {AGREEMENT:.1%} of the validation rows.",
            got=f"{share:.2%}",
            next_step="run it again with another --seed and --fresh, and report it when it says this again",
        )
    return share


def write(
    keeper: Keeper,
    choice: Choice,
    path: Path,
    *,
    report: str = "",
    test: Evaluation | None = None,
    weights: bool = False,
) -> Path:
    """Write the bundle of a choice to `path`, atomically and verified; returns `path`."""
    prepared, run = keeper.prepared, keeper.run
    found = {"valid": choice.valid.to_json()} | ({"test": test.to_json()} if test else {})
    pretrained = any(_uses_weights(c.config) for c, _ in choice.members)
    bundle.write(
        path,
        task=prepared.task,
        members=[(c.folder, w) for c, w in choice.members],
        temperature=choice.temperature,
        threshold=choice.threshold,
        answer_set=choice.answer_set,
        reference=keeper.reference,
        evaluation=found,
        provenance={
            "seed": keeper.seed,
            "data": run.identity,
            "rows": len(prepared.names),
            "versions": narrative.versions(),
            "parts": {k: len(getattr(prepared.parts, k)) for k in ("train", "valid", "calib", "test")},
        },
        licences=[LITE0.notice] if pretrained else [],
        options=keeper.options,
        report_html=report,
        name=run.output.stem,
        weights=_weights(choice) if weights else None,
    )
    return path


def _weights(choice: Choice) -> dict[str, np.ndarray]:
    """The tensors of the networks among the members, named `model-0/` and so on as in a `state_dict`."""
    found: dict[str, np.ndarray] = {}
    for number, (candidate, _) in enumerate(choice.members):
        if catalog.family(candidate.config["family"]).learner == "network":
            segment = candidate.folder.parent
            outcome = Outcome.from_json(read_json(segment / "outcome.json")["outcome"])
            tensors = checkpoint.deployable(outcome, near=segment.parent).tensors
            found |= {f"model-{number}/{name}": values for name, values in tensors.items()}
    return found


def _uses_weights(config: Mapping[str, Any]) -> bool:
    return config.get("features.backbone") == "lite0" or bool(config.get("mbconv.pretrained"))


def reference_of(source: Source, scan: Scan, prepared: Prepared) -> dict[str, Any]:
    """Summary statistics of the training rows, for golden rows and drift."""
    train = prepared.parts.train
    columns = {} if prepared.task.has_images else {k: np.asarray(v)[train] for k, v in source.inputs.items()}
    facts = {
        k: np.asarray(v)[train] for k, v in scan.facts.items() if k in ("width", "height", "mean", "std")
    }
    labels = prepared.task.target.labels if prepared.task.target.task != "regression" else ()
    counts = {label: int(n) for label, n in zip(labels, prepared.class_counts, strict=False)}
    return {**bundle.statistics(prepared.task.inputs, columns, facts), "classes": counts}


def decode_seconds(scan: Scan) -> float:
    """Seconds of one core to read one input of the data: a row's cells, or a picture of their mean size.

    Measured with files and filters warm: 0.15 ms a picture and 10 ns a pixel (JPEG and PNG, 784 to 76,800
    pixels); half as much again is added.
    """
    if "width" not in scan.facts:
        return 3e-5
    area = np.asarray(scan.facts["width"], float) * np.asarray(scan.facts["height"], float)
    return 4e-4 + 1.5e-8 * float(area.mean())


@dataclass(kw_only=True)
class Keeper:
    """Keeps `best.grist`, the best verified bundle so far, and knows what the finish will cost.

    The one object of a run whose state changes: what is kept, and how long building took.
    """

    run: Run
    source: Source
    prepared: Prepared
    plan: planning.Plan
    reference: Mapping[str, Any]
    deadline: Deadline
    journal: Journal
    say: Say
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the user asked for, as the bundle tells it: no path among it."""
    kept: Candidate | None = None
    build_s: float = 0.0
    cost: float = 0.0
    """Seconds of one core per row of the best candidate so far."""
    again_s: float = 0.0
    """Seconds that fitting the best candidate again at the end will take, 0 when it is not."""
    decode_s: float = 3e-5
    """Seconds of one core to read one input; see `decode_seconds`."""
    started: float = 0.0
    searched: float = 0.0
    broken: frozenset[str] = frozenset()

    @property
    def score(self) -> float | None:
        """The kept model's score on valid, from 0 (floor) to 1 (perfect)."""
        return None if self.kept is None else self.kept.score

    @property
    def limits(self) -> Limits:
        """What the networks may need: of the latency, reading an input is taken off."""
        return self.plan.limits.without(self.decode_s)

    def shippable(self, study: Study) -> list[Candidate]:
        """The candidates, best first, that agree with their bundle as far as is known and keep the limits."""
        found = (c for c in candidates(study, self.prepared) if c.id not in self.broken)
        return [c for c in found if not self.limits.exceeded(c.latency_s, c.size)]

    def headline(self) -> str:
        """The kept model in a few words; `scale` says what its number is."""
        return "" if self.kept is None else f"{self.kept.score:.3f} ({self.kept.title})"

    def scale(self) -> str:
        """What the numbers of the search are, to be said before the first of them."""
        guess = "the mean" if self.prepared.task.target.task == "regression" else "one answer"
        return f"how far its {spoken(self.prepared.task.metric)} is from always {guess} (0) to perfect (1)"

    def reserve(self) -> float:
        """Seconds that the finish needs from now on: building, the agreement check, the test part."""
        if self.deadline.total == math.inf:
            return 0.0
        needed = self.needed_s(ENSEMBLE_COST * self.cost) + self.again_s
        return min(MOST_RESERVED * self.deadline.total, needed)

    def needed_s(self, cost: float) -> float:
        """Seconds of the finish for a model that costs `cost` seconds of one core per row."""
        rows = len(self.prepared.parts.test) + AGREEMENT_ROWS
        return self._fixed_s() + self._reading_s(cost, rows)

    def cost_cap(self, left: float, best: Candidate) -> float:
        """What a row may cost (seconds of one core) so that agreement check and test part fit into `left`;
        the best candidate is always allowed, also when a run goes on and none was considered before."""
        rows = len(self.prepared.parts.test) + AGREEMENT_ROWS
        spare = left - self._fixed_s() - self._reading_s(0.0, rows)
        return max(best.cost, spare * planning.cores() / (SAFETY * rows))

    def readable_rows(self, cost: float) -> int:
        """How many test rows can be read in the time left, at least 100."""
        left = self.deadline.left() - self._fixed_s() / 2.0
        return max(100, int(min(left / self._reading_s(cost, 1), 1e9)))

    def _fixed_s(self) -> float:
        """Building twice (without and with the test figures), reports, the traditional model's bundle."""
        return planning.FINISH_S + 2.0 * self.build_s

    def _reading_s(self, cost: float, rows: int) -> float:
        """Decode and predict `rows` rows on all cores."""
        return rows * (SAFETY * cost + self.decode_s) / planning.cores()

    def consider(self, study: Study, left: float) -> None:
        """Build a better bundle when there is a better model and building is worth its time."""
        found = self.shippable(study)
        if found:
            first = study.segment(found[0].id)
            again = first.kind == "fit" and self.prepared.parts.folds is None
            self.again_s = refit_of(first, study.outcome(found[0].id))[1] if again else 0.0
            self.cost = found[0].cost
        if not found or not self._worth_building(found[0], left):
            return
        began = self.deadline.spent()
        best = found[0]
        try:
            self._build(choose([best], self.prepared))
        except VerificationError as error:
            self.broken |= {best.id}
            self.say("warning", f"{best.title} is left out: {error.rule} Got: {error.got}.")
            return
        self.build_s = self.deadline.spent() - began
        self.kept = best
        self.say("score", f"best so far: {self.headline()}", score=best.score)

    def _worth_building(self, best: Candidate, left: float) -> bool:
        if self.kept is None:
            return True
        if best.id == self.kept.id or best.score <= self.kept.score:
            return False
        if self.kept.role == "floor":
            return best.role != "floor"
        return best.score > self.kept.score + self.kept.noise and self.build_s <= REBUILD_SHARE * left

    def _build(self, choice: Choice) -> None:
        model = runtime.load(write(self, choice, self.run.folder / "early.grist"), threads=1)
        agreement(model, choice, self.source, self.prepared, EARLY_ROWS)
        os.replace(self.run.folder / "early.grist", self.run.best)

    def timeline(self) -> list[tuple[str, float]]:
        """How the time was spent so far: reading and planning, search, finish."""
        now = self.deadline.spent()
        searched = self.searched or now
        return [("prepare", self.started), ("search", searched - self.started), ("finish", now - searched)]


def decide(keeper: Keeper, study: Study, executor: Executor, *, stopped: bool) -> Choice | None:
    """The final model: the ensemble chosen on valid, its one-shot members fitted once more with valid added.

    Nothing is chosen afterwards, so valid may teach: a quarter more rows for a linear model or trees, in
    seconds. Calibration stays on calib, which no model has seen; figures on valid stay those of the choice.
    With folds there is nothing to add: every member has learnt from all rows. None when there is no
    candidate. A stopped run is not fitted again.

    Raises:
        ResourceError: if there are candidates but none keeps the limits.
    """
    found = keeper.shippable(study)
    if not found:
        _check_limits(candidates(study, keeper.prepared), keeper.limits)
        return None
    cap = math.inf if stopped else keeper.cost_cap(keeper.deadline.left(), found[0])
    choice = choose(found, keeper.prepared, cost_cap=cap, limits=keeper.limits)
    if not keeper.limits.none and all(c.role == "floor" for c in found):
        keeper.say("warning", "nothing but the constant answer keeps --max-latency and --max-size")
    if stopped or keeper.prepared.parts.folds is not None:
        return choice
    again = _fitted_again(keeper, choice, study, executor)
    if not again:
        return choice
    members = tuple((again.get(c.id, c), w) for c, w in choice.members)
    keeper.say("note", f"fitted again with the {len(keeper.prepared.parts.valid):,} validation rows added")
    return calibrated(members, keeper.prepared, choice.valid)


def _check_limits(found: Sequence[Candidate], limits: Limits) -> None:
    """Raise ResourceError when the limits are the reason why nothing can be shipped."""
    beyond = [c for c in found if limits.exceeded(c.latency_s, c.size)]
    if beyond:
        nearest = min(beyond, key=lambda c: limits.share(c.latency_s, c.size))
        raise ResourceError(
            "At least one model must keep --max-latency and --max-size.",
            got=f"{nearest.title} {limits.exceeded(nearest.latency_s, nearest.size)}",
            next_step="allow more, and add --fresh: another limit is another problem",
        )


def _fitted_again(keeper: Keeper, choice: Choice, study: Study, executor: Executor) -> dict[str, Candidate]:
    """The one-shot members fitted on train and valid, by the id of the member each replaces.

    A member that fails or does not end in time stays as it is.
    """
    timed = keeper.deadline.total != math.inf
    room = keeper.deadline.left() - keeper.needed_s(choice.cost) if timed else math.inf
    segments: dict[str, Segment] = {}
    for candidate, _ in choice.members:
        before = study.segment(candidate.id)
        again, seconds = refit_of(before, study.outcome(candidate.id))
        if before.kind == "fit" and candidate.role != "floor" and seconds + 1.0 <= room:
            segments[candidate.id] = replace(again, cap_s=room)
    outcomes = _performed(list(segments.values()), executor, room)
    by_id = {c.id: c for c, _ in choice.members}
    return {
        old: _replaced(by_id[old], outcomes[segment.id], keeper.prepared)
        for old, segment in segments.items()
        if segment.id in outcomes
    }


def refit_of(before: Segment, outcome: Outcome) -> tuple[Segment, float]:
    """The same fit with the validation rows added, and the seconds it will take. A strength that was found
    on hold-out rows is kept: a few more rows ask for hardly another one, and the ladder is most of a fit."""
    view = before.view + WITH_VALID
    name = before.id.replace(f"-{before.view}-", f"-{view}-")
    asked = f"{before.config.get('family')}.strength"
    if before.config.get(asked) != "auto" or "strength" not in outcome.facts:
        return replace(before, id=name, view=view), AGAIN * outcome.seconds
    config = {**before.config, asked: float(outcome.facts["strength"])}
    return replace(before, id=name, view=view, config=config), AGAIN_KNOWN * outcome.seconds


def _performed(segments: list[Segment], executor: Executor, room: float) -> dict[str, Outcome]:
    """The outcomes with a deployable member of what ends within `room` seconds."""
    until = executor.clock.now() + room
    waiting, done = list(segments), dict[str, Outcome]()
    while (waiting or executor.open) and executor.clock.now() < until:
        while waiting and executor.slots():
            executor.submit(waiting.pop(0))
        done |= {o.id: o for o in executor.wait(min(until, executor.clock.now() + 0.5))}
    for left in list(executor.open):
        executor.cancel(left)
    return {i: o for i, o in done.items() if o.state == "done" and "member" in o.artefacts}


def _replaced(candidate: Candidate, outcome: Outcome, prepared: Prepared) -> Candidate:
    folder = Path(outcome.artefacts["member"].uri).parent
    outputs, deployed = _outputs(outcome, prepared), _deployed(outcome, prepared)
    return replace(candidate, id=outcome.id, outputs=outputs, deployed=deployed, folder=folder)


def conclude(
    keeper: Keeper,
    study: Study,
    choice: Choice,
    *,
    audit: Audit,
    seed: int,
    stopped: bool,
    embed_examples: bool,
    options: Mapping[str, Any],
) -> Made:
    """Make NAME.grist of the choice: build, check, read the test part, report.

    A stopped run (Ctrl-C) skips the test part and ends within seconds.

    Raises:
        VerificationError: if the bundle does not agree with the trained model.
    """
    found = keeper.shippable(study)
    choice, model = _agreeing(keeper, choice, found, EARLY_ROWS if stopped else AGREEMENT_ROWS)
    draft = keeper.run.folder / "final.grist"
    test, rival, reading = None, None, 0
    if not stopped and len(keeper.prepared.parts.test):
        test, rival, reading = _read_test(keeper, choice, model, found)
    judged = test or choice.valid
    weights = {c.id.replace(WITH_VALID, ""): w for c, w in choice.members}
    record = narrative.tell(
        source=keeper.source,
        prepared=keeper.prepared,
        audit=audit,
        study=study,
        weights=weights,
        outputs=_answers(found, keeper.prepared),
        evaluation=judged,
        valid=choice.valid if test else None,
        rival=rival,
        reading=reading,
        output=keeper.run.output,
        spent=keeper.deadline.spent(),
        budget=None if keeper.deadline.total == math.inf else keeper.deadline.total,
        state="stopped" if stopped else "finished",
        timeline=keeper.timeline(),
        seed=seed,
        options=options,
        notes=(*keeper.plan.notes, *filter(None, [study.stopped])),
        lines=keeper.journal.lines,
        reading_s=keeper.decode_s,
    )
    write_bytes(keeper.run.report, render(record).encode())
    write_json(keeper.run.folder / "report.json", record.to_json())
    inside = render(record if embed_examples else record.without_examples())
    unlimited = math.isinf(keeper.plan.limits.size)
    write(keeper, choice, draft, report=inside, test=test, weights=unlimited)
    if draft.stat().st_size > keeper.plan.limits.size:
        write(keeper, choice, draft, test=test)
    os.replace(draft, keeper.run.output)
    return Made(
        evaluation=judged,
        score=judged.score.value,
        headline=headline(record),
        leaderboard=[asdict(c) for c in record.leaderboard],
        traditional=None if rival is None else float(rival.metrics[judged.metric]["value"]),
        difference=None if rival is None else rival.difference,
    )


def _answers(found: Sequence[Candidate], prepared: Prepared) -> dict[str, np.ndarray]:
    """Probabilities or values on valid by candidate, for the selection bias."""
    n, target = len(prepared.parts.valid), prepared.task.target
    made = {c.id: ensemble.combine([c.outputs[:n]], [1.0], target) for c in found}
    return {k: v[:, 0] if target.task == "regression" else np.exp(v) for k, v in made.items()}


def _agreeing(
    keeper: Keeper, choice: Choice, found: Sequence[Candidate], rows: int
) -> tuple[Choice, runtime.Model]:
    """The choice as a bundle that agrees with its trained models, else the best other candidate that does."""
    while True:
        model = runtime.load(write(keeper, choice, keeper.run.folder / "final.grist"))
        try:
            agreement(model, choice, keeper.source, keeper.prepared, rows)
            return choice, model
        except VerificationError as error:
            keeper.broken |= {c.id.replace(WITH_VALID, "") for c, _ in choice.members}
            rest = [c for c in found if c.id not in keeper.broken]
            if not rest:
                raise
            keeper.say("warning", f"another model is shipped: {error.rule} Got: {error.got}.")
            choice = choose(rest[:1], keeper.prepared)


def _read_test(
    keeper: Keeper, choice: Choice, model: runtime.Model, found: Sequence[Candidate]
) -> tuple[Evaluation, Rival | None, int]:
    """The untouched test part, from the original files, through the bundle that will be shipped."""
    prepared = keeper.prepared
    rows = np.random.default_rng(0).permutation(prepared.parts.test)[: keeper.readable_rows(choice.cost)]
    if len(rows) < len(prepared.parts.test):
        keeper.say(
            "warning",
            f"time for {len(rows):,} of {len(prepared.parts.test):,} test rows only, drawn by chance",
        )
    rows = np.sort(rows)
    reading = 1 + sum(line.kind == "test" for line in keeper.journal.lines)
    keeper.journal.append("test", {"reading": reading, "rows": len(rows)})
    inputs = keeper.source.originals(rows)
    raw = model.logits(inputs)
    readable: np.ndarray = np.asarray(np.isfinite(raw).all(axis=1))
    rows, raw = rows[readable], raw[readable]
    outputs = model.calibrated(raw)
    target = prepared.task.target
    y = np.asarray(prepared.targets[target.name])
    test = evaluate(
        target,
        y[rows],
        outputs,
        metric=prepared.task.metric,
        part="test",
        names=prepared.names,
        rows=rows,
        floor=floors(y[prepared.parts.train], y[rows], target),
        uncalibrated=None if target.task == "regression" else np.exp(raw),
        threshold=choice.threshold,
        answer_set=choice.answer_set,
    )
    kept = [x for x, ok in zip(inputs, readable, strict=True) if ok]
    return test, _rival(keeper, found, kept, rows, outputs), reading


def _rival(
    keeper: Keeper, found: Sequence[Candidate], inputs: list[Any], rows: np.ndarray, outputs: np.ndarray
) -> Rival | None:
    """The best traditional model on the same rows, or on the first of them when the time is short."""
    prepared = keeper.prepared
    best = next((c for c in found if c.role == "traditional"), None)
    if best is None:
        return None
    order = np.random.default_rng(1).permutation(len(rows))[: keeper.readable_rows(best.cost)]
    rows, outputs = rows[order], outputs[order]
    path = write(keeper, choose([best], prepared), keeper.run.folder / "traditional.grist")
    theirs = runtime.load(path).outputs([inputs[i] for i in order])
    target, metric = prepared.task.target, prepared.task.metric
    y = np.asarray(prepared.targets[target.name])[rows]
    judged = evaluate(target, y, theirs, metric=metric, part="test", rows=rows)
    gap = paired(metric, y, outputs, theirs, target)
    return Rival(
        title=best.title,
        metrics={k: {"value": v.value, "low": v.low, "high": v.high} for k, v in judged.metrics.items()},
        difference={"value": gap.value, "low": gap.low, "high": gap.high},
    )


def spent_before(journal: Journal) -> float:
    """Seconds that earlier drivers of this run have used."""
    return max((float(line.data["spent"]) for line in journal.lines if line.kind == "clock"), default=0.0)
