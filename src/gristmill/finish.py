"""From outcomes to a bundle: choose, calibrate, build, check against the trained model, read the test part.

The conductor's second half. `Keeper` keeps the best verified bundle so far while the race runs; `conclude`
makes NAME.grist.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gristmill import narrative, planning
from gristmill.data.audit import Audit
from gristmill.data.prepare import Prepared
from gristmill.data.source import Source
from gristmill.deadline import Deadline
from gristmill.deployment import bundle, runtime
from gristmill.errors import VerificationError
from gristmill.evaluation import calibrate, ensemble
from gristmill.evaluation.evaluate import evaluate
from gristmill.evaluation.interval import paired
from gristmill.evaluation.metrics import floors
from gristmill.evaluation.records import Evaluation
from gristmill.models import catalog
from gristmill.models.features import open_session
from gristmill.run import Run
from gristmill.search.journal import Journal
from gristmill.search.study import Study
from gristmill.segment import Artefact, Outcome, Segment

Say = Callable[..., None]
AGREEMENT_ROWS = 500
"""Validation rows on which the bundle is compared with the trained model, from the original files."""
EARLY_ROWS = 32
"""The same for the bundles kept on the way, which must not cost the race its time."""
AGREEMENT = 0.995
"""Share of equal labels that a bundle must reach; regression: within 1e-3 target standard deviations."""
MOST_MEMBERS = 4
REBUILD_SHARE = 0.02
"""A better bundle is built on the way only when building costs at most this part of the time left."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial that can be deployed.

    `outputs`: float32 (valid + calib, K) logits, or (valid + calib, 1) values in the target's unit.
    `cost`: measured seconds of one core per predicted row. `folder`: its member folder.
    """

    id: str
    title: str
    config: Mapping[str, Any]
    view: str
    role: str
    score: float
    noise: float
    outputs: np.ndarray
    cost: float
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The final model before it is a file: members with weights, calibration, and what it does on valid."""

    members: tuple[tuple[Candidate, float], ...]
    temperature: float
    threshold: float | None
    answer_set: float | None
    outputs: np.ndarray
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


# ---------------------------------------------------------------- in the worker


def with_member(segment: Segment, prepared: Prepared, outcome: Outcome, folder: Path) -> Outcome:
    """The outcome with its deployable member: `member/model.onnx` and `member/member.json`.

    Exported at once, in the worker that has torch loaded, so that every scored outcome can be deployed by a
    driver that never imports torch. Its prediction time is measured here, too.
    """
    if outcome.score is None or "checkpoint" not in outcome.artefacts:
        return outcome
    from gristmill.deployment import export
    from gristmill.training import deployable

    ready = deployable(outcome, near=folder.parent)
    path, described = export.write_member(prepared.task, ready.tensors, ready.meta, folder / "member")
    cost = _seconds_per_row(path, json.loads(described.read_text()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    artefacts = {**outcome.artefacts, "member": Artefact(uri=str(path), sha256=sha256)}
    return replace(outcome, artefacts=artefacts, facts={**outcome.facts, "predict_s": cost})


def _seconds_per_row(path: Path, member: Mapping[str, Any]) -> float:
    """Measured seconds of one core for one row, all views included; tables cost too little to measure."""
    image = member.get("preprocessing", {}).get("image")
    if image is None:
        return 1e-5
    session = open_session(path, 1)
    pictures = np.zeros((4, image["size"], image["size"], image["channels"]), dtype=np.uint8)
    name = session.get_inputs()[0].name
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        session.run(None, {name: pictures})
        best = min(best, (time.perf_counter() - began) / len(pictures))
    return best * len(member.get("views") or ("identity",))


# ---------------------------------------------------------------- choosing


def candidates(study: Study, prepared: Prepared) -> list[Candidate]:
    """The deployable trials, best first."""
    found = []
    for trial in study.leaderboard:
        outcome = study.outcome(str(trial.outcome))
        if "member" not in outcome.artefacts or not Path(outcome.artefacts["member"].uri).exists():
            continue
        found.append(
            Candidate(
                id=outcome.id, title=planning.title(trial.config), config=trial.config, view=trial.view,
                role=catalog.role(trial.config), score=float(outcome.score or 0.0), noise=float(outcome.noise or 0.0),
                outputs=_outputs(outcome, prepared), cost=float(outcome.facts.get("predict_s", 0.0)),
                folder=Path(outcome.artefacts["member"].uri).parent,
            )
        )  # fmt: skip
    return found


def _outputs(outcome: Outcome, prepared: Prepared) -> np.ndarray:
    stored = np.load(outcome.artefacts["predictions"].uri, allow_pickle=False).astype(np.float32)
    if prepared.task.target.task != "regression":
        return np.asarray(stored)
    scale = outcome.facts["target"]
    return np.asarray(stored * np.float32(scale["std"]) + np.float32(scale["mean"]))


def choose(found: Sequence[Candidate], prepared: Prepared, *, cost_cap: float = math.inf) -> Choice:
    """The greedy ensemble on valid, then temperature, threshold and answer sets on calib.

    Args:
        found: At least one candidate.
        cost_cap: Seconds of one core per row that prediction may cost.
    """
    task, target = prepared.task, prepared.task.target
    y = np.asarray(prepared.targets[target.name])
    valid, calib = prepared.parts.valid, prepared.parts.calib
    by_id = {c.id: c for c in found}
    weights = ensemble.greedy(
        {c.id: c.outputs[: len(valid)] for c in found}, y[valid], task.metric, target,
        costs={c.id: c.cost for c in found}, cost_cap=cost_cap, max_members=MOST_MEMBERS,
    )  # fmt: skip
    members = tuple((by_id[i], w) for i, w in weights.items())
    raw = ensemble.combine([c.outputs for c, _ in members], [w for _, w in members], target)
    if target.task == "regression":
        heat, threshold = 1.0, None
        outputs = before = raw
        width = calibrate.residual_quantile(y[calib], raw[len(valid) :])
        answer_set = width if math.isfinite(width) else None
    else:
        heat = calibrate.temperature(raw[len(valid) :], y[calib])
        outputs, before = np.exp(calibrate.apply_temperature(raw, heat)), np.exp(raw)
        threshold = calibrate.choose_threshold(outputs[len(valid) :], y[calib]).threshold
        answer_set = calibrate.conformal_quantile(outputs[len(valid) :], y[calib])
    judged = evaluate(
        target, y[valid], outputs[: len(valid)], metric=task.metric, part="valid", names=prepared.names, rows=valid,
        floor=floors(y[prepared.parts.train], y[valid], target), uncalibrated=_labels_only(target, before[: len(valid)]),
        threshold=threshold, answer_set=answer_set,
    )  # fmt: skip
    return Choice(
        members=members, temperature=heat, threshold=threshold, answer_set=answer_set, outputs=outputs, valid=judged
    )


def _labels_only(target: Any, outputs: np.ndarray) -> np.ndarray | None:
    return None if target.task == "regression" else outputs
