"""The order of the training rows, and batches gathered from memory-mapped pictures or encoded columns.

Which rows the k-th step sees is a pure function of (seed, k): no state is kept, so a resumed trunk sees what
an uninterrupted one would have seen.

B = batch, C = channels, H = height, W = width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gristmill.data.store import take

MASK = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows for one step: `inputs` in the network's order, `rows` as row ids, `epoch` from 0."""

    inputs: tuple[Tensor, ...]
    rows: Tensor
    epoch: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Order:
    """An endless sequence of row ids: one seeded permutation after the other, without gaps.

    With `weights` each epoch draws row i about len(rows) * weights[i] / sum(weights) times (systematic
    resampling: the count is off by less than one).
    """

    rows: np.ndarray
    batch: int
    seed: int
    weights: np.ndarray | None = None
    _cache: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def epoch(self, number: int) -> np.ndarray:
        """The row ids of one epoch, in order."""
        if number not in self._cache:
            for old in [k for k in self._cache if k < number - 1]:
                del self._cache[old]
            self._cache[number] = self._draw(np.random.default_rng([self.seed, number]))
        return self._cache[number]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(self.rows) if self.weights is None else self._resampled(rng)
        return np.asarray(order, dtype=np.int64)

    def _resampled(self, rng: np.random.Generator) -> np.ndarray:
        assert self.weights is not None
        shuffled = rng.permutation(len(self.rows))
        edges = np.cumsum(self.weights[shuffled] / self.weights.sum()) * len(self.rows)
        picks = np.searchsorted(edges, rng.random() + np.arange(len(self.rows)), side="right")
        return rng.permutation(self.rows[shuffled[np.minimum(picks, len(self.rows) - 1)]])

    def at(self, step: int) -> np.ndarray:
        """The row ids of the `step`-th batch (from 0)."""
        n, start = len(self.rows), step * self.batch
        parts = []
        while (missing := (step + 1) * self.batch - start) > 0:
            number, offset = divmod(start, n)
            parts.append(self.epoch(number)[offset : offset + missing])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def epoch_of(self, step: int) -> int:
        """The epoch in which the `step`-th batch begins."""
        return step * self.batch // len(self.rows)


class Pictures:
    """Squares of a store, gathered by row id as one batch tensor.

    Args:
        squares: uint8 (N, H, W, C), usually memory-mapped.
        device: where the batch goes.
        store: kept alive with the pictures, so that its files are not evicted meanwhile.
    """

    def __init__(self, squares: np.ndarray, device: torch.device, store: object = None) -> None:
        self.squares, self.device, self.store = np.asarray(squares), device, store

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """uint8 (B, C, H, W) in channels_last layout: a view of what was gathered, not a second copy."""
        x_BHWC = torch.from_numpy(take(self.squares, rows))
        return (x_BHWC.to(self.device, non_blocking=True).permute(0, 3, 1, 2),)


class Columns:
    """Encoded columns of all rows: numbers float32 (N, d) and codes int64 (N, c)."""

    def __init__(self, numbers: np.ndarray, codes: np.ndarray, device: torch.device) -> None:
        self.tensors = tuple(torch.from_numpy(np.ascontiguousarray(t)).to(device) for t in (numbers, codes))
        self.device = device

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """numbers (B, d), codes (B, c)."""
        ids = torch.from_numpy(rows).to(self.device)
        return tuple(t.index_select(0, ids) for t in self.tensors)


class Inputs(Protocol):
    """Pictures, Columns or Lower: from row ids (B,) to the tensors of a batch on `device`."""

    device: torch.device

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, ...]: ...


def training_batches(order: Order, inputs: Inputs, first: int, last: int) -> Iterator[Batch]:
    """The batches of steps `first` to `last` (not included)."""
    for step in range(first, last):
        rows = order.at(step)
        yield Batch(inputs=inputs(rows), rows=_on(inputs, rows), epoch=order.epoch_of(step))


def evaluation_batches(rows: np.ndarray, inputs: Inputs, size: int) -> Iterator[Batch]:
    """All `rows` once, in order, `size` at a time."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield Batch(inputs=inputs(part), rows=_on(inputs, part), epoch=0)


def _on(inputs: Inputs, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows)).to(inputs.device)


def mixed(*numbers: int) -> int:
    """One 32-bit seed from several numbers (splitmix64): neighbouring steps get unrelated seeds."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 32


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU seeded by `mixed`: every device draws the same augmentation."""
    return torch.Generator().manual_seed(mixed(*numbers))
