"""From what was computed to an Outcome: score and noise on valid, artefacts, measured facts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.evaluation import metrics
from gristmill.segment import Artefact, Outcome, OutcomeState
from gristmill.training import checkpoint

if TYPE_CHECKING:
    from gristmill.data import Prepared
    from gristmill.training.objective import Scale
    from gristmill.training.pace import Pace
    from gristmill.training.state import Training

REASONS = {
    "oom": "the memory does not suffice even for batches of a few rows",
    "diverged": "the loss stopped being finite, and again at a third of the rate",
}


def scored(prepared: Prepared, outputs: np.ndarray, scale: Scale | None) -> tuple[float, float]:
    """Score and its standard error on valid, both on the scale where 0 is the floor and 1 is perfect.

    Args:
        outputs: logits (n, K), or standardised values (n, 1), of valid and then calib rows.
        scale: of a regression's targets.
    """
    task, rows = prepared.task, prepared.parts.valid
    target, y = task.target, np.asarray(prepared.targets[task.target.name])
    mine = outputs[: len(rows)].astype(np.float32)
    answers = metrics.softmax(mine) if scale is None else mine[:, 0] * scale.std + scale.mean
    value = metrics.score(task.metric, y[rows], answers, target)
    error = metrics.standard_error(task.metric, y[rows], answers, target)
    floor = metrics.floor(task.metric, y[prepared.parts.train], y[rows], target)
    score = metrics.scaled(task.metric, value, floor)
    noise = abs(metrics.scaled(task.metric, value + error, floor) - score) if np.isfinite(error) else 0.0
    return float(score), float(noise)


def saved_predictions(folder: Any, outputs: np.ndarray, scale: Scale | None) -> Artefact:
    """Predictions on valid and calib: float16 logits, or float32 standardised values."""
    kept = outputs.astype(np.float32) if scale is not None else np.clip(outputs, -6e4, 6e4).astype(np.float16)
    return checkpoint.save_array(folder / "predictions.npy", kept)


def with_model(training: Training, pace: Pace, logits: np.ndarray) -> Outcome:
    """The outcome of a trained network, its checkpoint and predictions written."""
    if not np.isfinite(logits).all():
        return without_model(training, pace, "diverged")
    folder, scale = training.folder, training.objective.scale
    score, noise = scored(training.prepared, logits, scale)
    meta = {
        **training.meta,
        "steps": training.steps,
        "rows_seen": training.rows,
        "seed": training.segment.seed,
        "rate_factor": training.rate_factor,
        "parameters": parameter_count(training),
    }
    artefacts = {
        "predictions": saved_predictions(folder, logits, scale),
        "checkpoint": checkpoint.save_tensors(folder / "checkpoint.safetensors", training.tensors(), meta),
    }
    return Outcome(
        id=training.segment.id,
        state="cut" if training.cut else "done",
        reason=f"stopped by its cap of {pace.cap_s:.1f} s" if training.cut else "",
        score=score,
        noise=noise,
        seconds=pace.seconds,
        rows_seen=training.rows,
        peak_memory=peak_memory(),
        artefacts=artefacts,
        facts=facts(training, pace),
    )


def without_model(training: Training, pace: Pace, state: OutcomeState) -> Outcome:
    """The outcome of a network that came to nothing: refused by its cap, diverged, or out of memory."""
    rows = training.segment.to_rows - training.plan.first * training.recipe.batch
    needed = pace.startup_s + rows * pace.seconds_per_row
    reason = REASONS.get(state, f"{rows} rows would take about {needed:.1f} s, the cap is {pace.cap_s:.1f} s")
    return Outcome(
        id=training.segment.id,
        state=state,
        reason=reason,
        seconds=pace.seconds,
        rows_seen=training.plan.first * training.recipe.batch,
        peak_memory=peak_memory(),
        facts=facts(training, pace),
    )


def facts(training: Training, pace: Pace) -> Mapping[str, Any]:
    """What was measured, JSON-ready."""
    return {
        "seconds_per_row": pace.seconds_per_row,
        "startup_s": pace.startup_s,
        "epochs": training.rows / len(training.order.rows),
        "planned_rows": training.plan.wanted * training.recipe.batch,
        "batch": training.recipe.batch,
        "micro_batch": training.micro_batch,
        "rate_factor": training.rate_factor,
        "parameters": parameter_count(training),
        "views": list(training.recipe.views),
        "target": training.meta["target"],
        "device": training.device.why,
    }


def parameter_count(training: Training) -> int:
    """Numbers in the network's weights."""
    return sum(p.numel() for p in training.network.parameters())


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
