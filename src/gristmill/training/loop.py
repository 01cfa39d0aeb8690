"""The training of networks: train -> train_epoch -> step. `step` is the only place that calls an optimizer.

A trunk (`train`) runs at a constant rate and can be resumed at any length; a `cooldown` branches off it and
ends the training. Both are evaluated with averaged weights, once, on valid and calib together. A segment
keeps its own cap, steps back once when the loss stops being finite, and shrinks its micro-batches when the
memory does not suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gristmill import device
from gristmill.segment import Outcome, Segment
from gristmill.training import outcomes
from gristmill.training.checkpoint import conclude, finished
from gristmill.training.optim import set_rates
from gristmill.training.pace import Pace
from gristmill.training.state import Pairs, Training, restarted, start
from gristmill.training.stream import Batch, Inputs, evaluation_batches

if TYPE_CHECKING:
    from gristmill.data import Prepared

CHECK_EVERY = 8
"""Steps between looks at the loss (a look waits for the device)."""

SMALLEST_MICRO_BATCH = 4
RATE_AFTER_DIVERGENCE = 1 / 3


class DivergedError(Exception):
    """The loss is no longer finite."""


def train(
    segment: Segment,
    prepared: Prepared,
    folder: Path,
    parents: Mapping[str, Outcome],
    *,
    threads: int,
    halvings: int = 0,
) -> Outcome:
    """Train a network from its parent's checkpoint (or from scratch) until `segment.to_rows` rows are seen.

    The end is rounded up to a whole step, so that 0 -> A -> B is the same training as 0 -> B.

    Args:
        segment: of kind `train` or `cooldown`.
        prepared: parts, targets, views and the store.
        folder: the segment's own folder; checkpoint, predictions and `outcome.json` go there.
        parents: outcomes by id; the one with a checkpoint is the trunk.
        threads: CPU threads.
        halvings: how often the rows in memory at once are halved beforehand (the step's batch stays).

    Returns:
        The outcome: `done`; `cut` by the cap (at once, without artefacts, when the first two timed steps
        show that the rung cannot fit); `diverged`; `oom`. A repeat of a finished segment returns its record.
    """
    known = finished(segment, folder)
    if known is not None:
        return known
    pace = Pace(segment.cap_s)
    device.threads(threads)
    training = start(segment, prepared, folder, parents, halvings=halvings)
    pace.begin(training.rows)
    while not training.ended:
        try:
            train_epoch(training.epoch(), partial(step, training), partial(goes_on, training, pace))
        except DivergedError:
            if training.rate_factor < 1:
                return conclude(segment, folder, outcomes.without_model(training, pace, "diverged"))
            training = restarted(training, RATE_AFTER_DIVERGENCE)
            pace.begin(training.rows)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            training.micro_batch //= 2
            if training.micro_batch < SMALLEST_MICRO_BATCH:
                return conclude(segment, folder, outcomes.without_model(training, pace, "oom"))
    if training.refused:
        return conclude(segment, folder, outcomes.without_model(training, pace, "cut"))
    logits = predict(training.average.network, training.inputs, prepared_rows(prepared), training)
    return conclude(segment, folder, outcomes.with_model(training, pace, logits))


def train_epoch(
    batches: Iterable[Batch],
    step: Callable[[Batch], Tensor],
    goes_on: Callable[[Tensor], bool] = lambda result: True,
) -> list[Tensor]:
    """One pass over `batches`, in training and in validation: the two differ only by their `step`.

    Returns what each step returned (losses, or logits); stops early when `goes_on(result)` is false.
    """
    results = []
    for batch in batches:
        results.append(step(batch))
        if not goes_on(results[-1]):
            break
    return results


def step(training: Training, batch: Batch) -> Tensor:
    """One optimizer step on `batch`, in micro-batches when memory is short; returns the mean loss."""
    device.seed(training.seed_of_step())
    set_rates(training.optimizers, training.rate())
    inputs, pairs = training.augmented(batch), training.pairs(batch)
    total = torch.zeros((), device=batch.rows.device)
    for part in range(0, len(batch), training.micro_batch):
        now = slice(part, part + training.micro_batch)
        with training.precision():
            logits = training.forward(training.network, tuple(x[now] for x in inputs))
        loss = _loss(training, logits.float(), batch.rows, now, pairs) / len(batch)
        loss.backward()
        total += loss.detach()
    for optimizer in training.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    training.advance()
    return total


def _loss(training: Training, logits: Tensor, rows: Tensor, now: slice, pairs: Pairs | None) -> Tensor:
    """Sum of the losses of the rows `now`; of mixed pictures each target counts by its share."""
    own = training.objective(logits, rows[now])
    if pairs is None:
        return own
    other = training.objective(logits, rows[pairs.partner.to(rows.device)][now])
    return torch.lerp(other, own, pairs.share)


def goes_on(training: Training, pace: Pace, loss: Tensor) -> bool:
    """Whether another step may follow: the loss is finite and the cap leaves room for step and evaluation.

    Raises:
        DivergedError: if it is not finite.
    """
    if (training.steps % CHECK_EVERY == 0 or training.ended) and not bool(torch.isfinite(loss)):
        raise DivergedError
    pace.tick(training.rows)
    if pace.seconds_per_row and training.plan.capped:
        training.replan(pace.left(training.plan.evaluated_rows) / pace.seconds_per_row)
    return not training.ended


def predict(network: nn.Module, inputs: Inputs, rows: np.ndarray, training: Training) -> np.ndarray:
    """Logits float32 (n, K) of `rows`, averaged over the recipe's views; the network must be in eval mode."""
    batches = evaluation_batches(rows, inputs, training.recipe.evaluation_batch)
    with torch.inference_mode():
        parts = train_epoch(batches, partial(_logits, network, training.recipe.views, training))
    return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 1), np.float32)


def _logits(network: nn.Module, views: tuple[str, ...], training: Training, batch: Batch) -> Tensor:
    with training.precision():
        logits = [training.forward(network, training.viewed(batch, v)).float() for v in views]
    return torch.stack(logits).mean(0) if len(logits) > 1 else logits[0]


def prepared_rows(prepared: Prepared) -> np.ndarray:
    """The rows that every candidate is evaluated on: valid, then calib."""
    return np.concatenate([prepared.parts.valid, prepared.parts.calib]).astype(np.int64)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in text
