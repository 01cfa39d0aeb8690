"""Stored outputs of a frozen lower half: each picture and its mirror pass through it once.

The lower half of `mbconv` costs two thirds of a training step (19.7 ms a row for all, 6.4 ms for the upper
half, one core, 96 px). It does not change while the upper half is tuned, so ONNX Runtime computes it when a
row is first met, and float16 copies stay in the memory of the worker for later epochs, later rungs and other
candidates on the same pictures.

B = batch, C = channels, H = height, W = width, T = tapped columns
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gristmill.data.augment import mirrored_in as mirrored_in
from gristmill.data.store import take
from gristmill.models import features
from gristmill.training.once import FEATURES_BATCH_PIXELS

CHANNELS = 112
"""Of the map after the last lower block."""

SHRUNK = 16
"""Side of the picture over side of that map."""

MEMORY = 768 * 2**20
"""Bytes of stored outputs per worker; beyond it the oldest are computed again when they are met."""


class Lower:
    """Inputs of a training of the upper half.

    Args:
        squares: uint8 (N, r, r, C), usually memory-mapped.
        device: where batches go.
        store: kept alive with the pictures, so that its files are not evicted meanwhile.
    """

    def __init__(self, squares: np.ndarray, device: torch.device, store: object = None) -> None:
        self.squares, self.device, self.store = np.asarray(squares), device, store
        side, channels = self.squares.shape[1], self.squares.shape[3]
        self.map = (CHANNELS, side // SHRUNK, side // SHRUNK)
        path = features.backbone_onnx("lite0-lower", side, channels)
        self._kept = _kept(path, getattr(squares, "filename", None), len(self.squares))

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Nothing yet: which view of a row is wanted is known later (`gather`)."""
        return ()

    def gather(self, rows: Tensor, mirrored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps float32 (B, C, H, W) in channels_last and tapped columns (B, T) of rows (B,), or of their
        mirror images where `mirrored` bool (B,) says so."""
        ids = rows.cpu().numpy()
        turned = np.zeros(len(ids), bool) if mirrored is None else mirrored.cpu().numpy()
        both = torch.from_numpy(self._kept.read(self.squares, ids, turned)).to(self.device, torch.float32)
        size = int(np.prod(self.map))
        maps = both[:, :size].reshape(-1, *self.map)
        return maps.contiguous(memory_format=torch.channels_last), both[:, size:]


class _Kept:
    """A ring of stored rows: key 2 * row + mirrored -> float16 (d,)."""

    def __init__(self, path: Path, rows: int) -> None:
        self.session = features.open_session(path, torch.get_num_threads())
        self.width = int(self.session.get_outputs()[0].shape[1])
        slots = max(1024, min(2 * rows, MEMORY // (2 * self.width)))
        self.place = np.full(2 * rows, -1, np.int64)
        self.owner = np.full(slots, -1, np.int64)
        self.values = np.empty((slots, self.width), np.float16)  # memory is taken when it is written
        self.next = 0

    def read(self, squares: np.ndarray, rows: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """float16 (B, d) of some rows; what is missing is computed first."""
        step = max(1, min(len(self.owner), FEATURES_BATCH_PIXELS // squares.shape[1] ** 2))
        parts = [
            self._some(squares, 2 * rows[i : i + step] + mirrored[i : i + step])
            for i in range(0, len(rows), step)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float16)

    def _some(self, squares: np.ndarray, keys: np.ndarray) -> np.ndarray:
        out = np.empty((len(keys), self.width), np.float16)
        known = self.place[keys] >= 0
        out[known] = self.values[self.place[keys[known]]]
        if not known.all():
            missing = keys[~known]
            out[~known] = self._computed(squares, missing)
            self._keep(missing, out[~known])
        return out

    def _computed(self, squares: np.ndarray, keys: np.ndarray) -> np.ndarray:
        pictures = take(squares, keys // 2)
        turned = keys % 2 == 1
        pictures[turned] = pictures[turned, :, ::-1]
        (found,) = self.session.run(["features"], {"image": pictures})
        return np.asarray(found).astype(np.float16)

    def _keep(self, keys: np.ndarray, values: np.ndarray) -> None:
        keys, first = np.unique(keys, return_index=True)
        slots = (self.next + np.arange(len(keys))) % len(self.owner)
        self.next = int(slots[-1] + 1)
        old = self.owner[slots]
        self.place[old[old >= 0]] = -1
        self.owner[slots], self.place[keys] = keys, slots
        self.values[slots] = values[first]


_RECENT: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()


def _kept(path: Path, source: Any, rows: int) -> _Kept:
    """The stored rows of a file of squares; the last one used stays for the next segment of this worker."""
    if source is None:
        return _Kept(path, rows)
    key = (path, str(source), rows, torch.get_num_threads())
    if key not in _RECENT:
        _RECENT.clear()  # before the next one is made: two would take twice the memory
        _RECENT[key] = _Kept(path, rows)
    return _RECENT[key]
