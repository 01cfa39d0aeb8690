"""fastai by its documentation: DataBlock from a data frame, default transforms, one cycle.

With weights: EfficientNet-Lite0 with ImageNet weights, body and head in two parameter groups, `fine_tune`
(head first, then everything at discriminative rates). From scratch: torchvision's ResNet-18, `fit_one_cycle`.
The size is the largest of 128, 64 and 32 px at which the time is worth `EPOCHS` epochs, at most four times
the side of the pictures; the number of epochs comes from a first look, and a callback ends the training
when the deadline is near.
"""

from __future__ import annotations

import time
from typing import Any

import fastai.callback.progress  # it gives the learner no_bar
import fastai.callback.schedule  # noqa: F401  (and fit_one_cycle and fine_tune)
import job as jobs
import numpy as np
import pandas as pd
import pictures
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, IndexSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, ResizeMethod, aug_transforms
from fastai.vision.data import ImageBlock
from torch import Tensor, nn
from torchvision.models import resnet18

import training

SIZES = (128, 64, 32)
EPOCHS = {False: 4, True: 8}
BATCH = 64
LOOK = (3, 0.04)
"""Batches that are timed at each size, and the share of the time after which it must do with fewer."""
SPARE = 4.0


def main() -> None:
    """Look, train, predict."""
    job = jobs.read()
    torch.set_num_threads(job.threads)
    set_seed(job.seed, reproducible=False)
    size, per_epoch = _first_look(job)
    learner = _learner(job, size)
    predicting = 0.5 * per_epoch * len(job.test) / len(job.train)
    until = time.time() + job.left - SPARE - predicting
    learner.add_cb(_Until(until))
    _fit(job, learner, max(1, int((until - time.time()) / per_epoch)))
    rows = pd.DataFrame({"file": job.paths(job.test)})
    outputs, _ = learner.get_preds(dl=learner.dls.test_dl(rows, bs=BATCH))
    found = np.zeros((len(rows), len(job.labels)))
    found[:, [job.labels.index(v) for v in learner.dls.vocab]] = outputs.numpy()
    job.answer(found)


def _fit(job: jobs.Job, learner: Learner, epochs: int) -> None:
    with learner.no_bar(), learner.no_logging():
        if job.from_scratch:
            learner.fit_one_cycle(epochs, 3e-3)
        else:  # one epoch of the head alone comes first
            learner.fine_tune(max(1, epochs - 1), 4e-3, lr_mult=10)


class _Until(Callback):
    """Ends the fit when the next batch would pass a time of day; the cycle is as long as the first look
    expected."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.began = time.time()

    def before_batch(self) -> None:
        self.began = time.time()

    def after_batch(self) -> None:
        now = time.time()
        if self.training and now + (now - self.began) >= self.until:
            raise CancelFitException


class _Pixels(nn.Module):
    """Lite0 reads pixels 0..255; fastai gives 0..1. `body` is frozen first, `head` is new."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = training.fine_tuned(outputs)
        self.head = self.body.head
        self.body.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x * 255.0))
        return logits


def _split(network: Any) -> list[list[nn.Parameter]]:
    """Three groups, as fastai splits its own pretrained networks: early body, late body, head."""
    body = network.body
    early, late = [body.stem, *body.blocks[:8]], [*body.blocks[8:], body.last]
    return [[p for m in part for p in m.parameters()] for part in (early, late, [network.head])]


def _learner(job: jobs.Job, size: int) -> Learner:
    frame = pd.DataFrame({"file": job.paths(job.train), "label": [job.labels[c] for c in job.y]})
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(job.labels))),
        get_x=ColReader("file"),
        get_y=ColReader("label"),
        splitter=IndexSplitter([0]),  # all rows are trained on; fastai wants a validation part
        item_tfms=Resize(size, method=ResizeMethod.Squish),
        batch_tfms=aug_transforms(do_flip=job.flip, max_rotate=5.0, max_warp=0.0, size=size, min_scale=0.8),
    )
    loaders = block.dataloaders(frame, bs=BATCH, num_workers=0, device=torch.device("cpu"))
    weights = job.class_weights()
    loss = CrossEntropyLossFlat(weight=None if weights is None else torch.from_numpy(weights))
    if job.from_scratch:
        return Learner(loaders, resnet18(weights=None, num_classes=len(job.labels)), loss_func=loss)
    return Learner(loaders, _Pixels(len(job.labels)), loss_func=loss, splitter=_split)


def _first_look(job: jobs.Job) -> tuple[int, float]:
    """The size, and the seconds of an epoch there."""
    native = pictures.native_side(job.paths(job.train))
    most = 64 if native < 64 else 4 * native  # a ResNet-18 halves the side five times
    sizes = [s for s in SIZES if s <= most]
    for size in sizes:
        look = _batch_seconds(_learner(job, size), LOOK[1] * job.seconds)
        per_epoch = look * len(job.train) / BATCH
        if per_epoch * EPOCHS[job.from_scratch] <= 0.85 * job.left or size == sizes[-1]:
            break
    return size, per_epoch


def _batch_seconds(learner: Learner, most: float) -> float:
    """What a batch costs with its pictures and transforms; the first, slower one counts when alone."""
    times: list[float] = []
    network = learner.model.train()
    began = before = time.monotonic()
    for x, y in learner.dls.train:
        learner.loss_func(network(x), y).backward()
        times.append(time.monotonic() - before)
        before = time.monotonic()
        if len(times) == LOOK[0] or before - began > most:
            break
    return float(np.mean(times[1:] or times))


if __name__ == "__main__":
    main()
