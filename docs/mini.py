"""Gristmill in one sitting: the whole flow in one file, by public names. Run it: `python docs/mini.py`.

A folder of pictures goes in, a verified bundle comes out. The real conductor (`gristmill/automl.py`) does the
same with a deadline, worker processes, a run folder that survives a kill, and a report.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gristmill
from gristmill import data, training
from gristmill.data import Prepared, Source
from gristmill.deployment import bundle
from gristmill.deployment.export import write_member
from gristmill.evaluation import Evaluation, combine, evaluate, floors, greedy, temperature
from gristmill.models import catalog
from gristmill.search import Learner, RaceSettings, Study
from gristmill.segment import Outcome, Resources, Segment
from gristmill.space import Space

SEGMENTS = 4


def main(pictures: Path, out: Path) -> Evaluation:
    """The six steps. Returns what the model is worth on pictures that took no part in making it."""
    source, prepared = step_1_data(pictures, out.parent)
    space = step_2_models(prepared)
    with tempfile.TemporaryDirectory() as folder:
        study = step_3_search(space, prepared, Path(folder))
        chosen = step_5_choose(study, prepared)
        step_6_deploy(chosen, study, prepared, Path(folder), out)
    return step_7_look(out, source, prepared)


def step_1_data(pictures: Path, work: Path) -> tuple[Source, Prepared]:
    """Read, look at every file once, complain by name, cut into parts that share nothing."""
    source = data.read(pictures)
    scan = data.scan(source, longest=32, cache=work / "cache")
    audit = data.audit(source, scan)
    for finding in audit.findings:
        print(f"  {finding.severity}: {finding.message}")
    parts = data.split(source, audit, seed=0)
    return source, data.prepare(source, scan, audit, parts, work / "prepared")


def step_2_models(prepared: Prepared) -> Space:
    """All that may be chosen: the family, its own parameters, and those of its training."""
    families = [f.name for f in catalog.families(prepared.task, pretrained=False)]
    models = catalog.space(prepared.task, pretrained=False)
    return Space(parameters=models.parameters + training.parameters_of(families))


def step_3_search(space: Space, prepared: Prepared, folder: Path) -> Study:
    """Ask for a segment, perform it, tell what came of it. Good networks go on from their checkpoints."""
    rows = len(prepared.parts.train)

    def learner(config: Mapping[str, Any]) -> Learner:
        family = catalog.family(config["family"])
        return Learner(resumable=family.learner == "network", parent=family.features(config), rows=rows)

    portfolio = [({"family": "constant"}, "all"), ({**catalog.family("convstack").tiny}, "all")]
    settings = RaceSettings(base_rows=2 * rows, max_rows=6 * rows, counted=SEGMENTS)
    study = Study(space=space, learner=learner, portfolio=portfolio, settings=settings)
    while (segment := study.ask(left=float("inf"), slots=[Resources()])) is not None:
        outcome = step_4_train(segment, prepared, folder, study)
        study.tell(outcome)
        print(f"  {segment.kind:8} {segment.config.get('family', ''):10} {outcome.state} {outcome.score}")
    return study


def step_4_train(segment: Segment, prepared: Prepared, folder: Path, study: Study) -> Outcome:
    """One segment: features of a frozen backbone, a one-shot fit, or a stretch of training."""
    place = folder / segment.id
    place.mkdir(exist_ok=True)
    parents = {p: study.outcome(p) for p in segment.parents}
    return training.perform(segment, prepared, place, parents, threads=1)


def step_5_choose(study: Study, prepared: Prepared) -> dict[str, float]:
    """Weights of the best few candidates together, judged on valid only."""
    valid, target = prepared.parts.valid, prepared.task.target
    outputs = {
        str(t.outcome): predictions(study.outcome(str(t.outcome)))[: len(valid)] for t in study.leaderboard
    }
    return greedy(outputs, prepared.targets[target.name][valid], prepared.task.metric, target)


def predictions(outcome: Outcome) -> np.ndarray:
    """Stored logits of valid and then calib, float32 (n, K)."""
    return training.load_array(Path(outcome.artefacts["predictions"].uri)).astype(np.float32)


def step_6_deploy(
    chosen: dict[str, float], study: Study, prepared: Prepared, folder: Path, out: Path
) -> None:
    """Calibrate on calib, turn each member into ONNX, write one file that proves itself."""
    target, parts = prepared.task.target, prepared.parts
    together = combine(
        [predictions(study.outcome(i))[len(parts.valid) :] for i in chosen], list(chosen.values()), target
    )
    heat = temperature(together, prepared.targets[target.name][parts.calib])
    members = []
    for i, weight in chosen.items():
        ready = training.deployable(study.outcome(i))
        config = study.segment(i).config
        model = write_member(folder / i / "member", config, prepared.task, ready.tensors, ready.meta)
        members.append((model.parent, weight))
    found = bundle.write(out, task=prepared.task, members=members, temperature=heat)
    print(*(f"  {name}: {detail}" for name, _, detail in found.checks), sep="\n")


def step_7_look(out: Path, source: Source, prepared: Prepared) -> Evaluation:
    """Open the bundle as any user would (no torch) and read the untouched test part, from the files."""
    model = gristmill.load(out)
    test, target = prepared.parts.test, prepared.task.target
    y = prepared.targets[target.name]
    outputs = model.outputs([source.inputs["image"][i] for i in test])
    floor = floors(y[prepared.parts.train], y[test], target)
    return evaluate(target, y[test], outputs, metric=prepared.task.metric, floor=floor)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        if folder is None:
            from gristmill.quickstart import write_digits

            folder = write_digits(Path(here) / "digits")
        score = main(folder, Path(here) / "model.grist").score
        print(f"accuracy on the test part: {score.value:.3f} ({score.low:.3f} to {score.high:.3f})")
