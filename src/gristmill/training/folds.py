"""One segment, whatever its kind; with folds it does the work of all folds at once.

K models, each fitted without the rows of one fold (its encoders, scales and vocabularies too), predict that
fold: joined, these predictions of valid and calib are out of fold. One more model learns from all rows; that
one is deployed, and what it answers on valid is kept beside them, to compare the bundle with.

Every model has a folder and a record of its own, so a segment that is asked again after a kill goes on with
the first model that was not finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gristmill.segment import Artefact, Outcome, Segment
from gristmill.training import checkpoint, outcomes
from gristmill.training.objective import Scale
from gristmill.training.pace import CLOSING_S

if TYPE_CHECKING:
    from gristmill.data import Prepared
    from gristmill.data.split import View

WHOLE = "whole"
"""Folder of the model that learns from all rows."""
Work = Callable[..., Outcome]


def perform(
    segment: Segment,
    prepared: Prepared,
    folder: Path,
    parents: Mapping[str, Outcome],
    *,
    threads: int,
    halvings: int = 0,
) -> Outcome:
    """Train, fit or extract, in folds where the data have them.

    Args:
        segment: the piece of work.
        prepared: parts, targets, views and the store.
        folder: the segment's own folder, named like it.
        parents: outcomes by id: the trunk, or the features it reads.
        threads: CPU threads.
        halvings: how often the rows in memory at once are halved beforehand.
    """
    if segment.kind == "features":
        from gristmill.training.once import extract

        return extract(segment, prepared, folder, threads=threads, halvings=halvings)
    work = _worker(segment, halvings)
    if prepared.parts.folds is None:
        return work(segment, prepared, folder, parents, threads=threads)
    return in_folds(work, segment, prepared, folder, parents, threads=threads)


def _worker(segment: Segment, halvings: int) -> Work:
    if segment.kind == "fit":
        from gristmill.training.once import fit_once

        return fit_once
    from gristmill.training.loop import train

    return partial(train, halvings=halvings)


def in_folds(
    work: Work,
    segment: Segment,
    prepared: Prepared,
    folder: Path,
    parents: Mapping[str, Outcome],
    *,
    threads: int,
) -> Outcome:
    """`work` once for every fold and once on all rows, under one cap, as one outcome.

    Rows seen, rungs and seconds per row: rows are those of one model, seconds are those of all. A model that
    comes to nothing (refused by its cap, diverged, out of memory) ends the segment.
    """
    known = checkpoint.finished(segment, folder)
    if known is not None:
        return known
    done: dict[str, Outcome] = {}
    reach, spent = segment.to_rows, 0.0
    turns = list(models(prepared))
    for turn, (name, mine) in enumerate(turns):
        cap = max(0.1, segment.cap_s - spent - CLOSING_S) / (len(turns) - turn)
        asked = replace(segment, fold=turn, to_rows=reach, cap_s=cap)
        inherited = {i: _inherited(o, name, folder.parent) for i, o in parents.items()}
        outcome = work(asked, mine, folder / name, inherited, threads=threads)
        spent += outcome.seconds
        if "checkpoint" not in outcome.artefacts:
            outcome = replace(outcome, seconds=spent, facts=_facts([*done.values(), outcome], len(turns)))
            return checkpoint.conclude(segment, folder, outcome)
        done[name] = outcome
        if segment.kind != "fit":  # a model that its cap cut short sets the length of those that follow
            reach = min(reach, outcome.rows_seen)
    joined = checkpoint.conclude(segment, folder, _joined(segment, prepared, folder, done))
    if segment.kind != "train":  # nobody goes on from the models of the folds
        for name in done.keys() - {WHOLE}:
            shutil.rmtree(folder / name, ignore_errors=True)
    return joined


def models(prepared: Prepared) -> Iterator[tuple[str, Prepared]]:
    """The models of a segment, by the name of their folder, with the data as each may see them.

    `fold-k`: training rows and views without fold k, which is its valid. `whole`: every training row, and
    valid as it is. calib is empty for all of them.
    """
    parts = prepared.parts
    assert parts.folds is not None
    none = np.zeros(0, np.int64)
    for k in range(int(parts.folds.max()) + 1):
        held = parts.train[parts.folds == k]
        cut = replace(parts, train=parts.train[parts.folds != k], valid=held, calib=none)
        yield f"fold-{k}", replace(prepared, parts=cut, views=_views_without(prepared, held))
    yield WHOLE, replace(prepared, parts=replace(parts, calib=none))


def _views_without(prepared: Prepared, held: np.ndarray) -> dict[str, View]:
    from gristmill.data.split import view

    cut = {}
    for name, whole in prepared.views.items():
        kept = ~np.isin(whole.rows, held)
        weights = None if whole.weights is None else whole.weights[kept]
        cut[name] = view(name, whole.rows[kept], whole.description, weights)
    return cut


def _inherited(parent: Outcome, name: str, near: Path) -> Outcome:
    """A parent as the model called `name` must see it: with the checkpoint of the model it goes on from."""
    artefacts = {
        role: Artefact(uri=str(checkpoint.locate(a, parent.id, near)), sha256=a.sha256)
        for role, a in parent.artefacts.items()
    }
    if name in artefacts:
        artefacts["checkpoint"] = artefacts[name]
    return replace(parent, artefacts=artefacts)


def _joined(segment: Segment, prepared: Prepared, folder: Path, done: Mapping[str, Outcome]) -> Outcome:
    """One outcome of all models: out-of-fold predictions and score, the whole model as checkpoint."""
    whole = done[WHOLE]
    target = whole.facts["target"]
    scale = Scale(mean=target["mean"], std=target["std"]) if target else None
    outputs = _out_of_fold(prepared, folder, done, scale)
    score, noise = outcomes.scored(prepared, outputs, scale)
    artefacts = {
        "predictions": outcomes.saved_predictions(folder, outputs, scale),
        "checkpoint": whole.artefacts["checkpoint"],
        checkpoint.DEPLOYED: whole.artefacts["predictions"],
    }
    if segment.kind == "train":
        artefacts |= {name: o.artefacts["checkpoint"] for name, o in done.items() if name != WHOLE}
    short = next((o for o in done.values() if o.state != "done"), whole)
    return Outcome(
        id=segment.id,
        state=short.state,
        reason=short.reason,
        score=score,
        noise=noise,
        seconds=sum(o.seconds for o in done.values()),
        rows_seen=min(o.rows_seen for o in done.values()) if segment.kind != "fit" else whole.rows_seen,
        peak_memory=max(o.peak_memory for o in done.values()),
        artefacts=artefacts,
        facts={**whole.facts, **_facts(list(done.values()), len(done))},
    )


def _out_of_fold(
    prepared: Prepared, folder: Path, done: Mapping[str, Outcome], scale: Scale | None
) -> np.ndarray:
    """Predictions (valid + calib, K), each of the model that has not seen the row, in units of `scale`."""
    rows = np.concatenate([prepared.parts.valid, prepared.parts.calib])
    order = np.argsort(rows)
    found: np.ndarray | None = None
    for name, mine in models(prepared):
        if name == WHOLE:
            continue
        part = checkpoint.load_array(Path(done[name].artefacts["predictions"].uri)).astype(np.float32)
        if scale is not None:
            own = done[name].facts["target"]
            part = (part * own["std"] + own["mean"] - scale.mean) / scale.std
        if found is None:
            found = np.zeros((len(rows), part.shape[1]), np.float32)
        found[order[np.searchsorted(rows, mine.parts.valid, sorter=order)]] = part
    assert found is not None
    return found


def _facts(done: list[Outcome], count: int) -> dict[str, object]:
    """What was measured of all models together; of those that are missing, as much as of the others."""
    share = count / len(done)
    return {
        **done[-1].facts,
        "seconds_per_row": share * sum(float(o.facts.get("seconds_per_row", 0.0)) for o in done),
        "startup_s": share * sum(float(o.facts.get("startup_s", 0.0)) for o in done),
        "models": count,
    }
