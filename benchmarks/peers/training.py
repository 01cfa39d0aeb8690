"""A plain training loop of a practitioner: AdamW, one cycle, flips and crops, the clock instead of epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gristmill.models import mbconv


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is tuned by hand (or by a search). `rate` is the peak of the body, `head` times it the head's."""

    rate: float
    head: float = 1.0
    decay: float = 0.05
    smoothing: float = 0.1
    batch: int = 64
    flip: bool = True
    crop: float = 0.125
    warm: float = 0.25


def fine_tuned(outputs: int) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights and a new head; reads pixels 0..255."""
    return mbconv.build(channels=3, outputs=outputs, pretrained=True).to(memory_format=torch.channels_last)


class ResNet9(nn.Module):
    """The nine-layer residual net that practitioners train small pictures with (DAWNBench, 2018).

    Shape: float (B, 3, H, W) in 0..255 -> (B, K).
    """

    def __init__(self, outputs: int, width: int = 64) -> None:
        super().__init__()
        w = width
        self.stem = _conv(3, w)
        self.first = nn.Sequential(_conv(w, 2 * w), nn.MaxPool2d(2))
        self.left = nn.Sequential(_conv(2 * w, 2 * w), _conv(2 * w, 2 * w))
        self.second = nn.Sequential(
            _conv(2 * w, 4 * w), nn.MaxPool2d(2), _conv(4 * w, 8 * w), nn.MaxPool2d(2)
        )
        self.right = nn.Sequential(_conv(8 * w, 8 * w), _conv(8 * w, 8 * w))
        self.head = nn.Linear(8 * w, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        x = self.first(self.stem(x / 64.0 - 2.0))
        x = self.second(x + self.left(x))
        x = x + self.right(x)
        logits: Tensor = self.head(torch.amax(x, dim=(2, 3))) * 0.125
        return logits


def _conv(inside: int, outside: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


def small_net(outputs: int, width: int = 64) -> nn.Module:
    """A ResNet-9 from scratch."""
    return ResNet9(outputs, width).to(memory_format=torch.channels_last)


def seconds_per_row(make: Callable[[], nn.Module], side: int, batch: int = 32) -> float:
    """What a training row costs: one step on noise, after one to warm up."""
    network = make().train()
    x = torch.rand(batch, 3, side, side).mul(255).to(memory_format=torch.channels_last)
    seconds = 0.0
    for _ in range(2):
        before = time.monotonic()
        network(x).logsumexp(1).mean().backward()
        seconds = time.monotonic() - before
    return seconds / batch


def train(
    network: nn.Module, x: np.ndarray, y: np.ndarray, recipe: Recipe, *, seconds: float, seed: int,
    weights: np.ndarray | None = None, stop: Callable[[float], bool] | None = None,
) -> nn.Module:  # fmt: skip
    """Train for `seconds`: pictures uint8 (N, S, S, 3), codes (N,). The cycle follows the clock.

    `stop(share of the time)` is asked once an epoch and may end the training.
    """
    rng = np.random.default_rng(seed)
    pixels, targets = torch.from_numpy(x), torch.from_numpy(y)
    weight = None if weights is None else torch.from_numpy(weights)
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.rate, weight_decay=recipe.decay)
    began, before = time.monotonic(), 0.0
    network.train()
    while True:
        order = rng.permutation(len(y))
        for at in range(0, len(order), recipe.batch):
            now = time.monotonic() - began
            step, before = now - before, now
            share = now / seconds
            if now + step > seconds:  # the next step would end too late
                return network
            rows = torch.from_numpy(order[at : at + recipe.batch])
            if len(rows) < 2:
                continue
            _set_rate(optimizer, recipe, share)
            images = _augment(pixels[rows], recipe, rng)
            loss = functional.cross_entropy(
                network(images), targets[rows], weight=weight, label_smoothing=recipe.smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if stop is not None and stop((time.monotonic() - began) / seconds):
            return network


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Matrices and filters decay, the rest does not; the head has a rate of its own."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((name.startswith("head"), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": chosen,
            "times": recipe.head if head else 1.0,
            "weight_decay": recipe.decay if decays else 0.0,
        }
        for (head, decays), chosen in groups.items()
    ]


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, share: float) -> None:
    """One cycle: a cosine up in the first `warm` of the time, a cosine down to nothing in the rest."""
    if share < recipe.warm:
        height = 0.04 + 0.96 * (1 - math.cos(math.pi * share / recipe.warm)) / 2
    else:
        height = (1 + math.cos(math.pi * (share - recipe.warm) / (1 - recipe.warm))) / 2
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate * group["times"] * max(height, 1e-4)


def _augment(pixels: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """A shift by up to `crop` of the side (edges mirrored), and a flip of half of the pictures."""
    x = pixels.permute(0, 3, 1, 2).float()
    side = x.shape[-1]
    most = int(side * recipe.crop)
    if most:
        padded = functional.pad(x, (most,) * 4, mode="reflect")
        at = rng.integers(0, 2 * most + 1, size=(len(x), 2))
        x = torch.stack(
            [p[:, i : i + side, j : j + side] for p, (i, j) in zip(padded, at.tolist(), strict=True)]
        )
    if recipe.flip:
        mirrored = torch.from_numpy(rng.random(len(x)) < 0.5)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(
    network: nn.Module, x: np.ndarray, *, flip: bool, left: Callable[[], float] | None = None, batch: int = 64
) -> np.ndarray:
    """Probabilities float32 (N, K); with `flip` the mean of those of a picture and of its mirror image.

    When `left()` says that the seconds do not suffice for both, the other pictures are seen once.
    """
    network.eval()
    found, began = [], time.monotonic()
    for at in range(0, len(x), batch):
        images = torch.from_numpy(x[at : at + batch]).permute(0, 3, 1, 2).float()
        images = images.contiguous(memory_format=torch.channels_last)
        outputs = network(images).softmax(1)
        if flip:
            outputs = (outputs + network(images.flip(3)).softmax(1)) / 2
        found.append(outputs.numpy())
        needed = (time.monotonic() - began) / (at + batch) * (len(x) - at - batch)
        flip = flip and (left is None or needed <= left())
    return np.concatenate(found)


def predict_seconds(network: nn.Module, x: np.ndarray, *, flip: bool, batch: int = 64) -> float:
    """Seconds that `predict` takes for `x`, a tenth added: a batch is timed, after one to warm up."""
    seconds = 0.0
    for _ in range(2):
        before = time.monotonic()
        predict(network, x[:batch], flip=flip)
        seconds = time.monotonic() - before
    return 1.1 * seconds * len(x) / min(batch, len(x))
