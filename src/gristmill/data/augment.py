"""Augmentation of whole batches by tensor code, on whatever device the batch is.

Every function takes pictures (N, C, H, W) of any dtype with values from 0 to 255 and returns the same shape
and dtype. Random numbers are drawn on the CPU from the generator given, so that every device sees the same
choices.

Names carry shapes: N pictures, C channels, H and W rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to a training batch; the same again for the same generator state, epoch and rows.

    flip: Mirror left and right: each picture in every other epoch, half of them in the first.
    shift: Move by up to this many pixels each way; the border is reflected.
    cutout: Side in pixels of a square at a random place that becomes the picture's mean colour; 0: none.
    colour: Strength, 0 to 1, of random brightness, contrast and saturation.
    turn: Turn by up to this many degrees each way.
    strength: 0 to 3: beside the above, one operation drawn for each picture (see `varied`).
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0
    colour: float = 0.0
    turn: float = 0.0
    strength: int = 0

    def __call__(self, batch: Tensor, generator: torch.Generator, epoch: int, rows: Tensor) -> Tensor:
        """Augment `batch` (N, C, H, W); `rows` (N,): row ids of its pictures; `epoch` counts from 0."""
        if self.flip:
            batch = alternating_flip(batch, epoch, rows)
        if self.shift:
            batch = shifted(batch, self.shift, generator)
        if self.turn:
            batch = turned(batch, self.turn, generator)
        if self.colour:
            batch = coloured(batch, self.colour, generator)
        if self.strength:
            batch = varied(batch, self.strength, generator)
        if self.cutout:
            batch = cut_out(batch, self.cutout, generator)
        return batch


def alternating_flip(batch: Tensor, epoch: int, rows: Tensor) -> Tensor:
    """Mirror the pictures whose turn it is: by a hash of the row id, alternating from epoch to epoch.

    Two epochs then show every picture both ways, where random flips would repeat a quarter of them
    (K. Jordan, airbench, arXiv:2404.00498, section 3.6).
    """
    return _mirrored(batch, mirrored_in(epoch, rows))


def mirrored_in(epoch: int, rows: Tensor) -> Tensor:
    """Whose turn it is in an epoch: bool (N,) by row id (N,)."""
    # Multiplicative hashing (Knuth): the parity of plain ids could follow the classes.
    bit = ((rows.to(torch.int64) * 2654435761) >> 16) & 1
    return ((bit + epoch) % 2).bool()


def random_flip(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each picture left and right with probability one half."""
    return _mirrored(batch, torch.randint(0, 2, (len(batch),), generator=generator).bool())


def shifted(batch: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each picture by up to `most` pixels in both directions, its border reflected."""
    height, width = batch.shape[2:]
    move = torch.randint(-most, most + 1, (2, len(batch), 1), generator=generator)
    y_NH = _reflected(torch.arange(height) + move[0], height).to(batch.device)
    x_NW = _reflected(torch.arange(width) + move[1], width).to(batch.device)
    n_N11 = torch.arange(len(batch), device=batch.device)[:, None, None]
    # An index on both sides of the channels moves them last: the result is channels_last already.
    return batch[n_N11, :, y_NH[:, :, None], x_NW[:, None, :]].permute(0, 3, 1, 2)


def cut_out(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Paint a square of `side` pixels at a random place in each picture's mean colour.

    The square's centre lies anywhere, so it may stick out (DeVries and Taylor, arXiv:1708.04552).
    """
    n, _, height, width = batch.shape
    place = torch.rand((2, n, 1), generator=generator)
    top, left = (place[0] * height - side / 2).round(), (place[1] * width - side / 2).round()
    y, x = torch.arange(height), torch.arange(width)
    inside = ((y >= top) & (y < top + side))[:, None, :, None] & ((x >= left) & (x < left + side))[
        :, None, None
    ]
    sparse = batch[:, :, :: max(1, height // 32), :: max(1, width // 32)]  # a colour, not a measurement
    mean = sparse.to(torch.float32).mean(dim=(2, 3), keepdim=True)
    return torch.where(inside.to(batch.device), _as(mean, batch.dtype), batch)


def coloured(batch: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale brightness, contrast and saturation of each picture by 1 +- `strength`, independently."""
    draws = 1 + strength * (2 * torch.rand((3, len(batch), 1, 1, 1), generator=generator) - 1)
    brightness, contrast, saturation = draws.to(batch.device)
    pixels = batch.to(torch.float32)
    if batch.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114], device=batch.device)
        grey = (pixels.permute(0, 2, 3, 1) @ weights)[:, None]
    else:
        grey, saturation = pixels, torch.ones_like(saturation)
    # The three steps (away from black, from the mean grey, from the pixel's grey) as one sum: a third of
    # the passes over the pixels.
    rest = grey * ((1 - saturation) * contrast * brightness)
    rest += grey.mean(dim=(1, 2, 3), keepdim=True) * ((1 - contrast) * brightness)
    pixels = torch.addcmul(rest, pixels, saturation * contrast * brightness)
    return _as(pixels.clamp_(0, 255), batch.dtype)


def varied(batch: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """One operation for each picture, drawn evenly: none, colour, turn, zoom, shift, posterise, cutout.

    Its magnitude is a third of the full one per degree of `strength` (after TrivialAugment, Mueller and
    Hutter, arXiv:2103.10158, with the operations that whole batches can do and without inversions of colour).
    """
    share, (height, width) = strength / 3, batch.shape[2:]
    side = min(height, width)
    operations = (
        lambda x: x,
        lambda x: coloured(x, 0.8 * share, generator),
        lambda x: turned(x, 30.0 * share, generator),
        lambda x: zoomed(x, 0.4 * share, generator),
        lambda x: shifted(x, max(1, round(0.25 * share * side)), generator),
        lambda x: posterised(x, 2 ** round(1 + 4 * share)),
        lambda x: cut_out(x, max(1, round(0.5 * share * side)), generator),
    )
    which = torch.randint(0, len(operations), (len(batch),), generator=generator)
    out = batch.clone(memory_format=torch.preserve_format)
    for number, operation in enumerate(operations):
        chosen = (which == number).nonzero()[:, 0].to(batch.device)
        if number and len(chosen):
            out[chosen] = operation(batch[chosen])
    return out


def posterised(batch: Tensor, step: int) -> Tensor:
    """Values rounded down to multiples of `step`, and up again by half of it."""
    return _as((batch.to(torch.float32) / step).floor() * step + (step - 1) / 2, batch.dtype)


def zoomed(batch: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Enlarge or shrink each picture about its centre by a factor from 1 / (1 + most) to 1 + most."""
    logs = math.log1p(most) * (2 * torch.rand(len(batch), generator=generator) - 1)
    factor, zero = (-logs).exp(), torch.zeros(len(batch))
    across, down = torch.stack([factor, zero, zero], dim=1), torch.stack([zero, factor, zero], dim=1)
    return _resampled(batch, torch.stack([across, down], dim=1))


def mixed_pairs(
    batch: Tensor, partner: Tensor, share: float, generator: torch.Generator, *, cut: bool
) -> Tensor:
    """Each picture mixed with another one of the batch.

    Args:
        partner: Positions (N,) of the other pictures.
        share: What it keeps of itself, 0 to 1. `cut` pastes a rectangle of the partner (CutMix, Yun et al.,
            arXiv:1905.04899), else the values are averaged (mixup, Zhang et al., arXiv:1710.09412).
    """
    other = batch[partner.to(batch.device)]
    if not cut:
        pixels = torch.lerp(other.to(torch.float32), batch.to(torch.float32), share)
        return _as(pixels, batch.dtype)
    height, width = batch.shape[2:]
    tall, wide = (round(size * math.sqrt(1 - share)) for size in (height, width))
    top = int(torch.randint(0, height - tall + 1, (), generator=generator))
    left = int(torch.randint(0, width - wide + 1, (), generator=generator))
    out = batch.clone(memory_format=torch.preserve_format)
    out[:, :, top : top + tall, left : left + wide] = other[:, :, top : top + tall, left : left + wide]
    return out


def cut_share(share: float, side: int) -> float:
    """What a square picture of `side` pixels really keeps when a whole number of pixels is pasted."""
    return 1.0 - (round(side * math.sqrt(1 - share)) / side) ** 2


def turned(batch: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Turn each picture about its centre by up to `most` degrees each way, its border reflected."""
    angle = math.radians(most) * (2 * torch.rand(len(batch), generator=generator) - 1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid counts in halves of height and width: undo their ratio, or a turn would also shear.
    ratio = batch.shape[2] / batch.shape[3]
    across = torch.stack([cos, -sin * ratio, zero], dim=1)
    down = torch.stack([sin / ratio, cos, zero], dim=1)
    return _resampled(batch, torch.stack([across, down], dim=1))


def _resampled(batch: Tensor, matrices: Tensor) -> Tensor:
    """Each picture under its affine matrix (N, 2, 3), the border reflected."""
    pixels = batch.to(torch.float32)
    grid = functional.affine_grid(matrices.to(batch.device), list(pixels.shape), align_corners=False)
    return _as(
        functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False), batch.dtype
    )


def _mirrored(batch: Tensor, which_N: Tensor) -> Tensor:
    return torch.where(which_N.to(batch.device)[:, None, None, None], batch.flip(3), batch)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Fold indices beyond the border back inside, the border pixel itself not repeated."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    folded = index % period
    return torch.where(folded < size, folded, period - folded)


def _as(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    return pixels.to(dtype) if dtype.is_floating_point else pixels.round().to(dtype)
