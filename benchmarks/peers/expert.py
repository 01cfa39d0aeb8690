"""What an expert would type: fine-tune EfficientNet-Lite0 (or train a ResNet-9 from scratch) in one cycle.

The resolution (from scratch also the width) comes from a first look: the costliest for which the training
time is worth `EPOCHS` epochs, at most four times (from scratch: once) the side of the pictures. All training
rows are trained on; nothing is tuned.
"""

from __future__ import annotations

import job as jobs
import pictures
import torch
from torch import nn

import training

EPOCHS = {False: 5, True: 12}
"""Epochs that the time must be worth; by whether it is from scratch."""
SIDES = {False: (224, 192, 160, 128, 96, 64), True: (96, 64, 48, 32)}
WIDTHS = (64, 48, 32, 24, 16)
SPARE = 3.0
"""Seconds kept for writing the answer and the end of the process."""


def main() -> None:
    """Look, train, predict."""
    job = jobs.read()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    side, width = first_look(job)
    x = pictures.load(job.paths(job.train), side, job.threads)
    x_test = pictures.load(job.paths(job.test), side, job.threads)
    network = make(job, width)
    seconds = job.left - SPARE - training.predict_seconds(network, x_test, flip=job.flip)
    network = training.train(
        network,
        x,
        job.y,
        recipe(job),
        seconds=max(1.0, seconds),
        seed=job.seed,
        weights=job.class_weights(),
    )
    job.answer(training.predict(network, x_test, flip=job.flip, left=lambda: job.left - 1.0))


def make(job: jobs.Job, width: int) -> nn.Module:
    """The untrained (or pretrained) network; the width matters from scratch alone."""
    outputs = len(job.labels)
    return training.small_net(outputs, width) if job.from_scratch else training.fine_tuned(outputs)


def recipe(job: jobs.Job) -> training.Recipe:
    """Rates that are known to work for these two networks with AdamW."""
    if job.from_scratch:
        return training.Recipe(rate=4e-3, flip=job.flip)
    return training.Recipe(rate=1e-3, head=5.0, flip=job.flip)


def first_look(job: jobs.Job) -> tuple[int, int]:
    """The side of the pictures and the width.

    The smallest choice is timed; what it says of the others (cost grows as side^2, from scratch also as
    width^2) is checked by timing the chosen one, and the next smaller is taken when it was too hopeful.
    """
    choices = _choices(job)
    rows = EPOCHS[job.from_scratch] * len(job.train) + 0.5 * len(job.test)
    least = _timed(job, *choices[-1]) / _work(*choices[-1])
    for side, width in choices[:-1]:
        likely = least * _work(side, width) * rows <= 0.9 * job.left
        if likely and _timed(job, side, width) * rows <= 0.9 * job.left:
            return side, width
    return choices[-1]


def _timed(job: jobs.Job, side: int, width: int) -> float:
    return training.seconds_per_row(lambda: make(job, width), side)


def _work(side: int, width: int) -> float:
    return float(side * side * width * width)


def _choices(job: jobs.Job) -> list[tuple[int, int]]:
    """Sides and widths, the costliest first."""
    native = pictures.native_side(job.paths(job.train))
    if not job.from_scratch:
        return [(s, WIDTHS[0]) for s in SIDES[False] if s <= max(64, 4 * native)]
    sides = [s for s in SIDES[True] if s <= max(32, native)][:2]
    return sorted(((s, w) for s in sides for w in WIDTHS), key=lambda c: (-_work(*c), -c[0]))


if __name__ == "__main__":
    main()
